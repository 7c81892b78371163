//! Traffic for the suite `live`: UDP packets over IPv4, made in the kernel and sent out of a device, and what counts them
//! where they arrive.
//!
//! The frames of a test run are used again and again, as those who got them left them. So everything that is changed on the
//! way is written anew: the Ethernet header, the IPv4 header and the UDP header.

use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::{TcContext, XdpContext};
use proxy_bench_ebpf::{Arrival, ETHERNET, Frame};
use proxy_common::addr::Ipv4;
use proxy_common::datapath::checksum::{Delta, never_zero};

use crate::NEXT;
use crate::maps::{ARRIVED, FRAME, LIVE_PLAN};

const IPV4: usize = 20;
const UDP: usize = 8;
const HEADERS: usize = ETHERNET + IPV4 + UDP;

/// Makes the frame that of the next flow and sends it out of the plan's device.
#[inline(always)]
pub fn generate(ctx: &XdpContext) -> u32 {
    let (Some(plan), Some(frame)) = (LIVE_PLAN.get_ptr_mut(0), FRAME.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: one CPU runs the generator, and user space writes only between runs.
    let (plan, frame) = unsafe { (&mut *plan, &*frame) };
    let start = ctx.data();
    if start + HEADERS > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let number = plan.advance();
    let tuple = plan.tuple::<Ipv4>(number);
    let Frame { ethernet, ip_head, device, .. } = *frame;
    let mut addresses = Delta::default();
    addresses.add_address(tuple.near);
    addresses.add_address(tuple.far);
    let mut header = addresses;
    header.add(plan.header_sum.to_ne_bytes());
    let mut transport = addresses;
    transport.add(plan.transport_sum.to_ne_bytes());
    transport.add(tuple.near_port);
    transport.add(tuple.far_port);
    let [length_a, length_b, _, _] = plan.transport_head;
    let [sum_a, sum_b] = never_zero(transport.checksum());
    let [ttl, protocol] = plan.ttl_proto;
    let [check_a, check_b] = header.checksum();

    put(start, ethernet);
    put(start + ETHERNET, ip_head);
    put(start + ETHERNET + 8, [ttl, protocol, check_a, check_b]);
    put(start + ETHERNET + 12, tuple.near);
    put(start + ETHERNET + 16, tuple.far);
    put(start + ETHERNET + IPV4, tuple.near_port);
    put(start + ETHERNET + IPV4 + 2, tuple.far_port);
    put(start + ETHERNET + IPV4 + 4, [length_a, length_b, sum_a, sum_b]);
    // SAFETY: a helper that takes two numbers.
    let action = unsafe { bpf_redirect(device, 0) };
    // XDP_REDIRECT, or what stands for an error.
    u32::try_from(action).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Counts a packet of the generator, in an XDP program, and drops it; any other goes on.
#[inline(always)]
pub fn count_xdp(ctx: &XdpContext) -> u32 {
    if is_counted(ctx.data(), ctx.data_end()) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// The same in a tc program.
#[inline(always)]
pub fn count_tc(ctx: &TcContext) -> i32 {
    if is_counted(ctx.data(), ctx.data_end()) { TC_ACT_SHOT } else { NEXT }
}

/// Whether a packet is one that is waited for: UDP over IPv4 without options, to the port where it is to arrive.
#[inline(always)]
fn is_counted(start: usize, end: usize) -> bool {
    let (Some(frame), Some(arrived)) = (FRAME.get_ptr_mut(0), ARRIVED.get_ptr_mut(0)) else {
        return false;
    };
    // SAFETY: as in `generate`; the counter is that of this CPU.
    let (frame, arrived) = unsafe { (&*frame, &mut *arrived) };
    if start + HEADERS > end {
        return false;
    }
    let kind: [u8; 2] = get(start + 12);
    let version: u8 = get(start + ETHERNET);
    let protocol: u8 = get(start + ETHERNET + 9);
    let source: Ipv4 = get(start + ETHERNET + 12);
    let port: [u8; 2] = get(start + ETHERNET + IPV4 + 2);
    if kind != [8, 0] || version != 0x45 || protocol != 17 || port != frame.arrival_port {
        return false;
    }
    *arrived = Arrival { packets: arrived.packets + 1, source: u32::from_be(bytemuck::cast(source)), zero: 0 };
    true
}

#[inline(always)]
fn put<T: bytemuck::Pod>(at: usize, value: T) {
    // SAFETY: every place written to is below `start + HEADERS`, which is in the packet.
    unsafe { (at as *mut T).write_unaligned(value) }
}

#[inline(always)]
fn get<T: bytemuck::Pod>(at: usize) -> T {
    // SAFETY: every place read from is below `start + HEADERS`, which is in the packet.
    unsafe { (at as *const T).read_unaligned() }
}
