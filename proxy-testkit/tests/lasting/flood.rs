//! SYNs of more clients than there is room for.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::packets::tcp;
use proxy_testkit::raw::RawSender;
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{STREAM, TCP, alone};
use crate::metrics;
use crate::restart::lab;

/// Ports of every node.
const ECHO_PORT: u16 = 30087;
const WHO_PORT: u16 = 30088;
/// What the table of each family is made for. It has room for seven flows where it is made for four.
const FLOWS: u32 = 4_096;
/// Ten times the places of a table.
const SYNS: u32 = FLOWS / 4 * 7 * 10;
/// Connections that are held through it, of each family.
const HELD: usize = 500;
/// So many SYNs are sent together.
const VOLLEY: u32 = 64;

/// Somebody of whom nobody has heard, another one for each number.
fn stranger(family: Family, number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(11, a, b, c).into(),
        Family::V6 => Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, a.into(), u16::from_be_bytes([b, c])).into(),
    };
    SocketAddr::new(address, 1024 + u16::from_be_bytes([b, c]) % 60_000)
}

/// Sends them all to a node's port, evenly in about this time.
fn flood(from: &Host, family: Family, to: SocketAddr, time: Duration) {
    let send = || {
        let sender = RawSender::new(family)?;
        let began = Instant::now();
        for volley in 0..SYNS / VOLLEY {
            for number in volley * VOLLEY..(volley + 1) * VOLLEY {
                sender.send(&tcp(stranger(family, number), to, "S", b""), to)?;
            }
            let due = began + time * volley / (SYNS / VOLLEY);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    from.inside(send).unwrap();
}

/// Says a word on each connection and reads it back, one after the other, until it is told to end. How many words that
/// were; each connection had the same number.
fn go_on_talking(streams: &mut [TcpStream], stop: &AtomicBool) -> usize {
    let mut words = 0;
    while words == 0 || !stop.load(Ordering::Relaxed) {
        for (number, stream) in streams.iter_mut().enumerate() {
            let word = (words ^ number).to_le_bytes();
            let mut back = [0; 8];
            let said = stream.write_all(&word).and_then(|()| stream.read_exact(&mut back));
            said.unwrap_or_else(|error| panic!("word {words} of connection {number}: {error}"));
            assert_eq!(back, word, "word {words} of connection {number}");
        }
        words += 1;
    }
    words * streams.len()
}

/// Says a word on each connection and reads it back.
pub fn talk(streams: &mut [TcpStream]) {
    go_on_talking(streams, &AtomicBool::new(true));
}

/// New connections, one after the other: how many there were, and how many were answered.
fn connect_anew(from: &Host, targets: &[SocketAddr], stop: &AtomicBool) -> (usize, usize) {
    let (mut tried, mut answered) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for target in targets {
            tried += 1;
            answered += usize::from(from.ask(Protocol::Tcp, *target).is_ok());
        }
    }
    (tried, answered)
}

#[test]
fn a_syn_flood_ends_no_connection_and_new_ones_succeed() {
    // Both ends of all connections are in this process.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(8_192).min(hard), hard).unwrap();
    let flows = FLOWS.to_string();
    // It may not grow: so it is full.
    let lab = alone(|| lab(&["--max-flows", &flows, "--initial-entries", "512"]));
    let (n1, n2) = (&lab.node1, &lab.node2);
    // A backend on the node itself, and one on another, for which clients are masqueraded.
    let service = Service::new("flooded", 92)
        .port(Protocol::Tcp, STREAM, ECHO)
        .node_port(ECHO_PORT)
        .port(Protocol::Tcp, TCP, WHO)
        .node_port(WHO_PORT)
        .backends([&n1.b, &n2.a]);
    let _published = lab.publish(&service).unwrap();
    assert_eq!(metrics::capacity(&n1.host, "flow_v4"), f64::from(FLOWS / 4 * 7));

    let hold = |family| {
        let open = || (0..HELD).map(|_| client::connect(n1.host.at(family, ECHO_PORT))).collect::<Result<Vec<_>, _>>();
        lab.client.inside(open).unwrap()
    };
    let mut held = Family::BOTH.map(hold);
    // Each has said a word before the flood, and is established.
    held.iter_mut().for_each(|streams| talk(streams));
    let syns = || {
        let told = |event: &str| format!("pointsman_flow_table_events_total{{event=\"{event}\"}}");
        metrics::value(&n1.host, &told("evicted_half_open"))
    };
    let before = syns();
    let stop = Arc::new(AtomicBool::new(false));
    let (words, tried, answered) = thread::scope(|scope| {
        let stop = &*stop;
        let talking: Vec<_> =
            held.iter_mut().map(|streams| scope.spawn(move || go_on_talking(streams, stop))).collect();
        let outside = Family::BOTH.map(|family| n1.host.at(family, WHO_PORT));
        let inside = Family::BOTH.map(|family| service.at(family, TCP));
        let connecting = [(&lab.client, outside), (&n1.a, inside)]
            .map(|(from, targets)| scope.spawn(move || connect_anew(from, &targets, stop)));
        let flooding = Family::BOTH.map(|family| {
            let to = n1.host.at(family, WHO_PORT);
            let client = &lab.client;
            scope.spawn(move || flood(client, family, to, Duration::from_secs(4)))
        });
        flooding.into_iter().for_each(|flooding| flooding.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        let new = connecting.map(|connecting| connecting.join().unwrap());
        let words: usize = talking.into_iter().map(|talking| talking.join().unwrap()).sum();
        (words, new[0].0 + new[1].0, new[0].1 + new[1].1)
    });
    let evicted = syns() - before;
    println!(
        "{} connections held through {SYNS} SYNs of each family: {words} words, none lost; {evicted} half-open flows made way; \
         {answered} of {tried} new connections answered",
        2 * HELD
    );
    assert!(evicted > f64::from(SYNS), "the flood has not filled the tables: {evicted} flows made way");
    assert!(tried >= 100 && answered * 100 >= tried * 95, "{answered} of {tried} new connections");
    // Nor has any been left half dead.
    held.iter_mut().for_each(|streams| talk(streams));
}
