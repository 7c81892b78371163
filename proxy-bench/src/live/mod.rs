//! The suite `live`: real traffic through whole proxies, each on a node of its own, measured by turns.
//!
//! | module | what it measures |
//! |---|---|
//! | `rates` | what clients see: throughput, latency, connections and datagrams a second |
//! | `cpu` | what a packet costs the node: CPU time over a fixed number of packets |
//! | `generator` | the packets of `cpu`: made in the kernel, counted and dropped where they arrive |
//!
//! The number of Services grows from one size to the next while all proxies run.

mod cpu;
mod generator;
mod rates;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proxy_testkit::Host;

use crate::ground::node::Place;
use crate::ground::objects::{PORTS, place_of};
use crate::ground::proxy::{LIMIT, Proxy};
use crate::ground::subject::Subject;
use crate::ground::{Ground, until_answered};
use crate::names::kept;
use crate::report::{Figure, rounded};
use crate::samples::Samples;

const SUITE: &str = "live";

/// NodePorts of the Service whose endpoint is on another node than the one that is asked, and of those with a local one.
const REMOTE_PORT: u16 = 30_400;
const LOCAL_PORT: u16 = 30_100;
/// Endpoints of each Service that is there for its number alone.
const ENDPOINTS: usize = 2;

/// How much is run.
struct Effort {
    /// How often each rate is measured, and for how long.
    rounds: usize,
    length: Duration,
    /// How often the cost of packets is measured, and over how many.
    chunks: u32,
    packets: u32,
}

impl Effort {
    const FULL: Self = Self { rounds: 5, length: Duration::from_millis(600), chunks: 15, packets: 20_000 };
    const QUICK: Self = Self { rounds: 1, length: Duration::from_millis(60), chunks: 1, packets: 2_000 };
}

/// The way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// From a pod through a ClusterIP to a pod of the same node.
    SameNode,
    /// From a pod through a ClusterIP to a pod of another node.
    OtherNode,
    /// From outside through a NodePort to a pod of that node.
    NodePortLocal,
    /// From outside through a NodePort to a pod of another node.
    NodePortRemote,
}

impl Way {
    const ALL: [Self; 4] = [Self::SameNode, Self::OtherNode, Self::NodePortLocal, Self::NodePortRemote];

    const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "clusterip-same-node",
            Self::OtherNode => "clusterip-other-node",
            Self::NodePortLocal => "nodeport-local",
            Self::NodePortRemote => "nodeport-remote",
        }
    }

    const fn is_from_outside(self) -> bool {
        matches!(self, Self::NodePortLocal | Self::NodePortRemote)
    }

    const fn is_remote(self) -> bool {
        matches!(self, Self::OtherNode | Self::NodePortRemote)
    }
}

/// Everything that is measured, and where it is asked.
struct Scene {
    ground: Ground,
    /// ClusterIP of the Service with an endpoint on the node of the backends.
    remote: Ipv4Addr,
    /// ClusterIPs of those with one on each subject's node.
    local: BTreeMap<Subject, Ipv4Addr>,
    /// The subjects that serve.
    subjects: Vec<Subject>,
    // Proxies end before the ground goes: declared last, dropped by hand in `run`.
    proxies: BTreeMap<Subject, Proxy>,
}

/// Measures everything. `others` are the proxies to measure against, `sizes` the numbers of Services, growing.
pub fn run(is_quick: bool, sizes: &[usize], others: &[Subject]) -> Result<Vec<Figure>> {
    let effort = if is_quick { Effort::QUICK } else { Effort::FULL };
    let mut subjects = vec![Subject::Direct, Subject::Tc, Subject::TcSendsOn, Subject::Xdp];
    subjects.extend_from_slice(others);
    let mut scene = Scene::set(&subjects)?;
    let outcome = scene.measure(&effort, if is_quick { &[10] } else { sizes });
    scene.proxies.clear();
    let mut figures = outcome?;
    compare(&mut figures);
    Ok(figures)
}

impl Scene {
    fn set(subjects: &[Subject]) -> Result<Self> {
        let ground = Ground::new(subjects)?;
        let remote = ground.serve("z-remote", Some(REMOTE_PORT), &[&ground.backend.b])?;
        let mut local = BTreeMap::new();
        for subject in subjects {
            let node = ground.node(*subject)?;
            let name = format!("z-local-{}", subject.name());
            local.insert(*subject, ground.serve(&name, Some(local_port(node)), &[&node.b])?);
        }
        let mut proxies = BTreeMap::new();
        for subject in subjects {
            if let Some(proxy) = Proxy::start(&ground, *subject, &[])? {
                proxies.insert(*subject, proxy);
            }
        }
        Ok(Self { ground, remote, local, subjects: subjects.to_vec(), proxies })
    }

