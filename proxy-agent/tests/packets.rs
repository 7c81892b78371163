//! The packet table, run by the tc and XDP programs in the kernel (BPF_PROG_TEST_RUN). Needs root and a BPF filesystem at
//! /sys/fs/bpf.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use anyhow::{Result, bail, ensure};
use aya::programs::{TestRun, TestRunOptions};
use proxy_agent::devices::Layer;
use proxy_agent::kernel::{Direction, FamilyMaps, MapSet, PacketLog, PinLock, PinPath, Programs, Sizes, SocketLb};
use proxy_agent::plan::{FamilyOp, Op};
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::flows::MASQUERADE_PORTS;
use proxy_common::maps::{AffinityKey, Device, DeviceRole, FlowSet};
use proxy_testkit::netns::NetNs;
use proxy_testkit::packets::{Done, Executor, Hook, NODE, Scenario, Tables, Via, World, onward, run, scenarios, tcp};

/// `TCX_NEXT`, as the kernel reports it of a test run.
const NEXT: u32 = u32::MAX;
/// `TCX_DROP`.
const DROP: u32 = 2;
/// `TCX_REDIRECT`.
const REDIRECT: u32 = 7;
/// In a test run a packet is on the loopback device.
const LOOPBACK: u32 = 1;

/// The loopback device's own: to the kernel, other packets are not for this machine.
const HERE: [u8; 6] = [0; 6];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The device that packets are sent on by, and where to.
const UP: [u8; 6] = [2, 0, 0, 0, 0, 4];
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// What XDP leaves before a packet that tc has nothing to do about.
const MARK: [u8; 4] = 0x706f_696e_u32.to_ne_bytes();
/// `XDP_DROP`, `XDP_PASS`, `XDP_TX`, `XDP_REDIRECT`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The programs, with maps under a pin path of their own that goes away with them.
struct TcExecutor {
    layer: Layer,
    /// Whether there are routes by which packets are sent on.
    is_sending: bool,
    programs: Programs,
    maps: MapSet,
    /// None of one that shares another's maps.
    _pins: Option<(PinLock, Pins)>,
}

/// A pin path that goes away with this.
struct Pins(PinPath);

impl TcExecutor {
    fn load(layer: Layer) -> Result<Self> {
        Ok(Self::load_twice(layer, "table", 1_000)?.0)
    }

    /// Two that have their maps in common, with room for so many flows.
    fn load_twice(layer: Layer, name: &str, max_flows: u32) -> Result<(Self, Self)> {
        let path = format!("/sys/fs/bpf/pointsman-packets-{}-{layer:?}-{name}", std::process::id());
        let pins = Pins(PinPath::new(path));
        let lock = pins.0.prepare()?;
        let sizes = Sizes {
            max_frontends: 100,
            max_slots: 100,
            max_backends: 100,
            max_services: 100,
            initial_flows: max_flows,
            max_flows,
            max_devices: 10,
            max_ranges: 40,
            max_affinities: 100,
            max_datagrams: 10,
        };
        let load = || -> Result<(Programs, MapSet)> {
            let mut programs = Programs::load(&pins.0, &sizes, PacketLog::Off, SocketLb::Off)?;
            programs.load_uplink()?;
            programs.load_xdp()?;
            Ok((programs, MapSet::open(&pins.0.maps())?))
        };
        let ((programs, maps), second) = (load()?, load()?);
        let second = Self { layer, is_sending: false, programs: second.0, maps: second.1, _pins: None };
        Ok((Self { layer, is_sending: false, programs, maps, _pins: Some((lock, pins)) }, second))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.0.path()) {
            eprintln!("removing {}: {error}", self.0.path().display());
        }
    }
}

impl Executor for TcExecutor {
    fn reset(&mut self, world: &World) -> Result<()> {
        forget_flows(&self.maps.v4)?;
        forget_flows(&self.maps.v6)?;
        remember(&self.maps.v4, &world.v4)?;
        remember(&self.maps.v6, &world.v6)?;
        for op in ops(&world.v4).map(Op::V4).chain(ops(&world.v6).map(Op::V6)) {
            self.maps.apply(&op)?;
        }
        Ok(())
    }

