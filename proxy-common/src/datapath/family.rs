//! Headers of the two families: reading them, and writing those of our own answers.

use bytemuck::{Pod, Zeroable};

use super::checksum::Delta;
use super::{Packet, Tuple};
use crate::addr::{Address, Ipv4, Ipv6};
use crate::flows::Shared;
use crate::maps::Device;

/// Hop limit of packets that are ours: the stack's default (`net.ipv4.ip_default_ttl`).
const HOP_LIMIT: u8 = 64;

/// What an IP header says.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// IP protocol number of what follows.
    pub proto: u8,
    /// Offset of what follows, counted like the header's own.
    pub next: usize,
}

/// Where the transport header of a packet stands, whatever there is before it. Aligned as one word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What tells the pieces of one packet from those of another: the IP identification. 0 for a whole packet.
    pub id: [u8; 4],
    /// Offset of the transport header, counted from the packet's beginning.
    pub next: u16,
    /// IP protocol number of the transport header. Of any but the first piece, what that piece says.
    pub proto: u8,
    /// Which part of a packet this is.
    pub part: Part,
}

/// Which part of a packet was received.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The fragment with the transport header.
    First,
    /// Another fragment.
    Later,
    /// None of it is for us.
    Nothing,
}

impl Place {
    /// Where there is nothing to be found.
    pub const NOWHERE: Self = Self { id: [0; 4], next: 0, proto: 0, part: Part::Nothing };

    /// All of it in one number: what a function of its own can answer in BPF. Of `next` it has one byte: no transport header
    /// that is looked for from the packet's beginning is found farther away.
    #[inline(always)]
    pub fn to_bits(self) -> u64 {
        let [a, b, c, d] = self.id;
        u64::from_le_bytes([a, b, c, d, self.next as u8, 0, self.proto, self.part as u8])
    }

    /// From that number.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        let [a, b, c, d, next, _, proto, part] = bits.to_le_bytes();
        let part = match part {
            0 => Part::Whole,
            1 => Part::First,
            2 => Part::Later,
            _ => Part::Nothing,
        };
        Self { id: [a, b, c, d], next: u16::from(next), proto, part }
    }
}

/// Finds the transport header of a packet, behind extension headers as well: see [`Family::place_at`].
#[inline(always)]
pub(super) fn locate<A: Family, P: Packet>(packet: &P) -> Place {
    A::locate(packet)
}

/// [`Packet::locate_v4`] and [`Packet::locate_v6`].
#[inline(always)]
pub fn place<A: Family, P: Packet>(packet: &P) -> Place {
    A::place_at(packet, 0).unwrap_or(Place::NOWHERE)
}

/// The same for the packet that an ICMP error quotes at `at`.
#[inline(never)]
pub(super) fn locate_quoted<A: Family, P: Packet>(packet: &P, at: u16) -> Place {
    A::place_at(packet, usize::from(at)).unwrap_or(Place::NOWHERE)
}

/// How many extension headers are looked at.
const EXTENSIONS: usize = 6;
/// Most bytes that the IP header and its extensions may have together: what lies beyond is not read.
const EXTENDED: usize = 128;
const _: () = assert!(EXTENDED <= u8::MAX as usize);

/// An address family with its headers.
pub trait Family: Shared {
    /// ICMP type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];

    /// Offset of the number of hops that a packet may still take: time to live, or hop limit.
    const HOPS: usize;

    /// Whether the protocol number is a part of what fragments have in common: it is in RFC 791, not in RFC 8200.
    const FRAGMENTS_BY_PROTO: bool;

    /// Reads the IP header at `at`. `None` where it is not one, and for fragments: see [`place_at`](Self::place_at).
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>>;

    /// Bytes of the packet, its IP header included, as that header says. Behind them there may be padding of the link.
    fn total_length<P: Packet>(packet: &P) -> Option<u32>;

    /// Finds the transport header of a packet.
    fn locate<P: Packet>(packet: &P) -> Place;

    /// Finds the transport header behind the IP header at `at`, behind extension headers as well. `None` where there
    /// is no IP header, or where what it says is not for us: a chain that is cut or too long, a packet that is on its
    /// way to another address first (a routing header with segments left).
    fn place_at<P: Packet>(packet: &P, at: usize) -> Option<Place>;

