//! The shell of the tc hooks: protocol in, action out.

use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::datapath::{Env, Family, Host, Route, Router, Verdict, Way, egress, ingress, is_reply, onward};
use proxy_common::maps::DropReason;

use crate::INGRESS_DONE;
use crate::env::{KernelEnv, count_drop};
use crate::route::{Fib, Hop, Routable, route};
use crate::tc_packet::{TcPacket, set_destination, set_ethernet, swap_ethernet};

/// TCX_NEXT and TC_ACT_UNSPEC: the next program, or the device's own way.
const NEXT: i32 = -1;
/// TCX_DROP and TC_ACT_SHOT.
const DROP: i32 = 2;

/// PACKET_BROADCAST and PACKET_MULTICAST (include/uapi/linux/if_packet.h).
const BROADCAST: u32 = 1;
const MULTICAST: u32 = 2;
/// PACKET_HOST: for this machine.
const HOST: u32 = 0;

/// `skb->protocol` of IPv4 and IPv6, in network order.
const IPV4: u32 = (0x0800_u16).to_be() as u32;
const IPV6: u32 = (0x86dd_u16).to_be() as u32;
/// What of a VLAN tag is the VLAN's number.
const VLAN_ID: u32 = 0xfff;

/// Which way the packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the device to the stack.
    Ingress,
    /// The same, from a port of a bridge.
    PortIngress,
    /// The same, from an uplink that packets are sent on by.
    UplinkIngress,
    /// From the stack to the device.
    Egress,
}

/// Runs the core on a packet whose IP header stands `L2` bytes from its beginning.
#[inline(always)]
pub fn run<const L2: usize>(ctx: &TcContext, direction: Direction) -> i32 {
    // SAFETY: the context is the hook's own.
    let (protocol, is_tagged, tag, ifindex) = unsafe {
        let skb = &*ctx.skb.skb;
        (skb.protocol, skb.vlan_present != 0, skb.vlan_tci, skb.ifindex)
    };
    // A tag without a number tells a priority alone: the frame is this device's own (IEEE 802.1Q).
    let is_of_vlan = is_tagged && tag & VLAN_ID != 0;
    if is_of_vlan || (direction == Direction::UplinkIngress && is_done(ctx)) {
        // Of a VLAN device above this one, which has the programs itself; or XDP has done it.
        return NEXT;
    }
    match protocol {
        IPV4 => run_family::<Ipv4, L2>(ctx, direction, ifindex),
        IPV6 => run_family::<Ipv6, L2>(ctx, direction, ifindex),
        _ => NEXT,
    }
}

#[inline(always)]
fn run_family<A, const L2: usize>(ctx: &TcContext, direction: Direction, ifindex: u32) -> i32
where
    A: Family + Routable,
    KernelEnv: Env<A>,
{
    let env = match direction {
        Direction::UplinkIngress => KernelEnv::at_uplink(ifindex, ctx.skb.skb.cast(), false),
        Direction::Ingress | Direction::PortIngress | Direction::Egress => KernelEnv::new(ifindex),
    };
    let Some(mut env) = env else {
        return NEXT;
    };
    let mut packet = TcPacket::<L2>::new(ctx);
    let verdict = match direction {
        Direction::Ingress | Direction::PortIngress | Direction::UplinkIngress => {
            ingress::<A, _, _>(&mut packet, &mut env)
        }
        Direction::Egress => egress::<A, _, _>(&mut packet, &mut env),
    };
    match verdict {
        Verdict::Pass if direction == Direction::PortIngress => {
            if is_reply::<A, _, _>(&packet, &mut env) {
                to_stack(ctx, &env);
            }
            NEXT
        }
        Verdict::Opened | Verdict::Translated if direction == Direction::UplinkIngress => {
            send_on::<A, L2>(ctx, &mut packet, &mut env, ifindex)
        }
        Verdict::Pass | Verdict::Translated => NEXT,
        Verdict::Opened => {
            debug!(ctx, "ifindex {}: new flow", ifindex);
            NEXT
        }
        Verdict::Kept => DROP,
        Verdict::Again => again(ifindex),
        Verdict::AnswerNobody => reply::<L2>(ctx, ifindex, DropReason::NoBackend),
        Verdict::AnswerUnknownPort => reply::<L2>(ctx, ifindex, DropReason::UnknownPort),
        Verdict::Drop(reason) => drop(ctx, ifindex, reason),
    }
}

