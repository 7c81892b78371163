//! The core's surroundings in the kernel.

use core::ffi::c_void;
use core::ptr::null_mut;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64};
use aya_ebpf::maps::lpm_trie::Key;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::{Choice, Host, Origin, Refusal, Tables};
use proxy_common::maps::{
    Affinity, AffinityKey, Backend, DetectLocal, Device, DropReason, FlowConfig, Fragment, FragmentKey, Frontend,
    FrontendKey, RangeKey, ServiceCounters, ServiceNet,
};

use crate::flows::KernelFlows;
use crate::maps::{
    AFFINITY_V4, AFFINITY_V6, ANSWER_BUDGET, BACKEND_V4, BACKEND_V6, DEVICE, DROP_STATS, FLOW_CONFIG, FLOW_HOLD,
    FRAGMENT_V4, FRAGMENT_V6, FRONTEND_V4, FRONTEND_V6, RANGE_V4, RANGE_V6, SERVICE_NET_V4, SERVICE_NET_V6,
    SERVICE_STATS, SLOT_V4, SLOT_V6,
};
use crate::route::is_sent_on;
use crate::select::{self, about, select_v4, select_v6};

/// Maps, clock and counters, for a packet on one device or for a socket.
pub struct KernelEnv {
    ifindex: u32,
    origin: Option<Origin>,
    config: &'static FlowConfig,
    /// The context of a hook at an uplink that sends packets on; null elsewhere.
    uplink: *mut c_void,
    /// Another hook looks at what this one leaves.
    is_first: bool,
}

impl KernelEnv {
    /// `None` cannot be: the array has an entry. The verifier asks.
    #[inline(always)]
    pub fn new(ifindex: u32) -> Option<Self> {
        Self::of(ifindex, None, null_mut(), false)
    }

    /// For a packet at an uplink that sends packets on, with the context of the hook. The first of two hooks leaves some of
    /// what is to be done to the other.
    #[inline(always)]
    pub fn at_uplink(ifindex: u32, ctx: *mut c_void, is_first: bool) -> Option<Self> {
        Self::of(ifindex, None, ctx, is_first)
    }

    /// For a function of its own, which chooses a backend.
    #[inline(always)]
    pub fn for_choice(ifindex: u32, origin: Option<Origin>, is_first: bool) -> Option<Self> {
        Self::of(ifindex, origin, null_mut(), is_first)
    }

    /// For a socket, of which it is known whose it is.
    #[inline(always)]
    pub fn of_socket(origin: Origin) -> Option<Self> {
        Self::of(0, Some(origin), null_mut(), false)
    }

    #[inline(always)]
    fn of(ifindex: u32, origin: Option<Origin>, uplink: *mut c_void, is_first: bool) -> Option<Self> {
        Some(Self { config: FLOW_CONFIG.get(0)?, uplink, ifindex, origin, is_first })
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
        // SAFETY: reads a counter; a load, for the kernel inlines it.
        let jiffies = unsafe { bpf_jiffies64() };
        self.config.seconds(jiffies)
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
    fn is_held(&self, now: u32) -> bool {
        FLOW_HOLD.get(0).is_some_and(|hold| now < hold.until)
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
    fn leave_by(&mut self, device: u32) {
        self.ifindex = device;
    }

    #[inline(always)]
    fn count_refusal(&mut self, service: u32) {
        if !self.is_first {
            self.count(service, |counters| counters.refused += 1);
        }
    }

    #[inline(always)]
    fn count_drop(&mut self, reason: DropReason) {
        count_drop(reason);
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
    ($address:ty, $frontend:ident, $slot:ident, $backend:ident, $range:ident, $words:literal, $net:ident, $affinity:ident, $fragment:ident, $select:ident) => {
        impl Tables<$address> for KernelEnv {
            type Flows = KernelFlows;

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
                // SAFETY: the element stays mapped while the program runs. Other CPUs may write the same words: each is
                // read and written whole, and none is used to find memory.
                $affinity.get_ptr_mut(key).map(|affinity| unsafe { &mut *affinity })
            }

            #[inline(always)]
            fn store_affinity(&mut self, key: &AffinityKey<$address>, affinity: &Affinity) {
                // An LRU map is full only for a moment; the client then has no affinity.
                let _ = $affinity.insert(key, affinity, 0);
            }

            #[inline(always)]
            fn is_sent_on(&mut self, client: &$address, backend: &$address) -> bool {
                let now = self.now();
                !self.uplink.is_null() && is_sent_on(self.uplink, self.ifindex, client, backend, now)
            }

            #[inline(always)]
            fn flows(&self) -> KernelFlows {
                KernelFlows::new(self.config)
            }

            #[inline(always)]
            fn select(
                &mut self,
                client: &$address,
                port: [u8; 2],
                key: &FrontendKey<$address>,
                choice: &mut Choice<$address>,
            ) -> Result<(), Refusal> {
                let about = about(self.origin, port, self.is_first);
                select::result($select(client, key, choice, self.ifindex, about))
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

tables!(Ipv4, FRONTEND_V4, SLOT_V4, BACKEND_V4, RANGE_V4, 2, SERVICE_NET_V4, AFFINITY_V4, FRAGMENT_V4, select_v4);
tables!(Ipv6, FRONTEND_V6, SLOT_V6, BACKEND_V6, RANGE_V6, 5, SERVICE_NET_V6, AFFINITY_V6, FRAGMENT_V6, select_v6);
