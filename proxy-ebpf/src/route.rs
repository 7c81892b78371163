//! The node's routes, asked by `bpf_fib_lookup`.

use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr::NonNull;

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::{Route, Way};
use proxy_common::maps::{Device, HOPS};

use crate::maps::{DEVICE, FIB, HOP};

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

    /// The address in two words.
    fn words(self) -> [u64; 2];
}

impl Routable for Ipv4 {
    #[inline(always)]
    fn ask(lookup: &mut Lookup, way: &Way<Self>) {
        lookup.family = INET;
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(way.src.octets);
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(way.dst.octets);
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [u64::from(u32::from_ne_bytes(self.octets)), 0]
    }
}

impl Routable for Ipv6 {
    #[inline(always)]
    fn ask(lookup: &mut Lookup, way: &Way<Self>) {
        lookup.family = INET6;
        lookup.__bindgen_anon_3.ipv6_src = bytemuck::cast(way.src.octets);
        lookup.__bindgen_anon_4.ipv6_dst = bytemuck::cast(way.dst.octets);
    }

    #[inline(always)]
    fn words(self) -> [u64; 2] {
        bytemuck::cast(self.octets)
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

    /// Whether packets are sent on by that device.
    #[inline(always)]
    pub fn sends_on(&self) -> bool {
        // SAFETY: one byte is read at once; the agent replaces whole elements.
        unsafe { DEVICE.get(self.device()) }.is_some_and(|device| device.flags & Device::SENDS_ON != 0)
    }
}

/// A way that was found, and is not asked for again in the same second.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Hop {
    /// The packet's addresses; of IPv4 the first words.
    src: [u64; 2],
    dst: [u64; 2],
    /// The device that the packet came in by.
    from: u32,
    /// The device that it leaves by.
    pub device: u32,
    /// When it was found: whole seconds since boot.
    found: u32,
    /// When a packet was last left to the stack, so that it asks whether the neighbour is still there.
    left: u32,
    /// Bytes of the longest packet that the way can carry.
    width: u16,
    /// Ethernet address of the device that it leaves by.
    pub source: [u8; 6],
    /// And of the neighbour.
    pub destination: [u8; 6],
    zero: [u8; 2],
}
const _: () = assert!(size_of::<Hop>() == 64);

/// For so many seconds a neighbour is in use by XDP alone, without the stack seeing a packet for it. Less than the 30 s in which it
/// takes a neighbour for reachable (`net.ipv4.neigh.default.base_reachable_time_ms`).
const UNSEEN: u32 = 15;

/// Finds the way of a packet that came in by a device, by uplinks that send packets on; `now` in whole seconds. A way that is open is
/// told where it is kept: valid until the next is found.
///
/// `bpf_fib_lookup` takes longer than all the rest. So what it said holds for the second in which it was asked, on this CPU.
#[inline(always)]
pub fn route<A: Routable>(ctx: *mut c_void, ifindex: u32, way: &Way<A>, now: u32) -> (Route, Option<NonNull<Hop>>) {
    const NOWHERE: (Route, Option<NonNull<Hop>>) = (Route::Closed, None);
    let (src, dst) = (way.src.words(), way.dst.words());
    let hash = (way.src.mix() ^ way.dst.mix().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(mut place) = HOP.get_ptr_mut((hash >> 32) as u32 & (HOPS - 1)).and_then(NonNull::new) else {
        return NOWHERE;
    };
    // SAFETY: as in `Fib::ask`.
    let hop = unsafe { place.as_mut() };
    let is_same = hop.src == src && hop.dst == dst && hop.from == ifindex;
    if is_same && hop.found == now {
        let route = if way.length > u32::from(hop.width) { Route::Closed } else { Route::Open };
        return (route, Some(place));
    }
    if is_same && now.wrapping_sub(hop.left) > UNSEEN {
        hop.left = now;
        return (Route::Unresolved, None);
    }
    let Some(mut fib) = Fib::new() else {
        return NOWHERE;
    };
    let route = fib.ask(ctx, ifindex, way);
    if route == Route::Closed || !fib.sends_on() {
        return NOWHERE;
    }
    if route == Route::Unresolved {
        return (route, None);
    }
    let found = fib.found();
    let left = if is_same { hop.left } else { now };
    // SAFETY: an integer, and any bytes are a value.
    let width = unsafe { found.__bindgen_anon_1.mtu_result };
    let (device, source, destination) = (found.ifindex, found.smac, found.dmac);
    *hop = Hop { src, dst, from: ifindex, device, found: now, left, width, source, destination, zero: [0; 2] };
    (route, Some(place))
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
