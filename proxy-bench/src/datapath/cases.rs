//! The cases: flows are opened by packets, packets are timed, and what the programs counted is compared with what was
//! sent. A case that measured anything else fails.

use anyhow::{Context as _, Result, ensure};
use bytemuck::Pod;
use proxy_bench_ebpf::Order;
use proxy_common::maps::{Backend, FrontendKey};

use super::baseline::Baseline;
use super::bed::{Bed, Counts};
use super::harness::{Harness, Target, Traffic};
use super::leg::Leg;
use super::packet::Protocol;
use super::world::Side;
use super::{Effort, name, net_figure};
use crate::report::Figure;
use crate::samples::Samples;

/// Sets for the flows of the largest case of established ones, two each: with the four that the agent would choose one in ten
/// thousand would be evicted before its answer.
const ROOMY: u32 = 65_536;
/// So many flows fit into these sets, however they are spread.
const FITTING: u32 = ROOMY * 2;
/// Sets of the table that new flows come into: as many flows as the map of the floor `lru-insert` has entries.
pub(super) const SETS: u32 = 262_144 / 7;
/// Established flows: name of the case, and the power of two of their number.
pub(super) const ESTABLISHED: [(&str, u32); 3] =
    [("established-1", 0), ("established-1k", 10), ("established-131k", 17)];
/// Packets of flows and frontends that are not there.
pub(super) const STRANGE: &str = "not-a-frontend";
/// Each packet begins a flow.
pub(super) const NEW: &str = "new-flow";
/// Strangers come with so many addresses and ports, as a power of two.
pub(super) const STRANGERS: u32 = 10;

/// Measures all cases of one family and protocol.
pub fn run<A: Side>(
    harness: &mut Harness,
    protocol: Protocol,
    effort: &Effort<'_>,
    baseline: &mut Baseline,
) -> Result<Vec<Figure>>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
{
    let mut figures = Vec::new();
    let wants = |case| ["tc-ingress", "tc-egress"].iter().any(|of| effort.wants(&name(case, of, A::NAME, protocol)));
    if known_cases().any(wants) {
        figures.extend(known::<A>(harness, protocol, effort, baseline)?);
    }
    if wants(NEW) {
        figures.extend(new_flows::<A>(harness, protocol, effort, baseline)?);
    }
    Ok(figures)
}

/// All cases that one set of flows is enough for.
pub(super) fn known_cases() -> impl Iterator<Item = &'static str> {
    ESTABLISHED.into_iter().map(|(case, _)| case).chain([STRANGE])
}

fn known<A: Side>(
    harness: &mut Harness,
    protocol: Protocol,
    effort: &Effort<'_>,
    baseline: &mut Baseline,
) -> Result<Vec<Figure>>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
{
    let mut scene = Scene::<A>::set(harness, protocol, effort, baseline, ROOMY)?;
    let mut figures = Vec::new();
    for (case, bits) in ESTABLISHED {
        let opened = scene.next;
        scene.open((1 << bits) - opened)?;
        scene.answer(opened)?;
        figures.extend(scene.measure(case, Leg::Request, Flows::Any(bits))?);
        figures.extend(scene.measure(case, Leg::Reply, Flows::Any(bits))?);
    }
    figures.extend(scene.measure(STRANGE, Leg::StrangerIn, Flows::Any(STRANGERS))?);
    figures.extend(scene.measure(STRANGE, Leg::StrangerOut, Flows::Any(STRANGERS))?);
    Ok(figures)
}

fn new_flows<A: Side>(
    harness: &mut Harness,
    protocol: Protocol,
    effort: &Effort<'_>,
    baseline: &mut Baseline,
) -> Result<Vec<Figure>>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
{
    let mut scene = Scene::<A>::set(harness, protocol, effort, baseline, SETS)?;
    // From here on, nearly each new flow evicts one that is half open.
    scene.open(SETS * 10)?;
    let opened = scene.measure(NEW, Leg::Open, Flows::New)?;

    // An answer stores nothing, so nothing need be evicted; and in a full table many flows are gone before they are
    // answered. So all flows of this case have room, which makes its chunks smaller.
    let runs = effort.runs.min(FITTING / (effort.chunks + 10));
    let effort = Effort { runs, ..*effort };
    let mut scene = Scene::<A>::set(harness, protocol, &effort, baseline, ROOMY)?;
    let answered = scene.measure(NEW, Leg::Answer, Flows::New)?;
    Ok(opened.into_iter().chain(answered).collect())
}

/// Which flows the packets of a case belong to.
#[derive(Clone, Copy)]
enum Flows {
    /// Any of the first 2ⁿ.
    Any(u32),
    /// One that was never seen before; if the answers are measured, it is opened right before.
    New,
}

/// The programs with Services, and flows that are counted through.
struct Scene<'a, A> {
    harness: &'a mut Harness,
    bed: Bed,
    protocol: Protocol,
    effort: &'a Effort<'a>,
    baseline: &'a mut Baseline,
    /// The number of the next new flow.
    next: u32,
    family: std::marker::PhantomData<A>,
}

