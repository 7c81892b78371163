//! The shell of the XDP hook: frame in, action out.

use core::ptr::NonNull;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_meta};
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::{Env, Family, Host, Route, Router, Swift, SwiftStep, Way, accelerate, accelerate_step};
use proxy_common::maps::{DropReason, XdpAction};

use crate::env::{KernelEnv, count_drop};
use crate::maps::{DEVICE, LEAVING, XDP_STATS};
use crate::route::{Hop, Routable, leave_by, route};
use crate::xdp_packet::{XdpPacket, bounds};
use crate::{ETHERNET, INGRESS_DONE};

/// The type of an Ethernet frame with IPv4 or IPv6 in it, in network order.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// Runs the core on a frame. One with a VLAN tag is for a VLAN device above this one.
#[inline(always)]
pub fn run(ctx: *mut xdp_md) -> u32 {
    let (data, end) = bounds(ctx);
    if data + ETHERNET > end {
        return XDP_PASS;
    }
    // SAFETY: the frame has a whole Ethernet header, as compared above.
    let ethernet = unsafe { ((data + 12) as *const u16).read_unaligned() };
    // What a frame that is sent on is answered with.
    let mut out = 0;
    let done = match ethernet {
        IPV4 => accelerate(|step| {
            done(
                &mut out,
                match step {
                    SwiftStep::Translate => xdp_translate_v4(ctx),
                    SwiftStep::Begin => xdp_begin_v4(ctx),
                    SwiftStep::Masquerade => xdp_masq_v4(ctx),
                },
            )
        }),
        IPV6 => accelerate(|step| {
            done(
                &mut out,
                match step {
                    SwiftStep::Translate => xdp_translate_v6(ctx),
                    SwiftStep::Begin => xdp_begin_v6(ctx),
                    SwiftStep::Masquerade => xdp_masq_v6(ctx),
                },
            )
        }),
        _ => return XDP_PASS,
    };
    match done {
        Swift::Left => counted(XdpAction::Left, XDP_PASS),
        Swift::Up => counted(XdpAction::Up, XDP_PASS),
        Swift::NotOurs => {
            announce(ctx);
            counted(XdpAction::NotOurs, XDP_PASS)
        }
        Swift::Out => counted(XdpAction::SentOn, out),
        Swift::Drop => counted(XdpAction::Dropped, XDP_DROP),
        Swift::Begin | Swift::Masquerade | Swift::Ready => {
            count_drop(DropReason::FlowTable);
            counted(XdpAction::Dropped, XDP_DROP)
        }
    }
}

/// Takes apart what a function of a step answers: what it did in its low byte, the action of one that is sent on above.
#[inline(always)]
fn done(out: &mut u32, answer: u32) -> Swift {
    *out = answer >> 8;
    Swift::from_number(answer & 0xff)
}

/// Makes the functions of one family: see [`crate::flows`].
macro_rules! steps {
    ($address:ty, $translate:ident, $begin:ident, $masquerade:ident) => {
        /// Translates a packet of a flow that is there.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $translate(ctx: *mut xdp_md) -> u32 {
            step::<$address>(ctx, SwiftStep::Translate)
        }

        /// Opens a flow for it.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $begin(ctx: *mut xdp_md) -> u32 {
            step::<$address>(ctx, SwiftStep::Begin)
        }

        /// Gives the flow its masquerade.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $masquerade(ctx: *mut xdp_md) -> u32 {
            step::<$address>(ctx, SwiftStep::Masquerade)
        }
    };
}

steps!(Ipv4, xdp_translate_v4, xdp_begin_v4, xdp_masq_v4);
steps!(Ipv6, xdp_translate_v6, xdp_begin_v6, xdp_masq_v6);

#[inline(always)]
fn step<A>(ctx: *mut xdp_md, step: SwiftStep) -> u32
where
    A: Family + Routable,
    KernelEnv: Env<A>,
{
    // SAFETY: the context is the hook's own.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    let Some(mut env) = KernelEnv::at_uplink(ifindex, ctx.cast(), true) else {
        return Swift::Left as u32;
    };
    let now = env.now();
    let mut router = XdpRouter { ctx, ifindex, now, hop: None };
    match accelerate_step::<A, _, _, _>(step, &mut XdpPacket::new(ctx), &mut env, &mut router) {
        Swift::Out => Swift::Out as u32 | router.send() << 8,
        other => other as u32,
    }
}

