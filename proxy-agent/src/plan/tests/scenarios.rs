//! Single plans, as people read them.

use super::*;

/// A Service port with a ClusterIP, a NodePort on two addresses, and backends 10.244.0.N:8080.
fn desired(backends: &[u8]) -> Desired {
    let frontends = [
        ((IpAddr::from([10, 96, 0, 10]), 80), frontend(FrontendKind::ClusterIp)),
        ((IpAddr::from([10, 0, 0, 1]), 30080), frontend(FrontendKind::NodePort)),
        ((IpAddr::from([192, 0, 2, 1]), 30080), frontend(FrontendKind::NodePort)),
    ];
    let port = DesiredPort {
        frontends: frontends.into_iter().collect(),
        backends: backends.iter().map(|last| backend(*last, Lists::Cluster)).collect(),
        has_endpoints: !backends.is_empty(),
        ..DesiredPort::default()
    };
    Desired { ports: [(web(), port)].into(), ..Desired::default() }
}

/// 10.244.0.N:8080; number 1 is on this node.
fn backend(last: u8, lists: Lists) -> ((IpAddr, u16), DesiredBackend) {
    ((IpAddr::from([10, 244, 0, last]), 8080), DesiredBackend { local: last == 1, lists })
}

/// Operations in short, IPv4 only: slots one by one, up to the tables that come behind them.
fn short(ops: &[Op]) -> Vec<String> {
    const TABLE: usize = 251;
    ops.iter()
        .flat_map(|op| match op {
            Op::V4(FamilyOp::SetSlots { first, backends }) => {
                let lists = (*first..).zip(backends).take(backends.len() % TABLE);
                let lists = lists.map(|(index, backend)| format!("slot {index} = {backend}"));
                lists.chain(std::iter::repeat_n("a table".to_owned(), backends.len() / TABLE)).collect()
            }
            op => vec![short_of_one(op)],
        })
        .collect()
}

fn short_of_one(op: &Op) -> String {
    match op {
        Op::SetService { id, name } if name.family == 0 => format!("service {id} free"),
        Op::SetService { id, name } => format!("service {id} = {}", ServicePort::try_from(&**name).unwrap()),
        Op::ResetCounters { id } => format!("counters {id} = 0"),
        Op::V4(FamilyOp::SetBackend { id, backend }) => {
            let state = match (backend.is_live(), backend.is_local()) {
                (false, _) => "free",
                (true, true) => "local",
                (true, false) => "remote",
            };
            format!(
                "backend {id} = {:?} {state} of {} generation {}",
                backend.addr, backend.service, backend.generation
            )
        }
        Op::V4(FamilyOp::SetSlots { .. }) => panic!("several lines"),
        Op::V4(FamilyOp::SetFrontend { key, frontend: f }) => {
            let (inside, outside) = ((f.first, f.count), (f.outside_first, f.outside_count));
            let outside =
                if outside == inside { String::new() } else { format!(", outside {}+{}", outside.0, outside.1) };
            format!("frontend {:?} = {} slots {}+{}{outside}", key.addr, f.service, f.first, f.count)
        }
        Op::V4(FamilyOp::DeleteFrontend { key }) => format!("frontend {:?} gone", key.addr),
        Op::V4(FamilyOp::SetRange { key }) => format!("range of {} {:?}/{}", key.owner, key.addr, key.prefix - 32),
        Op::V4(FamilyOp::DeleteRange { key }) => {
            format!("range of {} {:?}/{} gone", key.owner, key.addr, key.prefix - 32)
        }
        Op::V4(FamilyOp::SetServiceNet { index, net }) => {
            format!("net {index} = {:?}/{:?} {}", net.addr, net.mask, net.flags)
        }
        Op::V6(_) => panic!("IPv6"),
    }
}

