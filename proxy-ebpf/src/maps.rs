//! The maps, under the names that `bpftool map` shows.
//!
//! Capacities here are the defaults; the agent sets its own before it loads the programs.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::macros::btf_map;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{
    Affinity, AffinityKey, AnswerBudget, Backend, DatagramKey, Device, DropReason, Early, EarlyKey, FlowConfig,
    FlowEvent, FlowHold, FlowSet, Fragment, FragmentKey, Frontend, FrontendKey, HOPS, Peer, RangeMark, SERVICE_NETS,
    ServiceCounters, ServiceName, ServiceNet, SlotIndex, XdpAction,
};

use crate::route::Hop;

const FRONTENDS: usize = 65_536;
const SLOTS: usize = 1_048_576;
const BACKENDS: usize = 131_072;
const FLOW_SETS: usize = 16_384;
const FRAGMENTS: usize = 8_192;
const EARLY_PIECES: usize = 512;
const SERVICES: usize = 16_384;
const DEVICES: usize = 4_096;
const AFFINITIES: usize = 65_536;
const RANGES: usize = 131_072;
const DATAGRAMS: usize = 16_384;
/// BPF_F_NO_PREALLOC: memory for what is there, not for what could be.
const NO_PREALLOC: usize = 1;
/// BPF_F_MMAPABLE: the values begin with a page, so that each set begins with a line of the cache; and the agent can
/// look after the table in place.
const MMAPABLE: usize = 1 << 10;

#[btf_map(name = "frontend_v4")]
pub static FRONTEND_V4: HashMap<FrontendKey<Ipv4>, Frontend, FRONTENDS, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "frontend_v6")]
pub static FRONTEND_V6: HashMap<FrontendKey<Ipv6>, Frontend, FRONTENDS, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "slot_v4")]
pub static SLOT_V4: Array<SlotIndex, SLOTS> = Array::new();
#[btf_map(name = "slot_v6")]
pub static SLOT_V6: Array<SlotIndex, SLOTS> = Array::new();

#[btf_map(name = "backend_v4")]
pub static BACKEND_V4: Array<Backend<Ipv4>, BACKENDS> = Array::new();
#[btf_map(name = "backend_v6")]
pub static BACKEND_V6: Array<Backend<Ipv6>, BACKENDS> = Array::new();

/// The data of a `RangeKey`: owner and address.
#[btf_map(name = "range_v4")]
pub static RANGE_V4: LpmTrie<[u32; 2], RangeMark, RANGES> = LpmTrie::new();
#[btf_map(name = "range_v6")]
pub static RANGE_V6: LpmTrie<[u32; 5], RangeMark, RANGES> = LpmTrie::new();

#[btf_map(name = "service_net_v4")]
pub static SERVICE_NET_V4: Array<ServiceNet<Ipv4>, { SERVICE_NETS as usize }> = Array::new();
#[btf_map(name = "service_net_v6")]
pub static SERVICE_NET_V6: Array<ServiceNet<Ipv6>, { SERVICE_NETS as usize }> = Array::new();
/// How many answers of our own this CPU may still give.
#[btf_map(name = "answer_budget")]
pub static ANSWER_BUDGET: PerCpuArray<AnswerBudget, 1> = PerCpuArray::new();

#[btf_map(name = "affinity_v4")]
pub static AFFINITY_V4: LruHashMap<AffinityKey<Ipv4>, Affinity, AFFINITIES> = LruHashMap::new();
#[btf_map(name = "affinity_v6")]
pub static AFFINITY_V6: LruHashMap<AffinityKey<Ipv6>, Affinity, AFFINITIES> = LruHashMap::new();

#[btf_map(name = "flow_v4")]
pub static FLOW_V4: Array<FlowSet<Ipv4>, FLOW_SETS, MMAPABLE> = Array::new();
#[btf_map(name = "flow_v6")]
pub static FLOW_V6: Array<FlowSet<Ipv6>, FLOW_SETS, MMAPABLE> = Array::new();
#[btf_map(name = "flow_config")]
pub static FLOW_CONFIG: Array<FlowConfig, 1> = Array::new();
#[btf_map(name = "flow_hold")]
pub static FLOW_HOLD: Array<FlowHold, 1> = Array::new();
#[btf_map(name = "flow_stats")]
pub static FLOW_STATS: PerCpuArray<u64, { FlowEvent::ALL.len() }> = PerCpuArray::new();

