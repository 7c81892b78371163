//! The packet table, run by the tc programs in the kernel (BPF_PROG_TEST_RUN). Needs root and a BPF filesystem at
//! /sys/fs/bpf.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use anyhow::{Result, bail, ensure};
use aya::programs::{TestRun, TestRunOptions};
use proxy_agent::devices::Layer;
use proxy_agent::kernel::{Direction, FamilyMaps, MapSet, PacketLog, PinLock, PinPath, Programs, Sizes, SocketLb};
use proxy_agent::plan::{FamilyOp, Op};
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::maps::{AffinityKey, Device, FlowKey};
use proxy_testkit::packets::{Done, Executor, Hook, NODE, Tables, Via, World, run, scenarios};

/// `TCX_NEXT`, as the kernel reports it of a test run.
const NEXT: u32 = u32::MAX;
/// `TCX_DROP`.
const DROP: u32 = 2;
/// `TCX_REDIRECT`.
const REDIRECT: u32 = 7;
/// In a test run a packet is on the loopback device.
const LOOPBACK: u32 = 1;

const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// The tc programs, with maps under a pin path of their own that goes away with them.
struct TcExecutor {
    layer: Layer,
    programs: Programs,
    maps: MapSet,
    _lock: PinLock,
    _pins: Pins,
}

/// A pin path that goes away with this.
struct Pins(PinPath);

impl TcExecutor {
    fn load(layer: Layer) -> Result<Self> {
        let pins = Pins(PinPath::new(format!("/sys/fs/bpf/pointsman-packets-{}-{layer:?}", std::process::id())));
        let lock = pins.0.prepare()?;
        let sizes = Sizes {
            max_frontends: 100,
            max_slots: 100,
            max_backends: 100,
            max_services: 100,
            max_flows: 1_000,
            max_devices: 10,
            max_ranges: 40,
            max_affinities: 100,
            max_datagrams: 10,
        };
        let programs = Programs::load(&pins.0, &sizes, PacketLog::Off, SocketLb::Off)?;
        let maps = MapSet::open(&pins.0.maps())?;
        Ok(Self { layer, programs, maps, _lock: lock, _pins: pins })
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
        let device = Device {
            masquerade_v4: Ipv4::new(NODE.0.octets()),
            masquerade_v6: Ipv6::new(NODE.1.octets()),
            bridge: BRIDGE,
            role: via.role() as u8,
            detect: via.detect() as u8,
            ..Device::default()
        };
        self.maps.device.set(&LOOPBACK, &device)?;
        let direction = match hook {
            Hook::Ingress => Direction::In,
            Hook::Egress => Direction::Out,
        };
        let protocol = if packet.first().is_some_and(|byte| byte >> 4 == 4) { [0x08, 0x00] } else { [0x86, 0xdd] };
        let sent = [&HERE[..], &THERE, &protocol, packet].concat();
        let mut seen = vec![0; sent.len() + 100];
        let program = self.programs.classifier(self.layer, direction)?;
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
            REDIRECT => {
                ensure!(ethernet == [&THERE[..], &HERE, &protocol].concat(), "Ethernet header {ethernet:02x?}");
                Done::Reply(rest.to_vec())
            }
            DROP => Done::Drop,
            other => bail!("the program answered {other}"),
        })
    }
}

fn forget_flows<A: Address>(maps: &FamilyMaps<A>) -> Result<()>
where
    FlowKey<A>: bytemuck::Pod,
    proxy_common::maps::Flow<A>: bytemuck::Pod,
{
    let mut keys = Vec::new();
    maps.flow.for_each(|key, _| keys.push(key))?;
    for key in keys {
        maps.flow.remove(&key)?;
    }
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
    let mut executor = TcExecutor::load(layer).unwrap();
    let all = scenarios();
    let failures: Vec<String> = all
        .iter()
        .filter_map(|scenario| run(scenario, &mut executor).err())
        .map(|error| format!("{error:#}"))
        .collect();
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