    fn measure(&mut self, effort: &Effort, sizes: &[usize]) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        let mut there = 0;
        for size in sizes {
            eprintln!("{size} Services: creating them");
            self.ground.load(there..*size, ENDPOINTS)?;
            there = *size;
            self.wait_for_all(*size, &mut figures)?;
            eprintln!("{size} Services: what clients see");
            figures.extend(rates::run(self, effort, *size)?);
            eprintln!("{size} Services: what a packet costs");
            figures.extend(cpu::run(self, effort, *size)?);
        }
        Ok(figures)
    }

    /// Waits until each proxy serves what was created last. Those that do not in time are left out from here on.
    fn wait_for_all(&mut self, size: usize, figures: &mut Vec<Figure>) -> Result<()> {
        let name = format!("z-last-{size:05}");
        let last = self.ground.serve(&name, None, &[&self.ground.backend.b])?;
        let began = Instant::now();
        let mut serving = Vec::new();
        for subject in &self.subjects {
            let Some(proxy) = self.proxies.get(subject) else {
                serving.push(*subject);
                continue;
            };
            let from = &self.ground.node(*subject)?.a;
            let left = LIMIT.saturating_sub(began.elapsed()).max(Duration::from_secs(1));
            if until_answered(from, at(last, "ask"), None, left)?.is_some() {
                serving.push(*subject);
                continue;
            }
            proxy.pid().with_context(|| format!("{} does not serve", subject.name()))?;
            eprintln!("{} does not serve {size} Services within {} s", subject.name(), LIMIT.as_secs());
            figures.push(figure("served", *subject, size, None, LIMIT.as_secs_f64(), "s, not served within", None));
        }
        self.proxies.retain(|subject, _| serving.contains(subject));
        self.subjects = serving;
        Ok(())
    }

    /// Who asks on a way, and what, for a port of the Services.
    fn ends(&self, subject: Subject, way: Way, port: &str) -> Result<(&Host, SocketAddr)> {
        let node = self.ground.node(subject)?;
        let from = if way.is_from_outside() { self.ground.client() } else { &node.a };
        let target = PORTS.iter().find(|it| it.0 == port).map_or(0, |it| it.3);
        let to = match (subject, way) {
            (Subject::Direct, _) if way.is_remote() => SocketAddr::new(self.ground.backend.b.v4.into(), target),
            (Subject::Direct, _) => SocketAddr::new(node.b.v4.into(), target),
            (_, Way::SameNode) => at(self.local.get(&subject).copied().context("no such Service")?, port),
            (_, Way::OtherNode) => at(self.remote, port),
            (_, Way::NodePortLocal) => SocketAddr::new(node.host.v4.into(), local_port(node) + place_of(port)),
            (_, Way::NodePortRemote) => SocketAddr::new(node.host.v4.into(), REMOTE_PORT + place_of(port)),
        };
        Ok((from, to))
    }

    /// Where the endpoint of a way is.
    fn server(&self, subject: Subject, way: Way) -> Result<&Place> {
        if way.is_remote() { Ok(&self.ground.backend) } else { self.ground.node(subject) }
    }
}

fn local_port(node: &Place) -> u16 {
    LOCAL_PORT + 10 * u16::from(node.number)
}

fn at(address: Ipv4Addr, port: &str) -> SocketAddr {
    let number = PORTS.iter().find(|it| it.0 == port).map_or(0, |it| it.2);
    SocketAddr::new(IpAddr::V4(address), number)
}

fn figure(
    case: &str,
    subject: Subject,
    size: usize,
    protocol: Option<&'static str>,
    value: f64,
    unit: &'static str,
    median: Option<f64>,
) -> Figure {
    Figure {
        suite: SUITE,
        case: kept(format!("{case}/{size}")),
        subject: subject.name(),
        family: Some("ipv4"),
        protocol,
        value: rounded(value, 3),
        unit,
        median: median.map(|median| rounded(median, 3)),
        baseline: None,
        ratio: None,
    }
}

/// Medians as ratios: rates to the direct way, costs to kube-proxy's nftables mode where it was measured.
fn compare(figures: &mut [Figure]) {
    let known: Vec<_> = figures.iter().map(|it| (it.case, it.subject, it.unit, it.median)).collect();
    for figure in figures.iter_mut() {
        // A cost of 0 is one that the noise has swallowed: it is no ratio.
        let Some(own) = figure.median.filter(|own| *own > 0.0) else { continue };
        let others =
            if figure.unit == "ns of CPU" { &[Subject::Nftables, Subject::Direct][..] } else { &[Subject::Direct] };
        for other in others.iter().filter(|other| other.name() != figure.subject) {
            let theirs = known
                .iter()
                .find(|(case, subject, unit, _)| (*case, *subject, *unit) == (figure.case, other.name(), figure.unit));
            if let Some((.., Some(median))) = theirs
                && figure.baseline.is_none()
                && *median > 0.0
            {
                figure.baseline = Some(other.name());
                figure.ratio = Some(rounded(own / median, 3));
            }
        }
    }
}

/// The figure of many measurements: the best and the median. Of rates the best is the largest.
fn summary(
    case: &str,
    subject: Subject,
    size: usize,
    protocol: &'static str,
    samples: &Samples,
    unit: &'static str,
) -> Figure {
    let best = if unit.ends_with("/s") { samples.worst() } else { samples.best() };
    figure(case, subject, size, Some(protocol), best, unit, Some(samples.median()))
}