/// Plans, carries out, and returns operations and log lines.
fn step(realized: &mut Realized, desired: &Desired) -> (Vec<String>, Vec<String>) {
    let todo = plan(desired, realized, &ROOMY);
    assert!(todo.full.is_empty());
    carry_out(realized, &todo.ops);
    let lines = todo.changes.iter().map(|change| format!("{} {change}", change.kind)).collect();
    (short(&todo.ops), lines)
}

#[test]
fn the_life_of_a_service_port() {
    let mut maps = Realized::default();
    let (ops, lines) = step(&mut maps, &desired(&[1, 2]));
    assert_eq!(
        ops,
        [
            "counters 1 = 0",
            "service 1 = default/web:http",
            "backend 1 = 10.244.0.1 local of 1 generation 0",
            "backend 2 = 10.244.0.2 remote of 1 generation 0",
            "slot 0 = 1",
            "slot 1 = 2",
            "a table",
            "frontend 10.0.0.1 = 1 slots 0+2, outside 2+251",
            "frontend 10.96.0.10 = 1 slots 0+2",
            "frontend 192.0.2.1 = 1 slots 0+2, outside 2+251",
        ]
    );
    assert_eq!(lines, ["added default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 2 backends"]);

    // One comes, one goes: a fresh range, one switch each, then the old one is freed.
    let (ops, lines) = step(&mut maps, &desired(&[2, 3]));
    assert_eq!(
        ops,
        [
            "backend 3 = 10.244.0.3 remote of 1 generation 0",
            "slot 253 = 2",
            "slot 254 = 3",
            "a table",
            "frontend 10.0.0.1 = 1 slots 253+2, outside 255+251",
            "frontend 10.96.0.10 = 1 slots 253+2",
            "frontend 192.0.2.1 = 1 slots 253+2, outside 255+251",
            "backend 1 = 0.0.0.0 free of 0 generation 1",
        ]
    );
    assert_eq!(lines, ["changed default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 2 backends (+1 -1)"]);

    // The node gets another address, and nothing else is touched.
    let mut more = desired(&[2, 3]);
    more.ports
        .get_mut(&web())
        .unwrap()
        .frontends
        .insert((IpAddr::from([203, 0, 113, 1]), 30080), frontend(FrontendKind::NodePort));
    let (ops, lines) = step(&mut maps, &more);
    assert_eq!(ops, ["frontend 203.0.113.1 = 1 slots 253+2, outside 255+251"]);
    assert_eq!(lines, ["changed default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 2 backends"]);

    // Nobody serves: clients are refused.
    let (ops, lines) = step(&mut maps, &desired(&[]));
    assert_eq!(
        ops,
        [
            "frontend 10.0.0.1 = 1 slots 0+0",
            "frontend 10.96.0.10 = 1 slots 0+0",
            "frontend 192.0.2.1 = 1 slots 0+0",
            "frontend 203.0.113.1 gone",
            "backend 2 = 0.0.0.0 free of 0 generation 1",
            "backend 3 = 0.0.0.0 free of 0 generation 1",
        ]
    );
    assert_eq!(lines, ["changed default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 0 backends (-2)"]);

    // An id that is used again has its next generation.
    let (ops, _) = step(&mut maps, &desired(&[9]));
    assert_eq!(ops[0], "backend 1 = 10.244.0.9 remote of 1 generation 1");

    let (ops, lines) = step(&mut maps, &Desired::default());
    assert_eq!(
        ops,
        [
            "frontend 10.0.0.1 gone",
            "frontend 10.96.0.10 gone",
            "frontend 192.0.2.1 gone",
            "backend 1 = 0.0.0.0 free of 0 generation 2",
            "service 1 free",
        ]
    );
    assert_eq!(lines, ["removed default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080"]);
    assert_eq!(read_all(&maps), Desired::default());
}

#[test]
fn a_backend_that_turns_out_to_be_local_keeps_id_and_generation() {
    let mut maps = Realized::default();
    step(&mut maps, &desired(&[2]));
    let mut moved = desired(&[2]);
    moved.ports.get_mut(&web()).unwrap().backends.iter_mut().for_each(|(_, backend)| backend.local = true);
    assert_eq!(step(&mut maps, &moved).0, ["backend 1 = 10.244.0.2 local of 1 generation 0"]);
}

