//! What clients see.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proxy_testkit::client;
use proxy_testkit::lab::make_wire;

use super::{Effort, Scene, Way, summary};
use crate::ground::subject::Subject;
use crate::report::Figure;
use crate::samples::Samples;

/// Threads that connect at once.
const CLIENTS: usize = 4;
/// Bytes of a datagram.
const DATAGRAM: [u8; 64] = [0x5a; 64];

/// What is measured: name, protocol, unit.
const RATES: [(&str, &str, &str); 5] = [
    ("throughput", "tcp", "Gbit/s"),
    ("latency-p50", "tcp", "us"),
    ("latency-p99", "tcp", "us"),
    ("connections", "tcp", "connections/s"),
    ("datagrams", "udp", "packets/s"),
];

/// All rates, of all subjects and ways, by turns.
pub(super) fn run(scene: &Scene, effort: &Effort, size: usize) -> Result<Vec<Figure>> {
    let _wires = wires(scene)?;
    let mut samples: BTreeMap<(Way, usize, Subject), Samples> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for way in Way::ALL {
            for subject in &scene.subjects {
                let measured = measure(scene, *subject, way, effort.length)
                    .with_context(|| format!("{} by {}", way.name(), subject.name()))?;
                for (index, value) in measured.into_iter().enumerate() {
                    samples.entry((way, index, *subject)).or_default().push(value);
                }
            }
        }
    }
    let figures = samples.iter().filter_map(|((way, index, subject), samples)| {
        let (name, protocol, unit) = RATES.get(*index)?;
        Some(summary(&format!("{name}/{}", way.name()), *subject, size, protocol, samples, unit))
    });
    Ok(figures.collect())
}

/// Has frames reach every node as from a network card: XDP leaves those to the stack whose checksums are yet to be completed, and
/// the pair's other end has to take what it sends. What others are measured with is the same.
fn wires(scene: &Scene) -> Result<Vec<OwnedFd>> {
    let switch = scene.ground.cluster.lab.switch();
    scene.subjects.iter().map(|subject| make_wire(switch, &scene.ground.node(*subject)?.port)).collect()
}

/// One measurement of each rate.
fn measure(scene: &Scene, subject: Subject, way: Way, length: Duration) -> Result<[f64; RATES.len()]> {
    let (from, sink) = scene.ends(subject, way, "sink")?;
    let gigabits = from.inside(|| throughput(sink, length))?;
    let (from, echo) = scene.ends(subject, way, "echo")?;
    let latencies = from.inside(|| latencies(echo, length))?;
    let (from, who) = scene.ends(subject, way, "who")?;
    let connections = from.inside(|| connections(who, length))?;
    let (from, count) = scene.ends(subject, way, "count")?;
    let server = scene.server(subject, way)?;
    let before = server.swallowed();
    let took = from.inside(|| datagrams(count, length))?;
    // What is on its way arrives.
    thread::sleep(Duration::from_millis(5));
    let arrived = server.swallowed() - before;
    ensure!(arrived > 0, "no datagram arrived");
    let datagrams = arrived as f64 / took.as_secs_f64();
    Ok([gigabits, latencies.median(), latencies.worst(), connections, datagrams])
}

/// One connection that sends as much as goes through, in Gbit/s.
fn throughput(to: SocketAddr, length: Duration) -> io::Result<f64> {
    let block = vec![0x5a; 128 * 1024];
    let mut stream = client::connect(to)?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < length {
        stream.write_all(&block)?;
        sent += block.len() as u64;
    }
    Ok(sent as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64())
}

/// One byte there and back, again and again on one connection, in microseconds.
fn latencies(to: SocketAddr, length: Duration) -> io::Result<Samples> {
    let mut stream: TcpStream = client::connect(to)?;
    stream.set_nodelay(true)?;
    let mut samples = Samples::default();
    let began = Instant::now();
    while began.elapsed() < length {
        let asked = Instant::now();
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        samples.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}

/// Connections that are made, answered and closed, a second.
fn connections(to: SocketAddr, length: Duration) -> io::Result<f64> {
    let began = Instant::now();
    let counts: io::Result<Vec<u32>> = thread::scope(|scope| {
        let client = || {
            let mut count = 0;
            while began.elapsed() < length {
                client::ask_tcp(to)?;
                count += 1;
            }
            Ok(count)
        };
        // A new thread is born in the namespace of the one that makes it.
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    Ok(f64::from(counts?.into_iter().sum::<u32>()) / began.elapsed().as_secs_f64())
}

/// Sends datagrams as fast as the socket takes them. How long that took.
fn datagrams(to: SocketAddr, length: Duration) -> io::Result<Duration> {
    let socket = client::connect_udp(to)?;
    let began = Instant::now();
    while began.elapsed() < length {
        for _ in 0..64 {
            match socket.send(&DATAGRAM) {
                Ok(_) => {}
                // The device's queue is full: the datagram is lost, as it would be further on.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(began.elapsed())
}