/// Whether XDP has left word that nothing is left to be done.
#[inline(always)]
fn is_done(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the hook's own.
    let (meta, data) = unsafe {
        let meta = (&raw const (*skb).data_meta).read_volatile();
        let data = (&raw const (*skb).data).read_volatile();
        (meta as usize, data as usize)
    };
    if meta + size_of::<u32>() > data {
        return false;
    }
    // SAFETY: a word stands before the packet, as compared above.
    unsafe { (meta as *const u32).read_unaligned() == INGRESS_DONE }
}

/// Sends a packet on, past the stack, if its flow is one of those: see [`onward`].
#[inline(never)]
fn send_on<A, const L2: usize>(ctx: &TcContext, packet: &mut TcPacket<'_, L2>, env: &mut KernelEnv, ifindex: u32) -> i32
where
    A: Family + Routable,
    KernelEnv: Env<A>,
{
    // SAFETY: the context is the hook's own.
    let to = unsafe { (*ctx.skb.skb).pkt_type };
    if to != HOST {
        return NEXT;
    }
    let now = env.now();
    let mut router = TcRouter { ctx, ifindex, now, hop: None };
    match onward::<A, _, _, _>(packet, env, &mut router) {
        Verdict::Translated => router.send(),
        Verdict::Drop(reason) => drop(ctx, ifindex, reason),
        _ => NEXT,
    }
}

struct TcRouter<'a> {
    ctx: &'a TcContext,
    ifindex: u32,
    now: u32,
    hop: Option<NonNull<Hop>>,
}

impl<A: Routable> Router<A> for TcRouter<'_> {
    #[inline(always)]
    fn route(&mut self, way: &Way<A>) -> Route {
        let (route, hop) = route(self.ctx.skb.skb.cast(), self.ifindex, way, self.now);
        self.hop = hop;
        route
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        match self.hop {
            // SAFETY: as in `Fib::ask`.
            Some(hop) => unsafe { hop.as_ref() }.device,
            None => Fib::new().map_or(0, |fib| fib.device()),
        }
    }

    #[inline(always)]
    fn announce(&mut self) -> bool {
        false
    }
}

impl TcRouter<'_> {
    /// Sends the packet by the way that was found last: to the neighbour that is known, or to one that the kernel asks for
    /// whether it is still there, and looks for if it is not known, by the packet's address.
    #[inline(always)]
    fn send(&self) -> i32 {
        if let Some(hop) = self.hop {
            // SAFETY: as in `Fib::ask`.
            let hop = unsafe { hop.as_ref() };
            if hop.left != self.now && set_ethernet(self.ctx, hop.destination, hop.source).is_some() {
                // SAFETY: has no preconditions.
                return unsafe { bpf_redirect(hop.device, 0) as i32 };
            }
        }
        let device = Router::<Ipv4>::device(self);
        // SAFETY: has no preconditions.
        unsafe { bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32 }
    }
}

/// Sends a reply that the bridge would hand over by itself up to the stack instead: see [`is_reply`].
#[inline(always)]
fn to_stack(ctx: &TcContext, env: &KernelEnv) {
    if let Some(device) = env.device() {
        // A packet without an Ethernet header cannot have come through a bridge.
        let _ = set_destination(ctx, device.ethernet);
    }
}

/// Has the packet come in by its device once more: behind those that wait to be looked at by this CPU.
#[inline(always)]
fn again(ifindex: u32) -> i32 {
    // SAFETY: has no preconditions.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Sends the packet back through the device that it came from.
#[inline(always)]
fn reply<const L2: usize>(ctx: &TcContext, ifindex: u32, reason: DropReason) -> i32 {
    // SAFETY: the context is the hook's own.
    let to = unsafe { (*ctx.skb.skb).pkt_type };
    if to == BROADCAST || to == MULTICAST {
        // Nobody answers what all of a link have got (RFC 1122 §3.2.2).
        return drop(ctx, ifindex, DropReason::NoBackendSilent);
    }
    count_drop(reason);
    debug!(ctx, "ifindex {}: refused", ifindex);
    if L2 == crate::ETHERNET && swap_ethernet(ctx).is_none() {
        return drop(ctx, ifindex, DropReason::Rewrite);
    }
    // SAFETY: has no preconditions.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

#[inline(always)]
fn drop(ctx: &TcContext, ifindex: u32, reason: DropReason) -> i32 {
    count_drop(reason);
    debug!(ctx, "ifindex {}: dropped, reason {}", ifindex, reason as u32);
    DROP
}