/// Goes with the socket.
#[btf_map(name = "peer_v4")]
pub static PEER_V4: SkStorage<Peer<Ipv4>> = SkStorage::new();
#[btf_map(name = "peer_v6")]
pub static PEER_V6: SkStorage<Peer<Ipv6>> = SkStorage::new();

#[btf_map(name = "datagram_v4")]
pub static DATAGRAM_V4: LruHashMap<DatagramKey<Ipv4>, Peer<Ipv4>, DATAGRAMS> = LruHashMap::new();
#[btf_map(name = "datagram_v6")]
pub static DATAGRAM_V6: LruHashMap<DatagramKey<Ipv6>, Peer<Ipv6>, DATAGRAMS> = LruHashMap::new();
#[btf_map(name = "fragment_v4")]
pub static FRAGMENT_V4: LruHashMap<FragmentKey<Ipv4>, Fragment<Ipv4>, FRAGMENTS> = LruHashMap::new();
#[btf_map(name = "fragment_v6")]
pub static FRAGMENT_V6: LruHashMap<FragmentKey<Ipv6>, Fragment<Ipv6>, FRAGMENTS> = LruHashMap::new();

/// Both families in one, as few are in it.
#[btf_map(name = "early")]
pub static EARLY: HashMap<EarlyKey, Early, EARLY_PIECES, NO_PREALLOC> = HashMap::new();
/// A piece that is to be kept, and what was in a packet that brings others back.
#[btf_map(name = "early_scratch")]
pub static EARLY_SCRATCH: PerCpuArray<Early, 1> = PerCpuArray::new();

/// Not read by any program: names for people, kept beside what they name.
#[btf_map(name = "service")]
pub static SERVICE: Array<ServiceName, SERVICES> = Array::new();

#[btf_map(name = "service_stats")]
pub static SERVICE_STATS: PerCpuArray<ServiceCounters, SERVICES> = PerCpuArray::new();
#[btf_map(name = "drop_stats")]
pub static DROP_STATS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();

#[btf_map(name = "xdp_stats")]
pub static XDP_STATS: PerCpuArray<u64, { XdpAction::ALL.len() }> = PerCpuArray::new();

/// The device that the packet at hand leaves by, where it has yet to be masqueraded.
#[btf_map(name = "leaving")]
pub static LEAVING: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Ways that were found in this second.
#[btf_map(name = "hop")]
pub static HOP: PerCpuArray<Hop, { HOPS as usize }> = PerCpuArray::new();

/// Room for a look-up of routes.
#[btf_map(name = "fib")]
pub static FIB: PerCpuArray<[u64; 8], 1> = PerCpuArray::new();

#[btf_map(name = "device")]
pub static DEVICE: HashMap<u32, Device, DEVICES, NO_PREALLOC> = HashMap::new();

/// 1 where the kernel knows BPF_F_IPV6 of `bpf_l4_csum_replace` (6.16): without it the checksum that a network
/// card computed (CHECKSUM_COMPLETE) is spoilt for IPv6.
#[unsafe(no_mangle)]
pub static CSUM_IPV6: Global<u8> = Global::new(0);

/// Cookie of the network namespace whose processes are the node's; 0 for that of the machine's first process.
#[unsafe(no_mangle)]
pub static HOST_NETNS: Global<u64> = Global::new(0);

/// 1 where sockets of other network namespaces, those of pods, are translated as well.
#[unsafe(no_mangle)]
pub static SOCKETS_OF_ALL: Global<u8> = Global::new(0);

/// 1 where the kernel knows `bpf_set_retval` (5.18): without it every call that fails fails with EPERM.
#[unsafe(no_mangle)]
pub static SET_RETVAL: Global<u8> = Global::new(0);
