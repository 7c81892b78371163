//! What holds for every plan.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use proxy_common::maps::{RangeKey, ServiceName};

use super::*;
use crate::object::{ObjectName, Protocol};

/// The Service ports that worlds are made of: TCP and UDP, IPv4 and IPv6.
fn service_port(index: usize) -> ServicePort {
    ServicePort {
        service: ObjectName::new("default", format!("s{index}")),
        port_name: "".into(),
        port: 80,
        protocol: if index == 2 { Protocol::Udp } else { Protocol::Tcp },
        family: if index >= 4 { Family::V6 } else { Family::V4 },
    }
}

fn address(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 0, 0, last]),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]),
    }
}

const KINDS: [FrontendKind; 4] =
    [FrontendKind::ClusterIp, FrontendKind::NodePort, FrontendKind::ExternalIp, FrontendKind::LoadBalancer];
const LISTS: [Lists; 3] = [Lists::Local, Lists::Both, Lists::Cluster];

/// What a Service port is like, whatever its frontends.
#[derive(Clone, Debug)]
struct Nature {
    backends: BTreeMap<u8, (bool, Lists)>,
    /// internalTrafficPolicy, externalTrafficPolicy.
    policies: [List; 2],
    ranges: BTreeSet<u8>,
    affinity: u32,
    has_endpoints: bool,
}

fn nature() -> impl Strategy<Value = Nature> {
    let list = || any::<bool>().prop_map(|is_local| if is_local { List::Local } else { List::Cluster });
    let backends = btree_map(0..6_u8, (any::<bool>(), proptest::sample::select(&LISTS)), 0..5);
    let parts = (backends, [list(), list()], btree_set(0..4_u8, 0..3), 0..2_u32, any::<bool>());
    parts.prop_map(|(backends, policies, ranges, affinity, has_endpoints)| Nature {
        backends,
        policies,
        ranges,
        affinity,
        has_endpoints,
    })
}

/// A Service port as the model gives it: nothing is in it that no frontend uses.
fn desired_port(family: Family, addresses: &BTreeMap<u8, FrontendKind>, nature: &Nature) -> DesiredPort {
    let [internal, external] = nature.policies;
    let frontends = addresses.iter().map(|(last, kind)| {
        let rule = match kind {
            FrontendKind::ClusterIp => {
                DesiredFrontend { inside: internal, outside: internal, masquerade: 6, ..frontend(*kind) }
            }
            _ => {
                let guarded = *kind == FrontendKind::LoadBalancer && !nature.ranges.is_empty();
                DesiredFrontend { outside: external, masquerade: 15, guarded, ..frontend(*kind) }
            }
        };
        ((address(family, *last), 80), rule)
    });
    let frontends: LiteMap<_, _> = frontends.collect();
    let uses = |list| frontends.values().any(|rule| rule.inside == list || rule.outside == list);
    let backends = nature.backends.iter().filter(|(_, (_, lists))| {
        [List::Cluster, List::Local].into_iter().any(|list| lists.contain(list) && uses(list))
    });
    let backends: LiteMap<_, _> = backends
        .map(|(last, (local, lists))| {
            let at = (address(family, 100 + last), 8080);
            (at, DesiredBackend { local: *local, lists: *lists })
        })
        .collect();
    let is_guarded = frontends.values().any(|rule| rule.guarded);
    let ranges = nature.ranges.iter().filter(|_| is_guarded);
    DesiredPort {
        has_endpoints: nature.has_endpoints || !backends.is_empty(),
        affinity: NonZeroU32::new(nature.affinity * 60),
        source_ranges: ranges.map(|last| IpNet::from(address(family, *last))).collect(),
        frontends,
        backends,
    }
}