#[inline(always)]
fn counted(action: XdpAction, answer: u32) -> u32 {
    if let Some(count) = XDP_STATS.get_ptr_mut(action as u32) {
        // SAFETY: the pointer leads into this CPU's own element, and a program is not moved to another CPU.
        unsafe { *count += 1 }
    }
    answer
}

struct XdpRouter {
    ctx: *mut xdp_md,
    ifindex: u32,
    now: u32,
    hop: Option<NonNull<Hop>>,
}

impl<A: Routable> Router<A> for XdpRouter {
    #[inline(always)]
    fn route(&mut self, way: &Way<A>) -> Route {
        let (route, hop) = route(self.ctx.cast(), self.ifindex, way, self.now);
        self.hop = hop;
        if let Some(hop) = hop {
            // SAFETY: as in `Fib::ask`.
            let hop = unsafe { hop.as_ref() };
            // What a promiscuous device gets may be for others.
            if !self.is_for(if hop.device == self.ifindex { hop.source } else { self.own() }) {
                return Route::Closed;
            }
            leave_by(hop.device);
        }
        route
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        LEAVING.get(0).map_or(0, |device| *device as u32)
    }

    #[inline(always)]
    fn announce(&mut self) -> bool {
        announce(self.ctx)
    }
}

impl XdpRouter {
    /// The Ethernet address of the device that the frame came in by.
    #[inline(always)]
    fn own(&self) -> [u8; 6] {
        // SAFETY: the address is copied at once; the agent replaces whole elements.
        unsafe { DEVICE.get(self.ifindex) }.map_or([0; 6], |device| device.ethernet)
    }

    /// Whether the frame is for this Ethernet address.
    #[inline(always)]
    fn is_for(&self, address: [u8; 6]) -> bool {
        let (data, end) = bounds(self.ctx);
        if data + ETHERNET > end {
            return false;
        }
        let [a, b, c, d, e, f] = address;
        // SAFETY: the frame has a whole Ethernet header, as compared above.
        let (high, low) =
            unsafe { ((data as *const u32).read_unaligned(), ((data + 4) as *const u16).read_unaligned()) };
        high == u32::from_ne_bytes([a, b, c, d]) && low == u16::from_ne_bytes([e, f])
    }

    /// Addresses the frame to the neighbour of the way that was found last, and answers the action that sends it there.
    #[inline(always)]
    fn send(&self) -> u32 {
        let (data, end) = bounds(self.ctx);
        let Some(hop) = self.hop else {
            return XDP_DROP;
        };
        if data + ETHERNET > end {
            return XDP_DROP;
        }
        // SAFETY: as in `Fib::ask`.
        let hop = unsafe { hop.as_ref() };
        // SAFETY: the frame has a whole Ethernet header, as compared above.
        unsafe { (data as *mut [[u8; 6]; 2]).write_unaligned([hop.destination, hop.source]) };
        if hop.device == self.ifindex {
            return XDP_TX;
        }
        // SAFETY: has no preconditions.
        unsafe { bpf_redirect(hop.device, 0).cast_unsigned() as u32 }
    }
}

/// Leaves a word before the frame, where the device's tc program looks for it. False where the driver has no room for it.
#[inline(always)]
fn announce(ctx: *mut xdp_md) -> bool {
    const WORD: usize = size_of::<u32>();
    // SAFETY: the context is the hook's own.
    if unsafe { bpf_xdp_adjust_meta(ctx, -(WORD as i32)) } != 0 {
        return false;
    }
    // SAFETY: as above.
    let meta = unsafe { (&raw const (*ctx).data_meta).read_volatile() } as usize;
    let (data, _) = bounds(ctx);
    if meta + WORD > data {
        return false;
    }
    // SAFETY: there is room for a word, as compared above.
    unsafe { (meta as *mut u32).write_unaligned(INGRESS_DONE) };
    true
}
