//! Traffic that runs on while something happens to the agent, and what became of it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proxy_testkit::client;
use proxy_testkit::lab::Host;

/// From one connection of a client to its next, at least: four make up to 2,000 a second.
const PACE: Duration = Duration::from_millis(2);
/// The same of the client outside, whose flows are masqueraded.
const PACE_OUTSIDE: Duration = Duration::from_millis(8);
/// New connections may have to wait for an agent to come back that was killed while it replaced tables of flows. (What
/// is lost is seen by the SYNs that are sent again.)
const PATIENCE: Duration = Duration::from_secs(12);
/// From one word to the next of a connection that is held.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of one client's traffic.
#[derive(Debug, Default)]
struct Report {
    connections: usize,
    words: usize,
    datagrams: usize,
    /// What was lost, went to the wrong pod, or came back altered.
    wrong: BTreeMap<String, usize>,
}

impl Report {
    fn note(&mut self, wrong: String) {
        *self.wrong.entry(wrong).or_default() += 1;
    }
}

/// Clients that go on until they are told to end.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Report>>,
    began: Instant,
    /// Who connects, and how many SYNs each had sent again before.
    watched: Vec<(Host, u64)>,
    /// Where packets may have been lost that were no fault of programs: what the counter is of, whose, what it was before.
    losses: Vec<(&'static str, Option<Host>, u64)>,
}

impl Traffic {
    /// None yet.
    pub fn new() -> Self {
        let losses = vec![("softnet", None, softnet_drops())];
        Self { stop: Arc::default(), clients: Vec::new(), began: Instant::now(), watched: Vec::new(), losses }
    }

    /// One new TCP connection after the other, each answered by one of these pods.
    pub fn connections(&mut self, from: &Host, to: SocketAddr, pods: &[&Host]) {
        let names: Vec<String> = pods.iter().map(|pod| pod.name.clone()).collect();
        if !self.watched.iter().any(|(host, _)| host.name == from.name) {
            self.watched.push((from.clone(), syns_sent_again(from)));
            if from.cgroup.is_none() {
                // So that no port is used again soon: the fate of such connections is not the agent's doing.
                from.ns.sysctl(&[("ipv4/ip_local_port_range", "10000 65535")]).unwrap();
            }
        }
        for pod in pods {
            for name in ["ListenDrops", "TCPReqQFullDrop", "PAWSTimewait"] {
                if !self
                    .losses
                    .iter()
                    .any(|(of, host, _)| *of == name && host.as_ref().is_some_and(|it| it.name == pod.name))
                {
                    self.losses.push((name, Some((*pod).clone()), counter(pod, name)));
                }
            }
        }
        let pace = if from.name == "client" { PACE_OUTSIDE } else { PACE };
        self.spawn(from, pace, move |report| {
            report.connections += 1;
            match client::ask_tcp_within(to, PATIENCE) {
                Ok(answer) if names.contains(&answer.pod) => {}
                Ok(answer) => report.note(format!("connection to {to} answered by {}", answer.pod)),
                Err(error) => report.note(format!("connection to {to}: {}", client::describe(&error))),
            }
        });
    }

    /// One TCP connection that is held; every word that is sent comes back.
    pub fn held(&mut self, from: &Host, to: SocketAddr) {
        let mut stream = from.inside(|| client::connect(to)).unwrap();
        let mut number = 0_u64;
        self.spawn(from, PAUSE, move |report| {
            number += 1;
            report.words += 1;
            let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let mut back = [0; 8];
            let said: io::Result<()> = stream.write_all(&word).and_then(|()| stream.read_exact(&mut back));
            match said {
                Ok(()) if back == word => {}
                Ok(()) => report.note(format!("a word to {to} came back altered")),
                Err(error) => report.note(format!("a word to {to}: {}", client::describe(&error))),
            }
        });
    }

    /// One UDP socket that is held; every datagram is answered, always by the same pod.
    pub fn talk(&mut self, from: &Host, to: SocketAddr) {
        let socket = from.inside(|| client::connect_udp(to)).unwrap();
        let first = client::ask_again(&socket).unwrap().pod;
        self.spawn(from, PAUSE, move |report| {
            report.datagrams += 1;
            match client::ask_again(&socket) {
                Ok(answer) if answer.pod == first => {}
                Ok(answer) => report.note(format!("a flow to {to} went from {first} to {}", answer.pod)),
                Err(error) => report.note(format!("a datagram to {to}: {}", client::describe(&error))),
            }
        });
    }

    fn spawn(&mut self, from: &Host, pause: Duration, mut step: impl FnMut(&mut Report) + Send + 'static) {
        let (from, stop) = (from.clone(), Arc::clone(&self.stop));
        self.clients.push(thread::spawn(move || {
            let work = || {
                let mut report = Report::default();
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) && report.wrong.values().sum::<usize>() < 10 {
                    step(&mut report);
                    next = (next + pause).max(Instant::now());
                    thread::sleep(next - Instant::now());
                }
                Ok(report)
            };
            from.inside(work).unwrap()
        }));
    }

    /// Ends it. Nothing was lost and nothing misdirected; not even a SYN had to be sent again.
    pub fn end(self, while_: &str) {
        let again = self.end_with_patience(while_);
        assert!(
            again.values().all(|count| *count == 0),
            "{while_}: the first packet of a connection was lost: {again:?}"
        );
    }

    /// Ends it. No connection was lost and none misdirected. Gives how many SYNs TCP had to send again, by client.
    pub fn end_with_patience(self, while_: &str) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for client in self.clients {
            let report = client.join().unwrap();
            sum.connections += report.connections;
            sum.words += report.words;
            sum.datagrams += report.datagrams;
            for (what, count) in report.wrong {
                *sum.wrong.entry(what).or_default() += count;
            }
        }
        for (name, host, before) in self.losses {
            let now = host.as_ref().map_or_else(softnet_drops, |host| counter(host, name));
            if now != before {
                let whose = host.map_or_else(|| "the machine".to_owned(), |host| host.name);
                println!("{while_}: {name} of {whose}: {} more", now - before);
            }
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let again: BTreeMap<_, _> =
            self.watched.iter().map(|(host, before)| (host.name.clone(), syns_sent_again(host) - before)).collect();
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = sum.connections as f64 / seconds;
        println!(
            "{while_}: {} connections in {seconds:.1} s ({rate:.0}/s), {} words on held ones, {} datagrams; SYNs sent again: \
             {again:?}",
            sum.connections, sum.words, sum.datagrams
        );
        assert!(sum.wrong.is_empty(), "{while_}: {:?}", sum.wrong);
        again
    }
}

/// How many SYNs a host had to send again since it was made.
fn syns_sent_again(host: &Host) -> u64 {
    counter(host, "TCPSynRetrans")
}

/// Packets that found no room in a CPU's queue (the second column of /proc/net/softnet_stat, of the whole machine).
fn softnet_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(of_cpu).sum()
}

/// One of TCP's extended counters.
pub fn counter(host: &Host, wanted: &str) -> u64 {
    told(host, "netstat", "TcpExt:", wanted)
}

/// How many RSTs a host has sent: a node that gets a packet which was to be translated answers with one.
pub fn resets_sent(host: &Host) -> u64 {
    told(host, "snmp", "Tcp:", "OutRsts")
}

fn told(host: &Host, file: &str, group: &str, wanted: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.ns.run(|| std::fs::read_to_string(path)).unwrap().unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find_map(|(name, value)| (name == wanted).then(|| value.parse().unwrap())).unwrap()
}
