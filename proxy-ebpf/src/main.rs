//! The kernel programs: thin hook shells around `proxy_common::datapath`.
//!
//! `tc_in_*` run at ingress, `tc_out_*` at egress; `*_eth` on devices with Ethernet headers, `*_l3` on those
//! without (tun, WireGuard, IP tunnels). Each reads the protocol, calls the core and turns its verdict into an
//! action. Whatever is not ours goes on to the next program (TCX_NEXT, TC_ACT_UNSPEC), never past it.
//!
//! Here is all the unsafe packet and map access; the core has none.
#![no_std]
#![no_main]

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