/// A state to be reached. Each address has one owner, who has some backends; from one world to the next,
/// addresses go over from one Service port to another.
fn world() -> impl Strategy<Value = Desired> {
    let owners = btree_map(0..8_u8, (0..6_usize, proptest::sample::select(&KINDS)), 0..8);
    (owners, vec(nature(), 6), btree_set((4..6_usize, 0..3_u8), 0..3)).prop_map(|(owners, natures, local)| {
        let mut addresses: BTreeMap<usize, BTreeMap<u8, FrontendKind>> = BTreeMap::new();
        for (last, (owner, kind)) in owners {
            addresses.entry(owner).or_default().insert(last, kind);
        }
        let ports = addresses.into_iter().map(|(owner, addresses)| {
            let port = service_port(owner);
            let desired = desired_port(port.family, &addresses, &natures[owner]);
            (port, desired)
        });
        let family = |index| if index == 4 { Family::V4 } else { Family::V6 };
        let local = local.into_iter().map(|(index, last)| IpNet::from(address(family(index), last)));
        let local: BTreeSet<_> = local.collect();
        let node_addresses = local.iter().map(IpNet::addr).take(1).collect();
        let service_nets = local.iter().skip(1).map(|net| (*net, net.addr().is_ipv4())).collect();
        Desired { ports: ports.collect(), local_ranges: local, node_addresses, service_nets, ..Desired::default() }
    })
}

fn narrow() -> impl Strategy<Value = Capacities> {
    let ranges = 9..15_u32;
    let slots = prop_oneof![1..14_u32, 200..1_200_u32];
    (1..8_u32, 1..8_u32, 1..12_u32, slots, ranges).prop_map(|(services, frontends, backends, slots, ranges)| {
        Capacities { services, frontends, backends, slots, ranges }
    })
}

/// What makes a backend the same one: Service port, address and port.
type Identity<A> = (u32, A, [u8; 2]);

/// The identity and the generation of every live backend.
fn backends<A: PlanFamily>(realized: &Realized) -> BTreeMap<u32, (Identity<A>, u32)> {
    let live = A::tables(realized).backends();
    live.map(|(id, b)| (id, ((b.service, b.addr, b.port), b.generation))).collect()
}

