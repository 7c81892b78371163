//! The maps of the bench.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::macros::btf_map;
use proxy_bench_ebpf::{Arrival, FLOOR_ENTRIES, FloorKey, FloorValue, Frame, Plan};

/// As many as the flow table has by default.
const INSERTED: usize = 262_144;

#[btf_map(name = "plan")]
pub static PLAN: Array<Plan, 1> = Array::new();

#[btf_map(name = "programs")]
pub static PROGRAMS: ProgramArray<16> = ProgramArray::new();

/// The same of XDP: a program calls only those of its own kind.
#[btf_map(name = "xdp_programs")]
pub static XDP_PROGRAMS: ProgramArray<16> = ProgramArray::new();

#[btf_map(name = "floor_array")]
pub static ARRAY: Array<FloorValue, FLOOR_ENTRIES> = Array::new();
#[btf_map(name = "floor_hash")]
pub static HASH: HashMap<FloorKey, FloorValue, FLOOR_ENTRIES> = HashMap::new();
#[btf_map(name = "floor_lru")]
pub static LRU: LruHashMap<FloorKey, FloorValue, { FLOOR_ENTRIES * 2 }> = LruHashMap::new();
#[btf_map(name = "floor_insert")]
pub static INSERT: LruHashMap<FloorKey, FloorValue, INSERTED> = LruHashMap::new();

#[btf_map(name = "live_plan")]
pub static LIVE_PLAN: Array<Plan, 1> = Array::new();
#[btf_map(name = "frame")]
pub static FRAME: Array<Frame, 1> = Array::new();
#[btf_map(name = "arrived")]
pub static ARRIVED: PerCpuArray<Arrival, 1> = PerCpuArray::new();
