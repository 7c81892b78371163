//! Building packets, with every checksum right.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, UdpHeader, icmpv4, icmpv6,
};

/// TCP flags, as letters: S, A, F, R, P.
pub type Flags = &'static str;

/// Sequence and acknowledgement numbers of every TCP packet here.
const SEQUENCE: u32 = 0x0102_0304;
const ACKNOWLEDGEMENT: u32 = 0x0506_0708;

/// A TCP packet.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: Flags, payload: &[u8]) -> Vec<u8> {
    tcp_with_options(from, to, flags, payload, &[])
}

/// A TCP packet whose IPv4 header has options (a multiple of 4 bytes).
pub fn tcp_with_options(from: SocketAddr, to: SocketAddr, flags: Flags, payload: &[u8], options: &[u8]) -> Vec<u8> {
    let acknowledgement = if flags.contains('A') { ACKNOWLEDGEMENT } else { 0 };
    tcp_exactly(from, to, flags, SEQUENCE, acknowledgement, 64_000, payload, options)
}

/// The RST that answers [`tcp`] with the same arguments (RFC 9293 §3.10.7.1).
pub(super) fn reset_of(from: SocketAddr, to: SocketAddr, flags: Flags, payload: &[u8], options: &[u8]) -> Vec<u8> {
    if flags.contains('A') {
        return tcp_exactly(to, from, "R", ACKNOWLEDGEMENT, 0, 0, &[], options);
    }
    let length =
        u32::try_from(payload.len()).unwrap_or(0) + u32::from(flags.contains('S')) + u32::from(flags.contains('F'));
    tcp_exactly(to, from, "RA", 0, SEQUENCE + length, 0, &[], options)
}

#[expect(clippy::too_many_arguments, reason = "the fields of a header, each given by two callers")]
fn tcp_exactly(
    from: SocketAddr,
    to: SocketAddr,
    flags: Flags,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    payload: &[u8],
    options: &[u8],
) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), sequence, window);
    header.acknowledgment_number = acknowledgement;
    header.syn = flags.contains('S');
    header.ack = flags.contains('A');
    header.fin = flags.contains('F');
    header.rst = flags.contains('R');
    header.psh = flags.contains('P');
    header.checksum = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload),
        _ => panic_mixed(),
    }
    .unwrap_or(0);
    let mut segment = header.to_bytes().to_vec();
    segment.extend_from_slice(payload);
    ip(from.ip(), to.ip(), IpNumber::TCP, &segment, options)
}

/// A UDP packet.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let header = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = Ipv4Header { source: src.octets(), destination: dst.octets(), ..Ipv4Header::default() };
            UdpHeader::with_ipv4_checksum(from.port(), to.port(), &ip, payload)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Header { source: src.octets(), destination: dst.octets(), ..Ipv6Header::default() };
            UdpHeader::with_ipv6_checksum(from.port(), to.port(), &ip, payload)
        }
        _ => panic_mixed(),
    };
    let mut datagram = header.map(|header| header.to_bytes().to_vec()).unwrap_or_default();
    datagram.extend_from_slice(payload);
    ip(from.ip(), to.ip(), IpNumber::UDP, &datagram, &[])
}

/// An SCTP packet of one chunk, by the flags that a TCP packet of the same meaning has.
pub fn sctp(from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
    let chunk: &[u8] = match flags {
        // INIT and INIT ACK: tag, window, streams out and in, first TSN.
        "S" => &[1, 0, 0, 20, 0xc1, 0xc2, 0xc3, 0xc4, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1],
        "SA" => &[2, 0, 0, 20, 0xc1, 0xc2, 0xc3, 0xc4, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1],
        // DATA of one stream, nine bytes and their padding.
        "PA" => &[
            0, 3, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b's', b'o', b'm', b'e', b' ', b'd', b'a', b't', b'a', 0,
            0, 0,
        ],
        "FA" => &[7, 0, 0, 8, 0, 0, 0, 1],
        "R" => &[6, 0, 0, 4],
        // HEARTBEAT.
        _ => &[4, 0, 0, 8, 0, 1, 0, 4],
    };
    sctp_exactly(from, to, if flags == "S" { [0; 4] } else { SCTP_TAG }, chunk)
}

