//! From header bytes to addresses and ports.

use super::Packet;
use super::family::{Family, IpHeader};
use crate::addr::Address;
use crate::maps::{FlowKey, FlowSide, FrontendKey, TCP, UDP};

/// Addresses and ports of a packet, ports in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
    /// IP protocol number: TCP or UDP.
    pub proto: u8,
}

impl<A: Address> Tuple<A> {
    /// The flow key of this packet, taken as a request.
    #[inline(always)]
    pub fn as_request(&self, side: FlowSide) -> FlowKey<A> {
        FlowKey {
            near: self.src,
            far: self.dst,
            near_port: self.src_port,
            far_port: self.dst_port,
            proto: self.proto,
            side: side as u8,
            zero: [0; 2],
        }
    }

    /// The flow key of this packet, taken as a reply.
    #[inline(always)]
    pub fn as_reply(&self, side: FlowSide) -> FlowKey<A> {
        self.swapped().as_request(side)
    }

    /// The key of the frontend that this packet is for, if there is one.
    #[inline(always)]
    pub fn frontend_key(&self) -> FrontendKey<A> {
        FrontendKey::new(self.dst, self.dst_port, self.proto)
    }

    /// The tuple of a packet in the other direction.
    #[inline(always)]
    pub fn swapped(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, proto: self.proto }
    }
}

/// A packet that can belong to a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed<A> {
    /// Its addresses and ports. Those of an ICMP error are the ones that a packet of the quoted connection
    /// would have if it travelled in the error's direction.
    pub tuple: Tuple<A>,
    /// Offset of the transport (or ICMP) header.
    transport: u16,
    /// What the transport header is.
    pub kind: Kind,
}

impl<A> Parsed<A> {
    /// Offset of the transport (or ICMP) header.
    #[inline(always)]
    pub fn transport(&self) -> usize {
        usize::from(self.transport)
    }
}

/// What the transport header is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// TCP, with its flags.
    Tcp(TcpFlags),
    /// UDP.
    Udp,
    /// An ICMP error that quotes a packet.
    Error(Quote),
}

/// Where an ICMP error quotes a packet.
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

    /// A SYN without ACK: the first packet of a connection.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }
}

/// Reads a packet. `None` for all that can belong to no flow.
#[inline(always)]
pub(super) fn parse<A: Family, P: Packet>(packet: &P) -> Option<Parsed<A>> {
    let header = A::read_header(packet, 0)?;
    let transport = header.next;
    let kind = match header.proto {
        TCP => {
            let [flags]: [u8; 1] = packet.load(transport + 13)?;
            Kind::Tcp(TcpFlags(flags))
        }
        UDP => Kind::Udp,
        icmp if icmp == A::ICMP => return parse_error(packet, transport),
        _ => return None,
    };
    let tuple = with_ports(packet, &header, transport)?;
    Some(Parsed { tuple, transport: transport as u16, kind })
}

#[inline(always)]
fn parse_error<A: Family, P: Packet>(packet: &P, transport: usize) -> Option<Parsed<A>> {
    let [icmp_type]: [u8; 1] = packet.load(transport)?;
    if !A::is_error(icmp_type) {
        return None;
    }
    let header = transport + ICMP_HEADER;
    let quoted = A::read_header(packet, header)?;
    if quoted.proto != TCP && quoted.proto != UDP {
        return None;
    }
    let tuple = with_ports(packet, &quoted, quoted.next)?.swapped();
    let quote = Quote { header: header as u16, transport: quoted.next as u16 };
    Some(Parsed { tuple, transport: transport as u16, kind: Kind::Error(quote) })
}

#[inline(always)]
fn with_ports<A: Address, P: Packet>(packet: &P, header: &IpHeader<A>, transport: usize) -> Option<Tuple<A>> {
    // 8 bytes: a whole UDP header, and all that an ICMP error must quote (RFC 792).
    let [a, b, c, d, _, _, _, _]: [u8; 8] = packet.load(transport)?;
    Some(Tuple { src: header.src, dst: header.dst, src_port: [a, b], dst_port: [c, d], proto: header.proto })
}

/// Bytes in an ICMP header of either family.
pub(super) const ICMP_HEADER: usize = 8;
