//! The node's routes, asked by `bpf_fib_lookup`.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::blank::blank;
use proxy_common::datapath::{Route, Way};
use proxy_common::maps::{Device, HOPS};

use crate::maps::{DEVICE, FIB, HOP, LEAVING};

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
pub struct Fib(NonNull<MaybeUninit<[u64; 8]>>);

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
        // SAFETY: the pointer leads into this CPU's own element; a program is not moved to another CPU, and none of those that use
        // it runs within another.
        let words = blank(unsafe { self.0.as_mut() });
        // SAFETY: it has the size and the alignment, as compared above. Integers and unions of them: zeros are a value.
        let lookup = unsafe { &mut *core::ptr::from_mut(words).cast::<Lookup>() };
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
        unsafe { self.0.cast().as_ref() }
    }

    /// The device that the way leaves by.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.found().ifindex
    }

    /// What is said of that device; 0 of one that is none of ours.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        // SAFETY: one byte is read at once; the agent replaces whole elements.
        unsafe { DEVICE.get(self.device()) }.map_or(0, |device| device.flags)
    }
}

/// A way that was found, and is not asked for again in the same second.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Hop {
    /// Where it leads; of an IPv4 address the first word.
    dst: [u64; 2],
    /// Whose packets it is for, if ways depend on that.
    src: [u64; 2],
    /// The device that the packet came in by.
    from: u32,
    /// The device that it leaves by.
    pub device: u32,
    /// When it was found: whole seconds since boot.
    found: u32,
    /// When a packet was last left to the stack, so that it asks whether the neighbour is still there.
    pub left: u32,
    /// Bytes of the longest packet that the way can carry.
    width: u16,
    /// Ethernet address of the device that it leaves by.
    pub source: [u8; 6],
    /// And of the neighbour.
    pub destination: [u8; 6],
    /// 1 if ways there depend on the source ([`Device::BY_SOURCE`]): each has a place of its own.
    by_source: u16,
}
const _: () = assert!(size_of::<Hop>() == 64);

/// For so many seconds a neighbour is in use by XDP alone, without the stack seeing a packet for it. Less than the 30 s in which it
/// takes a neighbour for reachable (`net.ipv4.neigh.default.base_reachable_time_ms`).
const UNSEEN: u32 = 15;

/// Where a way is kept, or would be.
struct Place {
    hop: NonNull<Hop>,
    /// It is there.
    is_same: bool,
}

impl Place {
    /// By the address that a packet goes to, and the one that it comes from if what is kept there says so.
    #[inline(always)]
    fn of<A: Routable>(ifindex: u32, way: &Way<A>) -> Option<Self> {
        let place = Self::to(ifindex, way)?;
        if place.is_same && place.hop().by_source != 0 { Self::from_to(ifindex, way) } else { Some(place) }
    }

    #[inline(always)]
    fn to<A: Routable>(ifindex: u32, way: &Way<A>) -> Option<Self> {
        let hop = numbered(way.dst.mix())?;
        // SAFETY: as in `Fib::ask`.
        let kept = unsafe { hop.as_ref() };
        Some(Self { hop, is_same: kept.dst == way.dst.words() && kept.from == ifindex })
    }

    #[inline(always)]
    fn from_to<A: Routable>(ifindex: u32, way: &Way<A>) -> Option<Self> {
        let hop = numbered(way.src.mix() ^ way.dst.mix().rotate_left(32))?;
        // SAFETY: as in `Fib::ask`.
        let kept = unsafe { hop.as_ref() };
        let is_same = kept.dst == way.dst.words() && kept.src == way.src.words() && kept.from == ifindex;
        Some(Self { hop, is_same })
    }

    #[inline(always)]
    fn hop(&self) -> &Hop {
        // SAFETY: as in `Fib::ask`.
        unsafe { self.hop.as_ref() }
    }

    /// Whether it was found in this second.
    #[inline(always)]
    fn is_fresh(&self, now: u32) -> bool {
        self.is_same && self.hop().found == now
    }
}

