//! Ranges that the addresses of Services are from, and how often clients are told that there is nothing at one.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// How many entries `service_net_v4` and `service_net_v6` have.
pub const SERVICE_NETS: u32 = 8;

/// Value of the `service_net_v4` and `service_net_v6` arrays. The first unused entry ends the list.
///
/// It is what every packet is compared with that is for no frontend, so it is no trie: the first entry alone mostly tells
/// that an address is none of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceNet<A: Address> {
    /// First address of the range.
    pub addr: A,
    /// The bits that count.
    pub mask: A,
    /// [`ServiceNet::USED`] and what follows it.
    pub flags: u32,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(ServiceNet<Ipv4> = 12, ServiceNet<Ipv6> = 40);

impl<A: Address> ServiceNet<A> {
    /// The entry is in use.
    pub const USED: u32 = 1;
    /// Every address in use is known: of the others no packet can mean anything.
    pub const COMPLETE: u32 = 2;
}

/// Value of the per-CPU array `answer_budget`, which has one element: a bucket of tokens that is filled up each second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerBudget {
    /// When it was filled up: whole seconds since boot.
    pub filled: u32,
    /// How many answers may still be given.
    pub left: u32,
}
plain!(AnswerBudget = 8);

impl AnswerBudget {
    /// How many answers a CPU gives in a second: more than clients that mean it ask for, too few to be of use to those who
    /// would have others flooded.
    pub const PER_SECOND: u32 = 1_000;

    /// Takes a token. False where there is none.
    #[inline(always)]
    pub fn take(&mut self, now: u32) -> bool {
        if self.filled != now {
            *self = Self { filled: now, left: Self::PER_SECOND };
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}
