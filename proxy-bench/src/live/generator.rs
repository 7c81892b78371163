//! The generator: an XDP program on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`), each sent by `bpf_redirect` out of a device
//! whose peer is the node's. What arrives is counted and dropped by a program at the last device.
//!
//! Making a frame costs some tens of nanoseconds, so that what is measured is the node. All of it, the node's work too, is
//! done by the one thread that runs the generator, in the softirqs that it raises; what ksoftirqd of its CPU does is added.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use proxy_bench_ebpf::{Arrival, Frame, Order, Plan};
use proxy_testkit::netns::NsHandle;

use crate::datapath::packet::{Flags, Protocol, packet, teach};
use crate::plain::Plain;
use crate::{OBJECT, ground::servers::COUNT};
use proxy_common::addr::Ipv4;

/// Frames that are sent before the other side gets its turn: a veth device's ring has room for 256.
const BATCH: u32 = 64;

/// Packets to be sent.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    /// The namespace that they are sent in, and the device there.
    pub ns: NsHandle,
    pub device: String,
    /// Ethernet address of the device's peer.
    pub mac: [u8; 6],
    /// The client's address, and what it talks to.
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub port: u16,
    /// Which flows.
    pub order: Order,
    /// The number of the first flow, where they are counted through.
    pub first: u32,
}

/// Where packets are counted and dropped.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub ns: NsHandle,
    pub device: String,
    /// By XDP, for frames that come as such; else by tc, which is cheaper for all others.
    pub by_xdp: bool,
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// CPU time a packet, in nanoseconds.
    pub cost: f64,
    /// How many arrived, of how many.
    pub arrived: u64,
    pub sent: u64,
    /// The source address of the last one.
    pub source: Ipv4Addr,
}

/// The programs, loaded.
pub(super) struct Generator {
    ebpf: Ebpf,
    plan: Array<MapData, Plain<Plan>>,
    frame: Array<MapData, Plain<Frame>>,
    arrived: PerCpuArray<MapData, Plain<Arrival>>,
    cpu: usize,
}

enum Attached {
    Tc(SchedClassifierLinkId),
    Xdp(XdpLinkId),
}

impl Generator {
    pub(super) fn load() -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "this bench was built without its kernel programs (AYA_BUILD_SKIP was set): build it again without"
        );
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("loading the bench's kernel programs")?;
        for name in ["live_generate", "live_count_xdp"] {
            xdp(&mut ebpf, name)?.load().with_context(|| format!("loading the program {name}"))?;
        }
        tc(&mut ebpf)?.load().context("loading the program live_count_tc")?;
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("the bench has no map {name}"));
        let (plan, frame, arrived) = (take("live_plan")?, take("frame")?, take("arrived")?);
        let cpu = std::thread::available_parallelism().context("counting the CPUs")?.get() - 1;
        Ok(Self { ebpf, plan: plan.try_into()?, frame: frame.try_into()?, arrived: arrived.try_into()?, cpu })
    }

    /// Sends so many packets and counts what arrives.
    pub(super) fn run(&mut self, traffic: &Traffic, sink: &Sink, packets: u32) -> Result<Outcome> {
        let attached = self.attach(sink).with_context(|| format!("counting at {}", sink.device))?;
        let outcome = self.send(traffic, packets);
        match attached {
            Attached::Tc(link) => tc(&mut self.ebpf)?.detach(link)?,
            Attached::Xdp(link) => xdp(&mut self.ebpf, "live_count_xdp")?.detach(link)?,
        }
        outcome
    }

    fn attach(&mut self, sink: &Sink) -> Result<Attached> {
        let ebpf = &mut self.ebpf;
        sink.ns.run(move || {
            if sink.by_xdp {
                return Ok(Attached::Xdp(xdp(ebpf, "live_count_xdp")?.attach(&sink.device, XdpMode::Driver)?));
            }
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            Ok(Attached::Tc(tc(ebpf)?.attach_with_options(&sink.device, TcAttachType::Ingress, options)?))
        })?
    }

    fn send(&mut self, traffic: &Traffic, packets: u32) -> Result<Outcome> {
        let Traffic { ns, device, mac, from, to, port, order, first } = traffic;
        let sample = packet((*from, 1).into(), (*to, *port).into(), Protocol::Udp, Flags::Ack)?;
        let mut plan = Plan {
            state: 0,
            order: *order,
            last: 0,
            lost: 0,
            program: 0,
            spread: 0,
            near: wide(*from),
            far: wide(*to),
            tcp_tail: [0; 8],
            transport_head: [0; 4],
            far_port: port.to_be_bytes(),
            ttl_proto: [0; 2],
            header_sum: 0,
            transport_sum: 0,
            zero: [0; 4],
        };
        teach::<Ipv4>(&mut plan, &sample, Protocol::Udp)?;
        plan.count_from(*first);
        self.plan.set(0, Plain(plan), 0).context("writing the plan")?;
        let mut ethernet = [0; proxy_bench_ebpf::ETHERNET];
        let head = mac.iter().copied().chain([2, 0, 0, 2, 0, 0, 8, 0]);
        ethernet.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        let ip_head = sample.get(14..22).context("a packet without a header")?.try_into()?;
        let mut frame = Frame { device: 0, arrival_port: COUNT.to_be_bytes(), ethernet, ip_head };

        let before = self.arrived()?;
        let (ebpf, frames, cpu) = (&self.ebpf, &mut self.frame, self.cpu);
        let took = ns.run(move || -> Result<Duration> {
            let mut one = CpuSet::new();
            one.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("staying on CPU {cpu}"))?;
            frame.device = nix::net::if_::if_nametoindex(device.as_str())?;
            frames.set(0, Plain(frame), 0).context("writing the frame")?;
            let program = ebpf.program("live_generate").context("the bench has no generator")?;
            let program: &Xdp = program.try_into()?;
            let options = TestRunOptions {
                data_in: Some(&sample),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            let before = cpu_time(cpu)?;
            program.test_run(options).context("running the generator")?;
            Ok(cpu_time(cpu)?.saturating_sub(before))
        })??;
        let now = self.arrived()?;
        Ok(Outcome {
            cost: took.as_secs_f64() * 1e9 / f64::from(packets),
            arrived: now.packets - before.packets,
            sent: packets.into(),
            source: now.source.into(),
        })
    }

    fn arrived(&self) -> Result<Arrival> {
        let mut sum = Arrival::default();
        for Plain(one) in self.arrived.get(&0, 0).context("reading what arrived")?.iter() {
            sum.packets += one.packets;
            sum.source = sum.source.max(one.source);
        }
        Ok(sum)
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the bench has no program {name}"))?.try_into()?)
}

fn tc(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut("live_count_tc").context("the bench has no program live_count_tc")?.try_into()?)
}

fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(address.octets()).for_each(|(to, from)| *to = from);
    bytes
}

/// CPU time of this thread and of its CPU's ksoftirqd, which takes over when a softirq lasts.
fn cpu_time(cpu: usize) -> Result<Duration> {
    let own: Duration =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's CPU time")?.into();
    Ok(own + ksoftirqd(cpu)?)
}

fn ksoftirqd(cpu: usize) -> Result<Duration> {
    let name = format!("ksoftirqd/{cpu}\n");
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let path = entry.path();
        // Kernel threads come first, and are few.
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name) {
            let times = fs::read_to_string(path.join("schedstat")).context("reading ksoftirqd's time")?;
            let nanoseconds =
                times.split(' ').next().unwrap_or_default().parse().context("a time that is no number")?;
            return Ok(Duration::from_nanos(nanoseconds));
        }
    }
    Ok(Duration::ZERO)
}