#[inline(always)]
fn numbered(mix: u64) -> Option<NonNull<Hop>> {
    // Of a product only the highest bits depend on all of the factor's.
    let hash = (mix ^ mix >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    HOP.get_ptr_mut((hash >> (64 - HOPS.ilog2())) as u32).and_then(NonNull::new)
}

/// Finds the way of a packet that came in by a device, by uplinks that send packets on; `now` in whole seconds. Of a way that is open it
/// is told where it is kept, valid until the next is found; of one that is unresolved, the device is in this CPU's [`Fib`].
///
/// `bpf_fib_lookup` takes longer than all the rest. So what it said holds for the second in which it was asked, on this CPU, for all
/// packets that go to that address.
#[inline(always)]
pub fn route<A: Routable>(ctx: *mut c_void, ifindex: u32, way: &Way<A>, now: u32) -> (Route, Option<NonNull<Hop>>) {
    const NOWHERE: (Route, Option<NonNull<Hop>>) = (Route::Closed, None);
    let Some(mut place) = Place::of(ifindex, way) else {
        return NOWHERE;
    };
    if !place.is_fresh(now) {
        let is_unseen = place.is_same && now.wrapping_sub(place.hop().left) > UNSEEN;
        if is_unseen {
            // SAFETY: as in `Fib::ask`.
            unsafe { place.hop.as_mut() }.left = now;
        }
        match ask(ctx, ifindex, way, now) {
            Route::Open if is_unseen => return (Route::Unresolved, None),
            Route::Open => {}
            closed => return (closed, None),
        }
        place = match Place::of(ifindex, way) {
            Some(place) => place,
            None => return NOWHERE,
        };
    }
    let route = if way.length > u32::from(place.hop().width) { Route::Closed } else { Route::Open };
    (route, Some(place.hop))
}

/// Asks the kernel for a way, and keeps it if it is open. It stands in this CPU's [`Fib`] as well.
#[inline(never)]
fn ask<A: Routable>(ctx: *mut c_void, ifindex: u32, way: &Way<A>, now: u32) -> Route {
    let Some(mut fib) = Fib::new() else {
        return Route::Closed;
    };
    let route = fib.ask(ctx, ifindex, way);
    let flags = fib.flags();
    if route == Route::Closed || flags & Device::SENDS_ON == 0 {
        return Route::Closed;
    }
    if route == Route::Unresolved {
        return route;
    }
    let by_source = flags & Device::BY_SOURCE != 0;
    let Some(mut place) = Place::to(ifindex, way) else {
        return Route::Closed;
    };
    if by_source {
        // SAFETY: as in `Fib::ask`.
        let hop = unsafe { place.hop.as_mut() };
        // Only where to look: the source is nobody's.
        (hop.dst, hop.src, hop.from, hop.by_source) = (way.dst.words(), [0; 2], ifindex, 1);
        place = match Place::from_to(ifindex, way) {
            Some(place) => place,
            None => return Route::Closed,
        };
    }
    let found = fib.found();
    // SAFETY: as above.
    let hop = unsafe { place.hop.as_mut() };
    hop.left = if place.is_same { hop.left } else { now };
    (hop.dst, hop.src, hop.from, hop.by_source) = (way.dst.words(), way.src.words(), ifindex, u16::from(by_source));
    // SAFETY: an integer, and any bytes are a value.
    hop.width = unsafe { found.__bindgen_anon_1.mtu_result };
    (hop.device, hop.found, hop.source, hop.destination) = (found.ifindex, now, found.smac, found.dmac);
    route
}

/// Whether packets both ways between two addresses leave by devices that send packets on: those of the client came in by
/// `ifindex`. A client whose address leads elsewhere has another's, or the reply another way.
#[inline(never)]
pub fn is_sent_on<A: Routable>(ctx: *mut c_void, ifindex: u32, client: &A, backend: &A, now: u32) -> bool {
    let there = Way { src: *client, dst: *backend, length: SHORT, proto: 0 };
    let Some(device) = leads_out(ctx, ifindex, &there, now) else {
        return false;
    };
    leave_by(device);
    let back = Way { src: *backend, dst: *client, length: SHORT, proto: 0 };
    leads_out(ctx, device, &back, now).is_some()
}

/// Notes the device that the packet at hand leaves by.
#[inline(always)]
pub fn leave_by(device: u32) {
    if let Some(leaving) = LEAVING.get_ptr_mut(0) {
        // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
        unsafe { *leaving = u64::from(device) }
    }
}

/// A packet that every way can carry. Not 0: at tc the kernel would not say what it can carry.
const SHORT: u32 = 1;

/// The device that sends packets on by which a way leads out, whether the neighbour is known or not.
#[inline(always)]
fn leads_out<A: Routable>(ctx: *mut c_void, ifindex: u32, way: &Way<A>, now: u32) -> Option<u32> {
    let place = Place::of(ifindex, way)?;
    if place.is_fresh(now) {
        return Some(place.hop().device);
    }
    match ask(ctx, ifindex, way, now) {
        Route::Closed => None,
        Route::Open | Route::Unresolved => Some(Fib::new()?.device()),
    }
}