/// The ABORT that answers [`sctp`] with the same arguments (RFC 9260 §8.4).
pub(super) fn abort_of(from: SocketAddr, to: SocketAddr, flags: Flags) -> Vec<u8> {
    match flags {
        "S" => sctp_exactly(to, from, SCTP_TAG, &[6, 0, 0, 4]),
        _ => sctp_exactly(to, from, SCTP_TAG, &[6, 1, 0, 4]),
    }
}

/// The tag that both ends choose, and so the verification tag of every SCTP packet here but an INIT.
const SCTP_TAG: [u8; 4] = [0xc1, 0xc2, 0xc3, 0xc4];

fn sctp_exactly(from: SocketAddr, to: SocketAddr, tag: [u8; 4], chunk: &[u8]) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut packet = [&ports[..], &tag, &[0; 4], chunk].concat();
    packet.splice(8..12, crc32c(&packet));
    ip(from.ip(), to.ip(), IpNumber::SCTP, &packet, &[])
}

/// CRC32c by its definition (RFC 9260, appendix A), as it stands in an SCTP packet.
pub(super) fn crc32c(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in packet {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}

/// A UDP packet whose sender made no checksum (RFC 768; IPv4 only).
pub fn udp_without_checksum(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp(from, to, payload);
    if let Some(checksum) = packet.get_mut(26..28) {
        checksum.fill(0);
    }
    packet
}

/// An ICMP error that quotes a packet, as its IP header and `length` bytes more: port unreachable if `is_port`,
/// packet too big otherwise.
pub fn icmp_error(from: IpAddr, to: IpAddr, is_port: bool, packet: &[u8], length: usize) -> Vec<u8> {
    let header = match from {
        IpAddr::V4(_) => usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4,
        IpAddr::V6(_) => 40,
    };
    let quote = packet.get(..(header + length).min(packet.len())).unwrap_or_default();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let reason = if is_port {
                icmpv4::DestUnreachableHeader::Port
            } else {
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_400 }
            };
            icmp_v4(from, to, Icmpv4Type::DestinationUnreachable(reason), quote)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind = if is_port {
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            } else {
                Icmpv6Type::PacketTooBig { mtu: 1_400 }
            };
            icmp_v6(src, dst, kind, quote)
        }
        _ => panic_mixed(),
    }
}

/// An ICMP redirect (IPv4) that quotes a packet.
pub fn redirect(from: IpAddr, to: IpAddr, packet: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::Redirect(icmpv4::RedirectHeader {
        code: icmpv4::RedirectCode::RedirectForHost,
        gateway_internet_address: [10, 244, 1, 9],
    });
    icmp_v4(from, to, kind, packet.get(..28).unwrap_or_default())
}

/// An ICMP echo request.
pub fn echo(from: IpAddr, to: IpAddr) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            icmp_v4(from, to, Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 7, seq: 1 }), b"ping")
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind = Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 7, seq: 1 });
            icmp_v6(src, dst, kind, b"ping")
        }
        _ => panic_mixed(),
    }
}

/// An ICMPv6 redirect that quotes a packet, as far as the datapath looks.
pub fn redirect_v6(from: IpAddr, to: IpAddr, packet: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind = Icmpv6Type::Unknown { type_u8: 137, code_u8: 0, bytes5to8: [0; 4] };
            icmp_v6(src, dst, kind, packet.get(..48).unwrap_or_default())
        }
        _ => panic_mixed(),
    }
}

fn icmp_v6(src: std::net::Ipv6Addr, dst: std::net::Ipv6Addr, kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    let header = Icmpv6Header::with_checksum(kind, src.octets(), dst.octets(), payload);
    let mut message = header.map(|header| header.to_bytes().to_vec()).unwrap_or_default();
    message.extend_from_slice(payload);
    ip(src.into(), dst.into(), IpNumber::IPV6_ICMP, &message, &[])
}

fn icmp_v4(from: IpAddr, to: IpAddr, kind: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
    let mut message = Icmpv4Header::with_checksum(kind, quote).to_bytes().to_vec();
    message.extend_from_slice(quote);
    ip(from, to, IpNumber::ICMP, &message, &[])
}

