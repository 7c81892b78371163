//! Headers of the two families: reading them, and writing those of our own answers.

use super::checksum::Delta;
use super::{Packet, Tuple};
use crate::addr::{Address, Ipv4, Ipv6};
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

/// An address family with its headers.
pub trait Family: Address {
    /// ICMP type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];

    /// Reads the IP header at `at`. `None` where it is not one, or where no transport header follows, as in
    /// any but the first fragment.
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>>;

    /// Bytes of the packet, its IP header included, as that header says. Behind them there may be padding of the link.
    fn total_length<P: Packet>(packet: &P) -> Option<u32>;

    /// Whether more of the packet comes in others. One that does not begin it is no packet here in any case.
    fn is_fragment<P: Packet>(packet: &P) -> bool;

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

impl Family for Ipv4 {
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];

    #[inline(always)]
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>> {
        let [version_ihl, _, _, _, _, _, frag_high, frag_low, _, proto, _, _]: [u8; 12] = packet.load(at)?;
        let ihl = usize::from(version_ihl & 0x0f) * 4;
        let is_first = u16::from_be_bytes([frag_high, frag_low]) & 0x1fff == 0;
        if version_ihl >> 4 != 4 || ihl < Self::HEADER || !is_first {
            return None;
        }
        let src = packet.load(at + Self::SRC)?;
        let dst = packet.load(at + Self::DST)?;
        Some(IpHeader { src, dst, proto, next: at + ihl })
    }

    #[inline(always)]
    fn total_length<P: Packet>(packet: &P) -> Option<u32> {
        Some(u32::from(u16::from_be_bytes(packet.load(2)?)))
    }

    #[inline(always)]
    fn is_fragment<P: Packet>(packet: &P) -> bool {
        // The flag MF (RFC 791 §3.1).
        packet.load::<[u8; 2]>(6).is_none_or(|[flags, _]| flags & 0x20 != 0)
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

    #[inline(always)]
    fn read_header<P: Packet>(packet: &P, at: usize) -> Option<IpHeader<Self>> {
        let [version, _, _, _, _, _, proto, _]: [u8; 8] = packet.load(at)?;
        if version >> 4 != 6 {
            return None;
        }
        let src = packet.load(at + Self::SRC)?;
        let dst = packet.load(at + Self::DST)?;
        Some(IpHeader { src, dst, proto, next: at + Self::HEADER })
    }

    #[inline(always)]
    fn total_length<P: Packet>(packet: &P) -> Option<u32> {
        Some(Self::HEADER as u32 + u32::from(u16::from_be_bytes(packet.load(4)?)))
    }

    #[inline(always)]
    fn is_fragment<P: Packet>(_packet: &P) -> bool {
        // It has an extension header, and so is not read at all.
        false
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
