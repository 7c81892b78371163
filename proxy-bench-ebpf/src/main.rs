//! The bench's kernel programs, which no agent ever loads.
//!
//! `request_*` and `reply_*` restore the packet to what a flow's client or backend sent and tail-call the program that
//! is measured; `empty` and the programs of `floors` are measured beside it, by the same way. `xdp_*` are the same for XDP.
//! `live_*` make and count real traffic.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the macro of a hook drops the comment of its function")]

mod floors;
mod generate;
mod maps;
mod restore;
mod xdp;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{classifier, xdp as xdp_program};
use aya_ebpf::programs::{TcContext, XdpContext};
use proxy_common::addr::{Ipv4, Ipv6};

/// TCX_NEXT and TC_ACT_UNSPEC: what the programs under test answer.
const NEXT: i32 = -1;

/// Measured for what calling it costs.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    NEXT
}

/// Restores a packet of an IPv4 client.
#[classifier]
pub fn request_v4(ctx: TcContext) -> i32 {
    restore::restore::<Ipv4>(&ctx, true)
}

/// Restores a packet to an IPv4 client.
#[classifier]
pub fn reply_v4(ctx: TcContext) -> i32 {
    restore::restore::<Ipv4>(&ctx, false)
}

/// Restores a packet of an IPv6 client.
#[classifier]
pub fn request_v6(ctx: TcContext) -> i32 {
    restore::restore::<Ipv6>(&ctx, true)
}

/// Restores a packet to an IPv6 client.
#[classifier]
pub fn reply_v6(ctx: TcContext) -> i32 {
    restore::restore::<Ipv6>(&ctx, false)
}

/// Sends a packet of the next flow.
#[xdp_program]
pub fn live_generate(ctx: XdpContext) -> u32 {
    generate::generate(&ctx)
}

/// Counts the generator's packets and drops them.
#[xdp_program]
pub fn live_count_xdp(ctx: XdpContext) -> u32 {
    generate::count_xdp(&ctx)
}

/// Counts the generator's packets and drops them.
#[classifier]
pub fn live_count_tc(ctx: TcContext) -> i32 {
    generate::count_tc(&ctx)
}

/// Measured for what calling it costs.
#[xdp_program]
pub fn xdp_empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// One look-up in an LRU hash map, the same each time.
#[xdp_program]
pub fn xdp_lru_hot(_ctx: XdpContext) -> u32 {
    if floors::is_hot_found() { XDP_PASS } else { 0 }
}

/// Restores a packet of an IPv4 client.
#[xdp_program]
pub fn xdp_request_v4(ctx: XdpContext) -> u32 {
    xdp::restore::<Ipv4>(&ctx)
}

/// Restores a packet of an IPv6 client.
#[xdp_program]
pub fn xdp_request_v6(ctx: XdpContext) -> u32 {
    xdp::restore::<Ipv6>(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
