//! The plan as a whole: which ids there are, which stay, which go.

use std::collections::BTreeSet;

use proxy_common::addr::{Ipv4, Ipv6};

use super::build::{Builder, Output};
use super::name::FREE;
use super::{Capacities, Change, ChangeKind, Op, Plan, PlanFamily, Realized};
use crate::model::{Changes, Desired, DesiredPort, Family, ServicePort};

/// Works out how to get from what the maps hold to what they should hold.
///
/// - What is right stays as it is: a plan of what is already there has no operation.
/// - Every prefix of the operations leaves the maps consistent: each frontend leads to live backends of its own
///   Service port only.
/// - A Service port that there is no room for keeps all it has (but for a frontend that another one claims by
///   right), and the rest goes on. What this plan frees is there for the next one to use.
/// - Ranges come before the frontends that ask about them, so that a guarded frontend is never without its ranges.
/// - The operations of a Service port are next to each other, so that each is complete as early as it can be.
pub fn plan(desired: &Desired, realized: &Realized, capacities: &Capacities) -> Plan {
    let mut draft = Draft::new(realized, capacities);
    draft.v4.place_client_ranges(&mut draft.out.plan, desired);
    draft.v6.place_client_ranges(&mut draft.out.plan, desired);
    desired.ports.iter().for_each(|(port, want)| draft.place(port, want));
    draft.v4.place_addresses(&mut draft.out.plan, desired);
    draft.v6.place_addresses(&mut draft.out.plan, desired);
    let unwanted = realized.services().filter(|(id, _)| !draft.keeps(*id)).collect();
    let gone = [draft.v4.unwanted(), draft.v6.unwanted()];
    draft.finish(desired, unwanted, gone)
}

/// The same where nothing but this can differ from what the maps should hold. It costs what the changes cost, however
/// much there is.
pub fn plan_changes(desired: &Desired, realized: &Realized, capacities: &Capacities, changes: &Changes) -> Plan {
    let mut draft = Draft::new(realized, capacities);
    let mut unwanted = Vec::new();
    for port in &changes.ports {
        match desired.ports.get(port) {
            Some(want) => draft.place(port, want),
            None => unwanted.extend(realized.id(port).map(|id| (id, Some(port)))),
        }
    }
    draft.v4.place_some_addresses(&mut draft.out.plan, desired, changes);
    draft.v6.place_some_addresses(&mut draft.out.plan, desired, changes);
    unwanted.sort_unstable_by_key(|(id, _)| *id);
    let gone: BTreeSet<u32> = unwanted.iter().map(|(id, _)| *id).collect();
    draft.finish(desired, unwanted, [gone.clone(), gone])
}

/// A plan in the making.
struct Draft<'a> {
    realized: &'a Realized,
    out: Output<'a>,
    v4: Builder<'a, Ipv4>,
    v6: Builder<'a, Ipv6>,
}

impl<'a> Draft<'a> {
    fn new(realized: &'a Realized, capacities: &'a Capacities) -> Self {
        Self {
            realized,
            out: Output { plan: Plan::default(), ids: ServiceIds::new(realized, capacities) },
            v4: Builder::new(realized, capacities),
            v6: Builder::new(realized, capacities),
        }
    }

    fn place(&mut self, port: &ServicePort, want: &DesiredPort) {
        match port.family {
            Family::V4 => self.v4.place(&mut self.out, port, want),
            Family::V6 => self.v6.place(&mut self.out, port, want),
        }
    }

    fn keeps(&self, id: u32) -> bool {
        self.v4.keeps(id) || self.v6.keeps(id)
    }

    /// Ends with what goes: the ids in `unwanted` by name, and what each family holds for those in `gone`.
    fn finish(self, desired: &Desired, unwanted: Vec<(u32, Option<&ServicePort>)>, gone: [BTreeSet<u32>; 2]) -> Plan {
        let Output { mut plan, .. } = self.out;
        let mut nameless = Vec::new();
        for (id, port) in unwanted {
            nameless.push(Op::SetService { id, name: Box::new(FREE) });
            // A second id of a wanted name is damage to repair, not news.
            if let Some(port) = port.filter(|port| !desired.ports.contains_key(port)) {
                plan.changes.push(match port.family {
                    Family::V4 => removed::<Ipv4>(self.realized, id, port),
                    Family::V6 => removed::<Ipv6>(self.realized, id, port),
                });
            }
        }
        let [v4_gone, v6_gone] = gone;
        let (v4_frontends, v4_rest) = self.v4.leftovers(&v4_gone);
        let (v6_frontends, v6_rest) = self.v6.leftovers(&v6_gone);
        for ops in [v4_frontends, v6_frontends, v4_rest, v6_rest, nameless] {
            plan.ops.extend(ops);
        }
        plan
    }
}

fn removed<A: PlanFamily>(realized: &Realized, id: u32, port: &ServicePort) -> Change {
    let tables = A::tables(realized);
    Change {
        port: port.clone(),
        kind: ChangeKind::Removed,
        frontends: super::build::described(tables.frontends_of(id)),
        backends: 0,
        joined: 0,
        left: tables.backends_of(id).count(),
    }
}

/// The Service port ids, to take free ones from.
pub(super) struct ServiceIds<'a> {
    /// What refers to an id without a name is swept away by this plan, but not before its end: the id is not free yet.
    realized: &'a Realized,
    next: u32,
    capacity: u32,
}

impl<'a> ServiceIds<'a> {
    fn new(realized: &'a Realized, capacities: &Capacities) -> Self {
        Self { realized, next: realized.free_id(), capacity: capacities.services }
    }

    /// The lowest free id.
    pub(super) fn peek(&mut self) -> Option<u32> {
        while self.next < self.capacity && self.realized.uses(self.next) {
            self.next += 1;
        }
        (self.next < self.capacity).then_some(self.next)
    }

    /// Marks the id that was last seen as used.
    pub(super) fn take(&mut self) {
        self.next += 1;
    }
}
