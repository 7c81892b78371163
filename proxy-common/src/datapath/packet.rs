//! The packet, as the core sees it.

use bytemuck::Pod;

use super::checksum::Delta;
use super::family::{Place, place};
use crate::addr::{Ipv4, Ipv6};
use crate::maps::EarlyKey;

/// A packet from its IP header on. Offsets count from there, in bytes.
///
/// Each hook has its own implementation: tc's keeps the socket buffer's checksum state right, XDP's and the
/// host's compute checksums themselves. Loads and stores copy, and answer `None` where the packet ends.
pub trait Packet: Sized {
    /// Bytes from the IP header on.
    fn length(&self) -> u32;

    /// Bytes of payload in each segment that the packet is cut into later, its headers before each; 0 if it stays whole.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    /// Copies out a value.
    fn load<T: Pod>(&self, offset: usize) -> Option<T>;

    /// Overwrites the bytes of a value.
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Corrects the TCP or UDP checksum at `offset` for bytes that were overwritten.
    ///
    /// The two changes are apart because a packet whose checksum the sender left to the device
    /// (CHECKSUM_PARTIAL) holds the sum of the pseudo header there, and of nothing else.
    fn fix_checksum(&mut self, offset: usize, change: &TransportChange) -> Option<()>;

    /// Whether the checksum at `offset` is still to be completed by the kernel (CHECKSUM_PARTIAL).
    /// The two bytes at `offset` are not preserved.
    fn is_checksum_partial(&mut self, offset: usize) -> Option<bool>;

    /// Cuts the packet to `len` bytes from the IP header on.
    fn truncate(&mut self, len: u32) -> Option<()>;

    /// Makes room for `len` bytes before the IP header; offsets count from the new beginning.
    fn prepend(&mut self, len: u32) -> Option<()>;

    /// Keeps the packet as it is, a later fragment, until [`recall`](Self::recall). False if that is not possible. The key's
    /// number may be overwritten.
    #[inline(always)]
    fn keep(&mut self, _key: &mut EarlyKey, _now: u32) -> bool {
        false
    }

    /// Has all fragments that were kept under a key come in again, behind what comes in at this moment. This packet stays as
    /// it is. The key's number may be overwritten.
    #[inline(always)]
    fn recall(&mut self, _key: &mut EarlyKey) {}

    /// Finds the transport header of an IPv4 packet.
    ///
    /// This and the next may be made functions of their own, which the verifier goes through once.
    #[inline(always)]
    fn locate_v4(&self) -> Place {
        place::<Ipv4, _>(self)
    }

    /// Finds the transport header of an IPv6 packet, behind extension headers as well.
    #[inline(always)]
    fn locate_v6(&self) -> Place {
        place::<Ipv6, _>(self)
    }
}

/// What was overwritten of the bytes that a TCP or UDP checksum covers.
#[derive(Clone, Copy)]
pub struct TransportChange {
    /// Addresses: in the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
    pub pseudo: Delta,
    /// Ports: in the transport header.
    pub body: Delta,
    /// UDP, where a checksum of 0 means none (RFC 768).
    pub udp: bool,
    /// The addresses are IPv6: no header checksum balances their change.
    pub ipv6: bool,
}
