//! The maps as they have to be: names, types, sizes.

use std::marker::PhantomData;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{
    Affinity, AffinityKey, AnswerBudget, Backend, DatagramKey, Device, DropReason, Early, EarlyKey, FlowConfig,
    FlowEvent, FlowHold, FlowSet, Fragment, FragmentKey, Frontend, FrontendKey, HOPS, LAYOUT, Peer, RangeKey,
    RangeMark, SERVICE_NETS, ServiceCounters, ServiceName, ServiceNet, SlotIndex, XdpAction,
};

use crate::plan::Capacities;

/// How many entries the maps may have, or have, room for. Each family has as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Sizes {
    /// Frontends of each family: one for each address and port of a Service
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_frontends, value_parser = at_least(1))]
    pub max_frontends: u32,
    /// Slots of each family: about twice the number of endpoints of all Services, and a table for each Service port that
    /// clients outside can reach: of 251 slots for 2 to 10 endpoints, 2,003 up to 28, 16,001 up to 80, else 65,537. Where there is
    /// no room for a table, such clients are spread by chance
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_slots, value_parser = at_least(1))]
    pub max_slots: u32,
    /// Backends of each family: one for each endpoint of each Service port
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_backends, value_parser = at_least(2))]
    pub max_backends: u32,
    /// Service ports, of both families together
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_services, value_parser = at_least(2))]
    pub max_services: u32,
    /// Connections of each family at once that the tables begin with room for, to the next power of two; those that are
    /// masqueraded count twice [default: by the machine's memory, of which the tables take up to 1/256]
    #[arg(long, value_name = "N", default_value_t = default_flows(), hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub initial_flows: u32,
    /// The same where most are in use: the tables grow up to this [default: four times as many as --initial-flows has by
    /// default]. Larger ones that are there make way for such of this size, if what is in them fits
    #[arg(long, value_name = "N", default_value_t = default_max_flows(), hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub max_flows: u32,
    /// Network devices
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_devices, value_parser = at_least(1))]
    pub max_devices: u32,
    /// Ranges of addresses of each family: loadBalancerSourceRanges of each Service port, and one for each ClusterIP
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_ranges, value_parser = at_least(1))]
    pub max_ranges: u32,
    /// Clients of each family that Services with session affinity remember
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_affinities, value_parser = at_least(1))]
    pub max_affinities: u32,
    /// Entries for UDP sockets of the host that name their destination with each datagram, of each family: a socket
    /// takes two for each frontend that it sends to
    #[arg(long, value_name = "N", default_value_t = Self::LIMITS.max_datagrams, value_parser = at_least(1))]
    pub max_datagrams: u32,
}

fn at_least(min: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(min..)
}

impl Sizes {
    /// The most that maps grow to unless told otherwise.
    const LIMITS: Self = Self {
        max_frontends: 1 << 20,
        max_slots: 1 << 22,
        max_backends: 1 << 21,
        max_services: 1 << 18,
        initial_flows: 262_144,
        max_flows: 1 << 20,
        max_devices: 16_384,
        max_ranges: 1 << 18,
        max_affinities: 65_536,
        max_datagrams: 16_384,
    };

    /// What maps begin with where they may grow to these sizes: with room for `most` entries at most, if that is given.
    /// Those that take memory only for what is in them, and those that forget what is oldest, have their last size from
    /// the start.
    pub fn initial(&self, most: Option<u32>) -> Self {
        let first = |limit: u32, usual| limit.min(most.unwrap_or(usual));
        Self {
            max_frontends: first(self.max_frontends, 65_536),
            max_slots: first(self.max_slots, 1 << 20),
            max_backends: first(self.max_backends, 131_072),
            max_services: first(self.max_services, 16_384),
            initial_flows: self.initial_flows.min(self.max_flows),
            ..*self
        }
    }

    /// The same, but tables of flows stay as they are.
    pub(super) fn keeping_flows(&self) -> Self {
        Self { initial_flows: 1, max_flows: 1 << 28, ..*self }
    }

    /// The size that tables of flows are to get which have this many sets, if another one: larger ones stay, up to the most.
    pub(super) fn flow_sets_instead_of(&self, sets: u32) -> Option<u32> {
        let (least, most) = (flow_sets(self.initial_flows), flow_sets(self.max_flows.max(self.initial_flows)));
        Some(sets.clamp(least, most)).filter(|wanted| *wanted != sets)
    }