proptest! {
    #[test]
    fn worlds_follow_each_other_without_a_wrong_state_between(worlds in vec(world(), 1..6)) {
        let mut realized = Realized::default();
        for world in worlds {
            let before = realized.clone();
            let todo = plan(&world, &realized, &ROOMY);
            prop_assert!(todo.full.is_empty());
            carry_out(&mut realized, &todo.ops);
            prop_assert_eq!(&read_all(&realized), &world);

            // What a packet may be reading is not written to.
            let (v4, v6) = (used_slots::<Ipv4>(&before), used_slots::<Ipv6>(&before));
            for op in &todo.ops {
                match op {
                    Op::V4(FamilyOp::SetSlots { first, backends }) => {
                        prop_assert!((*first..).take(backends.len()).all(|index| !v4.contains(&index)));
                    }
                    Op::V6(FamilyOp::SetSlots { first, backends }) => {
                        prop_assert!((*first..).take(backends.len()).all(|index| !v6.contains(&index)));
                    }
                    _ => {}
                }
            }
            // Who stays a backend keeps id and generation; who takes an id over has another generation.
            let (old, new) = (backends::<Ipv4>(&before), backends::<Ipv4>(&realized));
            for (id, (identity, generation)) in &new {
                match old.get(id) {
                    Some((before, same)) if before == identity => prop_assert_eq!(same, generation),
                    Some((_, used)) => prop_assert_ne!(used, generation),
                    None => prop_assert!(!old.values().any(|(before, _)| before == identity)),
                }
            }
            // A plan of what is there does nothing.
            prop_assert_eq!(plan(&world, &realized, &ROOMY), super::super::Plan::default());
        }
    }

    #[test]
    fn a_change_is_told_for_exactly_the_service_ports_that_change(from in world(), to in world()) {
        let mut realized = Realized::default();
        carry_out(&mut realized, &plan(&from, &Realized::default(), &ROOMY).ops);
        let told: Vec<_> = plan(&to, &realized, &ROOMY).changes.into_iter().map(|change| change.port).collect();
        let both = from.ports.keys().chain(to.ports.keys()).collect::<BTreeSet<_>>();
        let differ = both.into_iter().filter(|port| from.ports.get(port) != to.ports.get(port)).cloned();
        let (told_once, count) = (told.iter().cloned().collect::<BTreeSet<_>>(), told.len());
        prop_assert_eq!(told_once.len(), count);
        prop_assert_eq!(told_once, differ.collect::<BTreeSet<_>>());
    }

    #[test]
    fn a_restart_at_any_point_goes_on_from_there(
        from in world(), to in world(), crash in any::<Index>(), order in any::<u64>(),
    ) {
        let mut realized = Realized::default();
        carry_out(&mut realized, &plan(&from, &Realized::default(), &ROOMY).ops);
        let todo = plan(&to, &realized, &ROOMY);
        let done = crash.index(todo.ops.len() + 1);
        carry_out(&mut realized, &todo.ops[..done]);

        let mut entries = entries(&realized);
        let middle = usize::try_from(order).unwrap_or(0) % entries.len().max(1);
        entries.rotate_left(middle);
        let mut restarted = Realized::default();
        entries.iter().for_each(|entry| restarted.apply(entry));
        if done == todo.ops.len() {
            prop_assert!(plan(&to, &restarted, &ROOMY).ops.is_empty(), "all was right already");
        }
        let todo = plan(&to, &restarted, &ROOMY);
        carry_out(&mut restarted, &todo.ops);
        prop_assert_eq!(read_all(&restarted), to);
    }

    #[test]
    fn a_plan_of_what_has_changed_is_the_whole_plan(worlds in vec(world(), 1..6), capacities in narrow()) {
        for capacities in [&ROOMY, &capacities] {
            let (mut realized, mut former) = (Realized::default(), Desired::default());
            for world in &worlds {
                let mut world = Desired { ports: world.ports.clone(), ..Desired::default() };
                if capacities == &ROOMY {
                    let frontends = world.ports.values().flat_map(|want| want.frontends.keys());
                    world.cluster_ips = frontends.map(|(address, _)| *address).collect();
                    world.external_ips = world.cluster_ips.iter().skip(1).copied().collect();
                }
                let ports = former.ports.keys().chain(world.ports.keys());
                let differs = |port: &&ServicePort| former.ports.get(*port) != world.ports.get(*port);
                let changes = Changes {
                    ports: ports.filter(differs).cloned().collect(),
                    cluster_ips: former.cluster_ips.symmetric_difference(&world.cluster_ips).copied().collect(),
                    external_ips: former.external_ips.symmetric_difference(&world.external_ips).copied().collect(),
                    ..Changes::default()
                };
                let whole = plan(&world, &realized, capacities);
                prop_assert_eq!(&plan_changes(&world, &realized, capacities, &changes), &whole);
                carry_out(&mut realized, &whole.ops);
                if !whole.has_room() {
                    break;
                }
                former = world;
            }
        }
    }

    #[test]
    fn full_maps_stop_nobody_else(worlds in vec(world(), 1..5), capacities in narrow()) {
        let mut realized = Realized::default();
        for world in worlds {
            let mut rounds = 0;
            let full = loop {
                let before = realized.clone();
                let todo = plan(&world, &realized, &capacities);
                carry_out(&mut realized, &todo.ops);
                for full in &todo.full {
                    prop_assert_eq!(full.known, before.id(&full.port).is_some());
                    prop_assert_eq!(before.id(&full.port), realized.id(&full.port));
                    let (had, has) = (read(&before, &full.port), read(&realized, &full.port));
                    if !has.frontends.is_empty() {
                        prop_assert_eq!((had.backends, had.source_ranges), (has.backends, has.source_ranges));
                    }
                    // But for what another Service port owns now, the frontends are the former ones.
                    let claimed = |at: &(IpAddr, u16)| world.ports.iter().any(|(port, want)| {
                        *port != full.port && port.protocol == full.port.protocol && want.frontends.contains_key(at)
                    });
                    for (at, rule) in had.frontends {
                        prop_assert!(claimed(&at) || has.frontends.get(&at) == Some(&rule));
                    }
                }
                if !todo.may_make_room() {
                    break todo.full.into_iter().map(|full| full.port).collect::<BTreeSet<_>>();
                }
                rounds += 1;
                prop_assert!(rounds < 20, "never ends");
            };
            for (port, want) in world.ports.iter().filter(|(port, _)| !full.contains(port)) {
                prop_assert_eq!(&read(&realized, port), want);
            }
            prop_assert!(realized.v4().range_count() <= capacities.ranges as usize);
            prop_assert!(realized.v4().frontend_count() <= capacities.frontends as usize);
            prop_assert!(realized.v4().backends().all(|(id, _)| id > 0 && id < capacities.backends));
            prop_assert!(realized.services().all(|(id, _)| id > 0 && id < capacities.services));
            prop_assert!(used_slots::<Ipv4>(&realized).iter().all(|slot| *slot < capacities.slots));
        }
    }

    #[test]
    fn maps_of_a_state_s_extent_have_room_for_it_and_smaller_ones_have_not(to in world()) {
        let mut realized = Realized::default();
        carry_out(&mut realized, &plan(&to, &Realized::default(), &ROOMY).ops);
        let extent = realized.extent();
        prop_assert_eq!(plan(&to, &Realized::default(), &extent).full, []);
        for smaller in [
            Capacities { services: extent.services.saturating_sub(1), ..extent },
            Capacities { frontends: extent.frontends.saturating_sub(1), ..extent },
            Capacities { backends: extent.backends.saturating_sub(1), ..extent },
        ] {
            prop_assert!(smaller == extent || !plan(&to, &Realized::default(), &smaller).full.is_empty());
        }
    }

    #[test]
    fn any_damage_is_repaired(from in world(), to in world(), damage in vec(damage(), 0..12)) {
        let mut realized = Realized::default();
        carry_out(&mut realized, &plan(&from, &Realized::default(), &ROOMY).ops);
        damage.iter().for_each(|op| realized.apply(op));
        // What was damaged may need its id or key cleared before it is right.
        for _ in 0..2 {
            for op in plan(&to, &realized, &ROOMY).ops {
                realized.apply(&op);
            }
        }
        assert_consistent(&realized);
        prop_assert_eq!(read_all(&realized), to.clone());
        prop_assert_eq!(plan(&to, &realized, &ROOMY), super::super::Plan::default());
    }
}

