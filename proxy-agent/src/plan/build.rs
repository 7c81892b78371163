//! The part of a plan that concerns one family.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::maglev;
use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind, RangeKey, ServiceName};

use super::lists::{Layout, is_used, range_keys, service_nets};
use super::planner::ServiceIds;
use super::slots::{FreeSlots, joined};
use super::tables::slot_ranges;
use super::{
    Capacities, Change, ChangeKind, FamilyOp, FamilyTables, Full, Op, Plan, PlanFamily, Realized, WithoutTable,
};
use crate::model::{Changes, Desired, DesiredBackend, DesiredFrontend, DesiredPort, List, Lists, ServicePort};

/// What both families write to.
pub(super) struct Output<'a> {
    pub plan: Plan,
    pub ids: ServiceIds<'a>,
}

/// Plans the Service ports of one family.
pub(super) struct Builder<'a, A: PlanFamily> {
    realized: &'a Realized,
    tables: &'a FamilyTables<A>,
    capacities: &'a Capacities,
    free_slots: FreeSlots<'a>,
    /// Backend ids from here on were not given out by this plan.
    next_backend: u32,
    /// How many backends, frontends and ranges this plan adds.
    added_backends: usize,
    added_frontends: usize,
    added_ranges: usize,
    /// Service port ids that stay.
    kept: HashSet<u32>,
    /// Frontends that go over from one Service port to another.
    claimed: HashSet<FrontendKey<A>>,
    /// What wanted Service ports no longer want.
    dropped_frontends: Vec<FrontendKey<A>>,
    dropped_backends: Vec<u32>,
    dropped_ranges: Vec<RangeKey<A>>,
}

