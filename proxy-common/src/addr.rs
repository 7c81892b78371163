//! The two address families, and all that differs between them.
//!
//! Everything else in this crate is generic over [`Address`]. The differences are where the addresses stand
//! in the header, whether the header has a checksum of its own, and which protocol is ICMP.

use core::fmt;

use crate::maps::plain_address;

/// An IPv4 address, in network order. Aligned, so that BPF copies words and not bytes.
#[repr(C, align(4))]
#[derive(Clone, Copy, Default, PartialOrd, Ord, Hash)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "the equality below is that of the bytes")]
pub struct Ipv4 {
    /// The bytes of the address.
    pub octets: [u8; 4],
}

/// An IPv6 address, in network order. Aligned, so that BPF copies words and not bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialOrd, Ord, Hash)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "the equality below is that of the bytes")]
pub struct Ipv6 {
    /// The bytes of the address.
    pub octets: [u8; 16],
}

plain_address!(Ipv4, Ipv6);

impl Ipv4 {
    /// An address from its bytes.
    #[inline(always)]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self { octets }
    }
}

// Equality by words: a comparison of arrays would become a call of memcmp, a loop in BPF.
impl PartialEq for Ipv4 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        u32::from_ne_bytes(self.octets) == u32::from_ne_bytes(other.octets)
    }
}
impl Eq for Ipv4 {}

impl PartialEq for Ipv6 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.halves(), other.halves());
        (a ^ c) | (b ^ d) == 0
    }
}
impl Eq for Ipv6 {}

impl Ipv6 {
    /// An address from its bytes.
    #[inline(always)]
    pub const fn new(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        // A cast of the whole: taken apart into bytes, an address would fill 16 places of BPF's small stack.
        bytemuck::cast(self.octets)
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(self.octets).fmt(f)
    }
}

impl fmt::Debug for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv6Addr::from(self.octets).fmt(f)
    }
}

/// An address family.
pub trait Address: Copy + Eq + Default + fmt::Debug + bytemuck::Pod {
    /// Bytes in an address.
    const LEN: usize;
    /// Bytes in the header without options.
    const HEADER: usize;
    /// Offset of the source address in the header.
    const SRC: usize;
    /// Offset of the destination address in the header.
    const DST: usize;
    /// Offset of the header's own checksum, where the family has one.
    const HEADER_CHECKSUM: Option<usize>;
    /// Protocol number of this family's ICMP.
    const ICMP: u8;

    /// What fills up a map type that ends 4 bytes short with an IPv6 address, and does not with an IPv4 one.
    type Fill: Copy + Eq + Default + Ord + core::hash::Hash + fmt::Debug + bytemuck::Pod;

    /// What fills up a set of flows to a power of two.
    type SetFill: Copy + Eq + fmt::Debug + bytemuck::Pod;

    /// What fills up a flow to whole lines of the cache.
    type FlowFill: Copy + Eq + Default + fmt::Debug + bytemuck::Pod;

    /// 0 if it is the same address.
    fn differs(self, other: Self) -> u64;

    /// The address as a number for a hash: not yet mixed, but no part is lost.
    fn mix(self) -> u64;

    /// Sum of the address's 32-bit words, unfolded, in the machine's order (RFC 1071).
    fn sum(self) -> u64;

    /// Whether this has the bits of `first` where `mask` has ones.
    fn is_within(&self, first: &Self, mask: &Self) -> bool;

    /// Whether this may be the address of one other host: not unspecified, loopback, multicast or broadcast.
    fn is_unicast(&self) -> bool;

    /// Whether this is an address of the machine for itself (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
    fn is_loopback(self) -> bool;

    /// Whether this is the unspecified address, which the maps use for "none".
    #[inline(always)]
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Address for Ipv4 {
    const LEN: usize = 4;
    const HEADER: usize = 20;
    const SRC: usize = 12;
    const DST: usize = 16;
    const HEADER_CHECKSUM: Option<usize> = Some(10);
    const ICMP: u8 = 1;
    type Fill = [u8; 0];
    type SetFill = [u8; 0];
    type FlowFill = [u8; 8];

    #[inline(always)]
    fn differs(self, other: Self) -> u64 {
        u64::from(u32::from_ne_bytes(self.octets) ^ u32::from_ne_bytes(other.octets))
    }

    #[inline(always)]
    fn mix(self) -> u64 {
        u64::from(u32::from_ne_bytes(self.octets))
    }

    #[inline(always)]
    fn is_within(&self, first: &Self, mask: &Self) -> bool {
        let word = |address: &Self| u32::from_ne_bytes(address.octets);
        (word(self) ^ word(first)) & word(mask) == 0
    }

    #[inline(always)]
    fn is_unicast(&self) -> bool {
        // 224.0.0.0/4 and what is above it (RFC 1112, RFC 6890).
        !matches!(self.octets[0], 0 | 127 | 224..)
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(u32::from_ne_bytes(self.octets))
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        u32::from_be_bytes(self.octets) >> 24 == 127
    }
}

impl Address for Ipv6 {
    const LEN: usize = 16;
    const HEADER: usize = 40;
    const SRC: usize = 8;
    const DST: usize = 24;
    const HEADER_CHECKSUM: Option<usize> = None;
    const ICMP: u8 = 58;
    type Fill = [u8; 4];
    type SetFill = [u8; 64];
    type FlowFill = [u8; 24];

    #[inline(always)]
    fn differs(self, other: Self) -> u64 {
        let ([a, b], [c, d]) = (self.halves(), other.halves());
        (a ^ c) | (b ^ d)
    }

    #[inline(always)]
    fn mix(self) -> u64 {
        let [high, low] = self.halves();
        // Of one network, `high` is the same for all: it need not be mixed well.
        high.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(32) ^ low
    }

    #[inline(always)]
    fn is_within(&self, first: &Self, mask: &Self) -> bool {
        let ([a, b], [c, d], [e, f]) = (self.halves(), first.halves(), mask.halves());
        ((a ^ c) & e) | ((b ^ d) & f) == 0
    }

    #[inline(always)]
    fn is_unicast(&self) -> bool {
        let [high, low] = self.halves();
        // ff00::/8, :: and ::1 (RFC 4291).
        self.octets[0] != 0xff && !(high == 0 && (low == 0 || low == 1_u64.to_be()))
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        let [high, low] = self.halves();
        let words = |half: u64| (half & 0xffff_ffff) + (half >> 32);
        words(high) + words(low)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        let [high, low] = self.halves();
        high | (low ^ 1_u64.to_be()) == 0
    }
}
