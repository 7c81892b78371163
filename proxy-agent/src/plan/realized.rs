//! What the maps hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::ServiceName;

use super::name::FREE;
use super::tables::FirstFree;
use super::{Capacities, FamilyTables, Op};
use crate::model::ServicePort;
use crate::object::Texts;

/// A copy of the maps.
///
/// It is filled by the same operations as the maps: the map writer applies each one here too, and reading the
/// maps back is one operation for each entry, in any order. Free backends are to be read back as well, for their
/// generations. Since it does what the maps do, it also stands in for them in tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Realized {
    /// The names in use, by id. `None` is an entry that names no Service port.
    names: BTreeMap<u32, Option<Arc<ServicePort>>>,
    ids: HashMap<Arc<ServicePort>, u32>,
    texts: Texts,
    /// Of those without a name.
    free_id: FirstFree,
    v4: FamilyTables<Ipv4>,
    v6: FamilyTables<Ipv6>,
}

impl Realized {
    /// Does to the copy what an operation does to the maps.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetService { id, name } => self.set_service(*id, name),
            Op::ResetCounters { .. } => {}
            Op::V4(op) => self.v4.apply(op),
            Op::V6(op) => self.v6.apply(op),
        }
    }

    fn set_service(&mut self, id: u32, name: &ServiceName) {
        if let Some(Some(old)) = self.names.remove(&id)
            && self.ids.get(&old) == Some(&id)
        {
            self.ids.remove(&old);
        }
        if *name == FREE {
            self.free_id.0 = self.free_id.0.min(id.max(1));
            return;
        }
        let port = ServicePort::try_from(name).ok().map(|mut port| {
            self.texts.share(&mut port.service.namespace);
            self.texts.share(&mut port.port_name);
            Arc::new(port)
        });
        if let Some(port) = &port {
            // Two ids of one name can only come from damage. The first stays, a plan removes the other.
            self.ids.entry(port.clone()).and_modify(|first| *first = id.min(*first)).or_insert(id);
        }
        self.names.insert(id, port);
        while self.names.contains_key(&self.free_id.0) {
            self.free_id.0 += 1;
        }
    }

    /// The lowest id without a name.
    pub(super) fn free_id(&self) -> u32 {
        self.free_id.0
    }

    /// Whether an id has a name, or anything refers to it.
    pub(super) fn uses(&self, id: u32) -> bool {
        self.names.contains_key(&id) || self.v4.refers_to(id) || self.v6.refers_to(id)
    }

    /// The id of a Service port.
    pub fn id(&self, port: &ServicePort) -> Option<u32> {
        self.ids.get(port).copied()
    }

    /// The Service port that an id stands for.
    pub fn service(&self, id: u32) -> Option<&ServicePort> {
        self.names.get(&id).and_then(Option::as_deref)
    }

    /// The Service port ids in use. `None` where the entry names no Service port.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (u32, Option<&ServicePort>)> {
        self.names.iter().map(|(id, port)| (*id, port.as_deref()))
    }

    /// How large the maps have to be, at least, to hold this.
    pub fn extent(&self) -> Capacities {
        let (v4, v6) = (self.v4.extent(), self.v6.extent());
        Capacities {
            services: self.names.last_key_value().map_or(0, |(id, _)| id.saturating_add(1)),
            frontends: v4.frontends.max(v6.frontends),
            backends: v4.backends.max(v6.backends),
            slots: v4.slots.max(v6.slots),
            ranges: v4.ranges.max(v6.ranges),
        }
    }

    /// The IPv4 maps.
    pub fn v4(&self) -> &FamilyTables<Ipv4> {
        &self.v4
    }

    /// The IPv6 maps.
    pub fn v6(&self) -> &FamilyTables<Ipv6> {
        &self.v6
    }
}
