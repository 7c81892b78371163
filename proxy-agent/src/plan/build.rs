//! The part of a plan that concerns one family.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind, ServiceName};

use super::planner::ServiceIds;
use super::slots::FreeSlots;
use super::{Capacities, Change, ChangeKind, FamilyOp, FamilyTables, Full, Op, Plan, PlanFamily, Realized};
use crate::model::{DesiredPort, ServicePort};

/// What both families write to.
pub(super) struct Output {
    pub plan: Plan,
    pub ids: ServiceIds,
}

/// Plans the Service ports of one family.
pub(super) struct Builder<'a, A: PlanFamily> {
    realized: &'a Realized,
    tables: &'a FamilyTables<A>,
    capacities: &'a Capacities,
    /// Made when first needed: most plans need none.
    free_slots: Option<FreeSlots>,
    /// Backend ids from here on were not given out by this plan.
    next_backend: u32,
    /// How many backends and frontends this plan adds.
    added_backends: usize,
    added_frontends: usize,
    /// Service port ids that stay.
    kept: HashSet<u32>,
    /// Frontends that go over from one Service port to another.
    claimed: HashSet<FrontendKey<A>>,
    /// What wanted Service ports no longer want.
    dropped_frontends: Vec<FrontendKey<A>>,
    dropped_backends: Vec<u32>,
}