/// A map that has no room.
struct NoRoom(&'static str, u32);

/// A wanted backend and the id that it has already.
struct Wanted<A> {
    addr: A,
    port: [u8; 2],
    flags: u8,
    lists: Lists,
    id: Option<u32>,
}

/// Where the list of backends of a Service port is to be.
enum Slots {
    /// They are there and right, from here on.
    Keep(u32),
    /// To be written from here on.
    Write(u32),
}

impl<'a, A: PlanFamily> Builder<'a, A> {
    pub(super) fn new(realized: &'a Realized, capacities: &'a Capacities) -> Self {
        let tables = A::tables(realized);
        Self {
            realized,
            tables,
            capacities,
            free_slots: FreeSlots::new(tables.slot_use(), capacities.slots),
            next_backend: tables.free_backend(),
            added_backends: 0,
            added_frontends: 0,
            added_ranges: 0,
            kept: HashSet::new(),
            claimed: HashSet::new(),
            dropped_frontends: Vec::new(),
            dropped_backends: Vec::new(),
            dropped_ranges: Vec::new(),
        }
    }

    /// Whether a Service port id stays.
    pub(super) fn keeps(&self, id: u32) -> bool {
        self.kept.contains(&id)
    }

    /// Plans for the ranges by which clients are known that are not elsewhere. They go before everything else, as all
    /// frontends ask about them, and are so few that there is always room.
    pub(super) fn place_client_ranges(&mut self, plan: &mut Plan, desired: &Desired) {
        let node: BTreeSet<IpNet> = desired.node_addresses.iter().copied().map(IpNet::from).collect();
        for (owner, ranges) in [(RangeKey::<A>::PODS, &desired.local_ranges), (RangeKey::<A>::NODE, &node)] {
            let wanted = range_keys::<A>(owner, ranges);
            self.write_ranges(&mut plan.ops, owner, &wanted);
            self.drop_ranges(owner, &wanted);
        }
    }

    /// Plans for the ranges that ClusterIPs are from, for the ClusterIPs themselves, and for external addresses. They come after
    /// the frontends: a new address is unknown a moment longer, and not yet one without a port. Little depends on an address that
    /// there is no room for: at the ports that its Service has not, a ClusterIP is not refused but dropped or left alone, and
    /// fragments that come there before their first are lost.
    pub(super) fn place_addresses(&mut self, plan: &mut Plan, desired: &Desired) {
        let room = (self.capacities.ranges as usize).saturating_sub(self.tables.range_count() + self.added_ranges);
        let others = (RangeKey::<A>::LEFT_TO_OTHERS, &desired.left_to_others);
        let mut fresh = Vec::new();
        let own = (RangeKey::<A>::CLUSTER_IPS, &desired.cluster_ips);
        for (owner, addresses) in [others, own, (RangeKey::<A>::EXTERNAL_IPS, &desired.external_ips)] {
            let wanted = range_keys::<A>(owner, &addresses.iter().copied().map(IpNet::from).collect());
            let present: BTreeSet<_> = self.tables.ranges_of(owner).collect();
            fresh.extend(wanted.iter().filter(|key| !present.contains(key)).copied());
            self.drop_ranges(owner, &wanted);
        }
        fresh.truncate(room);
        self.added_ranges += fresh.len();
        plan.ops.extend(fresh.into_iter().map(|key| A::op(FamilyOp::SetRange { key })));
        let nets = service_nets::<A>(&desired.service_nets);
        for ((index, net), held) in (0..).zip(nets).zip(self.tables.service_nets()) {
            if net != *held {
                plan.ops.push(A::op(FamilyOp::SetServiceNet { index, net }));
            }
        }
    }

    /// Plans for those of the addresses that have come or gone, as [`Self::place_addresses`] does for all.
    pub(super) fn place_some_addresses(&mut self, plan: &mut Plan, desired: &Desired, changes: &Changes) {
        let owned = |owner, wanted, changed: &BTreeSet<IpAddr>| {
            changed.iter().map(|address| (owner, wanted, *address)).collect::<Vec<_>>()
        };
        let cluster_ips = owned(RangeKey::<A>::CLUSTER_IPS, &desired.cluster_ips, &changes.cluster_ips);
        let external_ips = owned(RangeKey::<A>::EXTERNAL_IPS, &desired.external_ips, &changes.external_ips);
        for (owner, wanted, address) in cluster_ips.into_iter().chain(external_ips) {
            for key in range_keys::<A>(owner, &[IpNet::from(address)].into()) {
                let has_room = self.tables.range_count() + self.added_ranges < self.capacities.ranges as usize;
                match (wanted.contains(&address), self.tables.has_range(&key)) {
                    (true, false) if has_room => {
                        self.added_ranges += 1;
                        plan.ops.push(A::op(FamilyOp::SetRange { key }));
                    }
                    (false, true) => self.dropped_ranges.push(key),
                    _ => {}
                }
            }
        }
    }

    /// Plans for one Service port.
    pub(super) fn place(&mut self, out: &mut Output<'_>, port: &ServicePort, want: &DesiredPort) {
        let known = self.realized.id(port);
        self.kept.extend(known);
        if let Err(NoRoom(map, capacity)) = self.try_place(out, port, want, known) {
            out.plan.full.push(Full { port: port.clone(), map, capacity, known: known.is_some() });
        }
    }

    /// Checks that there is room for everything before it takes or writes anything.
    fn try_place(
        &mut self,
        out: &mut Output<'_>,
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
        let ranges = range_keys::<A>(service, &want.source_ranges);
        let present: BTreeSet<_> = tables.ranges_of(service).collect();
        let new_ranges = ranges.iter().filter(|key| !present.contains(key)).count();

        let frontend_room = self.capacities.frontends as usize;
        if new_frontends > 0 && tables.frontend_count() + self.added_frontends + new_frontends > frontend_room {
            return Err(NoRoom(A::FRONTEND_MAP, self.capacities.frontends));
        }
        let backend_room = self.capacities.backends.saturating_sub(1) as usize;
        if new_backends > 0 && tables.backend_count() + self.added_backends + new_backends > backend_room {
            return Err(NoRoom(A::BACKEND_MAP, self.capacities.backends));
        }
        if new_ranges > 0 && tables.range_count() + self.added_ranges + new_ranges > self.capacities.ranges as usize {
            return Err(NoRoom(A::RANGE_MAP, self.capacities.ranges));
        }
        let (layout, slots) = self.layout_for(known, want, &backends)?;
        if layout.lacks_tables() {
            let (map, capacity) = (A::SLOT_MAP, self.capacities.slots);
            out.plan.without_table.push(WithoutTable { port: port.clone(), map, capacity });
        }

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
                let backends = layout.slots().iter().filter_map(|index| ids.get(*index).copied()).collect();
                out.plan.ops.push(A::op(FamilyOp::SetSlots { first, backends }));
                first
            }
        };
        self.write_ranges(&mut out.plan.ops, service, &ranges);
        for (key, rule) in &frontends {
            let frontend = layout.frontend(service, first, want, rule);
            let held = tables.frontend(key);
            if held != Some(&frontend) {
                out.plan.ops.push(A::op(FamilyOp::SetFrontend { key: *key, frontend }));
            }
            if held.is_some_and(|held| held.service != service) {
                self.claimed.insert(*key);
            }
        }
        let written = out.plan.ops.len() > start;
        let left = self.drop_unwanted(known, &frontends, &ids, &ranges);

        let dropped = left.frontends + left.backends + left.ranges > 0;
        if written || dropped {
            out.plan.changes.push(Change {
                port: port.clone(),
                kind: if known.is_none() { ChangeKind::Added } else { ChangeKind::Changed },
                frontends: want.frontends.iter().map(|(at, rule)| (*at, rule.kind)).collect(),
                backends: backends.len(),
                joined: new_backends,
                left: left.backends,
            });
        }
        Ok(())
    }

    /// The wanted backends, in the order of their lists and addresses, with the ids of those that are there.
    fn wanted_backends(&self, known: Option<u32>, want: &DesiredPort) -> Vec<Wanted<A>> {
        let mut present: HashMap<(A, [u8; 2]), u32> = HashMap::new();
        for (id, backend) in known.into_iter().flat_map(|service| self.tables.backends_of(service)) {
            // Of two entries for one endpoint, which only damage can bring, the first stays.
            present.entry((backend.addr, backend.port)).or_insert(id);
        }
        let mut backends: Vec<(&(IpAddr, u16), &DesiredBackend)> =
            want.backends.iter().filter(|(_, backend)| is_used(want, backend.lists)).collect();
        backends.sort_by_key(|(_, backend)| backend.lists);
        let wanted = backends.into_iter().filter_map(|((address, port), backend)| {
            let addr = A::from_ip(*address)?;
            let port = port.to_be_bytes();
            let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
            let flags = Backend::<A>::LIVE
                | flag(backend.local, Backend::<A>::LOCAL)
                | flag(backend.lists.contain(List::Cluster), Backend::<A>::CLUSTER)
                | flag(backend.lists.contain(List::Local), Backend::<A>::POLICY_LOCAL);
            Some(Wanted { addr, port, flags, lists: backend.lists, id: present.get(&(addr, port)).copied() })
        });
        wanted.collect()
    }

    /// Finds what is to be in the stretch of slots, and where that is: the present one where it is right, a fresh one
    /// otherwise, with tables if there is room for them. Where there is none, lists alone do, and stay if they are right.
    ///
    /// Where there is no fresh stretch, the present one is written again, if the new lists fit into it. That last way is
    /// consistent but not atomic: while it is written, new connections go to old and new backends of either list. It is
    /// there so that a Service that shrinks is never stuck in a full map.
    fn layout_for(
        &mut self,
        known: Option<u32>,
        want: &DesiredPort,
        wanted: &[Wanted<A>],
    ) -> Result<(Layout, Slots), NoRoom> {
        let members: Vec<_> =
            wanted.iter().map(|wanted| (wanted.lists, maglev::identity(wanted.addr, wanted.port))).collect();
        let layout = Layout::of(want, &members, true);
        if layout.length() == 0 {
            return Ok((layout, Slots::Keep(0)));
        }
        let tables = self.tables;
        let present: Vec<&Frontend> =
            known.into_iter().flat_map(|service| tables.frontends_of(service)).map(|(_, frontend)| frontend).collect();
        let ranges: Vec<_> = present.iter().flat_map(|frontend| slot_ranges(frontend)).collect();
        let starts: BTreeSet<u32> = ranges.iter().map(|range| range.start).collect();
        let stretches = joined(ranges);
        // Slots that no frontend leads to are free for others to take, however right they are.
        let kept = |layout: &Layout| {
            let is_right = |first: &&u32| {
                let end = first.saturating_add(layout.length());
                let slots = tables.slots(**first..end);
                let is_wanted = |(slot, index): (&u32, &usize)| wanted.get(*index).and_then(|it| it.id) == Some(*slot);
                stretches.iter().any(|stretch| stretch.start <= **first && end <= stretch.end)
                    && slots.len() == layout.slots().len()
                    && slots.iter().zip(layout.slots()).all(is_wanted)
            };
            starts.iter().find(is_right).copied()
        };
        if let Some(first) = kept(&layout) {
            return Ok((layout, Slots::Keep(first)));
        }
        if let Some(first) = self.free_slots.take(layout.length()) {
            return Ok((layout, Slots::Write(first)));
        }
        let layout = if layout.has_tables() {
            let lists = Layout::of(want, &members, false);
            if let Some(first) = kept(&lists) {
                return Ok((lists, Slots::Keep(first)));
            }
            if let Some(first) = self.free_slots.take(lists.length()) {
                return Ok((lists, Slots::Write(first)));
            }
            lists
        } else {
            layout
        };
        let is_own = |slot: &u32| {
            let backend = tables.backend(*slot);
            backend.is_live() && Some(backend.service) == known
        };
        match stretches.as_slice() {
            [stretch]
                if stretch.len() >= layout.length() as usize && tables.slots(stretch.clone()).iter().all(is_own) =>
            {
                Ok((layout, Slots::Write(stretch.start)))
            }
            _ => Err(NoRoom(A::SLOT_MAP, self.capacities.slots)),
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

    /// Writes the ranges that are new.
    fn write_ranges(&mut self, ops: &mut Vec<Op>, owner: u32, wanted: &BTreeSet<RangeKey<A>>) {
        let present: BTreeSet<_> = self.tables.ranges_of(owner).collect();
        for key in wanted.iter().filter(|key| !present.contains(key)) {
            ops.push(A::op(FamilyOp::SetRange { key: *key }));
            self.added_ranges += 1;
        }
    }

    /// Notes the ranges of an owner that are no longer wanted.
    fn drop_ranges(&mut self, owner: u32, wanted: &BTreeSet<RangeKey<A>>) {
        let present = self.tables.ranges_of(owner).filter(|key| !wanted.contains(key));
        self.dropped_ranges.extend(present.copied());
    }

    /// Notes what a Service port has and no longer wants, to be taken away at the end.
    fn drop_unwanted(
        &mut self,
        known: Option<u32>,
        frontends: &BTreeMap<FrontendKey<A>, DesiredFrontend>,
        ids: &[u32],
        ranges: &BTreeSet<RangeKey<A>>,
    ) -> Dropped {
        let Some(service) = known else { return Dropped::default() };
        let (tables, before) = (self.tables, self.dropped());
        let keys = tables.frontends_of(service).map(|(key, _)| *key);
        self.dropped_frontends.extend(keys.filter(|key| !frontends.contains_key(key)));
        if tables.backends_of(service).count() > 0 {
            let wanted: HashSet<u32> = ids.iter().copied().collect();
            let present = tables.backends_of(service).map(|(id, _)| id);
            self.dropped_backends.extend(present.filter(|id| !wanted.contains(id)));
        }
        self.drop_ranges(service, ranges);
        let after = self.dropped();
        Dropped {
            frontends: after.frontends - before.frontends,
            backends: after.backends - before.backends,
            ranges: after.ranges - before.ranges,
        }
    }

    fn dropped(&self) -> Dropped {
        Dropped {
            frontends: self.dropped_frontends.len(),
            backends: self.dropped_backends.len(),
            ranges: self.dropped_ranges.len(),
        }
    }

    /// The Service port ids that something is held for and that do not stay.
    pub(super) fn unwanted(&self) -> BTreeSet<u32> {
        self.tables.services().filter(|service| !self.kept.contains(service)).collect()
    }

    /// The operations that take away what is no longer wanted, of wanted Service ports and all of those that are `gone`:
    /// frontends, and the backends and ranges to be freed after all of those of both families.
    pub(super) fn leftovers(self, gone: &BTreeSet<u32>) -> (Vec<Op>, Vec<Op>) {
        let (mut frontends, mut backends) = (self.dropped_frontends, self.dropped_backends);
        let mut ranges = self.dropped_ranges;
        for service in gone.iter().copied() {
            frontends.extend(self.tables.frontends_of(service).map(|(key, _)| *key));
            backends.extend(self.tables.backends_of(service).map(|(id, _)| id));
            if RangeKey::<A>::is_service(service) {
                ranges.extend(self.tables.ranges_of(service));
            }
        }
        let keys = frontends.into_iter().filter(|key| !self.claimed.contains(key));
        let deleted = keys.map(|key| A::op(FamilyOp::DeleteFrontend { key }));
        let freed = backends.into_iter().map(|id| {
            let generation = self.tables.backend(id).generation.wrapping_add(1);
            A::op(FamilyOp::SetBackend { id, backend: Backend { generation, ..Backend::default() } })
        });
        let ranges = ranges.into_iter().map(|key| A::op(FamilyOp::DeleteRange { key }));
        (deleted.collect(), freed.chain(ranges).collect())
    }
}

/// How much is noted to be taken away.
#[derive(Default)]
struct Dropped {
    frontends: usize,
    backends: usize,
    ranges: usize,
}

fn wanted_frontends<A: PlanFamily>(
    port: &ServicePort,
    want: &DesiredPort,
) -> BTreeMap<FrontendKey<A>, DesiredFrontend> {
    let wanted = want.frontends.iter().filter_map(|((address, number), rule)| {
        let key = FrontendKey::new(A::from_ip(*address)?, number.to_be_bytes(), port.protocol.number());
        Some((key, *rule))
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
