//! The core's surroundings in the kernel.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use aya_ebpf::maps::lpm_trie::Key;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::{Host, Origin, StoreError, StoreMode, Tables};
use proxy_common::maps::{
    Affinity, AffinityKey, Backend, DetectLocal, Device, DropReason, Flow, FlowKey, Fragment, FragmentKey, Frontend,
    FrontendKey, RangeKey, ServiceCounters, ServiceNet,
};

use crate::maps::{
    AFFINITY_V4, AFFINITY_V6, ANSWER_BUDGET, BACKEND_V4, BACKEND_V6, DEVICE, DROP_STATS, FLOW_V4, FLOW_V6, FRAGMENT_V4,
    FRAGMENT_V6, FRONTEND_V4, FRONTEND_V6, RANGE_V4, RANGE_V6, SERVICE_NET_V4, SERVICE_NET_V6, SERVICE_STATS, SLOT_V4,
    SLOT_V6,
};

const EEXIST: i32 = -17;
const NANOSECONDS: u64 = 1_000_000_000;

/// Maps, clock and counters, for a packet on one device or for a socket.
pub struct KernelEnv {
    ifindex: u32,
    origin: Option<Origin>,
}

impl KernelEnv {
    #[inline(always)]
    pub fn new(ifindex: u32) -> Self {
        Self { ifindex, origin: None }
    }

    /// For a socket, of which it is known whose it is.
    #[inline(always)]
    pub fn of_socket(origin: Origin) -> Self {
        Self { ifindex: 0, origin: Some(origin) }
    }
}

/// Counts a packet that does not go on.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    if let Some(count) = DROP_STATS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
        unsafe { *count += 1 }
    }
}

impl Host for KernelEnv {
    #[inline(always)]
    fn now(&mut self) -> u32 {
        // SAFETY: reads a clock.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        (now / NANOSECONDS) as u32
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: has no preconditions.
        unsafe { bpf_get_prandom_u32() as u32 }
    }

    #[inline(always)]
    fn device(&self) -> Option<Device> {
        // SAFETY: the value is copied at once; the agent replaces whole elements.
        unsafe { DEVICE.get(self.ifindex).copied() }
    }

    #[inline(always)]
    fn origin(&self) -> Origin {
        const YES: u8 = DetectLocal::Yes as u8;
        const BY_ADDRESS: u8 = DetectLocal::ByAddress as u8;
        if let Some(origin) = self.origin {
            return origin;
        }
        // Not by way of `device`: of a device that is not there the compiler would read what was never written.
        // SAFETY: one byte is read at once; the agent replaces whole elements.
        match unsafe { DEVICE.get(self.ifindex) }.map_or(0, |device| device.detect) {
            YES => Origin::Pods,
            BY_ADDRESS => Origin::ByAddress,
            _ => Origin::Elsewhere,
        }
    }

    #[inline(always)]
    fn may_answer(&mut self, now: u32) -> bool {
        // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
        ANSWER_BUDGET.get_ptr_mut(0).is_some_and(|budget| unsafe { (*budget).take(now) })
    }

    #[inline(always)]
    fn count(&mut self, service: u32, add: impl FnOnce(&mut ServiceCounters)) {
        if let Some(counters) = SERVICE_STATS.get_ptr_mut(service) {
            // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
            add(unsafe { &mut *counters });
        }
    }
}

/// Implements the tables of one family with its maps.
macro_rules! tables {
    ($address:ty, $frontend:ident, $slot:ident, $backend:ident, $range:ident, $words:literal, $net:ident, $affinity:ident, $flow:ident, $fragment:ident) => {
        impl Tables<$address> for KernelEnv {
            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$address>) -> Option<Frontend> {
                // SAFETY: the value is copied at once; the agent replaces whole elements.
                unsafe { $frontend.get(key).copied() }
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                $slot.get(index).copied()
            }

            #[inline(always)]
            fn backend(&self, id: u32) -> Option<Backend<$address>> {
                $backend.get(id).copied()
            }

            #[inline(always)]
            fn is_in_range(&self, key: &RangeKey<$address>) -> bool {
                // SAFETY: aya's key is the prefix and the words behind it, packed; so is this one, and aligned as well.
                let key = unsafe { &*core::ptr::from_ref(key).cast::<Key<[u32; $words]>>() };
                $range.get(key).is_some()
            }

            #[inline(always)]
            fn service_net(&self, index: u32) -> Option<&ServiceNet<$address>> {
                $net.get(index)
            }

            #[inline(always)]
            fn affinity(&mut self, key: &AffinityKey<$address>) -> Option<&mut Affinity> {
                // SAFETY: as for flows.
                $affinity.get_ptr_mut(key).map(|affinity| unsafe { &mut *affinity })
            }

            #[inline(always)]
            fn store_affinity(&mut self, key: &AffinityKey<$address>, affinity: &Affinity) {
                // An LRU map is full only for a moment; the client then has no affinity.
                let _ = $affinity.insert(key, affinity, 0);
            }

            #[inline(always)]
            fn flow(&mut self, key: &FlowKey<$address>) -> Option<&mut Flow<$address>> {
                // SAFETY: the element stays mapped while the program runs, and the borrow of `self` ends before
                // the next store or removal. Other CPUs may write the same words: each is read and written
                // whole, and none is used to find memory.
                $flow.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
            }

            #[inline(always)]
            fn store_flow(
                &mut self,
                key: &FlowKey<$address>,
                flow: &Flow<$address>,
                mode: StoreMode,
            ) -> Result<(), StoreError> {
                let flags = match mode {
                    StoreMode::New => BPF_NOEXIST,
                    StoreMode::Overwrite => BPF_ANY,
                };
                $flow.insert(key, flow, u64::from(flags)).map_err(store_error)
            }

            #[inline(always)]
            fn delete_flow(&mut self, key: &FlowKey<$address>) {
                // Not there: nothing to remove.
                let _ = $flow.remove(key);
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<&Fragment<$address>> {
                // SAFETY: the element stays mapped while the program runs. Another CPU may overwrite it with what became
                // of a later packet of the same identification: any mix of the two is lost by its checksum.
                unsafe { $fragment.get(key) }
            }

            #[inline(always)]
            fn store_fragment(&mut self, key: &FragmentKey<$address>, fragment: &Fragment<$address>) {
                // No room: the later fragments pass untranslated.
                let _ = $fragment.insert(key, fragment, u64::from(BPF_ANY));
            }
        }
    };
}

tables!(Ipv4, FRONTEND_V4, SLOT_V4, BACKEND_V4, RANGE_V4, 2, SERVICE_NET_V4, AFFINITY_V4, FLOW_V4, FRAGMENT_V4);
tables!(Ipv6, FRONTEND_V6, SLOT_V6, BACKEND_V6, RANGE_V6, 5, SERVICE_NET_V6, AFFINITY_V6, FLOW_V6, FRAGMENT_V6);

#[inline(always)]
fn store_error(error: i32) -> StoreError {
    if error == EEXIST { StoreError::Exists } else { StoreError::Full }
}