/// externalTrafficPolicy Local: the lists overlap, and share one stretch of slots.
#[test]
fn two_lists_in_one_stretch() {
    let with = |backends: &[(u8, Lists)]| {
        let mut wanted = desired(&[]);
        let port = wanted.ports.get_mut(&web()).unwrap();
        port.backends = backends.iter().map(|(last, lists)| backend(*last, *lists)).collect();
        port.has_endpoints = true;
        for (_, rule) in port.frontends.iter_mut().filter(|(_, rule)| rule.kind == FrontendKind::NodePort) {
            rule.outside = List::Local;
        }
        wanted
    };
    let mut maps = Realized::default();
    let first = with(&[(1, Lists::Both), (2, Lists::Cluster), (3, Lists::Cluster), (4, Lists::Local)]);
    let (ops, _) = step(&mut maps, &first);
    assert_eq!(
        ops[2..],
        [
            "backend 1 = 10.244.0.4 remote of 1 generation 0",
            "backend 2 = 10.244.0.1 local of 1 generation 0",
            "backend 3 = 10.244.0.2 remote of 1 generation 0",
            "backend 4 = 10.244.0.3 remote of 1 generation 0",
            "slot 0 = 2",
            "slot 1 = 3",
            "slot 2 = 4",
            "a table",
            "frontend 10.0.0.1 = 1 slots 0+3, outside 3+251",
            "frontend 10.96.0.10 = 1 slots 0+3",
            "frontend 192.0.2.1 = 1 slots 0+3, outside 3+251",
        ]
    );
    assert_eq!(read_all(&maps), first);
    // None is left here: outside clients have nobody.
    let (ops, _) = step(&mut maps, &with(&[(2, Lists::Cluster), (3, Lists::Cluster)]));
    assert_eq!(
        ops,
        [
            "slot 254 = 3",
            "slot 255 = 4",
            "frontend 10.0.0.1 = 1 slots 254+2, outside 0+0",
            "frontend 10.96.0.10 = 1 slots 254+2",
            "frontend 192.0.2.1 = 1 slots 254+2, outside 0+0",
            "backend 1 = 0.0.0.0 free of 0 generation 1",
            "backend 2 = 0.0.0.0 free of 0 generation 1",
        ]
    );
    // The policy becomes Cluster: outside clients get a table of the same backends.
    let (ops, _) = step(&mut maps, &desired(&[2, 3]));
    assert_eq!(
        ops,
        [
            "slot 0 = 3",
            "slot 1 = 4",
            "a table",
            "frontend 10.0.0.1 = 1 slots 0+2, outside 2+251",
            "frontend 10.96.0.10 = 1 slots 0+2",
            "frontend 192.0.2.1 = 1 slots 0+2, outside 2+251",
        ]
    );
}

/// Both lists are those of outside clients, as of a load balancer with the Local policy beside one with the Cluster policy.
#[test]
fn a_table_for_each_list() {
    let mut wanted = desired(&[]);
    let port = wanted.ports.get_mut(&web()).unwrap();
    port.backends =
        [backend(1, Lists::Both), backend(2, Lists::Cluster), backend(3, Lists::Local)].into_iter().collect();
    port.has_endpoints = true;
    let rules = port.frontends.iter_mut().filter(|(_, rule)| rule.kind == FrontendKind::NodePort);
    rules.zip([List::Local, List::Cluster]).for_each(|((_, rule), list)| rule.outside = list);
    let mut maps = Realized::default();
    let (ops, _) = step(&mut maps, &wanted);
    assert_eq!(
        ops[5..],
        [
            "slot 0 = 2",
            "slot 1 = 3",
            "a table",
            "a table",
            "frontend 10.0.0.1 = 1 slots 0+2, outside 2+251",
            "frontend 10.96.0.10 = 1 slots 0+2",
            "frontend 192.0.2.1 = 1 slots 0+2, outside 253+251",
        ]
    );
    assert_eq!(read_all(&maps), wanted);
    assert_eq!(step(&mut maps, &wanted).0, [""; 0]);
}