/// One entry overwritten by anything.
fn damage() -> impl Strategy<Value = Op> {
    let name = (1..9_u32, 0..8_usize).prop_map(|(id, of)| {
        let name = match of {
            6 => ServiceName { family: 9, ..ServiceName::from(&service_port(0)) },
            7 => super::super::name::FREE,
            of => ServiceName::from(&service_port(of)),
        };
        Op::SetService { id, name: Box::new(name) }
    });
    let backend = (1..12_u32, 0..6_u8, 0..16_u8, 0..9_u32).prop_map(|(id, last, flags, service)| {
        let addr = Ipv4::new([10, 0, 0, 100 + last]);
        let backend =
            Backend { addr, port: 8080_u16.to_be_bytes(), flags, service, generation: id, ..Backend::default() };
        Op::V4(FamilyOp::SetBackend { id, backend })
    });
    let slot = (0..260_u32, 0..12_u32)
        .prop_map(|(first, backend)| Op::V4(FamilyOp::SetSlots { first, backends: [backend].into() }));
    let range = |count: std::ops::Range<u32>| (0..12_u32, count);
    let frontend = (0..8_u8, 0..9_u32, range(0..4), range(0..4), 0..4_u8, 0..32_u8).prop_map(
        |(last, service, (first, count), (outside_first, outside_count), kind, flags)| {
            let key = FrontendKey::new(Ipv4::new([10, 0, 0, last]), 80_u16.to_be_bytes(), 6);
            let frontend =
                Frontend { service, first, count, outside_first, outside_count, kind, flags, ..Frontend::default() };
            Op::V4(FamilyOp::SetFrontend { key, frontend })
        },
    );
    let range = (0..65_u32, 0..9_u32, 0..4_u8, any::<bool>()).prop_map(|(prefix, owner, last, is_gone)| {
        let key = RangeKey { prefix, owner, addr: Ipv4::new([10, 0, 0, last]) };
        Op::V4(if is_gone { FamilyOp::DeleteRange { key } } else { FamilyOp::SetRange { key } })
    });
    prop_oneof![name, backend, slot, frontend, range]
}
