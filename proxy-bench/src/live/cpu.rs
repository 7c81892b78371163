//! What a packet costs the node.
//!
//! The cost of making a frame and handing it to the node is measured by itself, by a node that drops it as early as can be,
//! and taken off. What is left is the way through the node, from its device to the next machine's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use proxy_bench_ebpf::Order;
use proxy_common::flows::MASQUERADE_PORTS;

use super::generator::{Generator, Outcome, Sink, Traffic};
use super::{Effort, Scene, Way, summary};
use crate::ground::node::GATEWAY_BYTES;
use crate::ground::subject::Subject;
use crate::report::Figure;
use crate::samples::Samples;

/// 2ⁿ flows are established.
const FLOWS_BITS: u32 = 10;
/// The ways that are measured.
const WAYS: [Way; 3] = [Way::OtherNode, Way::NodePortLocal, Way::NodePortRemote];

/// Whether packets are of flows that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Established,
    New,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Established => "cpu-established",
            Self::New => "cpu-new-flow",
        }
    }
}

/// All costs, of all subjects and ways, by turns.
pub(super) fn run(scene: &Scene, effort: &Effort, size: usize) -> Result<Vec<Figure>> {
    let mut generator = Generator::load()?;
    let mut floor: BTreeMap<bool, Samples> = BTreeMap::new();
    let mut samples: BTreeMap<(Way, Kind, Subject), Samples> = BTreeMap::new();
    // So many new flows a chunk that all chunks together find a masquerade port each, without looking long.
    let ports = u32::try_from(MASQUERADE_PORTS.len())? / 4 * 3;
    let few = ((ports - (1 << FLOWS_BITS)) / (effort.chunks + 1)).min(effort.packets);
    let mut next = 1 << FLOWS_BITS;
    for way in WAYS {
        for subject in &scene.subjects {
            let opening = Order { mask: (1 << FLOWS_BITS) - 1, ..Order::counting() };
            let (traffic, sink) = path(scene, *subject, way, opening, 0)?;
            generator.run(&traffic, &sink, 1 << FLOWS_BITS)?;
        }
    }
    for _ in 0..effort.chunks {
        for from_outside in [false, true] {
            let (traffic, sink) = nowhere(scene, from_outside)?;
            let outcome = generator.run(&traffic, &sink, effort.packets)?;
            ensure!(outcome.arrived == outcome.sent, "of the packets for nobody only {} came", outcome.arrived);
            floor.entry(from_outside).or_default().push(outcome.cost);
        }
        for way in WAYS {
            for subject in &scene.subjects {
                for (kind, order, first, packets) in [
                    (Kind::Established, Order::random(FLOWS_BITS), 0, effort.packets),
                    (Kind::New, Order::counting(), next, few),
                ] {
                    let (traffic, sink) = path(scene, *subject, way, order, first)?;
                    let outcome = generator.run(&traffic, &sink, packets)?;
                    let place = || format!("{}, {}, {}", kind.name(), way.name(), subject.name());
                    check(scene, *subject, way, &outcome).with_context(place)?;
                    samples.entry((way, kind, *subject)).or_default().push(outcome.cost);
                }
            }
        }
        next += few;
    }
    let figures = samples.iter().map(|((way, kind, subject), samples)| {
        let made = floor.get(&way.is_from_outside()).map_or(0.0, Samples::median);
        let case = format!("{}/{}", kind.name(), way.name());
        let mut figure = summary(&case, *subject, size, "udp", samples, "ns of CPU");
        figure.value = (figure.value - made).max(0.0).round();
        figure.median = figure.median.map(|median| (median - made).max(0.0).round());
        figure
    });
    let mut figures: Vec<_> = figures.collect();
    for (from_outside, samples) in floor {
        let case = if from_outside { "cpu-generator/uplink" } else { "cpu-generator/pod" };
        figures.push(summary(case, Subject::Direct, size, "udp", &samples, "ns of CPU, taken off"));
    }
    Ok(figures)
}

/// The packets of a way, and where they are to arrive.
fn path(scene: &Scene, subject: Subject, way: Way, order: Order, first: u32) -> Result<(Traffic, Sink)> {
    let (from, to) = scene.ends(subject, way, "count")?;
    let node = scene.ground.node(subject)?;
    let switch = scene.ground.cluster.lab.switch().clone();
    let (ns, device, mac) = if way.is_from_outside() {
        (switch.clone(), node.port.clone(), node.mac())
    } else {
        (node.a.ns.clone(), "eth0".to_owned(), GATEWAY_BYTES)
    };
    // The direct way from outside to another node's pod leads through the node, too.
    let IpAddr::V4(address) = to.ip() else { anyhow::bail!("{to} is not IPv4") };
    let traffic = Traffic { ns, device, mac, from: from.v4, to: address, port: to.port(), order, first };
    let sink = if way.is_remote() {
        let by_xdp = subject == Subject::Xdp && way.is_from_outside();
        Sink { ns: switch, device: node.port.clone(), by_xdp }
    } else {
        Sink { ns: node.b.ns.clone(), device: "eth0".to_owned(), by_xdp: false }
    };
    Ok((traffic, sink))
}

/// Packets that are dropped as soon as they reach the node without a proxy.
fn nowhere(scene: &Scene, from_outside: bool) -> Result<(Traffic, Sink)> {
    let way = if from_outside { Way::NodePortRemote } else { Way::OtherNode };
    let order = Order::random(FLOWS_BITS);
    let (traffic, _) = path(scene, Subject::Direct, way, order, 0)?;
    let node = &scene.ground.node(Subject::Direct)?.host;
    let device = if from_outside { "eth0" } else { "pod10" };
    Ok((traffic, Sink { ns: node.ns.clone(), device: device.to_owned(), by_xdp: true }))
}

/// A cost counts only if the packets came where they were to go, and as they were to.
fn check(scene: &Scene, subject: Subject, way: Way, outcome: &Outcome) -> Result<()> {
    let Outcome { arrived, sent, source, .. } = outcome;
    ensure!(arrived * 100 >= sent * 98, "of {sent} packets {arrived} arrived");
    if way == Way::NodePortRemote && subject != Subject::Direct {
        let node = scene.ground.node(subject)?;
        let own = [node.host.v4];
        ensure!(own.contains(source), "a packet came from {source}, and not from the node");
    }
    Ok(())
}
