//! The objects as last seen.
//!
//! Invariant: the content depends on the last event of each object alone, never on the order among objects or
//! on how often an event came. Absent on purpose: any opinion about what the objects mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Event;
use crate::object::{EndpointSlice, Kind, Node, Object, ObjectName, ObjectRef, Service, ServiceCidr};

/// Every Service, EndpointSlice, Node and ServiceCIDR that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    nodes: BTreeMap<String, Node>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    /// Names of the slices of each Service, whether or not the Service exists.
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    listed: BTreeSet<Kind>,
}

impl Store {
    /// Takes an event in. Returns whether anything is different now, so that a plan may come out different.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Apply(object) => self.insert(*object),
            Event::Delete(object) => self.remove(&object),
            Event::Listed { kind, objects } => {
                let mut changed = self.listed.insert(kind);
                for gone in self.references(kind).filter(|known| !objects.contains(known)).collect::<Vec<_>>() {
                    changed |= self.remove(&gone);
                }
                changed
            }
            Event::Problem(_) | Event::Mended(_) => false,
        }
    }

    /// Whether Services and EndpointSlices have both been listed in full. Before that nothing may be planned: a
    /// backend that is merely not yet known would be taken from the kernel.
    pub fn is_synced(&self) -> bool {
        self.listed.contains(&Kind::Service) && self.listed.contains(&Kind::EndpointSlice)
    }

    /// Whether a kind has been listed in full.
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// The kinds of which a full list is still missing, among those that a plan waits for.
    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        [Kind::Service, Kind::EndpointSlice].into_iter().filter(|kind| !self.listed.contains(kind))
    }

    /// The Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The EndpointSlices, by name.
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values()
    }

    /// An EndpointSlice.
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// Which objects of a kind are known.
    pub fn references(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectRef> + '_> {
        match kind {
            Kind::Service => Box::new(self.services.keys().cloned().map(ObjectRef::Service)),
            Kind::EndpointSlice => Box::new(self.slices.keys().cloned().map(ObjectRef::EndpointSlice)),
            Kind::Node => Box::new(self.nodes.keys().cloned().map(ObjectRef::Node)),
            Kind::ServiceCidr => Box::new(self.service_cidrs.keys().cloned().map(ObjectRef::ServiceCidr)),
        }
    }

    fn insert(&mut self, object: Object) -> bool {
        match object {
            Object::Service(service) => replace(&mut self.services, service.name.clone(), service),
            Object::Node(node) => replace(&mut self.nodes, node.name.clone(), node),
            Object::ServiceCidr(ranges) => replace(&mut self.service_cidrs, ranges.name.clone(), ranges),
            Object::EndpointSlice(slice) => {
                if self.slices.get(&slice.name) == Some(&slice) {
                    return false;
                }
                self.remove_slice(&slice.name);
                if let Some(service) = slice.service_name() {
                    self.slices_of.entry(service).or_default().insert(slice.name.clone());
                }
                self.slices.insert(slice.name.clone(), slice);
                true
            }
        }
    }

    fn remove(&mut self, object: &ObjectRef) -> bool {
        match object {
            ObjectRef::Service(name) => self.services.remove(name).is_some(),
            ObjectRef::EndpointSlice(name) => self.remove_slice(name),
            ObjectRef::Node(name) => self.nodes.remove(name).is_some(),
            ObjectRef::ServiceCidr(name) => self.service_cidrs.remove(name).is_some(),
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) -> bool {
        let Some(slice) = self.slices.remove(name) else { return false };
        if let Some(service) = slice.service_name()
            && let Some(names) = self.slices_of.get_mut(&service)
        {
            names.remove(name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        true
    }
}

/// Inserts and tells whether the map changed.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}
