//! The kernel programs: thin hook shells around `proxy_common::datapath`.
//!
//! `tc_in_*` run at ingress, `tc_out_*` at egress; `*_eth` on devices with Ethernet headers, `tc_in_port` on those of
//! them that are ports of a bridge, `tc_in_up` on uplinks that send packets on, with or without `xdp_up` before it, `*_l3` on devices without such headers
//! (tun, WireGuard, IP tunnels). Each reads the protocol, calls the core and turns its verdict into an action. Whatever is not
//! ours goes on to the next program (TCX_NEXT, TC_ACT_UNSPEC), never past it.
//!
//! `sock_*` run where processes name addresses or are told of them; the number is that of the family. `list_peers*` run
//! when the agent asks which sockets were led where.
//!
//! Here is all the unsafe packet and map access; the core has none.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what helpers take and return is narrower than its type: lengths and offsets below 64 KiB, actions, seconds"
)]
#![expect(missing_docs, reason = "the macro of a hook drops the comment of its function")]

mod bounds;
mod early;
mod env;
mod flows;
mod maps;
mod peers;
mod route;
mod select;
mod socket;
mod tc;
mod tc_packet;
mod xdp;
mod xdp_packet;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp as xdp_program};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use proxy_common::addr::{Ipv4, Ipv6};

use peers::StorageIter;
use socket::Hook;
use tc::Direction;

/// Bytes in an Ethernet header.
const ETHERNET: usize = 14;
/// What XDP leaves before a frame for which the tc program of the same device has nothing to do.
const INGRESS_DONE: u32 = 0x706f_696e;

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

/// Ingress of an uplink with an XDP program, which leaves to it what it does not do itself.
#[classifier]
pub fn tc_in_up(ctx: TcContext) -> i32 {
    tc::run::<ETHERNET>(&ctx, Direction::UplinkIngress)
}

/// Where frames come in by an uplink.
#[xdp_program]
pub fn xdp_up(ctx: XdpContext) -> u32 {
    xdp::run(ctx.ctx)
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

/// connect(2) of IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    socket::run_v4(&ctx, Hook::Connect)
}

/// connect(2) of IPv6 sockets, which may name an IPv4 address.
#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    socket::run_v6(&ctx, Hook::Connect)
}

/// sendto(2) and sendmsg(2) of UDP sockets to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sock_send4(ctx: SockAddrContext) -> i32 {
    socket::run_v4(&ctx, Hook::Send)
}

/// The same to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sock_send6(ctx: SockAddrContext) -> i32 {
    socket::run_v6(&ctx, Hook::Send)
}

/// recvfrom(2) and recvmsg(2) of IPv4 UDP sockets.
#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recv4(ctx: SockAddrContext) -> i32 {
    socket::run_v4(&ctx, Hook::Receive)
}

/// The same of IPv6 UDP sockets, which may receive from IPv4 addresses.
#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recv6(ctx: SockAddrContext) -> i32 {
    socket::run_v6(&ctx, Hook::Receive)
}

/// getpeername(2) of IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub fn sock_peer4(ctx: SockAddrContext) -> i32 {
    socket::run_v4(&ctx, Hook::Peer)
}

/// getpeername(2) of IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn sock_peer6(ctx: SockAddrContext) -> i32 {
    socket::run_v6(&ctx, Hook::Peer)
}

/// Lists what is stored with sockets that were led to an IPv4 backend.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/list_peers4")]
pub extern "C" fn list_peers4(ctx: *const StorageIter) -> i32 {
    peers::list::<Ipv4>(ctx)
}

/// The same of IPv6.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/list_peers6")]
pub extern "C" fn list_peers6(ctx: *const StorageIter) -> i32 {
    peers::list::<Ipv6>(ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