    /// The next larger size of the tables of flows, where so many of their entries stay whatever happens, so that not even
    /// half of what they are made for is left; as far as the limits allow.
    pub fn with_more_flows(&self, staying: u32, limits: &Self) -> Option<Self> {
        let made_for = u64::from(self.initial_flows);
        if u64::from(staying) * 4 < made_for * 3 || self.initial_flows >= limits.max_flows {
            return None;
        }
        let larger = self.initial_flows.saturating_mul(2).min(limits.max_flows);
        Some(Self { initial_flows: larger, max_flows: larger, ..*self })
    }

    /// These sizes, larger where so many entries do not fit: powers of two, within limits.
    pub fn with_room_for(&self, needed: &Capacities, limits: &Self) -> Self {
        let room = |size: u32, needed: u32, limit: u32| match needed.checked_next_power_of_two() {
            Some(larger) if needed > size => larger.min(limit).max(size),
            None => limit.max(size),
            Some(_) => size,
        };
        Self {
            max_frontends: room(self.max_frontends, needed.frontends, limits.max_frontends),
            max_slots: room(self.max_slots, needed.slots, limits.max_slots),
            max_backends: room(self.max_backends, needed.backends, limits.max_backends),
            max_services: room(self.max_services, needed.services, limits.max_services),
            max_ranges: room(self.max_ranges, needed.ranges, limits.max_ranges),
            ..*self
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { initial_flows: default_flows(), max_flows: default_max_flows(), ..Self::LIMITS }
    }
}

/// A set has room for seven flows, and is made for four: so few sets overflow that next to no flow finds no room.
pub(super) const FLOWS_PER_SET: u32 = 4;
/// Bytes of memory, of all that the machine has, for one byte of the tables of flows.
const MEMORY_PER_FLOWS: u64 = 256;
/// The least and the most connections of each family that the tables have room for by default.
const DEFAULT_FLOWS: std::ops::RangeInclusive<u32> = 65_536..=1 << 21;

/// How many sets a table has that is to have room for so many flows.
pub(super) fn flow_sets(flows: u32) -> u32 {
    flows.div_ceil(FLOWS_PER_SET).next_power_of_two()
}

/// How many flows there is room for unless told otherwise.
fn default_flows() -> u32 {
    let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
    flows_for(memory)
}

/// How many there may come to be room for unless told otherwise.
fn default_max_flows() -> u32 {
    default_flows().saturating_mul(4)
}

/// The same on a machine with so many bytes of memory: a power of two.
fn flows_for(memory: u64) -> u32 {
    let set = (size_of::<FlowSet<Ipv4>>() + size_of::<FlowSet<Ipv6>>()) as u64;
    let sets = u32::try_from(memory / MEMORY_PER_FLOWS / set).unwrap_or(u32::MAX).max(1);
    let flows = (1_u32 << sets.ilog2()).saturating_mul(FLOWS_PER_SET);
    flows.clamp(*DEFAULT_FLOWS.start(), *DEFAULT_FLOWS.end())
}

impl From<Sizes> for Capacities {
    fn from(sizes: Sizes) -> Self {
        Self {
            services: sizes.max_services,
            frontends: sizes.max_frontends,
            backends: sizes.max_backends,
            slots: sizes.max_slots,
            ranges: sizes.max_ranges,
        }
    }
}

/// The map types in use, by their numbers in `enum bpf_map_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    SocketStorage = 24,
}

/// Memory for what is in a map, not for what could be.
const BPF_F_NO_PREALLOC: u32 = 1;
/// The values of an array can be mapped into a process's memory.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// What a map has to be like, whatever its types.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub name: &'static str,
    pub kind: MapKind,
    /// `BPF_F_*` of its creation.
    pub flags: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub size: MapSize,
    /// The first layout with which it is what it is now.
    pub since: u32,
}

/// Where a map's size comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapSize {
    /// How to get it from the sizes.
    pub of: fn(&Sizes) -> u32,
    /// Where an entry is follows from the size: a map of another one is filled by [`carry`](proxy_common::flows::carry()).
    pub is_table: bool,
}

