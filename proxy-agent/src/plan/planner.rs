//! The plan as a whole: which ids there are, which stay, which go.

use std::collections::HashSet;

use proxy_common::addr::{Ipv4, Ipv6};

use super::build::{Builder, Output};
use super::name::FREE;
use super::{Capacities, Change, ChangeKind, Op, Plan, PlanFamily, Realized};
use crate::model::{Desired, Family, ServicePort};

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
    let mut out = Output { plan: Plan::default(), ids: ServiceIds::new(realized, capacities) };
    let mut v4 = Builder::<Ipv4>::new(realized, capacities);
    let mut v6 = Builder::<Ipv6>::new(realized, capacities);
    v4.place_client_ranges(&mut out.plan, desired);
    v6.place_client_ranges(&mut out.plan, desired);
    for (port, want) in &desired.ports {
        match port.family {
            Family::V4 => v4.place(&mut out, port, want),
            Family::V6 => v6.place(&mut out, port, want),
        }
    }
    let Output { mut plan, .. } = out;
    v4.place_cluster_ips(&mut plan, desired);
    v6.place_cluster_ips(&mut plan, desired);

    let mut nameless = Vec::new();
    for (id, port) in realized.services() {
        if v4.keeps(id) || v6.keeps(id) {
            continue;
        }
        nameless.push(Op::SetService { id, name: Box::new(FREE) });
        // A second id of a wanted name is damage to repair, not news.
        if let Some(port) = port.filter(|port| !desired.ports.contains_key(port)) {
            plan.changes.push(match port.family {
                Family::V4 => removed::<Ipv4>(realized, id, port),
                Family::V6 => removed::<Ipv6>(realized, id, port),
            });
        }
    }
    let (v4_frontends, v4_rest) = v4.leftovers();
    let (v6_frontends, v6_rest) = v6.leftovers();
    for ops in [v4_frontends, v6_frontends, v4_rest, v6_rest, nameless] {
        plan.ops.extend(ops);
    }
    plan
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
pub(super) struct ServiceIds {
    used: HashSet<u32>,
    next: u32,
    capacity: u32,
}

impl ServiceIds {
    fn new(realized: &Realized, capacities: &Capacities) -> Self {
        let named = realized.services().map(|(id, _)| id);
        // What refers to an id without a name is swept away by this plan, but not before its end.
        let used = named.chain(realized.v4().services()).chain(realized.v6().services()).collect();
        Self { used, next: 1, capacity: capacities.services }
    }

    /// The lowest free id.
    pub(super) fn peek(&mut self) -> Option<u32> {
        while self.used.contains(&self.next) {
            self.next += 1;
        }
        (self.next < self.capacity).then_some(self.next)
    }

    /// Marks the id that was last seen as used.
    pub(super) fn take(&mut self) {
        self.next += 1;
    }
}