    fn run(&mut self, hook: Hook, via: Via, packet: &[u8]) -> Result<Done> {
        let is_uplink = self.layer == Layer::Uplink && via.role() == DeviceRole::Uplink;
        let device = Device {
            masquerade_v4: Ipv4::new(NODE.0.octets()),
            masquerade_v6: Ipv6::new(NODE.1.octets()),
            ethernet: if is_uplink { HERE } else { BRIDGE },
            role: via.role() as u8,
            detect: via.detect() as u8,
            ..Device::default()
        };
        self.maps.device.set(&LOOPBACK, &device)?;
        let (layer, direction) = match hook {
            Hook::Onward => (Layer::Uplink, Direction::In),
            Hook::Ingress if is_uplink && !self.is_sending => (Layer::Uplink, Direction::In),
            // Where there is a device that sends packets on, the others are those that do not.
            Hook::Ingress if self.layer == Layer::Uplink => (Layer::Ethernet, Direction::In),
            Hook::Ingress => (self.layer, Direction::In),
            Hook::Egress => (self.layer, Direction::Out),
        };
        let protocol = if packet.first().is_some_and(|byte| byte >> 4 == 4) { [0x08, 0x00] } else { [0x86, 0xdd] };
        let sent = [&HERE[..], &THERE, &protocol, packet].concat();
        if (layer, direction) == (Layer::Uplink, Direction::In)
            && let Some(done) = self.run_xdp(&sent)?
        {
            return Ok(done);
        }
        let mut seen = vec![0; sent.len() + 100];
        let program = self.programs.classifier(layer, direction)?;
        let options = TestRunOptions { data_in: Some(&sent), data_out: Some(&mut seen), ..TestRunOptions::default() };
        let result = program.test_run(options)?;
        seen.truncate(usize::try_from(result.data_size_out)?);
        let (ethernet, rest) = seen.split_at(14);
        let addresses = [&HERE[..], &THERE, &protocol].concat();
        Ok(match result.return_value {
            NEXT => {
                let to_bridge = [&BRIDGE[..], &THERE, &protocol].concat();
                ensure!(
                    ethernet == addresses || (self.layer == Layer::BridgePort && ethernet == to_bridge),
                    "Ethernet header {ethernet:02x?}"
                );
                Done::Pass(rest.to_vec())
            }
            // What that device's program does is the rest.
            REDIRECT if layer == Layer::Uplink && ethernet == addresses => match self.run(Hook::Egress, via, rest)? {
                Done::Pass(packet) => Done::SentOn(packet),
                other => other,
            },
            REDIRECT => {
                ensure!(ethernet == [&THERE[..], &HERE, &protocol].concat(), "Ethernet header {ethernet:02x?}");
                Done::Reply(rest.to_vec())
            }
            DROP => Done::Drop,
            other => bail!("the program answered {other}"),
        })
    }
}

impl TcExecutor {
    /// The same, in a namespace where what is for `remote` and for clients outside leaves by `up0`.
    fn load_sending() -> Result<Self> {
        let mut executor = Self::load_twice(Layer::Uplink, "sending", 1_000)?.0;
        executor.is_sending = true;
        let masquerade = (Ipv4::new(NODE.0.octets()), Ipv6::new(NODE.1.octets()));
        let up = Device {
            ethernet: UP,
            flags: Device::SENDS_ON,
            masquerade_v4: masquerade.0,
            masquerade_v6: masquerade.1,
            ..Device::default()
        };
        executor.maps.device.set(&nix::net::if_::if_nametoindex("up0")?, &up)?;
        Ok(executor)
    }

    /// What the XDP program does with a frame; nothing if it leaves it to tc, as it came.
    fn run_xdp(&self, sent: &[u8]) -> Result<Option<Done>> {
        let mut seen = vec![0; sent.len() + 100];
        let options = TestRunOptions { data_in: Some(sent), data_out: Some(&mut seen), ..TestRunOptions::default() };
        let result = self.programs.xdp()?.test_run(options)?;
        seen.truncate(usize::try_from(result.data_size_out)?);
        let packet = |frame: &[u8]| frame.get(14..).unwrap_or_default().to_vec();
        Ok(match (result.return_value, seen.strip_prefix(&MARK)) {
            (XDP_PASS, Some(frame)) => {
                ensure!(frame[..14] == sent[..14], "Ethernet header {:02x?}", &frame[..14]);
                Some(Done::Pass(packet(frame)))
            }
            (XDP_PASS, None) => {
                ensure!(seen == sent, "it was left to tc and is {seen:02x?}");
                None
            }
            (XDP_DROP, _) => Some(Done::Drop),
            (XDP_REDIRECT, None) => {
                let next_hop = [&NEXT_HOP[..], &UP, &sent[12..14]].concat();
                ensure!(seen[..14] == next_hop, "Ethernet header {:02x?}", &seen[..14]);
                Some(Done::SentOn(packet(&seen)))
            }
            (XDP_TX, _) => bail!("sent back by the device that it came from"),
            (other, _) => bail!("XDP answered {other}"),
        })
    }
}