fn ip(from: IpAddr, to: IpAddr, proto: IpNumber, payload: &[u8], options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = Ipv4Header {
                dont_fragment: true,
                time_to_live: 64,
                protocol: proto,
                source: src.octets(),
                destination: dst.octets(),
                options: Ipv4Options::try_from(options).unwrap_or_default(),
                ..Ipv4Header::default()
            };
            header.total_len = u16::try_from(header.header_len()).unwrap_or(20) + length;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: length,
            next_header: proto,
            hop_limit: 64,
            source: src.octets(),
            destination: dst.octets(),
        }
        .to_bytes()
        .to_vec(),
        _ => panic_mixed(),
    };
    packet.extend_from_slice(payload);
    packet
}

/// A packet in pieces: the payload of its IP header cut every `length` bytes, which are a multiple of 8.
pub fn fragments(packet: &[u8], id: u16, length: usize) -> Vec<Vec<u8>> {
    let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let header = if is_v4 { usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4 } else { 40 };
    let (header, payload) = packet.split_at(header.min(packet.len()));
    let count = payload.len().div_ceil(length);
    let piece = |(number, piece): (usize, &[u8])| {
        let is_last = number + 1 == count;
        let offset = u16::try_from(number * length).unwrap_or(0);
        if is_v4 { piece_v4(header, id, offset, is_last, piece) } else { piece_v6(header, id, offset, is_last, piece) }
    };
    payload.chunks(length).enumerate().map(piece).collect()
}

fn piece_v4(header: &[u8], id: u16, offset: u16, is_last: bool, piece: &[u8]) -> Vec<u8> {
    let mut packet = header.to_vec();
    let length = u16::try_from(header.len() + piece.len()).unwrap_or(0);
    let more = if is_last { 0 } else { 0x2000 };
    put(&mut packet, 2, length);
    put(&mut packet, 4, id);
    put(&mut packet, 6, more | (offset / 8));
    put(&mut packet, 10, 0);
    let mut packet = with_checksums(packet, 0, 10);
    packet.extend_from_slice(piece);
    packet
}

fn piece_v6(header: &[u8], id: u16, offset: u16, is_last: bool, piece: &[u8]) -> Vec<u8> {
    let mut packet = header.to_vec();
    let proto = packet.get(6).copied().unwrap_or(0);
    put(&mut packet, 4, u16::try_from(8 + piece.len()).unwrap_or(0));
    if let Some(next) = packet.get_mut(6) {
        *next = 44;
    }
    packet.extend([proto, 0, 0, 0, 0xab, 0xcd, 0, 0]);
    put(&mut packet, 42, offset | u16::from(!is_last));
    put(&mut packet, 46, id);
    packet.extend_from_slice(piece);
    packet
}

/// An IPv6 packet with extension headers of these numbers before its transport header, 8 bytes each. Routing headers
/// have `left` segments left.
pub fn with_extensions(packet: &[u8], extensions: &[u8], left: u8) -> Vec<u8> {
    let (header, payload) = packet.split_at(40.min(packet.len()));
    let mut packet = header.to_vec();
    let mut number_at = 6;
    let proto = packet.get(6).copied().unwrap_or(0);
    put(&mut packet, 4, u16::try_from(8 * extensions.len() + payload.len()).unwrap_or(0));
    for &number in extensions {
        if let Some(next) = packet.get_mut(number_at) {
            *next = number;
        }
        number_at = packet.len();
        packet.extend(match number {
            43 => [0, 0, 4, left, 0, 0, 0, 0],
            // An atomic fragment (RFC 6946): all of the packet.
            44 => [0, 0, 0, 0, 1, 2, 3, 4],
            // PadN.
            _ => [0, 0, 1, 4, 0, 0, 0, 0],
        });
    }
    if let Some(next) = packet.get_mut(number_at) {
        *next = proto;
    }
    packet.extend_from_slice(payload);
    packet
}

/// Overwrites two bytes by a number in network order.
pub fn put(packet: &mut [u8], at: usize, number: u16) {
    if let Some(place) = packet.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// Completes the checksum of a packet whose sender left it to the device, as the kernel would at last:
/// `start` is where the transport header begins, `offset` where its checksum stands.
pub fn with_checksums(mut packet: Vec<u8>, start: usize, offset: usize) -> Vec<u8> {
    let mut sum: u32 = 0;
    for pair in packet.get(start..).unwrap_or_default().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    if let Some(place) = packet.get_mut(start + offset..start + offset + 2) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

#[expect(clippy::panic, reason = "a test that mixes families is wrong itself")]
fn panic_mixed() -> ! {
    panic!("a packet has addresses of one family")
}
