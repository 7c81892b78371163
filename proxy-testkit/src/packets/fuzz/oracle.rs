//! What is known about packets without the core: where their fields stand, and what they sum up to.

use std::ops::Range;

use super::super::build::crc32c;

/// A TCP, UDP, SCTP or ICMP packet, as this module understands it.
struct Shape {
    /// Offset of the IP header.
    header: usize,
    /// Offset of the transport header.
    transport: usize,
    proto: u8,
    is_later: bool,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn byte(packet: &[u8], at: usize) -> Option<u8> {
    packet.get(at).copied()
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([byte(packet, at)?, byte(packet, at + 1)?]))
}

/// Walks the headers from `header` on.
fn shape(packet: &[u8], header: usize) -> Option<Shape> {
    match byte(packet, header)? >> 4 {
        4 => {
            let fragment = word(packet, header + 6)?;
            let transport = header + usize::from(byte(packet, header)? & 0xf) * 4;
            let is_later = fragment & 0x1fff != 0;
            Some(Shape { header, transport, proto: byte(packet, header + 9)?, is_later })
        }
        6 => {
            let (mut proto, mut transport) = (byte(packet, header + 6)?, header + 40);
            let mut is_later = false;
            while [0, 43, 44, 60].contains(&proto) && !is_later {
                if proto == 44 {
                    is_later = word(packet, transport + 2)? & 0xfff8 != 0;
                }
                let length = if proto == 44 { 0 } else { usize::from(byte(packet, transport + 1)?) };
                proto = byte(packet, transport)?;
                transport += 8 * (length + 1);
            }
            Some(Shape { header, transport, proto, is_later })
        }
        _ => None,
    }
}

impl Shape {
    fn is_v4(&self, packet: &[u8]) -> bool {
        byte(packet, self.header).is_some_and(|first| first >> 4 == 4)
    }

    fn addresses(&self, packet: &[u8]) -> Range<usize> {
        let range = if self.is_v4(packet) { 12..20 } else { 8..40 };
        self.header + range.start..self.header + range.end
    }

    /// Offset of the transport header's checksum.
    fn checksum(&self) -> usize {
        self.transport
            + match self.proto {
                TCP => 16,
                UDP => 6,
                SCTP => 8,
                _ => 2,
            }
    }

    /// How many bytes it has.
    fn width(&self) -> usize {
        if self.proto == SCTP { 4 } else { 2 }
    }

    fn is_icmp(&self) -> bool {
        self.proto == 1 || self.proto == 58
    }

    /// What may change when the packet is translated.
    fn names(&self, packet: &[u8]) -> Vec<Range<usize>> {
        let mut names = vec![self.addresses(packet)];
        if self.is_v4(packet) {
            names.push(self.header + 10..self.header + 12);
        }
        if !self.is_later {
            names.push(self.checksum()..self.checksum() + self.width());
            if !self.is_icmp() {
                names.push(self.transport..self.transport + 4);
            }
        }
        names
    }
}

/// Ones' complement sum of 16-bit words, where 0xffff is 0.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([byte(pair, 0).unwrap_or(0), byte(pair, 1).unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if sum == 0xffff { 0 } else { u16::try_from(sum).unwrap_or(0) }
}

/// The bytes that the transport checksum covers, as they add up: addresses but for ICMP of IPv4, and all from the
/// transport header on. What translation leaves alone is left out where it is the same before and after.
fn transport_sum(packet: &[u8], shape: &Shape) -> u16 {
    let mut covered = Vec::new();
    if shape.proto != 1 {
        covered.extend_from_slice(packet.get(shape.addresses(packet)).unwrap_or_default());
    }
    covered.extend_from_slice(packet.get(shape.transport..).unwrap_or_default());
    sum(&covered)
}

/// By how much SCTP's checksum is wrong. `None` where that cannot be told: it covers bytes that are not there, or others
/// are.
fn crc_error(packet: &[u8], shape: &Shape) -> Option<u32> {
    let length = if shape.is_v4(packet) { word(packet, 2)? } else { word(packet, 4)?.checked_add(40)? };
    let is_whole = if shape.is_v4(packet) { word(packet, 6)? & 0x3fff == 0 } else { byte(packet, 6)? == SCTP };
    if usize::from(length) != packet.len() || !is_whole {
        return None;
    }
    let mut covered = packet.get(shape.transport..).filter(|bytes| bytes.len() >= 12)?.to_vec();
    let stored: Vec<u8> = covered.splice(8..12, [0; 4]).collect();
    Some(u32::from_be_bytes(stored.try_into().ok()?) ^ u32::from_be_bytes(crc32c(&covered)))
}

