//! What the maps of one family hold.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use proxy_common::maps::{Backend, Frontend, FrontendKey, RangeKey, SERVICE_NETS, ServiceNet};

use super::slots::SlotUse;
use super::{Capacities, FamilyOp, PlanFamily};

/// A copy of the maps of one family, with the indexes that a plan needs.
///
/// Invariant: the indexes follow from the entries. Entries may contradict each other, as after a crash or
/// somebody's meddling; that is for a plan to repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyTables<A: PlanFamily> {
    frontends: HashMap<FrontendKey<A>, Frontend>,
    /// By id. Free entries keep their generation.
    backends: Vec<Backend<A>>,
    /// By index; 0 where never written.
    slots: Vec<u32>,
    /// Most Service ports have one or two.
    frontends_of: BTreeSet<(u32, FrontendKey<A>)>,
    backends_of: HashMap<u32, BTreeSet<u32>>,
    ranges_of: HashMap<u32, BTreeSet<RangeKey<A>>>,
    service_nets: [ServiceNet<A>; SERVICE_NETS as usize],
    slot_use: SlotUse,
    free_backend: FirstFree,
    live: usize,
    ranges: usize,
}

/// The lowest id that is free. 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstFree(pub u32);

impl Default for FirstFree {
    fn default() -> Self {
        Self(1)
    }
}

impl<A: PlanFamily> FamilyTables<A> {
    /// Does to the copy what an operation does to the maps.
    pub fn apply(&mut self, op: &FamilyOp<A>) {
        match op {
            FamilyOp::SetBackend { id, backend } => self.set_backend(*id, *backend),
            FamilyOp::SetSlots { first, backends } => {
                let range = *first as usize..*first as usize + backends.len();
                if self.slots.len() < range.end {
                    self.slots.resize(range.end, 0);
                }
                if let Some(slots) = self.slots.get_mut(range) {
                    slots.copy_from_slice(backends);
                }
            }
            FamilyOp::SetFrontend { key, frontend } => {
                slot_ranges(frontend).for_each(|range| self.slot_use.enter(range));
                if let Some(old) = self.frontends.insert(*key, *frontend) {
                    slot_ranges(&old).for_each(|range| self.slot_use.leave(range));
                    self.frontends_of.remove(&(old.service, *key));
                }
                self.frontends_of.insert((frontend.service, *key));
            }
            FamilyOp::DeleteFrontend { key } => {
                if let Some(old) = self.frontends.remove(key) {
                    slot_ranges(&old).for_each(|range| self.slot_use.leave(range));
                    self.frontends_of.remove(&(old.service, *key));
                }
            }
            FamilyOp::SetServiceNet { index, net } => {
                if let Some(entry) = self.service_nets.get_mut(*index as usize) {
                    *entry = *net;
                }
            }
            FamilyOp::SetRange { key } => {
                self.ranges += usize::from(self.ranges_of.entry(key.owner).or_default().insert(*key));
            }
            FamilyOp::DeleteRange { key } => {
                self.ranges -= usize::from(take_out(&mut self.ranges_of, key.owner, key));
            }
        }
    }

    fn set_backend(&mut self, id: u32, backend: Backend<A>) {
        let index = id as usize;
        if self.backends.len() <= index {
            self.backends.resize(index + 1, Backend::default());
        }
        let Some(entry) = self.backends.get_mut(index) else { return };
        let old = std::mem::replace(entry, backend);
        if old.is_live() {
            take_out(&mut self.backends_of, old.service, &id);
            self.live -= 1;
        }
        if backend.is_live() {
            self.backends_of.entry(backend.service).or_default().insert(id);
            self.live += 1;
        }
        if !backend.is_live() {
            self.free_backend.0 = self.free_backend.0.min(id.max(1));
        }
        while self.backend(self.free_backend.0).is_live() {
            self.free_backend.0 += 1;
        }
    }

    /// The lowest backend id that is free.
    pub(super) fn free_backend(&self) -> u32 {
        self.free_backend.0
    }