/// Every node makes the same table, whichever of the backends are its own and whatever numbers they have.
#[test]
fn nodes_agree_upon_the_backend_of_a_slot() {
    let table = |wanted: &Desired, before: &Desired| -> Vec<IpAddr> {
        let mut maps = Realized::default();
        step(&mut maps, before);
        step(&mut maps, wanted);
        let key = FrontendKey::new(Ipv4::new([192, 0, 2, 1]), 30080_u16.to_be_bytes(), 6);
        let frontend = *maps.v4().frontend(&key).unwrap();
        assert_ne!(frontend.flags & Frontend::TABLE, 0);
        let slots = maps.v4().slots(frontend.outside_first..frontend.outside_first + frontend.outside_count);
        slots.iter().map(|id| maps.v4().backend(*id).addr.to_ip()).collect()
    };
    let mut here = desired(&[1, 2, 3, 4]);
    let elsewhere = here.clone();
    let backends = &mut here.ports.get_mut(&web()).unwrap().backends;
    let lists = [Lists::Cluster, Lists::Both, Lists::Cluster, Lists::Both];
    for ((_, backend), lists) in backends.iter_mut().zip(lists) {
        (backend.local, backend.lists) = (lists == Lists::Both, lists);
    }
    assert_eq!(table(&here, &desired(&[3, 9])), table(&elsewhere, &Desired::default()));
}

/// Where a table does not fit, the backends are listed, until there is room for it.
#[test]
fn without_room_for_a_table_chance_decides() {
    let narrow = Capacities { slots: 300, ..ROOMY };
    let mut maps = Realized::default();
    let lacking = |maps: &mut Realized, wanted: &Desired, capacities, lacks: bool| {
        let todo = plan(wanted, maps, capacities);
        assert!(todo.full.is_empty());
        assert_eq!(todo.without_table.iter().any(|it| it.port == web()), lacks);
        carry_out(maps, &todo.ops);
        short(&todo.ops).into_iter().filter(|op| !op.starts_with("backend")).collect::<Vec<_>>()
    };
    let run = |maps: &mut Realized, wanted: &Desired, capacities| lacking(maps, wanted, capacities, false);
    run(&mut maps, &desired(&[1, 2]), &narrow);
    // The new table and the old one do not fit both.
    let listed = [
        "slot 253 = 2",
        "slot 254 = 3",
        "frontend 10.0.0.1 = 1 slots 253+2",
        "frontend 10.96.0.10 = 1 slots 253+2",
        "frontend 192.0.2.1 = 1 slots 253+2",
    ];
    assert_eq!(lacking(&mut maps, &desired(&[2, 3]), &narrow, true), listed);
    // What the old one had is free now.
    let ops = run(&mut maps, &desired(&[2, 3]), &narrow);
    assert_eq!(ops[..3], ["slot 0 = 2", "slot 1 = 3", "a table"]);
    assert_eq!(run(&mut maps, &desired(&[2, 3]), &narrow), [""; 0]);

    // In a smaller map lists stay what they are, until it is larger.
    let mut maps = Realized::default();
    let small = Capacities { slots: 20, ..ROOMY };
    assert!(!lacking(&mut maps, &desired(&[1, 2]), &small, true).contains(&"a table".to_owned()));
    assert_eq!(lacking(&mut maps, &desired(&[1, 2]), &small, true), [""; 0]);
    let ops = run(&mut maps, &desired(&[1, 2]), &narrow);
    assert_eq!(ops[..3], ["slot 2 = 1", "slot 3 = 2", "a table"]);

    // A Service that was for the cluster alone gets a table with its first NodePort.
    let mut inside = desired(&[1, 2]);
    inside.ports.get_mut(&web()).unwrap().frontends.retain(|_, rule| rule.kind == FrontendKind::ClusterIp);
    let mut maps = Realized::default();
    let ops = run(&mut maps, &inside, &ROOMY);
    assert!(!ops.contains(&"a table".to_owned()), "{ops:?}");
    let ops = run(&mut maps, &desired(&[1, 2]), &ROOMY);
    assert!(ops.contains(&"a table".to_owned()), "{ops:?}");
}

