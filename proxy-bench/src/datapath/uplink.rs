//! The cases of XDP: frames of clients outside that go up to the stack, and frames that are sent on.
//!
//! In a network namespace of its own, which ends with the thread: an uplink, the routes by it, and a neighbour.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use bytemuck::Pod;
use nix::sched::{CloneFlags, unshare};
use proxy_bench_ebpf::{FRAME_ENDS, Order};
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::flows::MASQUERADE_PORTS;
use proxy_common::maps::{Backend, Device, DeviceRole, FrontendKey, Masquerade};

use super::baseline::Baseline;
use super::bed::{Bed, Counts};
use super::cases::{ESTABLISHED, NEW, SETS, STRANGE, STRANGERS, known_cases};
use super::harness::{Harness, Target, Traffic, XDP_PASS, XDP_TX};
use super::leg::Leg;
use super::packet::{Flags, Protocol, ends, packet};
use super::world::{Party, Side};
use super::{Effort, name, net_figure};
use crate::report::Figure;
use crate::samples::Samples;

/// The uplink, the routes to clients and backends, and the machine that all of them lead to. Its Ethernet addresses are those
/// of the frames.
const NET: &str = "link add up0 address 02:00:00:00:00:01 type veth peer name down0
link set lo up
link set up0 up
link set down0 up
link add idle0 type veth peer name idle1
addr add 172.18.0.2/24 dev up0
addr add fd00:172:18::2/64 dev up0 nodad
neigh add 172.18.0.1 lladdr 02:00:00:00:00:02 dev up0 nud permanent
neigh add fd00:172:18::1 lladdr 02:00:00:00:00:02 dev up0 nud permanent
route add 10.128.0.0/16 via 172.18.0.1
route add 10.244.0.0/16 via 172.18.0.1
route add fd00:10:80::/48 via fd00:172:18::1
route add fd00:10:f4::/48 via fd00:172:18::1
";
/// Devices that are down: for what is to be attached somewhere.
const IDLE: [&str; 2] = ["idle0", "idle1"];
/// Sets for all flows of a case and their aliases.
const ROOMY: u32 = 131_072;
/// So many masqueraded flows fit into these sets, however they are spread.
const FITTING: u32 = ROOMY;
/// What XDP leaves before a packet that tc has nothing to do about.
const MARK: [u8; 4] = 0x706f_696e_u32.to_ne_bytes();

/// Where packets go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Up to the stack.
    Up,
    /// Out again.
    Out,
}

impl Way {
    const fn subject(self) -> &'static str {
        match self {
            Self::Up => "xdp-up",
            Self::Out => "xdp-out",
        }
    }

    const fn masquerade(self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Out => Masquerade::OUTSIDE,
        }
    }
}

/// Measures all cases.
pub fn run(effort: &Effort<'_>, baseline: &mut Baseline) -> Result<Vec<Figure>> {
    std::thread::scope(|scope| {
        let cases = scope.spawn(|| {
            let ifindex = make_net()?;
            let mut harness = Harness::load()?;
            harness.attach_restorers(IDLE)?;
            let mut figures = Vec::new();
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for way in [Way::Up, Way::Out] {
                    let mut set = Set { harness: &mut harness, effort, baseline, protocol, way, ifindex };
                    figures.extend(set.run::<Ipv4>()?);
                    figures.extend(set.run::<Ipv6>()?);
                }
            }
            Ok(figures)
        });
        cases.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes the network in a namespace of this thread, and answers the number of the uplink.
fn make_net() -> Result<u32> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{setting}"), "1").with_context(|| format!("setting {setting}"))?;
    }
    for line in NET.lines() {
        let output = Command::new("ip").args(line.split(' ')).output().context("running ip")?;
        ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    nix::net::if_::if_nametoindex("up0").context("looking for the uplink")
}

/// What one protocol is measured with.
struct Set<'a> {
    harness: &'a mut Harness,
    effort: &'a Effort<'a>,
    baseline: &'a mut Baseline,
    protocol: Protocol,
    way: Way,
    ifindex: u32,
}

