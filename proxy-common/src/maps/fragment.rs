//! Fragments: the packets that come in pieces, of which only the first has ports, and pieces that come before it.

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

/// Key of the map `early`: a piece that has come before the first of its packet.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EarlyKey {
    /// Source address; IPv4 in the last four bytes.
    pub src: [u8; 16],
    /// Destination address; likewise.
    pub dst: [u8; 16],
    /// As in [`FragmentKey`].
    pub id: [u8; 4],
    /// IP protocol number; 0 with IPv6.
    pub proto: u8,
    /// Counts the early pieces of a packet, from 0 on.
    pub number: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain!(EarlyKey = 40);

impl EarlyKey {
    /// How many pieces of one packet may come early: all others of 64 KiB, with an MTU of 1,400.
    pub const PIECES: u8 = 48;
}

/// Value of the map `early`: the piece itself.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// When it came: whole seconds since boot (CLOCK_MONOTONIC).
    pub seen: u32,
    /// The device that it came in by.
    pub ifindex: u32,
    /// How many of the bytes are its own.
    pub length: u32,
    /// Always 0.
    pub zero: u32,
    /// From the link's header on, if the device has one.
    pub bytes: [u8; 2048],
}
plain!(Early = 2064);

impl Early {
    /// Longer pieces are not kept.
    pub const LONGEST: u32 = 2047;
    /// Seconds for which a piece is kept at least: as long as Linux waits for others (`net.ipv6.ip6frag_time`).
    pub const LIFETIME: u32 = 60;
}