    /// Offset of the end of the packet, as its IP header says; a packet that is too long to say it (RFC 2675, and the
    /// kernel's "big TCP") ends with the buffer.
    fn end<P: Packet>(packet: &P) -> u32;

    /// The address as 16 bytes, IPv4 in the last four.
    fn widened(self) -> [u8; 16];

    /// Whether an ICMP type is an error that quotes a packet. Redirects are none: a translated one would
    /// poison the client's routes.
    fn is_error(icmp_type: u8) -> bool;

    /// Writes the IP header of an answer of our own, `header` bytes long with padding for options, before
    /// `length` bytes of payload.
    fn write_answer_header<P: Packet>(
        packet: &mut P,
        answer: &Tuple<Self>,
        proto: u8,
        header: usize,
        length: usize,
    ) -> Option<()>;

    /// The device's masquerade address of this family, all zero where it has none.
    fn masquerade_address(device: &Device) -> Self;
}

/// "More fragments", beside the offset of a fragment in an IPv4 header (RFC 791 §3.1).
const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset itself, in units of 8 bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// An IPv4 header without options (RFC 791 §3.1).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct HeaderV4 {
    version_ihl: u8,
    tos: u8,
    length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    hops: u8,
    proto: u8,
    checksum: [u8; 2],
    src: Ipv4,
    dst: Ipv4,
}

/// An IPv6 header (RFC 8200 §3).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct HeaderV6 {
    version: u8,
    flow: [u8; 3],
    length: [u8; 2],
    proto: u8,
    hops: u8,
    src: Ipv6,
    dst: Ipv6,
}

impl Family for Ipv4 {
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const HOPS: usize = 8;
    const FRAGMENTS_BY_PROTO: bool = true;

    #[inline(always)]
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>> {
        let HeaderV4 { version_ihl, fragment, proto, src, dst, .. } = packet.load(at)?;
        let ihl = usize::from(version_ihl & 0x0f) * 4;
        let is_fragment = u16::from_be_bytes(fragment) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0;
        if version_ihl >> 4 != 4 || ihl < Self::HEADER || is_fragment {
            return None;
        }
        Some(IpHeader { src, dst, proto, next: at + ihl })
    }

    #[inline(always)]
    fn total_length<P: Packet>(packet: &P) -> Option<u32> {
        Some(u32::from(u16::from_be_bytes(packet.load(2)?)))
    }

    #[inline(always)]
    fn locate<P: Packet>(packet: &P) -> Place {
        packet.locate_v4()
    }

    #[inline(always)]
    fn place_at<P: Packet>(packet: &P, at: usize) -> Option<Place> {
        let [version_ihl, _, _, _, id_high, id_low, frag_high, frag_low, _, proto, _, _]: [u8; 12] = packet.load(at)?;
        let ihl = usize::from(version_ihl & 0x0f) * 4;
        if version_ihl >> 4 != 4 || ihl < Self::HEADER {
            return None;
        }
        let fragment = u16::from_be_bytes([frag_high, frag_low]);
        let (id, part) = if fragment & FRAGMENT_OFFSET != 0 {
            ([0, 0, id_high, id_low], Part::Later)
        } else if fragment & MORE_FRAGMENTS != 0 {
            ([0, 0, id_high, id_low], Part::First)
        } else {
            ([0; 4], Part::Whole)
        };
        Some(Place { id, next: (at + ihl) as u16, proto, part })
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> u32 {
        match packet.load(2).map_or(0, u16::from_be_bytes) {
            0 => packet.length(),
            total => u32::from(total),
        }
    }

    #[inline(always)]
    fn widened(self) -> [u8; 16] {
        let [a, b, c, d]: [u8; 4] = bytemuck::cast(self);
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
    }

    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        // RFC 792: destination unreachable, source quench, time exceeded, parameter problem.
        matches!(icmp_type, 3 | 4 | 11 | 12)
    }