fn forget_flows<A: Address>(maps: &FamilyMaps<A>) -> Result<()>
where
    FlowSet<A>: bytemuck::Pod,
{
    let mut used = Vec::new();
    maps.flow.for_each(|index, sets| {
        if sets.iter().any(|set| set.ways.iter().any(|way| !way.is_free())) {
            used.push(index);
        }
    })?;
    used.iter().try_for_each(|index| maps.flow.set(index, &bytemuck::Zeroable::zeroed()))?;
    Ok(())
}

/// What is remembered of clients is what the world says, and nothing of the scenario before.
fn remember<A: Address>(maps: &FamilyMaps<A>, tables: &Tables<A>) -> Result<()>
where
    AffinityKey<A>: bytemuck::Pod,
{
    let mut keys = Vec::new();
    maps.affinity.for_each(|key, _| keys.push(key))?;
    for key in keys {
        maps.affinity.remove(&key)?;
    }
    for (key, affinity) in &tables.affinities {
        maps.affinity.set(key, affinity)?;
    }
    Ok(())
}

fn ops<A: Address>(tables: &Tables<A>) -> impl Iterator<Item = FamilyOp<A>> {
    let backends = (0..).zip(&tables.backends).map(|(id, backend)| FamilyOp::SetBackend { id, backend: *backend });
    let slots = std::iter::once(FamilyOp::SetSlots { first: 0, backends: tables.slots.clone().into() });
    let frontends =
        tables.frontends.iter().map(|(key, frontend)| FamilyOp::SetFrontend { key: *key, frontend: *frontend });
    let nets = (0..).zip(&tables.service_nets).map(|(index, net)| FamilyOp::SetServiceNet { index, net: *net });
    let ranges = tables.ranges.iter().map(|key| FamilyOp::SetRange { key: *key });
    backends.chain(slots).chain(nets).chain(ranges).chain(frontends)
}

fn the_table_holds(layer: Layer) {
    holds(&mut TcExecutor::load(layer).unwrap(), &scenarios());
}

fn holds(executor: &mut TcExecutor, all: &[Scenario]) {
    let layer = executor.layer;
    let failures: Vec<String> =
        all.iter().filter_map(|scenario| run(scenario, executor).err()).map(|error| format!("{error:#}")).collect();
    println!("{layer:?}: {} scenarios, {} failed", all.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn the_packet_table_holds_in_tc() {
    the_table_holds(Layer::Ethernet);
}

#[test]
fn the_packet_table_holds_in_tc_on_a_bridge_port() {
    the_table_holds(Layer::BridgePort);
}

#[test]
fn the_packet_table_holds_in_xdp() {
    the_table_holds(Layer::Uplink);
}

/// The neighbour of all routes is known, but for one client's.
#[test]
fn what_is_sent_on_holds_in_xdp() {
    let ns = NetNs::create(&format!("pm{}-packets", std::process::id())).unwrap();
    ns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/all/accept_dad", "0")])
        .unwrap();
    let hop = "lladdr 02:00:00:00:00:05 dev up0 nud permanent";
    ns.ip(&format!(
        "link add up0 address 02:00:00:00:00:04 type veth peer name down0
         link set up0 up
         link set down0 up
         addr add 172.18.0.2/24 dev up0
         addr add fd00:172:18::2/64 dev up0 nodad
         neigh add 172.18.0.1 {hop}
         neigh add fd00:172:18::1 {hop}
         route add 10.244.2.0/24 via 172.18.0.1
         route add fd00:2442::/32 via fd00:172:18::1
         route add 198.51.100.9/32 via 172.18.0.1
         route add 2001:db8:0:1::9/128 via fd00:172:18::1
         route add 198.51.100.10/32 via 172.18.0.9
         route add 2001:db8:0:1::a/128 via fd00:172:18::9"
    ))
    .unwrap();
    ns.run(|| holds(&mut TcExecutor::load_sending().unwrap(), &onward())).unwrap();
}

/// All CPUs at once open, use and evict the same few connections in a table that is far too small. Whatever comes out is a
/// packet of one flow, with the backend of its Service, or the Service of its backend.
#[test]
fn no_cpu_sees_a_mix_of_two_flows() {
    const ROUNDS: u32 = 60_000;
    let (mut first, second) = TcExecutor::load_twice(Layer::Ethernet, "stress", 8).unwrap();
    first.reset(&World::new()).unwrap();
    let translated: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = [first, second]
            .into_iter()
            .zip(0_u64..)
            .map(|(mut executor, number)| {
                scope.spawn(move || (use_few_flows(&mut executor, number, ROUNDS).unwrap(), executor))
            })
            .collect();
        // The pins go away with the first: both are to be done before.
        let done: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.into_iter().map(|(translated, _)| translated).sum()
    });
    println!("{translated} packets translated");
    assert!(translated > ROUNDS, "{translated} packets translated");
}

