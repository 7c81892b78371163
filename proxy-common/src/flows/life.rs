//! When a flow is over, and whom it may have to make way for.
//!
//! All without a branch: an insertion asks for 28 ways, and the verifier would go through what each may be.

use crate::maps::{FlowConfig, FlowLife, FlowState, FlowWay};

/// What the table says about a way.
#[inline(always)]
fn life(way: FlowWay, config: &FlowConfig) -> u32 {
    config.lives[usize::from(way.life_index())]
}

/// For how many seconds a flow has been idle. A packet that another CPU saw "later" counts as now.
#[inline(always)]
fn idle(way: FlowWay, now: u32) -> u64 {
    let idle = i64::from(now) - i64::from(way.seen);
    (idle & !(idle >> 63)).cast_unsigned()
}

/// 1 if a flow with this entry of the table is over after so many seconds, else 0.
#[inline(always)]
fn over(life: u32, idle: u64) -> u64 {
    u64::from(life & FlowConfig::SECONDS).wrapping_sub(idle) >> 63
}

/// Whether a flow has been idle for too long. Its client's next SYN or datagram begins a new one, and so may anybody's
/// who would have the same addresses and ports on the backend's side.
#[inline(always)]
pub fn is_over(way: FlowWay, now: u32, config: &FlowConfig) -> bool {
    over(life(way, config), idle(way, now)) != 0
}

/// Whether the client's next SYN begins a new flow.
///
/// A client that opens a closing connection again has seen to it itself that its old one does not disturb.
#[inline(always)]
pub(crate) fn is_ending(way: FlowWay, now: u32, config: &FlowConfig) -> bool {
    way.state & FlowState::CLOSING != 0 || is_over(way, now, config)
}

/// Whether somebody else may have the addresses and ports that the flow has on the backend's side.
///
/// While the backend's socket is in TIME_WAIT it would take a stranger's SYN for an old packet of its own: the
/// stranger's sequence numbers and timestamps count from another beginning (RFC 6191).
#[inline(always)]
pub(super) fn is_vacant(way: FlowWay, now: u32, config: &FlowConfig) -> bool {
    way.state & FlowState::RESET != 0 || is_over(way, now, config)
}

/// How readily a way makes room for another flow; 0: not at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

/// What a [`Rank`] comes to: see [`super`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Stays,
    HalfOpen,
    Closed,
    Over,
    Free,
}

/// How many bits of a rank tell the idle time.
const IDLE: u32 = 32;

impl Rank {
    pub const STAYS: Self = Self(0);
    /// The first of all that cost nobody anything.
    pub const OVER: Self = Self(3 << IDLE);

    /// Half open, closed, over, free; among equals by the time that they are idle.
    #[inline(always)]
    pub fn of(way: FlowWay, now: u32, config: &FlowConfig) -> Self {
        let life = life(way, config);
        let idle = idle(way, now);
        // Over is 3, whatever else it is, and of what is free 4 remains.
        let class = u64::from(life >> FlowConfig::SECONDS.count_ones()) | (3 * over(life, idle));
        let is_any = (class + 7) >> 3;
        let is_flow = u64::from(way.kind & FlowWay::ALIAS == 0);
        Self((class << IDLE | idle) * (is_any * is_flow))
    }

    /// What it comes to.
    #[inline(always)]
    pub fn class(self) -> Class {
        match self.0 >> IDLE {
            0 => Class::Stays,
            1 => Class::HalfOpen,
            2 => Class::Closed,
            3 => Class::Over,
            _ => Class::Free,
        }
    }

    /// The rank with the number of its way, so that they are compared together; the first of equals is the greatest.
    #[inline(always)]
    pub fn with_number(self, number: u32) -> u64 {
        self.0 << 8 | u64::from(255 - number)
    }

    /// Both again.
    #[inline(always)]
    pub fn split(ranked: u64) -> (Self, u32) {
        (Self(ranked >> 8), 255 - (ranked & 255) as u32)
    }
}

// Classes are compared as numbers.
const _: () = assert!((FlowLife::Stays as u8) < FlowLife::HalfOpen as u8);
const _: () = assert!((FlowLife::HalfOpen as u8) < FlowLife::Closed as u8);
const _: () = assert!((FlowLife::Closed as u8) < 3 && FlowLife::Free as u8 == 4);

/// The greater of two numbers below 2⁶³, without a branch.
#[inline(always)]
pub(super) fn greater(a: u64, b: u64) -> u64 {
    // All ones if `a` is the smaller one. Hidden from LLVM, which would make a comparison of it, and then a branch.
    let mask = hide((hide(a.wrapping_sub(b)).cast_signed() >> 63).cast_unsigned());
    a ^ ((a ^ b) & mask)
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn hide(mut number: u64) -> u64 {
    // An instruction, if an idle one: without any, two lines of the source have one place, which the kernel refuses.
    // SAFETY: the register stays what it is.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, preserves_flags, nostack)) }
    number
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn hide(number: u64) -> u64 {
    number
}