/// A map that has no room.
struct NoRoom(&'static str, u32);

/// A wanted backend and the id that it has already.
struct Wanted<A> {
    addr: A,
    port: [u8; 2],
    flags: u8,
    id: Option<u32>,
}

/// Where the list of backends of a Service port is to be.
enum Slots {
    /// The range is there and right.
    Keep(u32),
    /// To be written from here on.
    Write(u32),
}

impl<'a, A: PlanFamily> Builder<'a, A> {
    pub(super) fn new(realized: &'a Realized, capacities: &'a Capacities) -> Self {
        Self {
            realized,
            tables: A::tables(realized),
            capacities,
            free_slots: None,
            next_backend: 1,
            added_backends: 0,
            added_frontends: 0,
            kept: HashSet::new(),
            claimed: HashSet::new(),
            dropped_frontends: Vec::new(),
            dropped_backends: Vec::new(),
        }
    }

    /// Whether a Service port id stays.
    pub(super) fn keeps(&self, id: u32) -> bool {
        self.kept.contains(&id)
    }

    /// Plans for one Service port.
    pub(super) fn place(&mut self, out: &mut Output, port: &ServicePort, want: &DesiredPort) {
        let known = self.realized.id(port);
        self.kept.extend(known);
        if let Err(NoRoom(map, capacity)) = self.try_place(out, port, want, known) {
            out.plan.full.push(Full { port: port.clone(), map, capacity, known: known.is_some() });
        }
    }

    /// Checks that there is room for everything before it takes or writes anything.
    fn try_place(
        &mut self,
        out: &mut Output,
        port: &ServicePort,
        want: &DesiredPort,
        known: Option<u32>,
    ) -> Result<(), NoRoom> {
        let tables = self.tables;
        let service = match known.or_else(|| out.ids.peek()) {
            Some(id) => id,
            None => return Err(NoRoom("service", self.capacities.services)),
        };
        // An id that is free now has no entries but leftovers of damage, which are swept away in any case.
        let frontends = wanted_frontends::<A>(port, want);
        let backends = self.wanted_backends(known, want);
        let new_backends = backends.iter().filter(|wanted| wanted.id.is_none()).count();
        let new_frontends = frontends.keys().filter(|key| tables.frontend(key).is_none()).count();
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);

        let frontend_room = self.capacities.frontends as usize;
        if new_frontends > 0 && tables.frontend_count() + self.added_frontends + new_frontends > frontend_room {
            return Err(NoRoom(A::FRONTEND_MAP, self.capacities.frontends));
        }
        let backend_room = self.capacities.backends.saturating_sub(1) as usize;
        if new_backends > 0 && tables.backend_count() + self.added_backends + new_backends > backend_room {
            return Err(NoRoom(A::BACKEND_MAP, self.capacities.backends));
        }
        let slots = self.slots_for(known, &backends, count)?;

        let start = out.plan.ops.len();
        if known.is_none() {
            out.ids.take();
            self.kept.insert(service);
            // The name last: an id that has a name has counters of its own.
            out.plan.ops.push(Op::ResetCounters { id: service });
            out.plan.ops.push(Op::SetService { id: service, name: Box::new(ServiceName::from(port)) });
        }
        self.added_backends += new_backends;
        self.added_frontends += new_frontends;
        let ids = self.write_backends(&mut out.plan.ops, service, &backends);
        let first = match slots {
            Slots::Keep(first) => first,
            Slots::Write(first) => {
                let written =
                    (first..).zip(&ids).map(|(index, backend)| FamilyOp::SetSlot { index, backend: *backend });
                out.plan.ops.extend(written.map(A::op));
                first
            }
        };
        for (key, kind) in &frontends {
            let frontend = Frontend { service, first, count, kind: *kind as u8, ..Frontend::default() };
            let held = tables.frontend(key);
            if held != Some(&frontend) {
                out.plan.ops.push(A::op(FamilyOp::SetFrontend { key: *key, frontend }));
            }
            if held.is_some_and(|held| held.service != service) {
                self.claimed.insert(*key);
            }
        }
        let written = out.plan.ops.len() > start;
        let left = self.drop_unwanted(known, &frontends, &ids);

        let dropped = left.frontends + left.backends > 0;
        if written || dropped {
            out.plan.changes.push(Change {
                port: port.clone(),
                kind: if known.is_none() { ChangeKind::Added } else { ChangeKind::Changed },
                frontends: want.frontends.clone(),
                backends: backends.len(),
                joined: new_backends,
                left: left.backends,
            });
        }
        Ok(())
    }

    /// The wanted backends, in the order of their addresses, with the ids of those that are there.
    fn wanted_backends(&self, known: Option<u32>, want: &DesiredPort) -> Vec<Wanted<A>> {
        let mut present: HashMap<(A, [u8; 2]), u32> = HashMap::new();
        for (id, backend) in known.into_iter().flat_map(|service| self.tables.backends_of(service)) {
            // Of two entries for one endpoint, which only damage can bring, the first stays.
            present.entry((backend.addr, backend.port)).or_insert(id);
        }
        let wanted = want.backends.iter().filter_map(|(address, backend)| {
            let addr = A::from_ip(address.ip())?;
            let port = address.port().to_be_bytes();
            let local = if backend.local { Backend::<A>::LOCAL } else { 0 };
            let flags = Backend::<A>::LIVE | local;
            Some(Wanted { addr, port, flags, id: present.get(&(addr, port)).copied() })
        });
        wanted.collect()
    }

    /// Finds the range of slots: the present one where it is right, a fresh one otherwise, and where there is no
    /// fresh one the present one again, if the new list fits into it. That last way is consistent but not
    /// atomic: while it is written, new connections go to old and new backends. It is there so that a Service
    /// that shrinks is never stuck in a full map.
    fn slots_for(&mut self, known: Option<u32>, wanted: &[Wanted<A>], count: u32) -> Result<Slots, NoRoom> {
        if count == 0 {
            return Ok(Slots::Keep(0));
        }
        let tables = self.tables;
        let present = known.into_iter().flat_map(|service| tables.frontends_of(service));
        let ranges: BTreeSet<(u32, u32)> = present.map(|(_, frontend)| (frontend.first, frontend.count)).collect();
        let is_right = |range: &&(u32, u32)| {
            let slots = tables.slots(range.0..range.0.saturating_add(range.1));
            slots.len() == wanted.len() && slots.iter().zip(wanted).all(|(slot, wanted)| Some(*slot) == wanted.id)
        };
        if let Some((first, _)) = ranges.iter().find(is_right) {
            return Ok(Slots::Keep(*first));
        }
        let capacity = self.capacities.slots;
        let free = self.free_slots.get_or_insert_with(|| {
            let used = tables.frontends().map(|(_, frontend)| frontend).filter(|frontend| frontend.count > 0);
            FreeSlots::new(used.map(|used| used.first..used.first.saturating_add(used.count)).collect(), capacity)
        });
        if let Some(first) = free.take(count) {
            return Ok(Slots::Write(first));
        }
        let is_own = |slot: &u32| {
            let backend = tables.backend(*slot);
            backend.is_live() && Some(backend.service) == known
        };
        match ranges.first() {
            Some((first, length))
                if ranges.len() == 1
                    && *length >= count
                    && tables.slots(*first..first.saturating_add(*length)).iter().all(is_own) =>
            {
                Ok(Slots::Write(*first))
            }
            _ => Err(NoRoom(A::SLOT_MAP, capacity)),
        }
    }

    /// Writes the backends that are new or different. Returns the ids of all, in their order.
    fn write_backends(&mut self, ops: &mut Vec<Op>, service: u32, wanted: &[Wanted<A>]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let id = wanted.id.unwrap_or_else(|| self.take_backend_id());
            let held = self.tables.backend(id);
            let backend = Backend {
                addr: wanted.addr,
                port: wanted.port,
                flags: wanted.flags,
                generation: held.generation,
                service,
                ..Backend::default()
            };
            if held != backend {
                ops.push(A::op(FamilyOp::SetBackend { id, backend }));
            }
            ids.push(id);
        }
        ids
    }

    /// The lowest free backend id. There is one: room was checked before.
    fn take_backend_id(&mut self) -> u32 {
        while self.tables.backend(self.next_backend).is_live() {
            self.next_backend += 1;
        }
        self.next_backend += 1;
        self.next_backend - 1
    }

    /// Notes what a Service port has and no longer wants, to be taken away at the end.
    fn drop_unwanted(
        &mut self,
        known: Option<u32>,
        frontends: &BTreeMap<FrontendKey<A>, FrontendKind>,
        ids: &[u32],
    ) -> Dropped {
        let Some(service) = known else { return Dropped { frontends: 0, backends: 0 } };
        let (tables, before) = (self.tables, (self.dropped_frontends.len(), self.dropped_backends.len()));
        let keys = tables.frontends_of(service).map(|(key, _)| *key);
        self.dropped_frontends.extend(keys.filter(|key| !frontends.contains_key(key)));
        if tables.backends_of(service).count() > 0 {
            let wanted: HashSet<u32> = ids.iter().copied().collect();
            let present = tables.backends_of(service).map(|(id, _)| id);
            self.dropped_backends.extend(present.filter(|id| !wanted.contains(id)));
        }
        Dropped { frontends: self.dropped_frontends.len() - before.0, backends: self.dropped_backends.len() - before.1 }
    }

    /// The operations that take away what is no longer wanted, of wanted Service ports and of all others:
    /// frontends, and the backends to be freed after all of those of both families.
    pub(super) fn leftovers(self) -> (Vec<Op>, Vec<Op>) {
        let (mut frontends, mut backends) = (self.dropped_frontends, self.dropped_backends);
        let gone: BTreeSet<u32> = self.tables.services().filter(|service| !self.kept.contains(service)).collect();
        for service in gone {
            frontends.extend(self.tables.frontends_of(service).map(|(key, _)| *key));
            backends.extend(self.tables.backends_of(service).map(|(id, _)| id));
        }
        let keys = frontends.into_iter().filter(|key| !self.claimed.contains(key));
        let deleted = keys.map(|key| A::op(FamilyOp::DeleteFrontend { key })).collect();
        let freed = backends.into_iter().map(|id| {
            let generation = self.tables.backend(id).generation.wrapping_add(1);
            A::op(FamilyOp::SetBackend { id, backend: Backend { generation, ..Backend::default() } })
        });
        (deleted, freed.collect())
    }
}

/// How much [`Builder::drop_unwanted`] noted.
struct Dropped {
    frontends: usize,
    backends: usize,
}

fn wanted_frontends<A: PlanFamily>(port: &ServicePort, want: &DesiredPort) -> BTreeMap<FrontendKey<A>, FrontendKind> {
    let wanted = want.frontends.iter().filter_map(|((address, number), kind)| {
        let key = FrontendKey::new(A::from_ip(*address)?, number.to_be_bytes(), port.protocol.number());
        Some((key, *kind))
    });
    wanted.collect()
}

/// Frontends of the maps in the words of the model.
pub(super) fn described<'t, A: PlanFamily>(
    frontends: impl Iterator<Item = (&'t FrontendKey<A>, &'t Frontend)>,
) -> BTreeMap<(IpAddr, u16), FrontendKind> {
    let described = frontends.filter_map(|(key, frontend)| {
        let at = (key.addr.to_ip(), u16::from_be_bytes(key.port));
        Some((at, FrontendKind::from_u8(frontend.kind)?))
    });
    described.collect()
}
