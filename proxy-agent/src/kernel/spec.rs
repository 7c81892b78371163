//! The maps as they have to be: names, types, sizes.

use std::marker::PhantomData;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{
    Affinity, AffinityKey, AnswerBudget, Backend, DatagramKey, Device, DropReason, Flow, FlowKey, Fragment,
    FragmentKey, Frontend, FrontendKey, Peer, RangeKey, RangeMark, SERVICE_NETS, ServiceCounters, ServiceName,
    ServiceNet, SlotIndex,
};

use crate::plan::Capacities;

/// How many entries the maps have room for. Each family has as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Sizes {
    /// Frontends of each family: one for each address and port of a Service
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_frontends: u32,
    /// Slots of each family: about twice the number of endpoints of all Services, and a table for each Service port that
    /// clients outside can reach: of 251 slots for 2 to 10 endpoints, 2,003 up to 28, 16,001 up to 80, else 65,537. Where there is
    /// no room for a table, such clients are spread by chance
    #[arg(long, value_name = "N", default_value_t = 1_048_576, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_slots: u32,
    /// Backends of each family: one for each endpoint of each Service port
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_backends: u32,
    /// Service ports, of both families together
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(2..))]
    pub max_services: u32,
    /// Entries for flows of each family: a connection takes two, or three when masqueraded
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: u32,
    /// Network devices
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_devices: u32,
    /// Ranges of addresses of each family: loadBalancerSourceRanges of each Service port, and one for each ClusterIP
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_ranges: u32,
    /// Clients of each family that Services with session affinity remember
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_affinities: u32,
    /// Entries for UDP sockets of the host that name their destination with each datagram, of each family: a socket
    /// takes two for each frontend that it sends to
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_datagrams: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            max_frontends: 65_536,
            max_slots: 1_048_576,
            max_backends: 131_072,
            max_services: 16_384,
            max_flows: 262_144,
            max_devices: 4_096,
            max_ranges: 131_072,
            max_affinities: 65_536,
            max_datagrams: 16_384,
        }
    }
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

/// What a map has to be like, whatever its types.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub name: &'static str,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    pub size: MapSize,
}

/// Where a map's size comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapSize {
    /// The flag that sets it; none where the layout says it.
    pub flag: Option<&'static str>,
    /// How to get it from the sizes.
    pub of: fn(&Sizes) -> u32,
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
        let shape = Shape { name, kind, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32, size };
        Self { shape, types: PhantomData }
    }
}

const FRONTENDS: MapSize = MapSize { flag: Some("--max-frontends"), of: |sizes| sizes.max_frontends };
const SLOTS: MapSize = MapSize { flag: Some("--max-slots"), of: |sizes| sizes.max_slots };
const BACKENDS: MapSize = MapSize { flag: Some("--max-backends"), of: |sizes| sizes.max_backends };
const SERVICES: MapSize = MapSize { flag: Some("--max-services"), of: |sizes| sizes.max_services };
const FLOWS: MapSize = MapSize { flag: Some("--max-flows"), of: |sizes| sizes.max_flows };
const DEVICES: MapSize = MapSize { flag: Some("--max-devices"), of: |sizes| sizes.max_devices };
const RANGES: MapSize = MapSize { flag: Some("--max-ranges"), of: |sizes| sizes.max_ranges };
const AFFINITIES: MapSize = MapSize { flag: Some("--max-affinities"), of: |sizes| sizes.max_affinities };
const NETS: MapSize = MapSize { flag: None, of: |_| SERVICE_NETS };
const ONE: MapSize = MapSize { flag: None, of: |_| 1 };
const DATAGRAMS: MapSize = MapSize { flag: Some("--max-datagrams"), of: |sizes| sizes.max_datagrams };
/// As many as there are sockets.
const SOCKETS: MapSize = MapSize { flag: None, of: |_| 0 };
/// Packets in pieces that are on their way at once: each for a minute at most, and the oldest makes way.
const FRAGMENTS: MapSize = MapSize { flag: None, of: |_| 8_192 };
#[expect(clippy::cast_possible_truncation, reason = "the number of drop reasons")]
const DROP_REASONS: MapSize = MapSize { flag: None, of: |_| DropReason::ALL.len() as u32 };