fn header_sum(packet: &[u8], shape: &Shape) -> u16 {
    if !shape.is_v4(packet) {
        return 0;
    }
    let length = usize::from(byte(packet, shape.header).unwrap_or(0) & 0xf) * 4;
    sum(packet.get(shape.header..shape.header + length).unwrap_or_default())
}

/// Nothing but addresses, ports and checksums differs, and the sums are as right or wrong as they were.
pub fn only_names_changed(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len(), "a packet that goes on changed its length");
    let Some(outer) = shape(before, 0) else {
        unreachable!("a packet without an IP header was translated");
    };
    let mut names = outer.names(before);
    let quoted = if outer.is_icmp() { shape(before, outer.transport + 8) } else { None };
    if let Some(quoted) = &quoted {
        names.extend(quoted.names(before));
    }
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        let is_name = names.iter().any(|range| range.contains(&at));
        assert!(old == new || is_name, "byte {at} changed: {before:02x?} to {after:02x?}");
    }
    assert_eq!(header_sum(before, &outer), header_sum(after, &outer), "the header's sum: {before:02x?}, {after:02x?}");
    let has_sum = !(outer.proto == UDP && word(before, outer.checksum()) == Some(0));
    if outer.proto == SCTP {
        assert_eq!(crc_error(before, &outer), crc_error(after, &outer), "SCTP's sum: {before:02x?}, {after:02x?}");
    } else if !outer.is_later && has_sum {
        let sums = (transport_sum(before, &outer), transport_sum(after, &outer));
        assert_eq!(sums.0, sums.1, "the transport's sum: {before:02x?}, {after:02x?}");
        assert!(outer.proto != UDP || word(after, outer.checksum()) != Some(0), "a UDP checksum became none");
    }
    if let Some(quoted) = quoted {
        assert_eq!(header_sum(before, &quoted), header_sum(after, &quoted), "the quoted header's sum");
    }
}

/// Whether a packet is TCP or UDP and has ports.
pub fn is_request(packet: &[u8]) -> bool {
    shape(packet, 0).is_some_and(|shape| !shape.is_later && (shape.proto == TCP || shape.proto == UDP))
}

/// The packet with source and destination exchanged.
pub fn swapped(packet: &[u8]) -> Vec<u8> {
    let mut swapped = packet.to_vec();
    if let Some(shape) = shape(packet, 0) {
        for range in [shape.addresses(packet), shape.transport..shape.transport + 4] {
            let middle = range.len() / 2;
            if let Some(names) = swapped.get_mut(range) {
                names.rotate_left(middle);
            }
        }
    }
    swapped
}

/// The packet with 0xffff for a checksum of 0: in ones' complement they are one number, and which one it is depends on
/// the way it was computed. The headers' own is not looked at here: its sum has been compared.
pub fn plain(packet: &[u8]) -> Vec<u8> {
    let mut plain = packet.to_vec();
    let Some(shape) = shape(packet, 0) else {
        return plain;
    };
    let mut sums = vec![shape.checksum()];
    if shape.is_v4(packet) {
        sums.push(10);
    }
    for at in sums {
        if let Some(place) = plain.get_mut(at..at + 2)
            && place == [0xff; 2]
        {
            place.fill(0);
        }
    }
    plain
}

/// An answer of our own: every sum is right, and it goes from where the packet went to who sent it.
pub fn is_an_answer(packet: &[u8], answer: &[u8]) {
    let (Some(asked), Some(shape)) = (shape(packet, 0), shape(answer, 0)) else {
        unreachable!("an answer without an IP header");
    };
    let middle = asked.addresses(packet).len() / 2;
    let mut addresses = packet.get(asked.addresses(packet)).unwrap_or_default().to_vec();
    addresses.rotate_left(middle);
    assert_eq!(answer.get(shape.addresses(answer)), Some(&addresses[..]), "the answer goes elsewhere");
    let length = if shape.is_v4(answer) { word(answer, 2) } else { word(answer, 4).map(|length| length + 40) };
    assert_eq!(length.map(usize::from), Some(answer.len()), "the answer's length");
    assert_eq!(header_sum(answer, &shape), 0, "the answer's header: {answer:02x?}");
    let mut covered = answer.get(shape.transport..).unwrap_or_default().to_vec();
    if shape.proto == SCTP {
        return assert_eq!(crc_error(answer, &shape), Some(0), "the answer's sum: {answer:02x?}");
    }
    if covered.len() % 2 == 1 {
        covered.push(0);
    }
    if shape.proto != 1 {
        covered.extend_from_slice(&addresses);
        covered.extend([0, shape.proto]);
        covered.extend(u16::try_from(answer.len() - shape.transport).unwrap_or(0).to_be_bytes());
    }
    assert_eq!(sum(&covered), 0, "the answer's sum: {answer:02x?}");
}
