//! From header bytes to addresses and ports.

use bytemuck::{Pod, Zeroable};

use super::Packet;
use super::family::{Family, Part, Place, locate, locate_quoted};
use crate::addr::Address;
use crate::maps::{FlowKey, FlowWay, SCTP, TCP, UDP};

/// Addresses and ports of a packet, ports in network order.
// Aligned, as Parsed is: BPF reads and writes its stack in words, and only at their own alignment.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
    /// IP protocol number: TCP, UDP or SCTP.
    pub proto: u8,
}

impl<A: Address> Tuple<A> {
    /// The flow key of this packet, taken as a request.
    #[inline(always)]
    pub fn as_request(&self) -> FlowKey<A> {
        FlowKey {
            near: self.src,
            far: self.dst,
            near_port: self.src_port,
            far_port: self.dst_port,
            protocol: u32::from(FlowWay::protocol(self.proto)),
        }
    }

    /// The flow key of this packet, taken as a reply.
    #[inline(always)]
    pub fn as_reply(&self) -> FlowKey<A> {
        self.swapped().as_request()
    }

    /// The ports, as they stand in the header.
    #[inline(always)]
    pub(super) fn ports(&self) -> [u8; 4] {
        [self.src_port[0], self.src_port[1], self.dst_port[0], self.dst_port[1]]
    }

    /// The tuple of a packet in the other direction.
    #[inline(always)]
    pub fn swapped(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, proto: self.proto }
    }
}

/// A packet that can belong to a flow.
///
/// No enum with fields in it or around it, and all fields are always written: of what is undefined for one variant
/// the compiler makes use in ways that the verifier refuses (part of a packet pointer on the stack), and variants
/// that share memory make it cut addresses into odd pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed<A> {
    /// Its addresses and ports. Those of an ICMP error are the ones that a packet of the quoted connection
    /// would have if it travelled in the error's direction.
    pub tuple: Tuple<A>,
    /// Where an ICMP error quotes a packet; 0 otherwise.
    pub quote: Quote,
    /// Offset of the transport (or ICMP) header.
    transport: u16,
    /// The flags of TCP, or what says the same in SCTP; 0 otherwise.
    pub flags: TcpFlags,
    /// What the transport header is.
    pub kind: Kind,
}

/// What a transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// An ICMP error that quotes one of the others.
    Error,
}

impl<A> Parsed<A> {
    /// Offset of the transport (or ICMP) header.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        usize::from(self.transport)
    }
}

/// Where an ICMP error quotes a packet.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    header: u16,
    transport: u16,
}

impl Quote {
    /// Offset of the quoted IP header.
    #[inline(always)]
    pub fn header(self) -> usize {
        usize::from(self.header)
    }

    /// Offset of the quoted transport header, of which 8 bytes are there.
    #[inline(always)]
    pub fn transport(self) -> usize {
        usize::from(self.transport)
    }
}

/// The flag bits of a TCP header (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    /// The flags that say of TCP what a chunk says of SCTP (RFC 9260 §3.2): INIT and INIT ACK open, SHUTDOWN and SHUTDOWN
    /// ACK close each one side, after ABORT and SHUTDOWN COMPLETE nothing is left.
    #[inline(always)]
    const fn of_chunk(chunk: u8) -> u8 {
        match chunk {
            1 => Self::SYN,
            2 => Self::SYN | Self::ACK,
            6 | 14 => Self::RST,
            7 | 8 => Self::FIN,
            _ => Self::ACK,
        }
    }

    /// A SYN without ACK: the first packet of a connection.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }
}

/// Reads a TCP, UDP or SCTP packet of the common kind: whole, and without IPv6 extension headers.
#[inline(always)]
pub(super) fn parse<A: Family, P: Packet>(packet: &P) -> Option<Parsed<A>> {
    let header = A::read_header(packet, 0)?;
    parse_transport(packet, header.src, header.dst, header.proto, header.next)
}

/// Reads a TCP or UDP packet of any kind. `None` for any but the first fragment: it has no ports.
#[inline(always)]
pub(super) fn parse_any<A: Family, P: Packet>(packet: &P) -> Option<Parsed<A>> {
    parse_at(packet, locate::<A, P>(packet))
}

/// The same, where the transport header has been found already.
#[inline(always)]
pub(super) fn parse_at<A: Family, P: Packet>(packet: &P, place: Place) -> Option<Parsed<A>> {
    if place.part != Part::Whole && place.part != Part::First {
        return None;
    }
    parse_transport(packet, packet.load(A::SRC)?, packet.load(A::DST)?, place.proto, usize::from(place.next))
}

#[inline(always)]
fn parse_transport<A: Family, P: Packet>(packet: &P, src: A, dst: A, proto: u8, next: usize) -> Option<Parsed<A>> {
    let (ports, kind, flags) = match proto {
        TCP => {
            let header: TcpHeader = packet.load(next)?;
            (header.ports, Kind::Tcp, header.flags)
        }
        UDP => (packet.load::<UdpHeader>(next)?.ports, Kind::Udp, 0),
        SCTP => {
            let header: SctpHeader = packet.load(next)?;
            (header.ports, Kind::Sctp, TcpFlags::of_chunk(header.chunk))
        }
        _ => return None,
    };
    let tuple = ports.between(src, dst, proto);
    let quote = Quote { header: 0, transport: 0 };
    Some(Parsed { tuple, quote, transport: next as u16, flags: TcpFlags(flags), kind })
}

