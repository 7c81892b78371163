//! Plans, carried out on the fake that stands for the maps.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod properties;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use litemap::LiteMap;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maglev;
use proxy_common::maps::{Backend, Frontend, FrontendKey, FrontendKind, RangeKey, ServiceNet};

use super::tables::slot_ranges;
use super::{Capacities, FamilyOp, Op, PlanFamily, Realized, plan, plan_changes};
use crate::model::{Changes, Desired, DesiredBackend, DesiredFrontend, DesiredPort, Family, List, Lists, ServicePort};
use crate::object::{ObjectName, Protocol};

const ROOMY: Capacities = Capacities { services: 1000, frontends: 1000, backends: 1000, slots: 100_000, ranges: 1000 };

/// What every state of the maps has to be, also in the middle of a plan: each frontend leads to live backends of
/// its own, named Service port only, by either list, and a guarded one has ranges.
fn assert_consistent(realized: &Realized) {
    fn family<A: PlanFamily>(realized: &Realized) {
        let tables = A::tables(realized);
        for (key, frontend) in tables.frontends() {
            assert!(realized.service(frontend.service).is_some(), "{key:?} leads to a Service without a name");
            for range in slot_ranges(frontend) {
                let slots = tables.slots(range.clone());
                assert_eq!(slots.len(), range.len(), "{key:?} leads past the slots");
                for slot in slots {
                    let backend = tables.backend(*slot);
                    assert!(backend.is_live(), "{key:?} leads to a freed backend");
                    assert_eq!(backend.service, frontend.service, "{key:?} leads to another Service's backend");
                }
            }
            let is_guarded = frontend.flags & Frontend::RANGES != 0;
            assert!(!is_guarded || tables.ranges_of(frontend.service).count() > 0, "{key:?} lets nobody in");
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
    frontends.flat_map(|(_, frontend)| slot_ranges(frontend)).flatten().collect()
}

/// Reads a Service port out of the maps, as a packet would: by what frontends, slots, backends and ranges say.
fn read(realized: &Realized, port: &ServicePort) -> DesiredPort {
    fn family<A: PlanFamily>(realized: &Realized, port: &ServicePort) -> DesiredPort {
        let tables = A::tables(realized);
        let mut read = DesiredPort::default();
        let Some(id) = realized.id(port) else { return read };
        for (_, backend) in tables.backends_of(id) {
            let at = (backend.addr.to_ip(), u16::from_be_bytes(backend.port));
            let is = |flag: u8| backend.flags & flag != 0;
            let lists = match (is(Backend::<A>::CLUSTER), is(Backend::<A>::POLICY_LOCAL)) {
                (true, true) => Lists::Both,
                (true, false) => Lists::Cluster,
                (false, true) => Lists::Local,
                (false, false) => panic!("{port} has {at:?} for nothing"),
            };
            let known = read.backends.insert(at, DesiredBackend { local: backend.is_local(), lists });
            assert!(known.is_none(), "{port} has {at:?} twice");
        }
        read.source_ranges = ranges::<A>(realized, id);
        let mut common = BTreeSet::new();
        for (key, frontend) in tables.frontends_of(id) {
            let is = |flag: u8| frontend.flags & flag != 0;
            let list = |flag: u8| if is(flag) { List::Local } else { List::Cluster };
            let rule = DesiredFrontend {
                kind: FrontendKind::from_u8(frontend.kind).unwrap(),
                inside: list(Frontend::LOCAL),
                outside: list(Frontend::OUTSIDE_LOCAL),
                masquerade: frontend.masquerade,
                guarded: is(Frontend::RANGES),
            };
            for (list, first, count, is_table) in [
                (rule.inside, frontend.first, frontend.count, false),
                (rule.outside, frontend.outside_first, frontend.outside_count, is(Frontend::TABLE)),
            ] {
                let slots: BTreeSet<u32> = tables.slots(first..first + count).iter().copied().collect();
                if is_table {
                    assert_eq!(Some(count), maglev::length(slots.len()), "{port}: the table of its {list:?} list");
                } else {
                    assert_eq!(slots.len(), count as usize, "{port} has a backend twice in its {list:?} list");
                }
                let mask = match list {
                    List::Cluster => Backend::<A>::CLUSTER,
                    List::Local => Backend::<A>::POLICY_LOCAL,
                };
                let marked = tables.backends_of(id).filter(|(_, backend)| backend.flags & mask != 0);
                assert_eq!(slots, marked.map(|(id, _)| id).collect(), "{port}: its {list:?} list");
            }
            read.frontends.insert((key.addr.to_ip(), u16::from_be_bytes(key.port)), rule);
            common.insert((frontend.affinity, is(Frontend::DROP)));
        }
        assert!(common.len() <= 1, "the frontends of {port} do not agree: {common:?}");
        if let Some((affinity, has_endpoints)) = common.pop_first() {
            (read.affinity, read.has_endpoints) = (NonZeroU32::new(affinity), has_endpoints);
        }
        read
    }
    match port.family {
        Family::V4 => family::<Ipv4>(realized, port),
        Family::V6 => family::<Ipv6>(realized, port),
    }
}

/// The ranges of an owner.
fn ranges<A: PlanFamily>(realized: &Realized, owner: u32) -> BTreeSet<IpNet> {
    let keys = A::tables(realized).ranges_of(owner);
    keys.map(|key| IpNet::new(key.addr.to_ip(), u8::try_from(key.prefix - 32).unwrap()).unwrap()).collect()
}

/// Everything that the maps hold, to compare with what they should hold.
fn read_all(realized: &Realized) -> Desired {
    let ports = realized.services().map(|(_, port)| port.unwrap().clone());
    let mut local_ranges = ranges::<Ipv4>(realized, 0);
    local_ranges.extend(ranges::<Ipv6>(realized, 0));
    let addresses = |owner| -> BTreeSet<IpAddr> {
        let v4 = ranges::<Ipv4>(realized, owner);
        v4.iter().chain(&ranges::<Ipv6>(realized, owner)).map(IpNet::addr).collect()
    };
    let mut service_nets = nets::<Ipv4>(realized);
    service_nets.extend(nets::<Ipv6>(realized));
    let ports = ports.map(|port| (port.clone(), read(realized, &port))).collect();
    Desired {
        ports,
        local_ranges,
        node_addresses: addresses(RangeKey::<Ipv4>::NODE),
        cluster_ips: addresses(RangeKey::<Ipv4>::CLUSTER_IPS),
        external_ips: addresses(RangeKey::<Ipv4>::EXTERNAL_IPS),
        left_to_others: addresses(RangeKey::<Ipv4>::LEFT_TO_OTHERS),
        service_nets,
        ..Desired::default()
    }
}

/// The ranges that ClusterIPs are from.
fn nets<A: PlanFamily>(realized: &Realized) -> BTreeMap<IpNet, bool> {
    let used = A::tables(realized).service_nets().iter().filter(|net| net.flags & ServiceNet::<A>::USED != 0);
    let net = |net: &ServiceNet<A>| {
        let range = IpNet::with_netmask(net.addr.to_ip(), net.mask.to_ip()).unwrap();
        (range, net.flags & ServiceNet::<A>::COMPLETE != 0)
    };
    used.map(net).collect()
}

/// The entries of the maps, as reading them back gives them.
fn entries(realized: &Realized) -> Vec<Op> {
    fn family<A: PlanFamily>(realized: &Realized, ops: &mut Vec<Op>) {
        let tables = A::tables(realized);
        ops.extend(
            tables.frontends().map(|(key, frontend)| A::op(FamilyOp::SetFrontend { key: *key, frontend: *frontend })),
        );
        for owner in (0..ROOMY.services).chain(RangeKey::<A>::EXTERNAL_IPS..=RangeKey::<A>::NODE) {
            ops.extend(tables.ranges_of(owner).map(|key| A::op(FamilyOp::SetRange { key: *key })));
        }
        for (index, net) in (0..).zip(tables.service_nets()) {
            ops.push(A::op(FamilyOp::SetServiceNet { index, net: *net }));
        }
        for id in 1..ROOMY.backends {
            ops.push(A::op(FamilyOp::SetBackend { id, backend: tables.backend(id) }));
        }
        ops.push(A::op(FamilyOp::SetSlots { first: 0, backends: tables.slots(0..ROOMY.slots).into() }));
    }
    let mut ops = Vec::new();
    family::<Ipv6>(realized, &mut ops);
    family::<Ipv4>(realized, &mut ops);
    for (id, port) in realized.services() {
        ops.push(Op::SetService { id, name: Box::new(port.unwrap().into()) });
    }
    ops
}

/// A frontend that all clients use alike.
fn web() -> ServicePort {
    ServicePort {
        service: ObjectName::new("default", "web"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn frontend(kind: FrontendKind) -> DesiredFrontend {
    DesiredFrontend { kind, inside: List::Cluster, outside: List::Cluster, masquerade: 0, guarded: false }
}
