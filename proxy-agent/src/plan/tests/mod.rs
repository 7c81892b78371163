//! Plans, carried out on the fake that stands for the maps.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod properties;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::FrontendKey;

use super::{Capacities, FamilyOp, Op, PlanFamily, Realized, plan};
use crate::model::{Desired, DesiredPort, Family, ServicePort};

const ROOMY: Capacities = Capacities { services: 1000, frontends: 1000, backends: 1000, slots: 1000 };

/// What every state of the maps has to be, also in the middle of a plan: each frontend leads to live backends of
/// its own, named Service port only.
fn assert_consistent(realized: &Realized) {
    fn family<A: PlanFamily>(realized: &Realized) {
        let tables = A::tables(realized);
        for (key, frontend) in tables.frontends() {
            assert!(realized.service(frontend.service).is_some(), "{key:?} leads to a Service without a name");
            let slots = tables.slots(frontend.first..frontend.first + frontend.count);
            assert_eq!(slots.len(), frontend.count as usize, "{key:?} leads past the slots");
            for slot in slots {
                let backend = tables.backend(*slot);
                assert!(backend.is_live(), "{key:?} leads to a freed backend");
                assert_eq!(backend.service, frontend.service, "{key:?} leads to another Service's backend");
            }
        }
    }
    family::<Ipv4>(realized);
    family::<Ipv6>(realized);
}

/// Carries operations out, looking at the maps after each.
fn carry_out(realized: &mut Realized, ops: &[Op]) {
    for op in ops {
        realized.apply(op);
        assert_consistent(realized);
    }
}

/// The slots that frontends lead to.
fn used_slots<A: PlanFamily>(realized: &Realized) -> BTreeSet<u32> {
    let frontends = A::tables(realized).frontends();
    frontends.flat_map(|(_, frontend)| frontend.first..frontend.first + frontend.count).collect()
}

/// Reads a Service port out of the maps, following frontends as a packet would.
fn read(realized: &Realized, port: &ServicePort) -> DesiredPort {
    fn family<A: PlanFamily>(realized: &Realized, port: &ServicePort) -> DesiredPort {
        let tables = A::tables(realized);
        let mut read = DesiredPort::default();
        let Some(id) = realized.id(port) else { return read };
        let mut lists = BTreeSet::new();
        read.frontends = super::build::described(tables.frontends_of(id));
        for (_, frontend) in tables.frontends_of(id) {
            lists.insert((frontend.first, frontend.count));
        }
        assert!(lists.len() <= 1, "{port} has two lists of backends");
        for (first, count) in lists {
            for slot in tables.slots(first..first + count) {
                let backend = tables.backend(*slot);
                let at = SocketAddr::new(backend.addr.to_ip(), u16::from_be_bytes(backend.port));
                let known = read.backends.insert(at, crate::model::DesiredBackend { local: backend.is_local() });
                assert!(known.is_none(), "{port} has {at} twice");
            }
        }
        // A Service port that lost its last frontend and has no room for another one keeps its backends.
        if !read.frontends.is_empty() {
            assert_eq!(tables.backends_of(id).count(), read.backends.len(), "{port} has backends nothing leads to");
        }
        read
    }
    match port.family {
        Family::V4 => family::<Ipv4>(realized, port),
        Family::V6 => family::<Ipv6>(realized, port),
    }
}

/// Everything that the maps hold, to compare with what they should hold.
fn read_all(realized: &Realized) -> Desired {
    let ports = realized.services().map(|(_, port)| port.unwrap().clone());
    Desired { ports: ports.map(|port| (port.clone(), read(realized, &port))).collect() }
}

/// The entries of the maps, as reading them back gives them.
fn entries(realized: &Realized) -> Vec<Op> {
    fn family<A: PlanFamily>(realized: &Realized, ops: &mut Vec<Op>) {
        let tables = A::tables(realized);
        ops.extend(
            tables.frontends().map(|(key, frontend)| A::op(FamilyOp::SetFrontend { key: *key, frontend: *frontend })),
        );
        for id in 1..ROOMY.backends {
            ops.push(A::op(FamilyOp::SetBackend { id, backend: tables.backend(id) }));
        }
        for (index, backend) in (0..).zip(tables.slots(0..ROOMY.slots)) {
            ops.push(A::op(FamilyOp::SetSlot { index, backend: *backend }));
        }
    }
    let mut ops = Vec::new();
    family::<Ipv6>(realized, &mut ops);
    family::<Ipv4>(realized, &mut ops);
    for (id, port) in realized.services() {
        ops.push(Op::SetService { id, name: Box::new(port.unwrap().into()) });
    }
    ops
}
