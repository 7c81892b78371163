//! Single plans, as people read them.

use proxy_common::maps::FrontendKind;

use super::*;
use crate::model::DesiredBackend;
use crate::object::{ObjectName, Protocol};

fn web() -> ServicePort {
    ServicePort {
        service: ObjectName::new("default", "web"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// A Service port with a ClusterIP, a NodePort on two addresses, and backends 10.244.0.N:8080.
fn desired(backends: &[u8]) -> Desired {
    let frontends = [
        ((IpAddr::from([10, 96, 0, 10]), 80), FrontendKind::ClusterIp),
        ((IpAddr::from([10, 0, 0, 1]), 30080), FrontendKind::NodePort),
        ((IpAddr::from([192, 0, 2, 1]), 30080), FrontendKind::NodePort),
    ];
    let backend = |last: &u8| (SocketAddr::from(([10, 244, 0, *last], 8080)), DesiredBackend { local: *last == 1 });
    let port = DesiredPort { frontends: frontends.into(), backends: backends.iter().map(backend).collect() };
    Desired { ports: [(web(), port)].into() }
}

/// Operations in short, IPv4 only.
fn short(ops: &[Op]) -> Vec<String> {
    let one = |op: &Op| match op {
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
        Op::V4(FamilyOp::SetSlot { index, backend }) => format!("slot {index} = {backend}"),
        Op::V4(FamilyOp::SetFrontend { key, frontend: f }) => {
            format!("frontend {:?} = {} slots {}+{}", key.addr, f.service, f.first, f.count)
        }
        Op::V4(FamilyOp::DeleteFrontend { key }) => format!("frontend {:?} gone", key.addr),
        Op::V6(_) => panic!("IPv6"),
    };
    ops.iter().map(one).collect()
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
            "frontend 10.0.0.1 = 1 slots 0+2",
            "frontend 10.96.0.10 = 1 slots 0+2",
            "frontend 192.0.2.1 = 1 slots 0+2",
        ]
    );
    assert_eq!(lines, ["added default/web:http 10.96.0.10:80/TCP ClusterIP, NodePort 30080: 2 backends"]);

    // One comes, one goes: a fresh range, one switch each, then the old one is freed.
    let (ops, lines) = step(&mut maps, &desired(&[2, 3]));
    assert_eq!(
        ops,
        [
            "backend 3 = 10.244.0.3 remote of 1 generation 0",
            "slot 2 = 2",
            "slot 3 = 3",
            "frontend 10.0.0.1 = 1 slots 2+2",
            "frontend 10.96.0.10 = 1 slots 2+2",
            "frontend 192.0.2.1 = 1 slots 2+2",
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
        .insert((IpAddr::from([203, 0, 113, 1]), 30080), FrontendKind::NodePort);
    let (ops, lines) = step(&mut maps, &more);
    assert_eq!(ops, ["frontend 203.0.113.1 = 1 slots 2+2"]);
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
    moved.ports.get_mut(&web()).unwrap().backends.values_mut().for_each(|backend| backend.local = true);
    assert_eq!(step(&mut maps, &moved).0, ["backend 1 = 10.244.0.2 local of 1 generation 0"]);
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

#[test]
#[ignore = "a measurement: cargo test --release -p proxy-agent -- --ignored --nocapture ten_thousand"]
fn ten_thousand_service_ports_of_ten_backends() {
    let capacities = Capacities { services: 65536, frontends: 1 << 20, backends: 1 << 20, slots: 1 << 20 };
    let mut wanted = Desired::default();
    for index in 0..10_000_u16 {
        let [high, low] = index.to_be_bytes();
        let mut port = web();
        port.service.name = format!("s{index}");
        let backend =
            |last: u8| (SocketAddr::from(([10, 100 + last, high, low], 8080)), DesiredBackend { local: false });
        let entry = DesiredPort {
            frontends: [((IpAddr::from([10, 96, high, low]), 80), FrontendKind::ClusterIp)].into(),
            backends: (0..10).map(backend).collect(),
        };
        wanted.ports.insert(port, entry);
    }
    let mut maps = Realized::default();
    let mut timed = |what: &str, wanted: &Desired| {
        let start = std::time::Instant::now();
        let todo = plan(wanted, &maps, &capacities);
        let planned = start.elapsed();
        todo.ops.iter().for_each(|op| maps.apply(op));
        println!(
            "{what}: {} operations planned in {planned:?}, applied in {:?}",
            todo.ops.len(),
            start.elapsed() - planned
        );
    };
    timed("all new", &wanted);
    timed("nothing to do", &wanted);
    wanted.ports.values_mut().next().unwrap().backends.pop_first();
    timed("one change", &wanted);
    for port in wanted.ports.values_mut() {
        port.backends.pop_first();
    }
    timed("every one changes", &wanted);
}
