//! Restoring the packet: each test run hands the program the packet as the run before left it.
//!
//! Only what a translation changes is written, in pieces as large as those in which the packet core reads them: a load
//! that spans two stores in flight would wait for both, which no real packet makes it do.

use aya_ebpf::programs::TcContext;
use proxy_bench_ebpf::{FlowTuple, Numbered, Plan};
use proxy_common::addr::Address;
use proxy_common::datapath::checksum::{Delta, never_zero};
use proxy_common::maps::TCP;

use crate::maps::{PLAN, PROGRAMS};

/// Bytes in an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes in a TCP header without options. A UDP packet of the bench is longer than that as well.
const TRANSPORT: usize = 20;

/// Makes the packet that of the next flow, sent by its client or to it, and lets the program of the plan have it.
#[inline(always)]
pub fn restore<A: Numbered>(ctx: &TcContext, is_request: bool) -> i32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: one CPU runs the bench, and user space writes only between runs.
    let plan = unsafe { &mut *plan };
    let number = plan.advance();
    let tuple = plan.tuple::<A>(number);
    let tuple = if is_request {
        tuple
    } else {
        FlowTuple { near: tuple.far, far: tuple.near, near_port: tuple.far_port, far_port: tuple.near_port }
    };
    if write(ctx.data(), ctx.data_end(), plan, &tuple).is_some() {
        // SAFETY: nothing here is left to be dropped. It returns only if there is no such program.
        unsafe { PROGRAMS.tail_call(ctx, plan.program) };
    }
    plan.lost += 1;
    0
}

/// Writes what differs into the packet between two addresses.
#[inline(always)]
pub fn write<A: Address>(data: usize, end: usize, plan: &Plan, tuple: &FlowTuple<A>) -> Option<()> {
    let header = data + ETHERNET;
    let transport = header + A::HEADER;
    if transport + TRANSPORT > end {
        return None;
    }
    let mut addresses = Delta::default();
    addresses.add_address(tuple.near);
    addresses.add_address(tuple.far);
    let [_, proto] = plan.ttl_proto;
    if let Some(at) = A::HEADER_CHECKSUM {
        let mut sum = addresses;
        sum.add(plan.header_sum.to_ne_bytes());
        put(header + at - 2, u32::from_ne_bytes(join(plan.ttl_proto, sum.checksum())));
    }
    put(header + A::SRC, tuple.near);
    put(header + A::DST, tuple.far);

    let mut sum = addresses;
    sum.add(plan.transport_sum.to_ne_bytes());
    sum.add(tuple.near_port);
    sum.add(tuple.far_port);
    let ports = u32::from_ne_bytes(join(tuple.near_port, tuple.far_port));
    let head = u32::from_ne_bytes(plan.transport_head);
    if proto == TCP {
        put(transport, words(ports, head));
        // The checksum is the third of four words there.
        let tail = u64::from_ne_bytes(plan.tcp_tail);
        let checksum = u64::from(u16::from_ne_bytes(sum.checksum()));
        put(transport + 12, tail | in_place(checksum));
    } else {
        let checksum = never_zero(sum.checksum());
        let [a, b, _, _] = plan.transport_head;
        put(transport, words(ports, u32::from_ne_bytes(join([a, b], checksum))));
    }
    Some(())
}

/// Two words of 4 bytes, as 8 bytes that are written at once.
#[inline(always)]
fn words(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        u64::from(second) << 32 | u64::from(first)
    } else {
        u64::from(first) << 32 | u64::from(second)
    }
}

/// Two bytes as bytes 4 and 5 of 8.
#[inline(always)]
fn in_place(checksum: u64) -> u64 {
    if cfg!(target_endian = "little") { checksum << 32 } else { checksum << 16 }
}

#[inline(always)]
fn join([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    [a, b, c, d]
}

/// Writes a value into the packet, below the end that was compared.
#[inline(always)]
fn put<T: bytemuck::Pod>(at: usize, value: T) {
    // SAFETY: every place written to is below `transport + TRANSPORT`, which is in the packet.
    unsafe { (at as *mut T).write_unaligned(value) }
}