impl MapSize {
    /// A map that is too small makes way for a larger one.
    const fn at_least(of: fn(&Sizes) -> u32) -> Self {
        Self { of, is_table: false }
    }
}

/// A map with its types.
#[derive(Debug)]
pub(super) struct Spec<K, V> {
    pub shape: Shape,
    types: PhantomData<fn(K, V)>,
}

impl<K, V> Spec<K, V> {
    #[expect(clippy::cast_possible_truncation, reason = "sizes of map keys and values, in a constant")]
    const fn new(name: &'static str, kind: MapKind, size: MapSize) -> Self {
        // The kernel rounds the values of each CPU up to 8 bytes; ours need no rounding.
        assert!(!matches!(kind, MapKind::PerCpuArray) || size_of::<V>().is_multiple_of(8));
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        let flags = match kind {
            MapKind::Hash | MapKind::LpmTrie | MapKind::SocketStorage => BPF_F_NO_PREALLOC,
            MapKind::Array | MapKind::PerCpuArray | MapKind::LruHash => 0,
        };
        Self { shape: Shape { name, kind, flags, key_size, value_size, size, since: LAYOUT }, types: PhantomData }
    }

    /// Says that the agent has its values in its own memory.
    const fn mapped(mut self) -> Self {
        self.shape.flags |= BPF_F_MMAPABLE;
        self
    }

    /// Says that the map has been what it is since an earlier layout, also in what its bytes mean: an agent with this
    /// layout takes it over from one with that.
    const fn since(mut self, layout: u32) -> Self {
        assert!(layout <= LAYOUT);
        self.shape.since = layout;
        self
    }
}

const FRONTENDS: MapSize = MapSize::at_least(|sizes| sizes.max_frontends);
const SLOTS: MapSize = MapSize::at_least(|sizes| sizes.max_slots);
const BACKENDS: MapSize = MapSize::at_least(|sizes| sizes.max_backends);
const SERVICES: MapSize = MapSize::at_least(|sizes| sizes.max_services);
const FLOWS: MapSize = MapSize { of: |sizes| flow_sets(sizes.initial_flows), is_table: true };
const WAYS: MapSize = MapSize::at_least(|_| HOPS);
#[expect(clippy::cast_possible_truncation, reason = "the number of actions")]
const XDP_ACTIONS: MapSize = MapSize::at_least(|_| XdpAction::ALL.len() as u32);
#[expect(clippy::cast_possible_truncation, reason = "the number of events")]
const FLOW_EVENTS: MapSize = MapSize::at_least(|_| FlowEvent::ALL.len() as u32);
const DEVICES: MapSize = MapSize::at_least(|sizes| sizes.max_devices);
const RANGES: MapSize = MapSize::at_least(|sizes| sizes.max_ranges);
const AFFINITIES: MapSize = MapSize::at_least(|sizes| sizes.max_affinities);
const DATAGRAMS: MapSize = MapSize::at_least(|sizes| sizes.max_datagrams);
const NETS: MapSize = MapSize::at_least(|_| SERVICE_NETS);
const ONE: MapSize = MapSize::at_least(|_| 1);
/// As many as there are sockets.
const SOCKETS: MapSize = MapSize::at_least(|_| 0);
/// Packets in pieces that are on their way at once: each for a minute at most, and the oldest makes way.
const FRAGMENTS: MapSize = MapSize::at_least(|_| 8_192);
/// Pieces of packets that have come before the first: of 2 KiB each, which is taken only for those that are there.
const EARLY_PIECES: MapSize = MapSize::at_least(|_| 512);
#[expect(clippy::cast_possible_truncation, reason = "the number of drop reasons")]
const DROP_REASONS: MapSize = MapSize::at_least(|_| DropReason::ALL.len() as u32);

pub(super) const FRONTEND_V4: Spec<FrontendKey<Ipv4>, Frontend> =
    Spec::new("frontend_v4", MapKind::Hash, FRONTENDS).since(5);
pub(super) const FRONTEND_V6: Spec<FrontendKey<Ipv6>, Frontend> =
    Spec::new("frontend_v6", MapKind::Hash, FRONTENDS).since(5);