impl Set<'_> {
    fn run<A: Side>(&mut self) -> Result<Vec<Figure>>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        let mut figures = Vec::new();
        let wants = |case| self.effort.wants(&name(case, self.way.subject(), A::NAME, self.protocol));
        let (wants_known, wants_new) = (known_cases().any(wants), wants(NEW));
        if wants_known {
            figures.extend(self.known::<A>()?);
        }
        if wants_new {
            figures.extend(self.new_flows::<A>()?);
        }
        Ok(figures)
    }

    fn known<A: Side>(&mut self) -> Result<Vec<Figure>>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        let mut figures = Vec::new();
        let bed = self.bed::<A>(ROOMY)?;
        let mut next = 0;
        for (case, bits) in ESTABLISHED {
            let missing = (1 << bits) - next;
            self.open::<A>(&bed, &mut next, missing)?;
            figures.extend(self.measure::<A>(&bed, case, Leg::Request, Order::random(bits), None)?);
        }
        if self.way == Way::Up {
            figures.extend(self.measure::<A>(&bed, STRANGE, Leg::StrangerIn, Order::random(STRANGERS), None)?);
        }
        Ok(figures)
    }

    fn new_flows<A: Side>(&mut self) -> Result<Option<Figure>>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        // Up, nearly each new flow evicts one that is half open. What is sent on has room.
        let (sets, first, runs) = match self.way {
            Way::Up => (SETS, SETS * 10, self.effort.runs),
            Way::Out => (ROOMY, 0, self.effort.runs.min(FITTING / (self.effort.chunks + 10))),
        };
        let bed = self.bed::<A>(sets)?;
        let mut next = 0;
        self.open::<A>(&bed, &mut next, first)?;
        let effort = Effort { runs, ..*self.effort };
        let mut set = Set { effort: &effort, harness: self.harness, baseline: self.baseline, ..*self };
        set.measure::<A>(&bed, NEW, Leg::Open, Order::counting(), Some(&mut next))
    }

    fn bed<A: Side>(&mut self, flow_sets: u32) -> Result<Bed>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        let [here, _] = FRAME_ENDS;
        let device = Device {
            masquerade_v4: bytemuck::pod_read_unaligned(&Ipv4::base(Party::Node)[..4]),
            masquerade_v6: bytemuck::pod_read_unaligned(&Ipv6::base(Party::Node)),
            ethernet: here,
            role: DeviceRole::Uplink as u8,
            flags: Device::SENDS_ON,
            ..Device::default()
        };
        let mut bed = Bed::load_for(flow_sets, self.ifindex, device)?;
        bed.fill::<A>(self.protocol.number(), self.way.masquerade())?;
        self.harness.set_xdp(Target::Xdp, &bed.program("xdp_up")?)?;
        Ok(bed)
    }

    /// Opens flows by the first packets of their clients.
    fn open<A: Side>(&mut self, bed: &Bed, next: &mut u32, flows: u32) -> Result<()> {
        if flows == 0 {
            return Ok(());
        }
        let before = bed.counts()?;
        let mut traffic = self.traffic::<A>(Leg::Open, Order::counting())?;
        traffic.plan.count_from(*next);
        self.harness.run(&mut traffic, Target::Xdp, flows).context("opening flows")?;
        *next += flows;
        let flows = u64::from(flows);
        expect(bed, before, Counts { flows, packets: flows, ..Counts::default() }).context("opening flows")
    }

    fn traffic<A: Side>(&self, leg: Leg, order: Order) -> Result<Traffic> {
        let mut traffic = leg.traffic::<A>(self.protocol, order)?;
        traffic.restorer = A::XDP_REQUEST;
        traffic.device = Some(self.ifindex);
        traffic.answer = if self.way == Way::Out { XDP_TX } else { XDP_PASS };
        Ok(traffic)
    }

    /// Measures a case, as those of tc are. With `next`, each packet opens a flow of its own, counted from there.
    fn measure<A: Side>(
        &mut self,
        bed: &Bed,
        case: &'static str,
        leg: Leg,
        order: Order,
        mut next: Option<&mut u32>,
    ) -> Result<Option<Figure>> {
        let subject = self.way.subject();
        let name = name(case, subject, A::NAME, self.protocol);
        if !self.effort.wants(&name) {
            return Ok(None);
        }
        let mut traffic = self.traffic::<A>(leg, order)?;
        let (mut nothing, mut baseline, mut program) = <(Samples, Samples, Samples)>::default();
        let before = bed.counts()?;
        let Effort { chunks, runs, .. } = *self.effort;
        let mut follow = |traffic: &mut Traffic, runs: u32| {
            if let Some(next) = &mut next {
                traffic.plan.count_from(**next);
                **next += runs;
            }
        };
        for _ in 0..chunks {
            nothing.push(self.harness.run(&mut traffic.clone(), Target::Empty, runs)?);
            baseline.push(self.harness.run(&mut traffic.clone(), Target::LruHot, runs)?);
            follow(&mut traffic, runs);
            program.push(self.harness.run(&mut traffic, Target::Xdp, runs)?);
        }
        follow(&mut traffic, 1);
        let seen = self.harness.run_once(&mut traffic, Target::Xdp)?;

        let times = u64::from(chunks) * u64::from(runs) + 1;
        let flows = if next.is_some() { times } else { 0 };
        let packets = leg.counts().packets * times;
        expect(bed, before, Counts { flows, packets, ..Counts::default() }).with_context(|| name.clone())?;
        self.check::<A>(leg, &traffic, &seen).context(name)?;
        self.baseline.push(&baseline, &nothing);
        Ok(Some(net_figure(case, subject, A::NAME, self.protocol, &program, &nothing)))
    }

    /// Compares what became of the last frame with what should have.
    fn check<A: Side>(&self, leg: Leg, traffic: &Traffic, seen: &[u8]) -> Result<()> {
        if self.way == Way::Up {
            let Some(seen) = seen.strip_prefix(&MARK) else { bail!("tc was not told: {seen:02x?}") };
            return leg.check::<A>(traffic, self.protocol, seen);
        }
        let at = FRAME_ENDS.as_flattened().len() + 2 + A::HEADER;
        let port = seen.get(at..at + 2).and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
        let port = port.filter(|port| MASQUERADE_PORTS.contains(port)).context("it was not masqueraded")?;
        let mut tuple = leg.after::<A>(traffic);
        tuple.near = A::from_bytes(&A::base(Party::Node));
        tuple.near_port = port.to_be_bytes();
        let (node, backend) = ends(&tuple);
        let flags = if leg == Leg::Open { Flags::Syn } else { Flags::Ack };
        let mut expected = packet(node, backend, self.protocol, flags)?;
        hop(&mut expected, A::HEADER_CHECKSUM);
        ensure!(expected == seen, "expected\n  {expected:02x?}\nseen\n  {seen:02x?}");
        Ok(())
    }
}