    /// A frontend.
    pub fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        self.frontends.get(key)
    }

    /// All frontends, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey<A>, &Frontend)> {
        self.frontends.iter()
    }

    /// How many frontends there are.
    pub fn frontend_count(&self) -> usize {
        self.frontends.len()
    }

    /// The frontends of a Service port id, in the order of their keys.
    pub fn frontends_of(&self, service: u32) -> impl Iterator<Item = (&FrontendKey<A>, &Frontend)> {
        let first = FrontendKey::new(A::default(), [0; 2], 0);
        let keys = self.frontends_of.range((service, first)..).take_while(move |(owner, _)| *owner == service);
        keys.filter_map(|(_, key)| self.frontends.get(key).map(|frontend| (key, frontend)))
    }

    /// The entry of a backend id, live or free. All zero where it was never written.
    pub fn backend(&self, id: u32) -> Backend<A> {
        self.backends.get(id as usize).copied().unwrap_or_default()
    }

    /// The live backends, by id.
    pub fn backends(&self) -> impl Iterator<Item = (u32, &Backend<A>)> {
        (0..).zip(&self.backends).filter(|(_, backend)| backend.is_live())
    }

    /// How many live backends there are.
    pub fn backend_count(&self) -> usize {
        self.live
    }

    /// The live backends of a Service port id, by id.
    pub fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, &Backend<A>)> {
        let ids = self.backends_of.get(&service).into_iter().flatten();
        ids.filter_map(|id| self.backends.get(*id as usize).map(|backend| (*id, backend)))
    }

    /// The backend ids in a range of slots, as far as it was ever written.
    pub fn slots(&self, range: Range<u32>) -> &[u32] {
        let end = (range.end as usize).min(self.slots.len());
        self.slots.get(range.start as usize..end).unwrap_or_default()
    }

    /// The ranges of an owner, in the order of their keys.
    pub fn ranges_of(&self, owner: u32) -> impl Iterator<Item = &RangeKey<A>> {
        self.ranges_of.get(&owner).into_iter().flatten()
    }

    /// Whether there is this range.
    pub(super) fn has_range(&self, key: &RangeKey<A>) -> bool {
        self.ranges_of.get(&key.owner).is_some_and(|keys| keys.contains(key))
    }

    /// The ranges that ClusterIPs are from, unused entries included.
    pub fn service_nets(&self) -> &[ServiceNet<A>] {
        &self.service_nets
    }

    /// How many ranges there are.
    pub fn range_count(&self) -> usize {
        self.ranges
    }

    /// How many slots frontends lead to. Lists that several frontends share count once.
    pub fn slots_in_use(&self) -> usize {
        self.slot_use.in_use() as usize
    }

    /// Which slots frontends lead to.
    pub(super) fn slot_use(&self) -> &SlotUse {
        &self.slot_use
    }

    /// Whether frontends, backends or ranges refer to a Service port id.
    pub(super) fn refers_to(&self, service: u32) -> bool {
        let has_ranges = RangeKey::<A>::is_service(service) && self.ranges_of.contains_key(&service);
        self.frontends_of(service).next().is_some() || self.backends_of.contains_key(&service) || has_ranges
    }

    /// How large the maps of this family have to be, at least, to hold this.
    pub(super) fn extent(&self) -> Capacities {
        let entries = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Capacities {
            services: 0,
            frontends: entries(self.frontends.len()),
            backends: entries(self.backends.len()),
            slots: self.frontends.values().flat_map(slot_ranges).map(|range| range.end).max().unwrap_or_default(),
            ranges: entries(self.ranges),
        }
    }

    /// The Service port ids that frontends, backends or ranges refer to.
    pub(super) fn services(&self) -> impl Iterator<Item = u32> {
        let owners = self.ranges_of.keys().filter(|owner| RangeKey::<A>::is_service(**owner));
        let fronted = self.frontends_of.iter().map(|(service, _)| service);
        fronted.chain(self.backends_of.keys()).chain(owners).copied()
    }
}

/// The slots that a frontend leads to: one range for each of its lists that is not empty.
pub(super) fn slot_ranges(frontend: &Frontend) -> impl Iterator<Item = Range<u32>> {
    let lists = [(frontend.first, frontend.count), (frontend.outside_first, frontend.outside_count)];
    lists.into_iter().filter(|(_, count)| *count > 0).map(|(first, count)| first..first.saturating_add(count))
}

/// Removes a value from an index, and an empty set with it. Returns whether it was there.
fn take_out<T: Ord>(index: &mut HashMap<u32, BTreeSet<T>>, service: u32, value: &T) -> bool {
    let Some(values) = index.get_mut(&service) else { return false };
    let was_there = values.remove(value);
    if values.is_empty() {
        index.remove(&service);
    }
    was_there
}