/// Reads an ICMP error that quotes a TCP, UDP or SCTP packet, or the first fragment of one.
#[inline(always)]
pub(super) fn parse_error<A: Family, P: Packet>(packet: &P) -> Option<Parsed<A>> {
    let outer = locate::<A, P>(packet);
    let icmp = usize::from(outer.next);
    // Never one byte alone: the verifier learns nothing from comparing a pointer as it is with the end.
    let [icmp_type, _]: [u8; 2] = packet.load(icmp)?;
    if outer.part != Part::Whole || outer.proto != A::ICMP || !A::is_error(icmp_type) {
        return None;
    }
    let header = icmp + ICMP_HEADER;
    let quoted = locate_quoted::<A, P>(packet, header as u16);
    if (quoted.part != Part::Whole && quoted.part != Part::First) || !has_ports(quoted.proto) {
        return None;
    }
    let (src, dst) = (packet.load(header + A::SRC)?, packet.load(header + A::DST)?);
    // As much as a UDP header: all that an ICMP error must quote (RFC 792).
    let UdpHeader { ports, .. } = packet.load(usize::from(quoted.next))?;
    let tuple = ports.between(src, dst, quoted.proto).swapped();
    let quote = Quote { header: header as u16, transport: quoted.next };
    Some(Parsed { tuple, quote, transport: outer.next, flags: TcpFlags(0), kind: Kind::Error })
}

/// Whether a protocol is one that Services have: all begin with the two ports.
#[inline(always)]
fn has_ports(proto: u8) -> bool {
    proto == TCP || proto == UDP || proto == SCTP
}

/// What all transport headers begin with, in network order.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ports {
    src: [u8; 2],
    dst: [u8; 2],
}

impl Ports {
    #[inline(always)]
    fn between<A>(self, src: A, dst: A, proto: u8) -> Tuple<A> {
        Tuple { src, dst, src_port: self.src, dst_port: self.dst, proto }
    }
}

/// A TCP header without options (RFC 9293 §3.1).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TcpHeader {
    ports: Ports,
    numbers: [u8; 8],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

/// A UDP header (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UdpHeader {
    ports: Ports,
    length: [u8; 2],
    checksum: [u8; 2],
}

/// An SCTP header with that of the first chunk (RFC 9260 §3.1, §3.2); the chunks that matter here stand first or alone.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SctpHeader {
    ports: Ports,
    tag: [u8; 4],
    checksum: [u8; 4],
    chunk: u8,
    flags: u8,
    length: [u8; 2],
}

/// What a packet is that is no whole TCP or UDP packet right behind its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awkward {
    /// Nothing that is translated.
    Other,
    /// An ICMP packet.
    Icmp,
    /// TCP or UDP: the first fragment, or behind extension headers.
    Transport,
    /// A fragment without ports.
    Later,
}

/// Tells what such a packet is.
#[inline(always)]
pub(super) fn look_closer<A: Family, P: Packet>(packet: &P) -> Awkward {
    let place = locate::<A, P>(packet);
    match place.part {
        Part::Nothing => Awkward::Other,
        Part::Later => Awkward::Later,
        _ if has_ports(place.proto) => Awkward::Transport,
        _ if place.proto == A::ICMP => Awkward::Icmp,
        _ => Awkward::Other,
    }
}

/// Whether a TCP or UDP packet is as long as its headers say, and they as long as they must be. One that is not the kernel
/// would drop, so it begins no flow and is not answered.
#[inline(never)]
pub(super) fn is_sound<A: Family, P: Packet>(packet: &P, place: Place) -> bool {
    let end = A::end(packet);
    let room = end.saturating_sub(u32::from(place.next));
    if end > packet.length() {
        return false;
    }
    if place.proto == TCP {
        let header = tcp_header(packet, usize::from(place.next));
        return (20..=room).contains(&header);
    }
    if place.proto == SCTP {
        // A header and the first chunk's.
        return room >= 16;
    }
    let Some([high, low]) = packet.load::<[u8; 2]>(usize::from(place.next) + 4) else {
        return false;
    };
    // The length of the whole datagram, of which this may be the first fragment. RFC 2675 §4: a jumbogram has none.
    let datagram = u32::from(u16::from_be_bytes([high, low]));
    room >= 8
        && ((datagram >= 8 && (datagram <= room || place.part == Part::First)) || (datagram == 0 && room > 0xffff))
}

/// Bytes in a TCP header, options included; 0 where there is none.
#[inline(always)]
pub(super) fn tcp_header<P: Packet>(packet: &P, at: usize) -> u32 {
    packet.load::<[u8; 2]>(at + 12).map_or(0, |[offset, _]| u32::from(offset >> 4) * 4)
}

/// Bytes in a UDP header (RFC 768).
pub(super) const UDP_HEADER: usize = 8;

/// Bytes in an ICMP header of either family.
pub(super) const ICMP_HEADER: usize = 8;
