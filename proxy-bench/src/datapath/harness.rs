//! The bench's own kernel programs, and test runs through them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{Program, ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};
use proxy_bench_ebpf::{FLOOR_ENTRIES, FLOOR_VALUE, FloorKey, FloorValue, Plan, floor_key};

use super::bed::load;
use crate::OBJECT;
use crate::plain::Plain;

/// `TCX_NEXT`, as the kernel reports it of a test run.
pub const NEXT: u32 = u32::MAX;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_TX`.
pub const XDP_TX: u32 = 3;

/// What gets the packets: a place among the programs that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Target {
    /// Nothing.
    Empty,
    /// One look-up in an array.
    Array,
    /// One look-up in a hash map, always the same.
    Hash,
    /// One look-up in an LRU hash map, always the same.
    LruHot,
    /// One look-up in an LRU hash map, any.
    LruCold,
    /// One insertion into an LRU hash map, evicting.
    LruInsert,
    /// The program at a device's ingress.
    TcIn,
    /// The program at a device's egress.
    TcOut,
    /// The program where frames come in.
    Xdp,
}

/// The bench's own programs with their places.
const OWN: [(&str, Target); 6] = [
    ("empty", Target::Empty),
    ("array_hot", Target::Array),
    ("hash_hot", Target::Hash),
    ("lru_hot", Target::LruHot),
    ("lru_cold", Target::LruCold),
    ("lru_insert", Target::LruInsert),
];

/// Those of XDP.
const OWN_XDP: [(&str, Target); 2] = [("xdp_empty", Target::Empty), ("xdp_lru_hot", Target::LruHot)];

/// The programs that restore packets.
const RESTORERS: [&str; 4] = ["request_v4", "reply_v4", "request_v6", "reply_v6"];

/// And frames.
const XDP_RESTORERS: [&str; 2] = ["xdp_request_v4", "xdp_request_v6"];

/// A kind of packet, and the flows that it comes from.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The program that restores it.
    pub restorer: &'static str,
    /// What that program is told.
    pub plan: Plan,
    /// One of the packets.
    pub packet: Vec<u8>,
    /// The device that frames come in by, at XDP.
    pub device: Option<u32>,
    /// What the program under test answers.
    pub answer: u32,
}

/// The bench's programs in the kernel. Nothing of them is attached or pinned.
pub struct Harness {
    ebpf: Ebpf,
    plan: Array<MapData, Plain<Plan>>,
    targets: ProgramArray<MapData>,
    xdp_targets: ProgramArray<MapData>,
}

impl Harness {
    /// Loads the programs and fills the maps that floors are measured with.
    pub fn load() -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this bench was built without its kernel programs (AYA_BUILD_SKIP was set): build it again without"
        );
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the bench's kernel programs")?;
        let mut programs = Vec::new();
        for name in OWN.map(|(name, _)| name).into_iter().chain(RESTORERS) {
            programs.push(load_program(&mut ebpf, name)?);
        }
        let mut xdp_programs = Vec::new();
        for name in OWN_XDP.map(|(name, _)| name).into_iter().chain(XDP_RESTORERS) {
            xdp_programs.push(load_program(&mut ebpf, name)?);
        }
        // The programs hold on to their maps from here on.
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("the bench has no map {name}"));
        fill_floors(take("floor_array")?.try_into()?, take("floor_hash")?.try_into()?, take("floor_lru")?.try_into()?)
            .context("filling the maps of the floors")?;
        let plan = take("plan")?.try_into()?;
        let targets = take("programs")?.try_into()?;
        let xdp_targets = take("xdp_programs")?.try_into()?;
        let mut harness = Self { ebpf, plan, targets, xdp_targets };
        for ((_, target), program) in OWN.iter().zip(&programs) {
            harness.set(*target, program)?;
        }
        for ((_, target), program) in OWN_XDP.iter().zip(&xdp_programs) {
            harness.set_xdp(*target, program)?;
        }
        Ok(harness)
    }

    /// Attaches the programs that restore frames to devices without traffic. Of a program of XDP that is attached nowhere, the kernel
    /// makes a direct call at each test run (kernel/bpf/dispatcher.c), and waits for RCU each time.
    pub fn attach_restorers(&mut self, devices: [&str; XDP_RESTORERS.len()]) -> Result<()> {
        for (name, device) in XDP_RESTORERS.into_iter().zip(devices) {
            let program = self.ebpf.program_mut(name).with_context(|| format!("the bench has no program {name}"))?;
            <&mut Xdp>::try_from(program)?
                .attach(device, XdpMode::Driver)
                .with_context(|| format!("attaching the program {name} to {device}"))?;
        }
        Ok(())
    }

    /// Puts a program into its place.
    pub fn set(&mut self, target: Target, program: &ProgramFd) -> Result<()> {
        self.targets.set(target as u32, program, 0).with_context(|| format!("setting the program {target:?}"))
    }

    /// Puts a program of XDP into its place.
    pub fn set_xdp(&mut self, target: Target, program: &ProgramFd) -> Result<()> {
        self.xdp_targets
            .set(target as u32, program, 0)
            .with_context(|| format!("setting the program {target:?} of XDP"))
    }

    /// Runs a target on so many packets, and answers how many nanoseconds each took, the restoring included.
    pub fn run(&mut self, traffic: &mut Traffic, target: Target, runs: u32) -> Result<f64> {
        self.run_into(traffic, target, runs, None).map(|(took, _)| took)
    }

    /// Runs a target on one packet, and answers what became of it.
    pub fn run_once(&mut self, traffic: &mut Traffic, target: Target) -> Result<Vec<u8>> {
        // XDP may leave some words before it.
        let mut seen = vec![0; traffic.packet.len() + 32];
        let (_, length) = self.run_into(traffic, target, 1, Some(&mut seen))?;
        seen.truncate(length);
        Ok(seen)
    }

    fn run_into(
        &mut self,
        traffic: &mut Traffic,
        target: Target,
        runs: u32,
        packet_out: Option<&mut [u8]>,
    ) -> Result<(f64, usize)> {
        let Traffic { restorer, plan, packet, device, answer } = traffic;
        plan.program = target as u32;
        plan.lost = 0;
        self.plan.set(0, Plain(*plan), 0).context("writing the plan")?;
        let usual = if device.is_some() { XDP_PASS } else { NEXT };
        let answer = if matches!(target, Target::TcIn | Target::TcOut | Target::Xdp) { *answer } else { usual };
        let came = self
            .test_run(restorer, packet, *device, runs, packet_out, answer)
            .with_context(|| format!("running {target:?}"))?;
        Plain(*plan) = self.plan.get(&0, 0).context("reading the plan")?;
        ensure!(plan.lost == 0, "{} of {runs} runs of {target:?} did not do what they are measured for", plan.lost);
        Ok(came)
    }

    /// Runs the empty program without restoring anything.
    pub fn run_nothing(&mut self, packet: &[u8], runs: u32) -> Result<f64> {
        self.test_run("empty", packet, None, runs, None, NEXT).map(|(took, _)| took)
    }

    fn test_run(
        &self,
        program: &str,
        packet: &[u8],
        device: Option<u32>,
        runs: u32,
        packet_out: Option<&mut [u8]>,
        answer: u32,
    ) -> Result<(f64, usize)> {
        let program = self.ebpf.program(program).with_context(|| format!("the bench has no program {program}"))?;
        // `struct xdp_md`: where the frame begins and ends, what is before it, and the device.
        let context = device.map(|device| [0, u32::try_from(packet.len()).unwrap_or(0), 0, device, 0, 0]);
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: packet_out,
            ctx_in: context.as_ref().map(|context| bytemuck::cast_slice(context)),
            repeat: runs,
            ..TestRunOptions::default()
        };
        let before = thread_time()?;
        let result = match program {
            Program::Xdp(program) => program.test_run(options)?,
            program => <&SchedClassifier>::try_from(program)?.test_run(options)?,
        };
        let took = thread_time()?.saturating_sub(before);
        ensure!(result.return_value == answer, "a program answered {}, not {answer}", result.return_value);
        Ok((took.as_secs_f64() * 1e9 / f64::from(runs), usize::try_from(result.data_size_out)?))
    }
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program_mut(name).with_context(|| format!("the bench has no program {name}"))?;
    load(program).with_context(|| format!("loading the program {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

fn fill_floors(
    mut array: Array<MapData, FloorValue>,
    mut hash: HashMap<MapData, FloorKey, FloorValue>,
    mut lru: HashMap<MapData, FloorKey, FloorValue>,
) -> Result<()> {
    let value = [FLOOR_VALUE; 6];
    for number in 0..u32::try_from(FLOOR_ENTRIES)? {
        array.set(number, value, 0)?;
        hash.insert(floor_key(number), value, 0)?;
        lru.insert(floor_key(number), value, 0)?;
    }
    Ok(())
}

/// CPU time of this thread, the kernel's part included: another process that gets the CPU meanwhile is not counted.
fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's CPU time")?.into())
}
