//! The host's executor: the core as ordinary Rust, with maps in memory.

use std::collections::HashMap;

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::checksum::{Delta, never_zero};
use proxy_common::datapath::{Host, Origin, Packet, Route, Tables, TransportChange, Verdict, Way, egress, ingress};
use proxy_common::flows::Shared;
use proxy_common::maps::{
    Affinity, AffinityKey, AnswerBudget, Backend, Device, EarlyKey, FlowConfig, FlowEvent, FlowHold, FlowLimits,
    FlowSet, Fragment, FragmentKey, Frontend, FrontendKey, RangeKey, ServiceCounters, ServiceNet,
};

use super::flows::HostFlows;
use super::{Done, Executor, Hook, NODE, Via, World, uplink};

/// Maps of one family in memory.
struct FamilyMaps<A: Shared> {
    frontends: HashMap<FrontendKey<A>, Frontend>,
    slots: Vec<u32>,
    backends: Vec<Backend<A>>,
    ranges: Vec<RangeKey<A>>,
    service_nets: Vec<ServiceNet<A>>,
    affinities: HashMap<AffinityKey<A>, Affinity>,
    flows: HostFlows<A>,
    fragments: HashMap<FragmentKey<A>, Fragment<A>>,
}

impl<A: Shared> Clone for FamilyMaps<A> {
    fn clone(&self) -> Self {
        Self {
            frontends: self.frontends.clone(),
            slots: self.slots.clone(),
            backends: self.backends.clone(),
            ranges: self.ranges.clone(),
            service_nets: self.service_nets.clone(),
            affinities: self.affinities.clone(),
            flows: self.flows.copy(),
            fragments: self.fragments.clone(),
        }
    }
}

/// The core's surroundings in memory.
#[derive(Clone)]
pub struct HostEnv {
    v4: FamilyMaps<Ipv4>,
    v6: FamilyMaps<Ipv6>,
    /// Seconds since boot.
    pub now: u32,
    /// New flows wait before this time.
    pub hold: FlowHold,
    random: u32,
    device: Device,
    budget: AnswerBudget,
    origin: Option<Origin>,
    uplink: Option<uplink::Hook>,
    counters: HashMap<u32, ServiceCounters>,
}

impl HostEnv {
    /// The world's maps, without flows.
    pub fn new(world: &World) -> Self {
        Self::with_sets(world, 8)
    }

    /// The same with tables of so many sets.
    pub fn with_sets(world: &World, sets: u32) -> Self {
        let device = Device {
            masquerade_v4: Ipv4::new(NODE.0.octets()),
            masquerade_v6: Ipv6::new(NODE.1.octets()),
            ..Device::default()
        };
        Self {
            v4: family(&world.v4, sets),
            v6: family(&world.v6, sets),
            now: 1_000,
            hold: FlowHold::default(),
            random: 0x9e37_79b9,
            device,
            budget: AnswerBudget::default(),
            origin: None,
            uplink: None,
            counters: HashMap::new(),
        }
    }

    /// Sets the device that the next packets are on.
    pub fn set_device(&mut self, via: Via) {
        self.device.role = via.role() as u8;
        self.device.detect = via.detect() as u8;
    }

    /// Sets that the packet comes in by an uplink that sends packets on, and which of its hooks is next.
    pub(super) fn set_uplink(&mut self, hook: Option<uplink::Hook>) {
        self.uplink = hook;
    }

