//! Restoring frames for XDP, which may also have sent the last one on: with other Ethernet addresses and one hop less.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_meta;
use aya_ebpf::programs::XdpContext;
use proxy_bench_ebpf::{FRAME_ENDS, Numbered};
use proxy_common::addr::Address;

use crate::maps::{PLAN, XDP_PROGRAMS};
use crate::restore::{ETHERNET, write};

/// Makes the frame that of the next flow, sent by its client, and lets the program of the plan have it.
#[inline(always)]
pub fn restore<A: Numbered>(ctx: &XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: one CPU runs the bench, and user space writes only between runs.
    let plan = unsafe { &mut *plan };
    let number = plan.advance();
    let tuple = plan.tuple::<A>(number);
    forget(ctx);
    let (data, end) = (ctx.data(), ctx.data_end());
    if rewrite::<A>(data, end, plan.ttl_proto).is_some() && write(data, end, plan, &tuple).is_some() {
        // SAFETY: nothing here is left to be dropped. It returns only if there is no such program.
        unsafe { XDP_PROGRAMS.tail_call(ctx, plan.program) };
    }
    plan.lost += 1;
    0
}

/// Takes away what the last run left before the frame. Called whether there is something or not, so that it costs the same.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "some bytes")]
fn forget(ctx: &XdpContext) {
    let length = ctx.data().wrapping_sub(ctx.metadata()) as i32;
    // SAFETY: the context is the hook's own. It cannot fail: nothing is left then.
    unsafe { bpf_xdp_adjust_meta(ctx.ctx, length) };
}

#[inline(always)]
fn rewrite<A: Address>(data: usize, end: usize, [hops, _]: [u8; 2]) -> Option<()> {
    let header = data + ETHERNET;
    if header + A::HEADER > end {
        return None;
    }
    // SAFETY: the frame is longer than both headers, as compared above.
    unsafe {
        (data as *mut [[u8; 6]; 2]).write_unaligned(FRAME_ENDS);
        if A::HEADER_CHECKSUM.is_none() {
            // The other family's hops are written with its checksum.
            ((header + 7) as *mut u8).write(hops);
        }
    }
    Some(())
}
