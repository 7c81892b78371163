//! The suite `datapath`: what a packet costs in each program, by BPF_PROG_TEST_RUN.
//!
//! | module | what it does |
//! |---|---|
//! | `harness` | test runs: the bench's own programs restore the packet, vary the flow, call what is measured |
//! | `bed` | the agent's programs, in maps of their own; what they counted |
//! | `world` | the Services in those maps |
//! | `packet`, `leg` | the packets, and what has to become of them |
//! | `cases` | the cases, timed and verified |
//! | `uplink` | the cases of XDP |
//! | `floors` | single map operations, timed by the same way |
//! | `baseline` | the one of them that all are compared with |
//! | `programs` | sizes |
//!
//! Invariant: nothing is pinned, nothing attached but in a network namespace of its own; when the process ends, the kernel has
//! forgotten it all.
//! Absent on purpose: devices, sockets, the stack. What a whole connection costs is another suite's.

mod baseline;
mod bed;
mod cases;
mod floors;
mod harness;
mod leg;
pub mod packet;
mod programs;
mod uplink;
mod world;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use proxy_common::addr::{Ipv4, Ipv6};

use crate::report::{Figure, rounded};
use crate::samples::Samples;
use baseline::Baseline;
use harness::Harness;
use packet::Protocol;

const SUITE: &str = "datapath";

/// How much is run, and of what.
struct Effort<'a> {
    /// How often each thing is measured.
    chunks: u32,
    /// How many packets each time.
    runs: u32,
    /// Only cases with this in their names are measured, all the others are passed over.
    only: &'a str,
}

impl<'a> Effort<'a> {
    fn new(is_quick: bool, only: &'a str) -> Self {
        let (chunks, runs) = if is_quick { (3, 2_000) } else { (200, 20_000) };
        Self { chunks, runs, only }
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(self.only)
    }
}

/// The name of a case, as a line of the table has it.
fn name(case: &str, subject: &str, family: &str, protocol: Protocol) -> String {
    format!("{case} {subject} {family} {}", protocol.name())
}

/// Measures everything. Takes root, and one CPU for itself if it can have it.
pub fn run(is_quick: bool, only: &str) -> Result<Vec<Figure>> {
    let effort = Effort::new(is_quick, only);
    stay_on_one_cpu()?;
    let mut harness = Harness::load()?;
    let mut figures = programs::run()?;
    let mut baseline = Baseline::default();
    eprintln!("measuring single map operations");
    figures.extend(floors::run(&mut harness, &effort, &mut baseline)?);
    let mut cases = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        eprintln!("measuring {} over ipv4 and ipv6", protocol.name());
        cases.extend(cases::run::<Ipv4>(&mut harness, protocol, &effort, &mut baseline)?);
        cases.extend(cases::run::<Ipv6>(&mut harness, protocol, &effort, &mut baseline)?);
    }
    eprintln!("measuring XDP");
    cases.extend(uplink::run(&effort, &mut baseline)?);
    // A case's figures stand together, in the order in which the cases came.
    let order: Vec<_> = cases.iter().map(|figure| figure.case).collect();
    let place = |figure: &Figure| order.iter().position(|case| *case == figure.case);
    let subjects = ["tc-ingress", "tc-egress", "xdp-up", "xdp-out"];
    cases.sort_by_key(|figure| (place(figure), subjects.iter().position(|subject| *subject == figure.subject)));
    figures.push(baseline.figure());
    figures.extend(cases);
    figures.iter_mut().for_each(|figure| baseline.compare(figure));
    Ok(figures)
}

/// What a program costs a packet: what was measured, less what is measured where there is none.
fn net_figure(
    case: &'static str,
    subject: &'static str,
    family: &'static str,
    protocol: Protocol,
    program: &Samples,
    nothing: &Samples,
) -> Figure {
    Figure {
        suite: SUITE,
        case,
        subject,
        family: Some(family),
        protocol: Some(protocol.name()),
        value: rounded(program.best() - nothing.best(), 1),
        unit: "ns",
        median: Some(rounded(program.median() - nothing.median(), 1)),
        baseline: None,
        ratio: None,
    }
}

/// Binds this thread to the last CPU that it may use: LRU maps and counters are by CPU, and caches too.
fn stay_on_one_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("asking which CPUs may be used")?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(is_allowed).context("no CPU may be used")?;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(this, &one).with_context(|| format!("staying on CPU {last}"))
}