pub(super) const SLOT_V4: Spec<u32, SlotIndex> = Spec::new("slot_v4", MapKind::Array, SLOTS).since(5);
pub(super) const SLOT_V6: Spec<u32, SlotIndex> = Spec::new("slot_v6", MapKind::Array, SLOTS).since(5);
pub(super) const BACKEND_V4: Spec<u32, Backend<Ipv4>> = Spec::new("backend_v4", MapKind::Array, BACKENDS).since(4);
pub(super) const BACKEND_V6: Spec<u32, Backend<Ipv6>> = Spec::new("backend_v6", MapKind::Array, BACKENDS).since(4);
pub(super) const RANGE_V4: Spec<RangeKey<Ipv4>, RangeMark> = Spec::new("range_v4", MapKind::LpmTrie, RANGES).since(5);
pub(super) const RANGE_V6: Spec<RangeKey<Ipv6>, RangeMark> = Spec::new("range_v6", MapKind::LpmTrie, RANGES).since(5);
pub(super) const SERVICE_NET_V4: Spec<u32, ServiceNet<Ipv4>> =
    Spec::new("service_net_v4", MapKind::Array, NETS).since(5);
pub(super) const SERVICE_NET_V6: Spec<u32, ServiceNet<Ipv6>> =
    Spec::new("service_net_v6", MapKind::Array, NETS).since(5);
pub(super) const ANSWER_BUDGET: Spec<u32, AnswerBudget> =
    Spec::new("answer_budget", MapKind::PerCpuArray, ONE).since(4);
pub(super) const AFFINITY_V4: Spec<AffinityKey<Ipv4>, Affinity> =
    Spec::new("affinity_v4", MapKind::LruHash, AFFINITIES).since(4);
pub(super) const AFFINITY_V6: Spec<AffinityKey<Ipv6>, Affinity> =
    Spec::new("affinity_v6", MapKind::LruHash, AFFINITIES).since(4);
// Layout 4 had LRU maps under these two names, which their type tells.
pub(super) const FLOW_V4: Spec<u32, FlowSet<Ipv4>> = Spec::new("flow_v4", MapKind::Array, FLOWS).mapped().since(4);
pub(super) const FLOW_V6: Spec<u32, FlowSet<Ipv6>> = Spec::new("flow_v6", MapKind::Array, FLOWS).mapped().since(4);
pub(super) const FLOW_CONFIG: Spec<u32, FlowConfig> = Spec::new("flow_config", MapKind::Array, ONE).since(4);
pub(super) const FLOW_HOLD: Spec<u32, FlowHold> = Spec::new("flow_hold", MapKind::Array, ONE).since(6);
pub(super) const FLOW_STATS: Spec<u32, u64> = Spec::new("flow_stats", MapKind::PerCpuArray, FLOW_EVENTS).since(4);
pub(super) const PEER_V4: Spec<u32, Peer<Ipv4>> = Spec::new("peer_v4", MapKind::SocketStorage, SOCKETS).since(4);
pub(super) const PEER_V6: Spec<u32, Peer<Ipv6>> = Spec::new("peer_v6", MapKind::SocketStorage, SOCKETS).since(4);
pub(super) const DATAGRAM_V4: Spec<DatagramKey<Ipv4>, Peer<Ipv4>> =
    Spec::new("datagram_v4", MapKind::LruHash, DATAGRAMS).since(4);
pub(super) const DATAGRAM_V6: Spec<DatagramKey<Ipv6>, Peer<Ipv6>> =
    Spec::new("datagram_v6", MapKind::LruHash, DATAGRAMS).since(4);
pub(super) const FRAGMENT_V4: Spec<FragmentKey<Ipv4>, Fragment<Ipv4>> =
    Spec::new("fragment_v4", MapKind::LruHash, FRAGMENTS).since(4);
pub(super) const FRAGMENT_V6: Spec<FragmentKey<Ipv6>, Fragment<Ipv6>> =
    Spec::new("fragment_v6", MapKind::LruHash, FRAGMENTS).since(4);