    /// Sets whose sockets are next.
    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = Some(origin);
    }

    /// Sets all that is known of the device that the next packets are on.
    pub fn set_device_entry(&mut self, device: Device) {
        self.device = device;
        self.origin = None;
    }

    /// Puts other entries into the maps, as the agent does. What the packets have stored stays: flows and affinities.
    pub fn set_world(&mut self, world: &World) {
        fn replace<A: Shared>(maps: &mut FamilyMaps<A>, new: FamilyMaps<A>) {
            let FamilyMaps { frontends, slots, backends, ranges, service_nets, affinities: _, flows: _, fragments: _ } =
                new;
            (maps.frontends, maps.slots, maps.backends) = (frontends, slots, backends);
            (maps.ranges, maps.service_nets) = (ranges, service_nets);
        }
        replace(&mut self.v4, family(&world.v4, 1));
        replace(&mut self.v6, family(&world.v6, 1));
    }

    /// What was counted on a Service port.
    pub fn counters(&self, service: u32) -> ServiceCounters {
        self.counters.get(&service).copied().unwrap_or_default()
    }

    /// How often something happened in the IPv4 table of flows.
    pub fn flow_events_v4(&self, event: FlowEvent) -> u64 {
        self.v4.flows.events(event)
    }

    /// The IPv4 table of flows.
    pub fn flows_v4(&self) -> &HostFlows<Ipv4> {
        &self.v4.flows
    }

    /// Goes on with another IPv4 table of flows. Gives the one before.
    pub fn replace_flows_v4(&mut self, flows: HostFlows<Ipv4>) -> HostFlows<Ipv4> {
        std::mem::replace(&mut self.v4.flows, flows)
    }

    /// Takes all IPv4 backends away, as the agent does when they leave their Services.
    pub fn remove_backends_v4(&mut self) {
        for backend in &mut self.v4.backends {
            *backend = Backend { generation: backend.generation + 1, ..Backend::default() };
        }
        for frontend in self.v4.frontends.values_mut() {
            frontend.count = 0;
            frontend.outside_count = 0;
        }
    }

    /// Runs one packet through a hook.
    pub fn run(&mut self, hook: Hook, packet: &mut HostPacket) -> Verdict {
        let is_v4 = packet.bytes.first().is_some_and(|byte| byte >> 4 == 4);
        match (hook, is_v4) {
            (Hook::Ingress | Hook::Onward, true) => ingress::<Ipv4, _, _>(packet, self),
            (Hook::Egress, true) => egress::<Ipv4, _, _>(packet, self),
            (Hook::Ingress | Hook::Onward, false) => ingress::<Ipv6, _, _>(packet, self),
            (Hook::Egress, false) => egress::<Ipv6, _, _>(packet, self),
        }
    }
}

fn family<A: Shared>(tables: &super::world::Tables<A>, sets: u32) -> FamilyMaps<A>
where
    FrontendKey<A>: std::hash::Hash + Eq,
    AffinityKey<A>: std::hash::Hash + Eq,
    FlowSet<A>: Zeroable,
{
    FamilyMaps {
        frontends: tables.frontends.iter().copied().collect(),
        slots: tables.slots.clone(),
        backends: tables.backends.clone(),
        ranges: tables.ranges.clone(),
        service_nets: tables.service_nets.clone(),
        affinities: tables.affinities.iter().copied().collect(),
        flows: HostFlows::new(FlowConfig::new(0x5eed, 250, sets, FlowLimits::DEFAULT)),
        fragments: HashMap::new(),
    }
}

impl Host for HostEnv {
    fn now(&mut self) -> u32 {
        self.now
    }

    fn random(&mut self) -> u32 {
        // xorshift32: what the tests need is that it goes on.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }

    fn device(&self) -> Option<Device> {
        Some(self.device)
    }

    fn origin(&self) -> Origin {
        if let Some(origin) = self.origin {
            return origin;
        }
        match self.device.detect {
            1 => Origin::Pods,
            2 => Origin::ByAddress,
            _ => Origin::Elsewhere,
        }
    }

    fn is_held(&self, now: u32) -> bool {
        now < self.hold.until
    }

    fn may_answer(&mut self, now: u32) -> bool {
        self.budget.take(now)
    }

    fn count_refusal(&mut self, service: u32) {
        if self.uplink != Some(uplink::Hook::Xdp) {
            self.count(service, |counters| counters.refused += 1);
        }
    }

    fn count(&mut self, service: u32, add: impl FnOnce(&mut ServiceCounters)) {
        add(self.counters.entry(service).or_default());
    }
}

/// Whether a range has the address that an exact key asks for: their first `prefix` bits are the same.
fn contains<A: Address>(range: &RangeKey<A>, exact: &RangeKey<A>) -> bool {
    let bits = (range.prefix.saturating_sub(RangeKey::<A>::OWNER_BITS)) as usize;
    let (of_range, of_exact) = (bytemuck::bytes_of(&range.addr), bytemuck::bytes_of(&exact.addr));
    let is_same = |bit: usize| {
        let mask = 0x80 >> (bit % 8);
        of_range.get(bit / 8).zip(of_exact.get(bit / 8)).is_some_and(|(a, b)| a & mask == b & mask)
    };
    range.owner == exact.owner && (0..bits).all(is_same)
}

/// Implements the tables of one family with one field.
macro_rules! tables {
    ($address:ty, $field:ident) => {
        impl Tables<$address> for HostEnv {
            type Flows = HostFlows<$address>;

            fn frontend(&self, key: &FrontendKey<$address>) -> Option<Frontend> {
                self.$field.frontends.get(key).copied()
            }

            fn slot(&self, index: u32) -> Option<u32> {
                self.$field.slots.get(index as usize).copied()
            }

            fn backend(&self, id: u32) -> Option<Backend<$address>> {
                self.$field.backends.get(id as usize).copied()
            }

            fn is_in_range(&self, key: &RangeKey<$address>) -> bool {
                self.$field.ranges.iter().any(|range| contains(range, key))
            }

            fn service_net(&self, index: u32) -> Option<&ServiceNet<$address>> {
                self.$field.service_nets.get(index as usize)
            }

            fn affinity(&mut self, key: &AffinityKey<$address>) -> Option<&mut Affinity> {
                self.$field.affinities.get_mut(key)
            }

            fn store_affinity(&mut self, key: &AffinityKey<$address>, affinity: &Affinity) {
                self.$field.affinities.insert(*key, *affinity);
            }

            fn is_sent_on(&mut self, client: &$address, backend: &$address) -> bool {
                let is_open = |src, dst| uplink::route(&Way { src, dst, length: 0, proto: 0 }) != Route::Closed;
                self.uplink.is_some() && is_open(*client, *backend) && is_open(*backend, *client)
            }

            fn flows(&self) -> HostFlows<$address> {
                self.$field.flows.clone()
            }

            fn fragment(&self, key: &FragmentKey<$address>) -> Option<&Fragment<$address>> {
                self.$field.fragments.get(key)
            }

            fn store_fragment(&mut self, key: &FragmentKey<$address>, fragment: &Fragment<$address>) {
                self.$field.fragments.insert(*key, *fragment);
            }
        }
    };
}
tables!(Ipv4, v4);
tables!(Ipv6, v6);

/// A packet in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    /// The bytes from the IP header on.
    pub bytes: Vec<u8>,
    /// Whether the transport checksum is left to the device (CHECKSUM_PARTIAL).
    pub is_partial: bool,
}

