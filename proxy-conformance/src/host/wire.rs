//! The packets of the network in memory: making them, and looking at what became of them.
//!
//! Checksums are not looked at: the packet table does that.

use std::net::{IpAddr, SocketAddr};

use proxy_common::maps::{SCTP, TCP, UDP};
use proxy_testkit::packets::{sctp, tcp, udp};

use crate::scenario::Protocol;

/// A packet, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Source; port 0 where there is none.
    pub source: SocketAddr,
    /// Destination; likewise.
    pub destination: SocketAddr,
    /// The protocol, if it is one of those with ports.
    pub protocol: Option<Protocol>,
}

/// The first packet of a request, or its answer.
pub(super) fn packet(protocol: Protocol, from: SocketAddr, to: SocketAddr, is_request: bool) -> Vec<u8> {
    match protocol {
        Protocol::Tcp => tcp(from, to, if is_request { "S" } else { "SA" }, b""),
        Protocol::Udp => udp(from, to, b"who"),
        Protocol::Sctp => sctp(from, to, if is_request { "S" } else { "SA" }),
    }
}

/// The number of a protocol.
pub(super) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

/// Reads addresses and ports.
pub(super) fn look(packet: &[u8]) -> Option<Seen> {
    let (source, destination, protocol, header) = addresses(packet)?;
    let protocol = match protocol {
        TCP => Some(Protocol::Tcp),
        UDP => Some(Protocol::Udp),
        SCTP => Some(Protocol::Sctp),
        _ => None,
    };
    let port = |at: usize| match (protocol, packet.get(header + at..header + at + 2)) {
        (Some(_), Some([high, low])) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    Some(Seen {
        source: SocketAddr::new(source, port(0)),
        destination: SocketAddr::new(destination, port(2)),
        protocol,
    })
}

/// Source, destination, protocol number and length of the IP header.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, usize)> {
    match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(IpAddr::from);
            Some((address(12)?, address(16)?, *packet.get(9)?, usize::from(packet.first()? & 0xf) * 4))
        }
        6 => {
            let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok().map(IpAddr::from);
            Some((address(8)?, address(24)?, *packet.get(6)?, 40))
        }
        _ => None,
    }
}

/// The packet that an ICMP error quotes.
pub(super) fn quoted(packet: &[u8]) -> Option<Seen> {
    let (_, _, _, header) = addresses(packet)?;
    look(packet.get(header + ICMP_HEADER..)?)
}

/// The packet with other addresses and ports.
pub(super) fn with_addresses(mut packet: Vec<u8>, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    if let Some((_, _, _, header)) = addresses(&packet) {
        write(&mut packet, 0, Some(source.ip()), Some(destination.ip()));
        put(&mut packet, header, &source.port().to_be_bytes());
        put(&mut packet, header + 2, &destination.port().to_be_bytes());
    }
    packet
}

/// The ICMP error, for another destination, which has sent the packet that it quotes.
pub(super) fn with_quoted_source(mut packet: Vec<u8>, source: SocketAddr, client: SocketAddr) -> Vec<u8> {
    if let Some((_, _, _, header)) = addresses(&packet) {
        let inner = header + ICMP_HEADER;
        write(&mut packet, 0, Some(source.ip()), Some(client.ip()));
        write(&mut packet, inner, Some(client.ip()), None);
        let transport = packet.get(inner..).and_then(addresses).map(|(_, _, _, length)| inner + length);
        if let Some(transport) = transport {
            put(&mut packet, transport, &client.port().to_be_bytes());
        }
    }
    packet
}

/// Bytes in an ICMP header of either family.
const ICMP_HEADER: usize = 8;

/// Writes addresses into the IP header at `at`.
fn write(packet: &mut [u8], at: usize, source: Option<IpAddr>, destination: Option<IpAddr>) {
    for (address, v4_at, v6_at) in [(source, 12, 8), (destination, 16, 24)] {
        match address {
            Some(IpAddr::V4(address)) => put(packet, at + v4_at, &address.octets()),
            Some(IpAddr::V6(address)) => put(packet, at + v6_at, &address.octets()),
            None => {}
        }
    }
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Whether a packet tells a client that the address that it asked refuses it: a RST, or an ICMP "port unreachable" that
/// quotes the client's packet.
pub(super) fn refuses(packet: &[u8], protocol: Protocol, client: SocketAddr, asked: SocketAddr) -> bool {
    let Some((source, _, number, header)) = addresses(packet) else { return false };
    match protocol {
        Protocol::Tcp => {
            const RST: u8 = 4;
            let is_reset = packet.get(header + 13).is_some_and(|flags| flags & RST != 0);
            let ends = look(packet).map(|seen| (seen.source, seen.destination));
            number == TCP && is_reset && ends == Some((asked, client))
        }
        Protocol::Udp | Protocol::Sctp => {
            let kind = packet.get(header..header + 2);
            let is_unreachable = match client {
                SocketAddr::V4(_) => number == 1 && kind == Some(&[3, 3]),
                SocketAddr::V6(_) => number == 58 && kind == Some(&[1, 4]),
            };
            let quoted = quoted(packet).map(|seen| (seen.source, seen.destination));
            is_unreachable && source == asked.ip() && quoted == Some((client, asked))
        }
    }
}
