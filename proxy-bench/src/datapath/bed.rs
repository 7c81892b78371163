//! The agent's kernel programs in fresh maps, and what they counted.

use std::ops::{Add, Sub};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{Program, ProgramFd, ProgramInfo, SchedClassifier};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use bytemuck::Pod;
use proxy_agent::kernel::{OBJECT, PROGRAMS, UPLINK_PROGRAMS, flow_config};
use proxy_common::maps::{Backend, Device, DeviceRole, FlowConfig, FlowLimits, Frontend, FrontendKey, ServiceCounters};

use super::world::{SERVICES, Side, service};
use crate::plain::Plain;

/// The first kernel whose `bpf_l4_csum_replace` knows `BPF_F_IPV6`, which the agent makes use of.
const CSUM_IPV6: KernelVersion = KernelVersion::new(6, 16, 0);
/// In a test run a packet is on the loopback device.
const LOOPBACK: u32 = 1;

/// What the programs counted, on all CPUs and over all Service ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// New flows.
    pub flows: u64,
    /// Packets translated towards a backend.
    pub packets: u64,
    /// Packets translated towards a client.
    pub replies: u64,
    /// Packets refused or dropped.
    pub drops: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            flows: self.flows + more.flows,
            packets: self.packets + more.packets,
            replies: self.replies + more.replies,
            drops: self.drops + more.drops,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self {
            flows: self.flows - less.flows,
            packets: self.packets - less.packets,
            replies: self.replies - less.replies,
            drops: self.drops - less.drops,
        }
    }
}

/// The programs and maps of one agent, none of them attached or pinned.
pub struct Bed {
    ebpf: Ebpf,
    service_stats: PerCpuArray<MapData, Plain<ServiceCounters>>,
    drop_stats: PerCpuArray<MapData, u64>,
}

impl Bed {
    /// Loads the very bytes that the agent loads, with its default sizes but for the flows.
    pub fn load(flow_sets: u32) -> Result<Self> {
        let pod = Device { role: DeviceRole::Pod as u8, detect: 1, ..Device::default() };
        Self::load_for(flow_sets, LOOPBACK, pod)
    }

    /// The same, for packets that come in by a device.
    pub fn load_for(flow_sets: u32, ifindex: u32, device: Device) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "the agent was built without its kernel programs (AYA_BUILD_SKIP was set): build it again without"
        );
        let csum_ipv6 = u8::from(KernelVersion::current().is_ok_and(|now| now >= CSUM_IPV6));
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &0_u8, false);
        loader.override_global("CSUM_IPV6", &csum_ipv6, false);
        loader.map_max_entries("flow_v4", flow_sets).map_max_entries("flow_v6", flow_sets);
        let mut ebpf = loader.load(OBJECT).context("loading the agent's kernel programs")?;
        for name in PROGRAMS.into_iter().chain(UPLINK_PROGRAMS) {
            let program = ebpf.program_mut(name).with_context(|| format!("the agent has no program {name}"))?;
            load(program).with_context(|| format!("loading the program {name}"))?;
        }
        let mut devices: HashMap<MapData, u32, Plain<Device>> = take(&mut ebpf, "device")?;
        devices.insert(ifindex, Plain(device), 0).context("writing the device")?;
        let mut config: Array<MapData, Plain<FlowConfig>> = take(&mut ebpf, "flow_config")?;
        let flows = flow_config(flow_sets, FlowLimits::DEFAULT).context("preparing the tables of flows")?;
        config.set(0, Plain(flows), 0).context("preparing the tables of flows")?;
        let service_stats = take(&mut ebpf, "service_stats")?;
        let drop_stats = take(&mut ebpf, "drop_stats")?;
        Ok(Self { ebpf, service_stats, drop_stats })
    }

    /// Writes the Services of one family and protocol, and which of their clients are masqueraded.
    pub fn fill<A: Side>(&mut self, proto: u8, masquerade: u8) -> Result<()>
    where
        FrontendKey<A>: Pod,
        Backend<A>: Pod,
    {
        let mut map = |name: &str| {
            let name = format!("{name}_{}", A::SUFFIX);
            self.ebpf.take_map(&name).with_context(|| format!("the agent has no map {name}"))
        };
        let mut frontends: HashMap<MapData, Plain<FrontendKey<A>>, Plain<Frontend>> = map("frontend")?.try_into()?;
        let mut slots: Array<MapData, u32> = map("slot")?.try_into()?;
        let mut backends: Array<MapData, Plain<Backend<A>>> = map("backend")?.try_into()?;
        for number in 0..SERVICES {
            let service = service::<A>(number, proto, masquerade);
            backends.set(service.backend.service, Plain(service.backend), 0).context("writing a backend")?;
            slots.set(number, service.backend.service, 0).context("writing a slot")?;
            frontends.insert(Plain(service.key), Plain(service.frontend), 0).context("writing a frontend")?;
        }
        Ok(())
    }

    /// The descriptor of a program.
    pub fn program(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.find(name)?.fd()?.try_clone()?)
    }

    /// What the kernel knows about a program.
    pub fn info(&self, name: &str) -> Result<ProgramInfo> {
        self.find(name)?.info().with_context(|| format!("asking about the program {name}"))
    }

    fn find(&self, name: &str) -> Result<&Program> {
        self.ebpf.program(name).with_context(|| format!("the agent has no program {name}"))
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        for id in 1..=SERVICES {
            let of_cpus = self.service_stats.get(&id, 0).context("reading the counters")?;
            for Plain(counters) in of_cpus.iter() {
                let ServiceCounters { flows, packets, reply_packets, refused, .. } = *counters;
                counts = counts + Counts { flows, packets, replies: reply_packets, drops: refused };
            }
        }
        for of_cpus in self.drop_stats.iter() {
            counts.drops += of_cpus.context("reading the counters of drops")?.iter().sum::<u64>();
        }
        Ok(counts)
    }
}

/// Loads a program for its hook.
pub fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::Xdp(program) => Ok(program.load()?),
        program => Ok(<&mut SchedClassifier>::try_from(program)?.load()?),
    }
}

fn take<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf.take_map(name).with_context(|| format!("the agent has no map {name}"))?;
    Ok(map.try_into()?)
}