/// After a crash between the frontends of a Service port, the end of its new stretch is nobody's, though it is right.
#[test]
fn slots_that_no_frontend_leads_to_are_not_relied_on() {
    let mut wanted = desired(&[]);
    let mut port = wanted.ports.remove(&web()).unwrap();
    port.backends = [backend(1, Lists::Both), backend(2, Lists::Cluster)].into_iter().collect();
    port.has_endpoints = true;
    let local = DesiredFrontend { inside: List::Local, outside: List::Local, ..frontend(FrontendKind::ClusterIp) };
    port.frontends.insert((IpAddr::from([10, 0, 0, 0]), 80), local);
    wanted.ports.insert(web(), port);
    let mut maps = Realized::default();
    let todo = plan(&wanted, &maps, &ROOMY);
    let is_frontend = |op: &Op| matches!(op, Op::V4(FamilyOp::SetFrontend { .. }));
    let first = todo.ops.iter().position(is_frontend).unwrap();
    carry_out(&mut maps, &todo.ops[..=first]);

    let mut other = desired(&[5]).ports.remove(&web()).unwrap();
    other.frontends = [((IpAddr::from([10, 96, 0, 99]), 80), frontend(FrontendKind::ClusterIp))].into_iter().collect();
    wanted.ports.insert(ServicePort { port_name: "later".into(), ..web() }, other);
    let todo = plan(&wanted, &maps, &ROOMY);
    carry_out(&mut maps, &todo.ops);
    assert_eq!(read_all(&maps), wanted);
}

#[test]
fn ranges_come_before_the_frontends_that_ask_about_them_and_go_after() {
    let guarded = |ranges: &[&str]| {
        let mut wanted = desired(&[2]);
        let port = wanted.ports.get_mut(&web()).unwrap();
        port.frontends = LiteMap::new();
        let rule = DesiredFrontend { guarded: !ranges.is_empty(), ..frontend(FrontendKind::LoadBalancer) };
        port.frontends.insert((IpAddr::from([192, 0, 2, 9]), 80), rule);
        port.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        wanted
    };
    let mut maps = Realized::default();
    let (ops, _) = step(&mut maps, &guarded(&["203.0.113.0/25"]));
    assert_eq!(ops[4..], ["range of 1 203.0.113.0/25", "frontend 192.0.2.9 = 1 slots 0+1"]);
    let (ops, lines) = step(&mut maps, &guarded(&["198.51.100.0/24"]));
    assert_eq!(ops, ["range of 1 198.51.100.0/24", "range of 1 203.0.113.0/25 gone"]);
    assert_eq!(lines, ["changed default/web:http 192.0.2.9:80/TCP LoadBalancer: 1 backend"]);
    let (ops, _) = step(&mut maps, &guarded(&[]));
    assert_eq!(ops, ["frontend 192.0.2.9 = 1 slots 0+1", "range of 1 198.51.100.0/24 gone"]);

    // Those of pods are nobody's.
    let pods = Desired {
        local_ranges: ["10.244.0.0/16".parse().unwrap()].into(),
        node_addresses: ["10.0.0.1".parse().unwrap()].into(),
        ..guarded(&["203.0.113.0/25"])
    };
    let (ops, _) = step(&mut maps, &pods);
    let first = [
        "range of 0 10.244.0.0/16",
        "range of 4294967295 10.0.0.1/32",
        "range of 1 203.0.113.0/25",
        "frontend 192.0.2.9 = 1 slots 0+1",
    ];
    assert_eq!(ops, first);
    assert_eq!(read_all(&maps), pods);
    let (ops, _) = step(&mut maps, &Desired::default());
    assert_eq!(
        ops[2..],
        [
            "range of 0 10.244.0.0/16 gone",
            "range of 4294967295 10.0.0.1/32 gone",
            "range of 1 203.0.113.0/25 gone",
            "service 1 free"
        ]
    );
}