/// Sends requests of one pod through Services, and replies to it. Answers how many were translated.
fn use_few_flows(executor: &mut TcExecutor, number: u64, rounds: u32) -> Result<u32> {
    let at = |address: &str, port: u16| std::net::SocketAddr::new(address.parse().unwrap(), port);
    // Two Services have the same backend: one client port through both needs another port, and an alias.
    const SERVICES: [(&str, &str); 3] =
        [("10.96.0.1", "10.244.2.7"), ("10.96.0.4", "10.244.2.7"), ("10.96.0.2", "10.244.1.6")];
    const POD: &str = "10.244.1.5";
    const PORTS: std::ops::Range<u16> = 40_000..40_012;
    let mut random = fastrand::Rng::with_seed(number);
    let mut translated = 0;
    for _ in 0..rounds {
        let (vip, backend) = SERVICES[random.usize(..SERVICES.len())];
        let from = at(POD, random.u16(PORTS));
        let flags = ["S", "A", "PA", "FA", "R"][random.usize(..5)];
        let request = tcp(from, at(vip, 80), flags, b"request");
        let port = match executor.run(Hook::Ingress, Via::Pod, &request)? {
            Done::Drop => continue,
            Done::Pass(seen) => {
                let port = u16::from_be_bytes([seen[20], seen[21]]);
                ensure!(
                    seen == tcp(at(POD, port), at(backend, 8080), flags, b"request"),
                    "a request became {seen:02x?}"
                );
                ensure!(port == from.port() || MASQUERADE_PORTS.contains(&port), "a request from port {port}");
                port
            }
            Done::Reply(_) | Done::SentOn(_) => bail!("refused or sent on"),
        };
        translated += 1;
        let reply = tcp(at(backend, 8080), at(POD, port), "A", b"reply");
        let Done::Pass(seen) = executor.run(Hook::Egress, Via::Pod, &reply)? else { bail!("a reply was dropped") };
        if seen == reply {
            // The other CPU has evicted the flow.
            continue;
        }
        let client = u16::from_be_bytes([seen[22], seen[23]]);
        let is_one = SERVICES
            .iter()
            .filter(|(_, of)| *of == backend)
            .any(|(vip, _)| seen == tcp(at(vip, 80), at(POD, client), "A", b"reply"));
        ensure!(is_one && PORTS.contains(&client), "a reply became {seen:02x?}");
        ensure!(client == port || MASQUERADE_PORTS.contains(&port), "a reply to port {port} came to {client}");
        translated += 1;
    }
    Ok(translated)
}

/// While closed connections fill most of a table, so that many lie in other sets than their own, no masquerade port is
/// given twice to one backend: its socket may be in TIME_WAIT, and refuse strangers.
#[test]
fn masquerade_ports_of_closed_connections_are_not_given_again() {
    const FLOWS: u16 = 1_500;
    let mut executor = TcExecutor::load_twice(Layer::Ethernet, "ports", 3_072).unwrap().0;
    executor.reset(&World::new()).unwrap();
    let at = |address: &str, port: u16| std::net::SocketAddr::new(address.parse().unwrap(), port);
    let (node_port, backend) = (at("172.18.0.2", 30_001), at("10.244.2.7", 8080));
    let mut pass = |hook, packet: Vec<u8>| match executor.run(hook, Via::Uplink, &packet).unwrap() {
        Done::Pass(packet) => packet,
        Done::Drop | Done::Reply(_) | Done::SentOn(_) => unreachable!("{packet:02x?} does not go on"),
    };
    let mut ports = std::collections::BTreeMap::new();
    for number in 0..FLOWS {
        let from = at(&format!("11.0.{}.{}", number / 250, number % 250), 40_000 + number);
        let inside = pass(Hook::Ingress, tcp(from, node_port, "S", b""));
        let leaves = pass(Hook::Egress, inside);
        let port = u16::from_be_bytes([leaves[20], leaves[21]]);
        assert!(MASQUERADE_PORTS.contains(&port), "{leaves:02x?}");
        assert_eq!(ports.insert(port, number), None, "port {port} of flow {number}");
        let near = std::net::SocketAddr::new(node_port.ip(), port);
        for (flags, is_reply) in [("SA", true), ("A", false), ("FA", true), ("FA", false), ("A", true)] {
            let packet = if is_reply { tcp(backend, near, flags, b"") } else { tcp(from, node_port, flags, b"") };
            let inside = pass(Hook::Ingress, packet);
            pass(Hook::Egress, inside);
        }
    }
}