pub(super) const FRONTEND_V4: Spec<FrontendKey<Ipv4>, Frontend> = Spec::new("frontend_v4", MapKind::Hash, FRONTENDS);
pub(super) const FRONTEND_V6: Spec<FrontendKey<Ipv6>, Frontend> = Spec::new("frontend_v6", MapKind::Hash, FRONTENDS);
pub(super) const SLOT_V4: Spec<u32, SlotIndex> = Spec::new("slot_v4", MapKind::Array, SLOTS);
pub(super) const SLOT_V6: Spec<u32, SlotIndex> = Spec::new("slot_v6", MapKind::Array, SLOTS);
pub(super) const BACKEND_V4: Spec<u32, Backend<Ipv4>> = Spec::new("backend_v4", MapKind::Array, BACKENDS);
pub(super) const BACKEND_V6: Spec<u32, Backend<Ipv6>> = Spec::new("backend_v6", MapKind::Array, BACKENDS);
pub(super) const RANGE_V4: Spec<RangeKey<Ipv4>, RangeMark> = Spec::new("range_v4", MapKind::LpmTrie, RANGES);
pub(super) const RANGE_V6: Spec<RangeKey<Ipv6>, RangeMark> = Spec::new("range_v6", MapKind::LpmTrie, RANGES);
pub(super) const SERVICE_NET_V4: Spec<u32, ServiceNet<Ipv4>> = Spec::new("service_net_v4", MapKind::Array, NETS);
pub(super) const SERVICE_NET_V6: Spec<u32, ServiceNet<Ipv6>> = Spec::new("service_net_v6", MapKind::Array, NETS);
pub(super) const ANSWER_BUDGET: Spec<u32, AnswerBudget> = Spec::new("answer_budget", MapKind::PerCpuArray, ONE);
pub(super) const AFFINITY_V4: Spec<AffinityKey<Ipv4>, Affinity> =
    Spec::new("affinity_v4", MapKind::LruHash, AFFINITIES);
pub(super) const AFFINITY_V6: Spec<AffinityKey<Ipv6>, Affinity> =
    Spec::new("affinity_v6", MapKind::LruHash, AFFINITIES);
pub(super) const FLOW_V4: Spec<FlowKey<Ipv4>, Flow<Ipv4>> = Spec::new("flow_v4", MapKind::LruHash, FLOWS);
pub(super) const FLOW_V6: Spec<FlowKey<Ipv6>, Flow<Ipv6>> = Spec::new("flow_v6", MapKind::LruHash, FLOWS);
pub(super) const PEER_V4: Spec<u32, Peer<Ipv4>> = Spec::new("peer_v4", MapKind::SocketStorage, SOCKETS);
pub(super) const PEER_V6: Spec<u32, Peer<Ipv6>> = Spec::new("peer_v6", MapKind::SocketStorage, SOCKETS);
pub(super) const DATAGRAM_V4: Spec<DatagramKey<Ipv4>, Peer<Ipv4>> =
    Spec::new("datagram_v4", MapKind::LruHash, DATAGRAMS);
pub(super) const DATAGRAM_V6: Spec<DatagramKey<Ipv6>, Peer<Ipv6>> =
    Spec::new("datagram_v6", MapKind::LruHash, DATAGRAMS);
pub(super) const FRAGMENT_V4: Spec<FragmentKey<Ipv4>, Fragment<Ipv4>> =
    Spec::new("fragment_v4", MapKind::LruHash, FRAGMENTS);
pub(super) const FRAGMENT_V6: Spec<FragmentKey<Ipv6>, Fragment<Ipv6>> =
    Spec::new("fragment_v6", MapKind::LruHash, FRAGMENTS);
pub(super) const SERVICE: Spec<u32, ServiceName> = Spec::new("service", MapKind::Array, SERVICES);
pub(super) const SERVICE_STATS: Spec<u32, ServiceCounters> = Spec::new("service_stats", MapKind::PerCpuArray, SERVICES);
pub(super) const DROP_STATS: Spec<u32, u64> = Spec::new("drop_stats", MapKind::PerCpuArray, DROP_REASONS);
pub(super) const DEVICE: Spec<u32, Device> = Spec::new("device", MapKind::Hash, DEVICES);

/// Every map.
pub(super) const SHAPES: [Shape; 25] = [
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
    PEER_V4.shape,
    PEER_V6.shape,
    DATAGRAM_V4.shape,
    DATAGRAM_V6.shape,
    FRAGMENT_V4.shape,
    FRAGMENT_V6.shape,
    SERVICE.shape,
    SERVICE_STATS.shape,
    DROP_STATS.shape,
    DEVICE.shape,
];