#[test]
fn cluster_ips_come_after_frontends_and_as_far_as_there_is_room() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let wanted = Desired {
        cluster_ips: [ip("10.96.0.10")].into(),
        external_ips: [ip("203.0.113.1")].into(),
        left_to_others: [ip("10.96.0.11")].into(),
        service_nets: [("10.0.0.0/8", false), ("10.96.0.0/12", true)]
            .map(|(net, all)| (net.parse().unwrap(), all))
            .into(),
        ..desired(&[1])
    };
    let mut maps = Realized::default();
    let (ops, _) = step(&mut maps, &wanted);
    assert!(ops[6].starts_with("frontend "), "{ops:?}");
    let last = [
        "range of 4294967293 10.96.0.11/32",
        "range of 4294967294 10.96.0.10/32",
        "range of 4294967292 203.0.113.1/32",
        "net 0 = 10.96.0.0/255.240.0.0 3",
        "net 1 = 10.0.0.0/255.0.0.0 1",
    ];
    assert_eq!(ops[7..], last);
    assert_eq!(read_all(&maps), wanted);
    assert_eq!(step(&mut maps, &wanted).0, [""; 0]);

    let (ops, _) = step(&mut maps, &Desired { service_nets: [].into(), ..wanted.clone() });
    assert_eq!(ops, ["net 0 = 0.0.0.0/0.0.0.0 0", "net 1 = 0.0.0.0/0.0.0.0 0"]);
    let (ops, _) = step(&mut maps, &desired(&[1]));
    let gone = [
        "range of 4294967293 10.96.0.11/32 gone",
        "range of 4294967294 10.96.0.10/32 gone",
        "range of 4294967292 203.0.113.1/32 gone",
    ];
    assert_eq!(ops, gone);

    let todo = plan(&wanted, &Realized::default(), &Capacities { ranges: 1, ..ROOMY });
    assert!(todo.full.is_empty());
    let ranges = short(&todo.ops).into_iter().filter(|op| op.starts_with("range"));
    assert_eq!(ranges.collect::<Vec<_>>(), ["range of 4294967293 10.96.0.11/32"], "others before ours");
}

#[test]
fn a_service_that_shrinks_in_a_full_map_is_not_stuck() {
    let narrow = Capacities { slots: 3, ..ROOMY };
    let mut maps = Realized::default();
    carry_out(&mut maps, &plan(&desired(&[1, 2, 3]), &Realized::default(), &narrow).ops);

    let todo = plan(&desired(&[2, 3, 4, 5]), &maps, &narrow);
    assert!(todo.ops.is_empty() && todo.changes.is_empty());
    let said: Vec<_> = todo.full.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["Service default/web:http (IPv4): the map slot_v4 is full (3 entries): the Service keeps its former \
          frontends and backends; remove Services or endpoints, or start the agent with a larger map"]
    );

    let todo = plan(&desired(&[3]), &maps, &narrow);
    assert!(todo.full.is_empty());
    carry_out(&mut maps, &todo.ops);
    assert_eq!(read_all(&maps), desired(&[3]));
}

#[test]
fn each_map_that_is_full_is_named() {
    for (map, capacities) in [
        ("service", Capacities { services: 1, ..ROOMY }),
        ("frontend_v4", Capacities { frontends: 2, ..ROOMY }),
        ("backend_v4", Capacities { backends: 2, ..ROOMY }),
        ("slot_v4", Capacities { slots: 1, ..ROOMY }),
    ] {
        let todo = plan(&desired(&[1, 2]), &Realized::default(), &capacities);
        assert_eq!(todo.full.iter().map(|full| (full.map, full.known)).collect::<Vec<_>>(), [(map, false)]);
        assert!(todo.ops.is_empty());
    }
}
