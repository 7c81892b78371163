//! The floors: what the test run itself, the restoring of packets and single map operations cost.

use anyhow::{Context as _, Result};
use proxy_bench_ebpf::Order;
use proxy_common::addr::Ipv4;

use super::baseline::{BASELINE, Baseline};
use super::harness::{Harness, Target};
use super::leg::Leg;
use super::packet::Protocol;
use super::{Effort, SUITE};
use crate::report::{Figure, rounded};
use crate::samples::Samples;

/// Name, map operation, and whether each run is of another number.
const OPERATIONS: [(&str, Target); 5] = [
    ("array-hot", Target::Array),
    ("hash-hot", Target::Hash),
    (BASELINE, Target::LruHot),
    ("lru-cold-131k", Target::LruCold),
    ("lru-insert", Target::LruInsert),
];
/// The numbers of cold look-ups, as a power of two.
const COLD: u32 = 17;
/// So many insertions fill the map: from then on, each evicts.
const FILL: u32 = 300_000;

/// Measures all floors, but for the baseline, which is measured beside every case as well.
pub fn run(harness: &mut Harness, effort: &Effort<'_>, baseline: &mut Baseline) -> Result<Vec<Figure>> {
    let mut traffic = Leg::Request.traffic::<Ipv4>(Protocol::Tcp, Order::random(COLD))?;
    let mut counting = Leg::Request.traffic::<Ipv4>(Protocol::Tcp, Order::counting())?;
    counting.plan.count_from(0);
    harness.run(&mut counting, Target::LruInsert, FILL).context("filling the map that is inserted into")?;

    let (mut bare, mut restoring) = <(Samples, Samples)>::default();
    let mut operations = OPERATIONS.map(|(case, target)| (case, target, Samples::default()));
    for _ in 0..effort.chunks {
        bare.push(harness.run_nothing(&traffic.packet, effort.runs)?);
        restoring.push(harness.run(&mut traffic.clone(), Target::Empty, effort.runs)?);
        for (_, target, samples) in &mut operations {
            let traffic = if *target == Target::LruInsert { &mut counting } else { &mut traffic };
            samples.push(harness.run(traffic, *target, effort.runs)?);
        }
    }

    let figure = |case, best: f64, median: f64| Figure {
        suite: SUITE,
        case,
        subject: "floor",
        family: None,
        protocol: None,
        value: rounded(best, 1),
        unit: "ns",
        median: Some(rounded(median, 1)),
        baseline: None,
        ratio: None,
    };
    let mut figures = vec![
        figure("empty", bare.best(), bare.median()),
        figure("restore", restoring.best() - bare.best(), restoring.median() - bare.median()),
    ];
    for (case, target, samples) in &operations {
        if *target == Target::LruHot {
            baseline.push(samples, &restoring);
            continue;
        }
        figures.push(figure(*case, samples.best() - restoring.best(), samples.median() - restoring.median()));
    }
    Ok(figures)
}
