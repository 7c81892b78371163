//! Fragments: the packets that come in pieces, of which only the first has ports.

use super::plain;
use crate::addr::{Ipv4, Ipv6};

/// Key of the `fragment_v4` and `fragment_v6` maps: what the pieces of one packet have in common, at one hook
/// (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address, before translation.
    pub src: A,
    /// Destination address, before translation.
    pub dst: A,
    /// The packet's identification, in network order; of IPv4's, which has two bytes, the last two.
    pub id: [u8; 4],
    /// IP protocol number; 0 with IPv6, whose identification says enough.
    pub proto: u8,
    /// A [`FragmentHook`].
    pub hook: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain!(FragmentKey<Ipv4> = 16, FragmentKey<Ipv6> = 40);

/// Where the pieces are met: each hook translates them for itself.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentHook {
    /// They come in from a device.
    Ingress = 1,
    /// They leave through a device.
    Egress = 2,
    /// They come in from a port of a bridge and are replies for the stack, addressed as they are.
    Bridge = 3,
    /// They come in from an uplink and are sent on past the stack, addressed as they are.
    Onward = 4,
}

/// Value of the `fragment_v4` and `fragment_v6` maps: what became of the first piece.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment<A> {
    /// Source address, translated.
    pub src: A,
    /// Destination address, translated.
    pub dst: A,
    /// When the first piece came: whole seconds since boot (CLOCK_MONOTONIC).
    pub seen: u32,
    /// Always 0.
    pub zero: [u8; 4],
}
plain!(Fragment<Ipv4> = 16, Fragment<Ipv6> = 40);
