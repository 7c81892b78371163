//! The node's routes, asked by `bpf_fib_lookup`.

use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr::NonNull;

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::{Route, Way};
use proxy_common::maps::Device;

use crate::maps::{DEVICE, FIB};

/// `BPF_FIB_LKUP_RET_*` (include/uapi/linux/bpf.h).
const SUCCESS: i64 = 0;
const NO_NEIGH: i64 = 7;

/// AF_INET and AF_INET6.
const INET: u8 = 2;
const INET6: u8 = 10;

/// A family's place in the parameters of the look-up.
pub trait Routable: Address {
    /// Writes family and addresses.
    fn ask(lookup: &mut Lookup, way: &Way<Self>);
}

impl Routable for Ipv4 {
    #[inline(always)]
    fn ask(lookup: &mut Lookup, way: &Way<Self>) {
        lookup.family = INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(way.src.octets);
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(way.dst.octets);
    }
}

impl Routable for Ipv6 {
    #[inline(always)]
    fn ask(lookup: &mut Lookup, way: &Way<Self>) {
        lookup.family = INET6;
        lookup.__bindgen_anon_3.ipv6_src = bytemuck::cast(way.src.octets);
        lookup.__bindgen_anon_4.ipv6_dst = bytemuck::cast(way.dst.octets);
    }
}

/// A look-up and what came of it, in memory of this CPU: the stack has no room for it beside IPv6 addresses.
#[derive(Clone, Copy)]
pub struct Fib(NonNull<Lookup>);

const _: () = assert!(size_of::<Lookup>() == size_of::<[u64; 8]>() && align_of::<Lookup>() <= align_of::<u64>());

impl Fib {
    /// What is in it is left from before.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        NonNull::new(FIB.get_ptr_mut(0)?.cast()).map(Self)
    }

    /// Asks for the way of a packet that came in by a device.
    #[inline(always)]
    pub fn ask<A: Routable>(&mut self, ctx: *mut c_void, ifindex: u32, way: &Way<A>) -> Route {
        // SAFETY: the pointer leads into this CPU's own element, of the size and alignment compared above; a program is not
        // moved to another CPU, and none of those that use it runs within another. Integers and unions of them: all bytes,
        // zeros among them, are a value.
        let lookup = unsafe { self.0.as_mut() };
        // SAFETY: as above.
        *lookup = unsafe { zeroed() };
        lookup.ifindex = ifindex;
        lookup.l4_protocol = way.proto;
        lookup.__bindgen_anon_1.tot_len = way.length as u16;
        A::ask(lookup, way);
        // SAFETY: the context is the hook's own, and the struct is as long as said.
        match unsafe { bpf_fib_lookup(ctx, &raw mut *lookup, size_of::<Lookup>() as i32, 0) } {
            SUCCESS => Route::Open,
            NO_NEIGH => Route::Unresolved,
            _ => Route::Closed,
        }
    }

    #[inline(always)]
    fn found(&self) -> &Lookup {
        // SAFETY: as in `ask`.
        unsafe { self.0.as_ref() }
    }

    /// The device that the way leaves by.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.found().ifindex
    }

    /// The Ethernet address of that device, and of the neighbour, where the way is open.
    #[inline(always)]
    pub fn ends(&self) -> ([u8; 6], [u8; 6]) {
        (self.found().smac, self.found().dmac)
    }

    /// Whether packets are sent on by that device.
    #[inline(always)]
    pub fn sends_on(&self) -> bool {
        // SAFETY: one byte is read at once; the agent replaces whole elements.
        unsafe { DEVICE.get(self.device()) }.is_some_and(|device| device.flags & Device::SENDS_ON != 0)
    }
}

/// Whether packets both ways between two addresses leave by devices that send packets on: those of the client came in by
/// `ifindex`. A client whose address leads elsewhere has another's, or the reply another way.
#[inline(never)]
pub fn is_sent_on<A: Routable>(ctx: *mut c_void, ifindex: u32, client: &A, backend: &A) -> bool {
    let Some(mut fib) = Fib::new() else {
        return false;
    };
    let there = Way { src: *client, dst: *backend, length: 0, proto: 0 };
    if fib.ask(ctx, ifindex, &there) == Route::Closed || !fib.sends_on() {
        return false;
    }
    let back = Way { src: *backend, dst: *client, length: 0, proto: 0 };
    let device = fib.device();
    fib.ask(ctx, device, &back) != Route::Closed && fib.sends_on()
}
