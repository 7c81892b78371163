//! The kernel programs: thin hook shells around `proxy_common::datapath`.
//!
//! `tc_in_*` run at ingress, `tc_out_*` at egress; `*_eth` on devices with Ethernet headers, `tc_in_port` on those of
//! them that are ports of a bridge, `*_l3` on devices without such headers (tun, WireGuard, IP tunnels). Each reads the protocol, calls the core and turns its verdict into an
//! action. Whatever is not ours goes on to the next program (TCX_NEXT, TC_ACT_UNSPEC), never past it.
//!
//! Here is all the unsafe packet and map access; the core has none.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what helpers take and return is narrower than its type: lengths and offsets below 64 KiB, actions, seconds"
)]
#![expect(missing_docs, reason = "the macro of a hook drops the comment of its function")]

mod env;
mod maps;
mod tc;
mod tc_packet;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use tc::Direction;

/// Bytes in an Ethernet header.
const ETHERNET: usize = 14;

/// Ingress of a device with Ethernet headers.
#[classifier]
pub fn tc_in_eth(ctx: TcContext) -> i32 {
    tc::run::<ETHERNET>(&ctx, Direction::Ingress)
}

/// Ingress of a device with Ethernet headers that is a port of a bridge.
#[classifier]
pub fn tc_in_port(ctx: TcContext) -> i32 {
    tc::run::<ETHERNET>(&ctx, Direction::PortIngress)
}

/// Egress of a device with Ethernet headers.
#[classifier]
pub fn tc_out_eth(ctx: TcContext) -> i32 {
    tc::run::<ETHERNET>(&ctx, Direction::Egress)
}

/// Ingress of a device without Ethernet headers.
#[classifier]
pub fn tc_in_l3(ctx: TcContext) -> i32 {
    tc::run::<0>(&ctx, Direction::Ingress)
}

/// Egress of a device without Ethernet headers.
#[classifier]
pub fn tc_out_l3(ctx: TcContext) -> i32 {
    tc::run::<0>(&ctx, Direction::Egress)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
