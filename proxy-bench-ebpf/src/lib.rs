//! What the bench and its kernel programs share: which packet is that of flow number n.
//!
//! A [`Plan`] is one map entry. User space writes it before a test run; with each run the program [takes the next
//! number](Plan::advance), and gives the packet the [addresses and ports](Plan::tuple) of that flow.
#![no_std]

use proxy_common::addr::{Address, Ipv4, Ipv6};

/// The first client port: those below could be taken for masquerade ports or NodePorts.
const FIRST_PORT: u16 = 0x8000;
/// The bits of a flow's number that choose its client's port; those above choose the client's address.
const PORT_BITS: u32 = 15;

/// Ethernet addresses of all frames: destination and source.
pub const FRAME_ENDS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// What the next runs are to do.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the sequence of numbers is.
    pub state: u64,
    /// How it goes on.
    pub order: Order,
    /// The number of the flow of the last run.
    pub last: u32,
    /// Counts runs that did not come to their end.
    pub lost: u32,
    /// Index of the program that gets the packets.
    pub program: u32,
    /// Mask over a flow's number: which of the addresses from `far` on it talks to.
    pub spread: u32,
    /// Address of client 0; IPv4 takes the first 4 bytes.
    pub near: [u8; 16],
    /// Address that flow 0 talks to; likewise.
    pub far: [u8; 16],
    /// Bytes 12 to 20 of a TCP header without its checksum.
    pub tcp_tail: [u8; 8],
    /// Bytes 4 to 8 of the transport header without a checksum: the sequence number, or the length of UDP.
    pub transport_head: [u8; 4],
    /// The port that all flows talk to, network order.
    pub far_port: [u8; 2],
    /// Time to live and protocol of the IPv4 header; the protocol is the second one for IPv6 as well.
    pub ttl_proto: [u8; 2],
    /// Sum of the IPv4 header's words without addresses and checksum.
    pub header_sum: u16,
    /// Sum of all words that the transport checksum covers, without addresses and ports.
    pub transport_sum: u16,
    /// Always 0.
    pub zero: [u8; 4],
}
const _: () = assert!(size_of::<Plan>() == 104, "padding");
// SAFETY: repr(C), every field is plain data, and the size above is the sum of the fields.
unsafe impl bytemuck::Zeroable for Plan {}
// SAFETY: as above; no padding, and every bit pattern is a value.
unsafe impl bytemuck::Pod for Plan {}

/// In which order flows come: the high bits of a linear congruence, of which counting is a case.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The factor.
    pub factor: u64,
    /// The term.
    pub term: u64,
    /// How many low bits are not used.
    pub shift: u32,
    /// Mask over the number: how many flows there are, a power of two, less one.
    pub mask: u32,
}

impl Order {
    /// One after the other.
    pub const fn counting() -> Self {
        Self { factor: 1, term: 1, shift: 0, mask: u32::MAX }
    }

    /// Any of 2ⁿ flows, of n below 32.
    pub const fn random(bits: u32) -> Self {
        // Knuth's MMIX generator.
        Self { factor: 6_364_136_223_846_793_005, term: 1_442_695_040_888_963_407, shift: 32, mask: (1 << bits) - 1 }
    }
}

/// Addresses and ports of a flow: its client's and those that the client talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple<A> {
    /// The client's address.
    pub near: A,
    /// The other address.
    pub far: A,
    /// The client's port, network order.
    pub near_port: [u8; 2],
    /// The other port, network order.
    pub far_port: [u8; 2],
}

impl Plan {
    /// The number of the next flow.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the bits above are not part of a number")]
    pub fn advance(&mut self) -> u32 {
        let Order { factor, term, shift, mask } = self.order;
        self.state = self.state.wrapping_mul(factor).wrapping_add(term);
        self.last = (self.state.wrapping_shr(shift) as u32) & mask;
        self.last
    }

    /// Lets a counting sequence go on with a number.
    pub const fn count_from(&mut self, number: u32) {
        self.state = (number as u64).wrapping_sub(1);
    }

    /// The addresses and ports of a flow.
    #[inline(always)]
    pub fn tuple<A: Numbered>(&self, number: u32) -> FlowTuple<A> {
        let port = FIRST_PORT | (number & ((1 << PORT_BITS) - 1)) as u16;
        FlowTuple {
            near: A::from_bytes(&self.near).plus(number >> PORT_BITS),
            far: A::from_bytes(&self.far).plus(number & self.spread),
            near_port: port.to_be_bytes(),
            far_port: self.far_port,
        }
    }
}

/// Addresses that can be counted.
pub trait Numbered: Address {
    /// The address in the first bytes.
    fn from_bytes(bytes: &[u8; 16]) -> Self;

    /// The address that comes `number` after this one.
    fn plus(self, number: u32) -> Self;
}

impl Numbered for Ipv4 {
    #[inline(always)]
    fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [word, ..]: [u32; 4] = bytemuck::cast(*bytes);
        bytemuck::cast(word)
    }

    #[inline(always)]
    fn plus(self, number: u32) -> Self {
        bytemuck::cast(u32::from_be(bytemuck::cast(self)).wrapping_add(number).to_be())
    }
}

impl Numbered for Ipv6 {
    #[inline(always)]
    fn from_bytes(bytes: &[u8; 16]) -> Self {
        bytemuck::cast(*bytes)
    }

    #[inline(always)]
    fn plus(self, number: u32) -> Self {
        let [a, b, c, last]: [u32; 4] = bytemuck::cast(self);
        let last = u32::from_be(last).wrapping_add(number).to_be();
        bytemuck::cast([a, b, c, last])
    }
}

/// Key of the maps that the floors are measured with.
pub type FloorKey = [u64; 2];

/// Value of the maps that the floors are measured with: as large as that of an IPv4 flow.
pub type FloorValue = [u64; 6];

/// What each [`FloorValue`] begins with.
pub const FLOOR_VALUE: u64 = 0x0102_0304;

/// The key of a number.
#[inline(always)]
pub const fn floor_key(number: u32) -> FloorKey {
    [number as u64, 0x5a5a]
}

/// How many entries the maps of the floors hold that are not inserted into.
pub const FLOOR_ENTRIES: usize = 131_072;

/// Bytes in an Ethernet header.
pub const ETHERNET: usize = 14;

/// What is the same in all packets that the generator sends, beside what a [`Plan`] says, and where they go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The device that they leave by.
    pub device: u32,
    /// The UDP port that they have where they are counted, network order.
    pub arrival_port: [u8; 2],
    /// The Ethernet header.
    pub ethernet: [u8; ETHERNET],
    /// The first 8 bytes of the IPv4 header.
    pub ip_head: [u8; 8],
}
const _: () = assert!(size_of::<Frame>() == 28, "padding");
// SAFETY: repr(C), every field is plain data, and the size above is the sum of the fields.
unsafe impl bytemuck::Zeroable for Frame {}
// SAFETY: as above; no padding, and every bit pattern is a value.
unsafe impl bytemuck::Pod for Frame {}

/// What has arrived.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// How many packets.
    pub packets: u64,
    /// The source address of the last one, as a number.
    pub source: u32,
    /// Always 0.
    pub zero: u32,
}
// SAFETY: repr(C), plain numbers without padding.
unsafe impl bytemuck::Zeroable for Arrival {}
// SAFETY: as above; every bit pattern is a value.
unsafe impl bytemuck::Pod for Arrival {}
