//! How long planning takes.

use super::*;

#[test]
#[ignore = "a measurement: cargo test --release -p proxy-agent -- --ignored --nocapture ten_thousand"]
fn ten_thousand_service_ports_of_ten_backends() {
    let capacities = Capacities { services: 65536, frontends: 1 << 20, backends: 1 << 20, slots: 1 << 20, ranges: 16 };
    let mut wanted = Desired::default();
    for index in 0..10_000_u16 {
        let [high, low] = index.to_be_bytes();
        let mut port = web();
        port.service.name = format!("s{index}");
        let backend = |last: u8| (SocketAddr::from(([10, 100 + last, high, low], 8080)), DesiredBackend::default());
        let entry = DesiredPort {
            frontends: [((IpAddr::from([10, 96, high, low]), 80), frontend(FrontendKind::ClusterIp))].into(),
            backends: (0..10).map(backend).collect(),
            has_endpoints: true,
            ..DesiredPort::default()
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