impl<'a, A: Side> Scene<'a, A>
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
{
    fn set(
        harness: &'a mut Harness,
        protocol: Protocol,
        effort: &'a Effort<'a>,
        baseline: &'a mut Baseline,
        flow_sets: u32,
    ) -> Result<Self> {
        let mut bed = Bed::load(flow_sets)?;
        bed.fill::<A>(protocol.number(), 0)?;
        harness.set(Target::TcIn, &bed.program("tc_in_eth")?)?;
        harness.set(Target::TcOut, &bed.program("tc_out_eth")?)?;
        Ok(Self { harness, bed, protocol, effort, baseline, next: 0, family: std::marker::PhantomData })
    }

    /// Opens flows by the first packets of their clients.
    fn open(&mut self, flows: u32) -> Result<()> {
        let before = self.bed.counts()?;
        let mut traffic = self.counted(Leg::Open, self.next)?;
        self.harness.run(&mut traffic, Target::TcIn, flows).context("opening flows")?;
        self.next += flows;
        let flows = u64::from(flows);
        self.expect(before, Counts { flows, packets: flows, ..Counts::default() }).context("opening flows")
    }

    /// Answers for the first time in all flows from one on.
    fn answer(&mut self, first: u32) -> Result<()> {
        let before = self.bed.counts()?;
        let mut traffic = self.counted(Leg::Answer, first)?;
        self.harness.run(&mut traffic, Target::TcOut, self.next - first).context("answering in flows")?;
        let replies = u64::from(self.next - first);
        self.expect(before, Counts { replies, ..Counts::default() }).context("answering in flows")
    }

    /// Traffic of flow after flow.
    fn counted(&self, leg: Leg, first: u32) -> Result<Traffic> {
        let mut traffic = leg.traffic::<A>(self.protocol, Order::counting())?;
        traffic.plan.count_from(first);
        Ok(traffic)
    }

    /// Sees to it that exactly this was counted.
    fn expect(&self, before: Counts, expected: Counts) -> Result<()> {
        let counted = self.bed.counts()? - before;
        ensure!(counted == expected, "the programs counted {counted:?}, and what was sent is {expected:?}");
        Ok(())
    }

    /// Measures a case: rounds of one chunk each of nothing, the baseline and the program, so that whatever else the
    /// machine does meets all three alike.
    fn measure(&mut self, case: &'static str, leg: Leg, flows: Flows) -> Result<Option<Figure>> {
        let subject = match leg.target() {
            Target::TcOut => "tc-egress",
            _ => "tc-ingress",
        };
        let name = name(case, subject, A::NAME, self.protocol);
        if !self.effort.wants(&name) {
            return Ok(None);
        }
        let order = match flows {
            Flows::Any(bits) => Order::random(bits),
            Flows::New => Order::counting(),
        };
        let mut traffic = leg.traffic::<A>(self.protocol, order)?;
        let (mut nothing, mut baseline, mut program) = <(Samples, Samples, Samples)>::default();
        let before = self.bed.counts()?;
        let mut expected = Counts::default();
        for _ in 0..self.effort.chunks {
            nothing.push(self.harness.run(&mut traffic.clone(), Target::Empty, self.effort.runs)?);
            baseline.push(self.harness.run(&mut traffic.clone(), Target::LruHot, self.effort.runs)?);
            expected = expected + self.prepare(&mut traffic, leg, flows, self.effort.runs)?;
            program.push(self.harness.run(&mut traffic, leg.target(), self.effort.runs)?);
        }
        expected = expected + self.prepare(&mut traffic, leg, flows, 1)?;
        let seen = self.harness.run_once(&mut traffic, leg.target())?;

        self.expect(before, expected).with_context(|| name.clone())?;
        leg.check::<A>(&traffic, self.protocol, &seen).context(name)?;
        self.baseline.push(&baseline, &nothing);
        Ok(Some(net_figure(case, subject, A::NAME, self.protocol, &program, &nothing)))
    }

    /// Does what has to be done before so many runs, and answers what will have been counted after them.
    fn prepare(&mut self, traffic: &mut Traffic, leg: Leg, flows: Flows, runs: u32) -> Result<Counts> {
        let times = u64::from(runs);
        let Counts { flows: _, packets, replies, drops } = leg.counts();
        let mut expected =
            Counts { flows: 0, packets: packets * times, replies: replies * times, drops: drops * times };
        if let Flows::New = flows {
            expected.flows = times;
            if leg != Leg::Open {
                let mut opening = self.counted(Leg::Open, self.next)?;
                self.harness.run(&mut opening, Target::TcIn, runs).context("opening flows")?;
                expected.packets += times;
            }
            traffic.plan.count_from(self.next);
            self.next += runs;
        }
        Ok(expected)
    }
}