/// What a router does to a frame, that sends it back where it came from.
fn hop(frame: &mut [u8], header_checksum: Option<usize>) {
    let [destination, source] = FRAME_ENDS;
    frame[..6].copy_from_slice(&source);
    frame[6..12].copy_from_slice(&destination);
    if let Some(at) = header_checksum {
        frame[14 + 8] -= 1;
        let mut change = proxy_common::datapath::checksum::Delta::default();
        change.replace([frame[14 + 8] + 1, 0], [frame[14 + 8], 0]);
        let sum = change.applied_to([frame[14 + at], frame[14 + at + 1]]);
        frame[14 + at..14 + at + 2].copy_from_slice(&sum);
    } else {
        frame[14 + 7] -= 1;
    }
}

/// Sees to it that this was counted. XDP leaves to tc what has a checksum that the device might be yet to complete, as one of
/// 65,536 looks, and one packet in 15 s for each way, so that the kernel asks for the neighbour.
fn expect(bed: &Bed, before: Counts, expected: Counts) -> Result<()> {
    let counted = bed.counts()? - before;
    let left = expected.packets.saturating_sub(counted.packets);
    let is_few = left <= 8 + expected.packets / 512;
    ensure!(
        is_few && Counts { packets: counted.packets + left, ..counted } == expected,
        "the programs counted {counted:?}, and what was sent is {expected:?}"
    );
    Ok(())
}