impl HostPacket {
    /// A packet with complete checksums.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, is_partial: false }
    }
}

/// The hooks in the kernel mask offsets, for the verifier's sake: one above would reach another place.
const MAX_OFFSET: usize = 0xff;

impl Packet for HostPacket {
    /// What comes of it then is for real devices to show.
    fn keep(&mut self, _key: &mut EarlyKey, _now: u32) -> bool {
        true
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        assert!(offset <= MAX_OFFSET, "a load at {offset}");
        let bytes = self.bytes.get(offset..offset.checked_add(size_of::<T>())?)?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        assert!(offset <= MAX_OFFSET, "a store at {offset}");
        let place = self.bytes.get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        place.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }

    fn fix_checksum(&mut self, offset: usize, change: &TransportChange) -> Option<()> {
        let old: [u8; 2] = self.load(offset)?;
        if self.is_partial {
            // The sum of the pseudo header, not its complement (`inet_proto_csum_replace_by_diff`, net/core/utils.c).
            let mut sum = change.pseudo;
            sum.add(old);
            return self.store(offset, sum.folded().to_ne_bytes());
        }
        let mut sum = Delta::default();
        sum.merge(change.pseudo);
        sum.merge(change.body);
        let new = sum.applied_to(old);
        self.store(offset, if change.udp { never_zero(new) } else { new })
    }

    fn is_checksum_partial(&mut self, _offset: usize) -> Option<bool> {
        Some(self.is_partial)
    }

    fn truncate(&mut self, len: u32) -> Option<()> {
        self.bytes.resize(len as usize, 0);
        Some(())
    }

    fn prepend(&mut self, len: u32) -> Option<()> {
        self.bytes.splice(0..0, std::iter::repeat_n(0, len as usize));
        Some(())
    }
}

/// Runs the table on [`HostEnv`].
pub struct HostExecutor {
    env: HostEnv,
}

impl HostExecutor {
    /// An executor; [`Executor::reset`] fills it.
    pub fn new() -> Self {
        Self { env: HostEnv::new(&World::new()) }
    }
}

impl Default for HostExecutor {
    fn default() -> Self {
        Self::new()
    }
}

impl Executor for HostExecutor {
    fn reset(&mut self, world: &World) -> Result<()> {
        self.env = HostEnv::new(world);
        Ok(())
    }

    fn run(&mut self, hook: Hook, via: Via, packet: &[u8]) -> Result<Done> {
        self.env.set_device(via);
        let mut packet = HostPacket::new(packet.to_vec());
        if hook == Hook::Onward {
            return Ok(uplink::run(&mut self.env, &mut packet));
        }
        let verdict = self.env.run(hook, &mut packet);
        Ok(done(verdict, packet))
    }
}

/// What a verdict means for the packet.
pub(super) fn done(verdict: Verdict, packet: HostPacket) -> Done {
    match verdict {
        Verdict::Pass | Verdict::Opened | Verdict::Translated => Done::Pass(packet.bytes),
        Verdict::AnswerNobody | Verdict::AnswerUnknownPort => Done::Reply(packet.bytes),
        // Nobody holds new flows in this world.
        Verdict::Drop(_) | Verdict::Again | Verdict::Kept => Done::Drop,
    }
}