pub(super) const EARLY: Spec<EarlyKey, Early> = Spec::new("early", MapKind::Hash, EARLY_PIECES).since(6);
pub(super) const EARLY_SCRATCH: Spec<u32, Early> = Spec::new("early_scratch", MapKind::PerCpuArray, ONE).since(6);
pub(super) const SERVICE: Spec<u32, ServiceName> = Spec::new("service", MapKind::Array, SERVICES).since(4);
pub(super) const SERVICE_STATS: Spec<u32, ServiceCounters> =
    Spec::new("service_stats", MapKind::PerCpuArray, SERVICES).since(7);
pub(super) const DROP_STATS: Spec<u32, u64> = Spec::new("drop_stats", MapKind::PerCpuArray, DROP_REASONS).since(4);
pub(super) const XDP_STATS: Spec<u32, u64> = Spec::new("xdp_stats", MapKind::PerCpuArray, XDP_ACTIONS).since(4);
pub(super) const LEAVING: Spec<u32, u64> = Spec::new("leaving", MapKind::PerCpuArray, ONE).since(4);
pub(super) const HOP: Spec<u32, [u64; 8]> = Spec::new("hop", MapKind::PerCpuArray, WAYS).since(8);
pub(super) const FIB: Spec<u32, [u64; 8]> = Spec::new("fib", MapKind::PerCpuArray, ONE).since(4);
pub(super) const DEVICE: Spec<u32, Device> = Spec::new("device", MapKind::Hash, DEVICES).since(4);

/// Every map.
pub(super) const SHAPES: [Shape; 34] = [
    FRONTEND_V4.shape,
    FRONTEND_V6.shape,
    SLOT_V4.shape,
    SLOT_V6.shape,
    BACKEND_V4.shape,
    BACKEND_V6.shape,
    RANGE_V4.shape,
    RANGE_V6.shape,
    SERVICE_NET_V4.shape,
    SERVICE_NET_V6.shape,
    ANSWER_BUDGET.shape,
    AFFINITY_V4.shape,
    AFFINITY_V6.shape,
    FLOW_V4.shape,
    FLOW_V6.shape,
    FLOW_CONFIG.shape,
    FLOW_HOLD.shape,
    FLOW_STATS.shape,
    PEER_V4.shape,
    PEER_V6.shape,
    DATAGRAM_V4.shape,
    DATAGRAM_V6.shape,
    FRAGMENT_V4.shape,
    FRAGMENT_V6.shape,
    EARLY.shape,
    EARLY_SCRATCH.shape,
    SERVICE.shape,
    SERVICE_STATS.shape,
    DROP_STATS.shape,
    XDP_STATS.shape,
    LEAVING.shape,
    HOP.shape,
    FIB.shape,
    DEVICE.shape,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_grow_to_powers_of_two_within_limits_and_never_shrink() {
        let limits = Sizes { max_frontends: 100, max_slots: 1000, ..Sizes::default() };
        let sizes = limits.initial(Some(16));
        assert_eq!((sizes.max_frontends, sizes.max_slots, sizes.initial_flows), (16, 16, limits.initial_flows));
        let room_for = |frontends, slots| {
            let needed = Capacities { services: 1, frontends, backends: 16, slots, ranges: 0 };
            let sizes = sizes.with_room_for(&needed, &limits);
            (sizes.max_frontends, sizes.max_slots, sizes.max_backends)
        };
        assert_eq!(room_for(16, 0), (16, 16, 16));
        assert_eq!(room_for(17, 33), (32, 64, 16));
        assert_eq!(room_for(90, u32::MAX), (100, 1000, 16));
        let lower = Sizes { max_frontends: 8, ..limits };
        let needed = Capacities { services: 0, frontends: 20, backends: 0, slots: 0, ranges: 0 };
        assert_eq!(sizes.with_room_for(&needed, &lower), sizes);
    }

    #[test]
    fn flows_go_by_memory() {
        const GIB: u64 = 1 << 30;
        for (memory, flows) in
            [(0, 65_536), (2 * GIB, 65_536), (16 * GIB, 131_072), (64 * GIB, 524_288), (4096 * GIB, 2_097_152)]
        {
            assert_eq!(flows_for(memory), flows, "{memory}");
        }
        assert_eq!((flow_sets(1), flow_sets(4), flow_sets(5), flow_sets(262_144)), (1, 1, 2, 65_536));
    }
}