    #[inline(always)]
    fn write_answer_header<P: Packet>(
        packet: &mut P,
        answer: &Tuple<Self>,
        proto: u8,
        header: usize,
        length: usize,
    ) -> Option<()> {
        let [length_high, length_low] = ((header + length) as u16).to_be_bytes();
        // RFC 791 §3.1; don't fragment.
        let words =
            [[0x40 | (header / 4) as u8, 0, length_high, length_low], [0, 0, 0x40, 0], [HOP_LIMIT, proto, 0, 0]];
        let mut sum = Delta::default();
        for word in words {
            sum.add4(word);
        }
        sum.add_address(answer.src);
        sum.add_address(answer.dst);
        packet.store(0, words[0])?;
        packet.store(4, words[1])?;
        packet.store(Self::SRC, answer.src)?;
        packet.store(Self::DST, answer.dst)?;
        // "End of option list" all over: 10 words of options at most.
        for word in 0..10 {
            let at = Self::HEADER + word * 4;
            if at >= header {
                break;
            }
            packet.store(at, [0_u8; 4])?;
        }
        let [high, low] = sum.checksum();
        packet.store(8, [HOP_LIMIT, proto, high, low])
    }

    #[inline(always)]
    fn masquerade_address(device: &Device) -> Self {
        device.masquerade_v4
    }
}

impl Family for Ipv6 {
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const HOPS: usize = 7;
    const FRAGMENTS_BY_PROTO: bool = false;

    #[inline(always)]
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>> {
        let HeaderV6 { version, proto, src, dst, .. } = packet.load(at)?;
        if version >> 4 != 6 {
            return None;
        }
        Some(IpHeader { src, dst, proto, next: at + Self::HEADER })
    }

    #[inline(always)]
    fn total_length<P: Packet>(packet: &P) -> Option<u32> {
        Some(Self::HEADER as u32 + u32::from(u16::from_be_bytes(packet.load(4)?)))
    }

    #[inline(always)]
    fn locate<P: Packet>(packet: &P) -> Place {
        packet.locate_v6()
    }

    #[inline(always)]
    fn place_at<P: Packet>(packet: &P, at: usize) -> Option<Place> {
        let [version, _, _, _, _, _, mut proto, _]: [u8; 8] = packet.load(at)?;
        if version >> 4 != 6 {
            return None;
        }
        let (mut id, mut part) = ([0; 4], Part::Whole);
        let mut behind = Self::HEADER;
        for _ in 0..EXTENSIONS {
            let header = at + behind;
            behind += match proto {
                // RFC 8200 §4.3, §4.6: hop-by-hop and destination options.
                0 | 60 => {
                    let [next, length]: [u8; 2] = packet.load(header)?;
                    proto = next;
                    (usize::from(length) + 1) * 8
                }
                // §4.4: routing. While segments are left, the destination is not the last one.
                43 => {
                    let [next, length, _, left]: [u8; 4] = packet.load(header)?;
                    if left != 0 {
                        return None;
                    }
                    proto = next;
                    (usize::from(length) + 1) * 8
                }
                // §4.5: fragment.
                44 => {
                    let [next, _, high, low, a, b, c, d]: [u8; 8] = packet.load(header)?;
                    proto = next;
                    let fragment = u16::from_be_bytes([high, low]);
                    if fragment & 0xfff8 != 0 {
                        return Some(Place { id: [a, b, c, d], next: 0, proto, part: Part::Later });
                    }
                    if fragment & 1 != 0 {
                        (id, part) = ([a, b, c, d], Part::First);
                    }
                    8
                }
                _ => return Some(Place { id, next: header as u16, proto, part }),
            };
            if behind > EXTENDED {
                return None;
            }
        }
        None
    }

    #[inline(always)]
    fn end<P: Packet>(packet: &P) -> u32 {
        match packet.load(4).map_or(0, u16::from_be_bytes) {
            0 => packet.length(),
            payload => u32::from(payload) + Self::HEADER as u32,
        }
    }

    #[inline(always)]
    fn widened(self) -> [u8; 16] {
        bytemuck::cast(self)
    }

    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        // RFC 4443: destination unreachable, packet too big, time exceeded, parameter problem.
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn write_answer_header<P: Packet>(
        packet: &mut P,
        answer: &Tuple<Self>,
        proto: u8,
        _header: usize,
        length: usize,
    ) -> Option<()> {
        let [length_high, length_low] = (length as u16).to_be_bytes();
        // RFC 8200 §3.
        packet.store(0, [0x60_u8, 0, 0, 0])?;
        packet.store(4, [length_high, length_low, proto, HOP_LIMIT])?;
        packet.store(Self::SRC, answer.src)?;
        packet.store(Self::DST, answer.dst)
    }

    #[inline(always)]
    fn masquerade_address(device: &Device) -> Self {
        device.masquerade_v6
    }
}
