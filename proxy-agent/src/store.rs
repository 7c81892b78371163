//! The objects as last seen.
//!
//! Invariant: the content depends on the last event of each object alone, never on the order among objects or
//! on how often an event came. Absent on purpose: any opinion about what the objects mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::Event;
use crate::object::{EndpointSlice, Kind, Node, Object, ObjectName, ObjectRef, Service, ServiceCidr, Texts};

/// How far events reach: what of the outcome may be different after them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Nothing.
    #[default]
    Nothing,
    /// These Services, and nothing else.
    Services(ChangedServices),
    /// Anything.
    Everything,
}

/// Services of which something is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedServices {
    /// Those of which nothing but slices may be.
    pub by_slices: BTreeSet<ObjectName>,
    /// Those that are new, gone or other ones.
    pub themselves: BTreeSet<ObjectName>,
}

impl Scope {
    /// Whether anything may be different.
    pub fn is_something(&self) -> bool {
        *self != Self::Nothing
    }

    /// Widens it by another.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::Nothing) | (Self::Everything, _) => {}
            (Self::Services(services), Self::Services(more)) => {
                services.by_slices.extend(more.by_slices);
                services.themselves.extend(more.themselves);
            }
            (Self::Nothing, other) | (Self::Services(_), other @ Self::Everything) => *self = other,
        }
    }

    /// Everything, if something is different.
    fn of(is_changed: bool) -> Self {
        if is_changed { Self::Everything } else { Self::Nothing }
    }

    /// A Service, if it is different.
    fn of_service(name: ObjectName, is_changed: bool) -> Self {
        let service = || ChangedServices { themselves: [name].into(), ..ChangedServices::default() };
        if is_changed { Self::Services(service()) } else { Self::Nothing }
    }

    /// What slices reach that belong, or belonged, to these Services. One that belongs to none is a problem to tell of, and
    /// no Service's.
    fn of_slices(services: [Option<ObjectName>; 2]) -> Self {
        let [one, other] = services;
        match (one, other) {
            (Some(one), Some(other)) => {
                Self::Services(ChangedServices { by_slices: [one, other].into(), ..ChangedServices::default() })
            }
            _ => Self::Everything,
        }
    }
}

/// Every Service, EndpointSlice, Node and ServiceCIDR that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    nodes: BTreeMap<String, Node>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    /// The slices of each Service, by name, whether or not the Service exists.
    slices_of: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
    listed: BTreeSet<Kind>,
    texts: Texts,
}

impl Store {
    /// Takes an event in. Returns what may come out different now.
    pub fn apply(&mut self, event: Event) -> Scope {
        match event {
            Event::Apply(object) => self.insert(*object),
            Event::Delete(object) => self.remove(&object),
            Event::Listed { kind, objects } => {
                let mut scope = Scope::of(self.listed.insert(kind));
                for gone in self.references(kind).filter(|known| !objects.contains(known)).collect::<Vec<_>>() {
                    scope.add(self.remove(&gone));
                }
                scope
            }
            Event::Problem(_) | Event::Mended(_) => Scope::Nothing,
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
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    /// The EndpointSlices, by name.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    /// An EndpointSlice.
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.slices.get(name).map(Arc::as_ref)
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of.get(service).into_iter().flatten().map(Arc::as_ref)
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

    fn insert(&mut self, object: Object) -> Scope {
        match object {
            Object::Service(mut service) => {
                service.share(&mut self.texts);
                let name = service.name.clone();
                Scope::of_service(name.clone(), replace(&mut self.services, name, Arc::new(service)))
            }
            Object::Node(node) => Scope::of(replace(&mut self.nodes, node.name.clone(), node)),
            Object::ServiceCidr(ranges) => Scope::of(replace(&mut self.service_cidrs, ranges.name.clone(), ranges)),
            Object::EndpointSlice(mut slice) => {
                if self.slice(&slice.name) == Some(&slice) {
                    return Scope::Nothing;
                }
                slice.share(&mut self.texts);
                let service = slice.service_name();
                let former = match self.remove_slice(&slice.name) {
                    Some(known) => known.service_name(),
                    None => service.clone(),
                };
                let slice = Arc::new(slice);
                if let Some(service) = service.clone() {
                    let slices = self.slices_of.entry(service).or_default();
                    slices.insert(slices.partition_point(|other| other.name < slice.name), slice.clone());
                }
                self.slices.insert(slice.name.clone(), slice);
                Scope::of_slices([former, service])
            }
        }
    }

    fn remove(&mut self, object: &ObjectRef) -> Scope {
        match object {
            ObjectRef::Service(name) => Scope::of_service(name.clone(), self.services.remove(name).is_some()),
            ObjectRef::EndpointSlice(name) => match self.remove_slice(name) {
                Some(slice) => Scope::of_slices([slice.service_name(), slice.service_name()]),
                None => Scope::Nothing,
            },
            ObjectRef::Node(name) => Scope::of(self.nodes.remove(name).is_some()),
            ObjectRef::ServiceCidr(name) => Scope::of(self.service_cidrs.remove(name).is_some()),
        }
    }

    fn remove_slice(&mut self, name: &ObjectName) -> Option<Arc<EndpointSlice>> {
        let slice = self.slices.remove(name)?;
        if let Some(service) = slice.service_name()
            && let Some(slices) = self.slices_of.get_mut(&service)
        {
            slices.retain(|other| other.name != *name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        Some(slice)
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
