//! As many masqueraded flows to one backend as there are source ports, and more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use proxy_common::flows::MASQUERADE_PORTS;
use proxy_testkit::lab::{Family, Host, Protocol, eventually};
use proxy_testkit::manifest::Service;
use proxy_testkit::packets::udp;
use proxy_testkit::raw::{DatagramTap, RawSender};
use proxy_testkit::server::WHO;

use crate::common::{UDP, alone};
use crate::metrics;
use crate::restart::lab;

/// Ports of every node.
const CROWDED_PORT: u16 = 30067;
const OTHER_PORT: u16 = 30068;
/// So many at once, at least.
const HELD: u16 = 28_000;
/// More than there are ports.
const ALL: u16 = 30_500;
/// The first of the client's ports.
const FIRST: u16 = 20_000;
/// So many are sent together, before those that are answered are looked at.
const VOLLEY: usize = 64;
/// Nothing has to be quick here.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a tap has seen in a thread of its own, as long as it is wanted.
struct Seen {
    stop: Arc<AtomicBool>,
    tap: thread::JoinHandle<BTreeSet<(SocketAddr, u16)>>,
}

impl Seen {
    fn by(host: &Host, family: Family) -> Self {
        let tap = host.inside(|| DatagramTap::new(family, Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let tap = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.extend(tap.next().unwrap().map(|it| (it.from, it.to_port)));
            }
            seen
        });
        Self { stop, tap }
    }

    fn end(self) -> BTreeSet<(SocketAddr, u16)> {
        self.stop.store(true, Ordering::Relaxed);
        self.tap.join().unwrap()
    }
}

/// A client that asks from many ports, by packets of its own making.
struct Crowd<'a> {
    client: &'a Host,
    family: Family,
    to: SocketAddr,
}

impl Crowd<'_> {
    /// Asks from all of these ports, again and again, until all have been answered or this time has passed. Gives those that have not.
    fn ask(&self, ports: std::ops::Range<u16>, patience: Duration) -> BTreeSet<u16> {
        let ask = || {
            let sender = RawSender::new(self.family)?;
            let answers = DatagramTap::new(self.family, Duration::from_millis(1))?;
            let mut open: BTreeSet<u16> = ports.clone().collect();
            let began = Instant::now();
            while !open.is_empty() && began.elapsed() < patience {
                for volley in open.iter().copied().collect::<Vec<_>>().chunks(VOLLEY) {
                    for port in volley {
                        sender.send(&udp(self.client.at(self.family, *port), self.to, b"who"), self.to)?;
                    }
                    while let Some(answer) = answers.next()? {
                        if answer.from == self.to {
                            open.remove(&answer.to_port);
                        }
                    }
                }
            }
            Ok(open)
        };
        self.client.inside(ask).unwrap()
    }
}

#[test]
fn as_many_masqueraded_flows_as_there_are_ports_and_only_what_is_new_is_dropped_and_told() {
    let lasting = ["--conntrack-udp-timeout=1h", "--conntrack-udp-timeout-stream=1h", "--initial-flows=131072"];
    let lab = alone(|| lab(&lasting));
    let (n1, n2) = (&lab.node1, &lab.node2);
    let door = |name, number, port| Service::new(name, number).port(Protocol::Udp, UDP, WHO).node_port(port);
    let (crowded, other) = (door("crowded", 117, CROWDED_PORT), door("other-door", 118, OTHER_PORT));
    let _published = [crowded.backends([&n2.a]), other.backends([&n2.b])].map(|it| lab.publish(&it).unwrap());
    // The client's kernel has no sockets for the answers, and would say so.
    let quiet = "table inet quiet {
        chain out {
            type filter hook output priority filter
            icmp type destination-unreachable drop
            icmpv6 type destination-unreachable drop
        }
    }";
    lab.client.ns.nft(quiet).unwrap();
    let node = &n1.host;
    let told = |series: &str| metrics::value(node, series);
    for (family, name) in Family::BOTH.into_iter().zip(["IPv4", "IPv6"]) {
        let crowd = Crowd { client: &lab.client, family, to: node.at(family, CROWDED_PORT) };
        let dropped = || told("pointsman_dropped_packets_total{reason=\"masquerade_ports\"}");
        let before = dropped();
        let at_pod = Seen::by(&n2.a, family);
        let began = Instant::now();
        let unanswered = crowd.ask(FIRST..FIRST + HELD, PATIENCE);
        assert!(unanswered.is_empty(), "{family:?}: {} of {HELD} flows are not answered", unanswered.len());
        let seen = at_pod.end();
        let senders: BTreeSet<SocketAddr> = seen.iter().filter(|(_, to)| *to == WHO).map(|(from, _)| *from).collect();
        let few = dropped();
        println!(
            "{family:?}: {HELD} flows of one client to one backend answered in {:?}; the backend saw {} senders; {} packets found \
             no port at first, and did when they came again",
            began.elapsed(),
            senders.len(),
            few - before
        );
        assert_eq!(senders.len(), usize::from(HELD));
        assert!(senders.iter().all(|sender| n1.owns(sender.ip()) && MASQUERADE_PORTS.contains(&sender.port())));

        // More than there are ports: some can never be answered.
        let unanswered = crowd.ask(FIRST + HELD..FIRST + ALL, Duration::from_secs(5));
        let more = usize::from(ALL - HELD) - unanswered.len();
        println!("{family:?}: of {} flows more {more} found a port; {} packets dropped", ALL - HELD, dropped() - few);
        assert!(usize::from(HELD) + more <= MASQUERADE_PORTS.len() && !unanswered.is_empty());
        assert!(dropped() > few);
        // All who were there before are still served, and so is whoever asks for another backend.
        let unanswered = crowd.ask(FIRST..FIRST + HELD, PATIENCE);
        assert!(unanswered.is_empty(), "{family:?}: {} flows have ended", unanswered.len());
        let answer = lab.client.ask(Protocol::Udp, node.at(family, OTHER_PORT)).unwrap();
        assert_eq!(answer.pod, "pod2b");

        let of = |service: &str| {
            format!(
                "pointsman_service_packets_without_port_total{{service_namespace=\"default\",service_name=\"{service}\",\
                 port_name=\"udp-53\",port=\"53\",protocol=\"UDP\",ip_family=\"{name}\"}}"
            )
        };
        assert!(told(&of("crowded")) > 0.0);
        assert_eq!(told(&of("other-door")), 0.0);
        eventually(PATIENCE, || {
            let log = lab.agents()[0].log();
            let names = |line: &&str| line.contains("default/crowded:udp-53") && line.contains("no source port");
            let lines: Vec<_> = log.lines().filter(|line| line.contains(name)).filter(names).collect();
            ensure!(!lines.is_empty(), "the log does not name the Service");
            assert!(!log.lines().any(|line| line.contains("default/other-door") && line.contains("no source port")));
            println!("{}", lines[0]);
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(told("pointsman_flow_table_events_total{event=\"full\"}"), 0.0);
}
