//! Changing a packet's addresses and ports: the only place that alters a packet which goes on.

use super::checksum::{Delta, never_zero};
use super::parse::Parsed;
use super::{Family, Packet, TransportChange, Tuple, Verdict, crc32c};
use crate::maps::{DropReason, SCTP, TCP, UDP};

/// Offset of the checksum in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
pub(super) const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in an SCTP header.
pub(super) const SCTP_CHECKSUM: usize = 8;
/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

/// Gives a TCP, UDP or SCTP packet the addresses and ports of `to`, and corrects every checksum that covers them.
#[inline(always)]
pub(super) fn rewrite<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, to: &Tuple<A>) -> Verdict {
    verdict(rewrite_transport(packet, parsed, to))
}

/// Gives an ICMP error, and the packet that it quotes, the addresses and ports of `to`.
#[inline(always)]
pub(super) fn rewrite_error<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, to: &Tuple<A>) -> Verdict {
    verdict(rewrite_quote(packet, parsed, to))
}

/// Gives a fragment without ports other addresses. The checksum that covers them as well is in the first fragment.
#[inline(always)]
pub(super) fn rewrite_addresses<A: Family, P: Packet>(packet: &mut P, src: (A, A), dst: (A, A)) -> Verdict {
    let mut write = || {
        let mut change = replace_address(packet, A::SRC, src.0, src.1)?;
        change.merge(replace_address(packet, A::DST, dst.0, dst.1)?);
        fix_header_checksum::<A, P>(packet, 0, change).map(drop)
    };
    verdict(write())
}

/// A packet that could not be written may be half changed: it has to be dropped.
#[inline(always)]
fn verdict(rewritten: Option<()>) -> Verdict {
    match rewritten {
        Some(()) => Verdict::Translated,
        None => Verdict::Drop(DropReason::Rewrite),
    }
}

#[inline(always)]
fn rewrite_transport<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, to: &Tuple<A>) -> Option<()> {
    let from = &parsed.tuple;
    let transport = parsed.transport();
    let mut pseudo = replace_address(packet, A::SRC, from.src, to.src)?;
    pseudo.merge(replace_address(packet, A::DST, from.dst, to.dst)?);
    fix_header_checksum::<A, P>(packet, 0, pseudo)?;
    let mut body = replace_port(packet, transport, from.src_port, to.src_port)?;
    body.merge(replace_port(packet, transport + 2, from.dst_port, to.dst_port)?);
    if from.proto == SCTP {
        // No pseudo header: only the ports count.
        return if body.is_nothing() { Some(()) } else { fix_sctp(packet, parsed, to) };
    }
    let udp = from.proto == UDP;
    let checksum = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    if udp && packet.load::<[u8; 2]>(transport + checksum)? == [0; 2] {
        // The sender made none (RFC 768).
        return Some(());
    }
    let change = TransportChange { pseudo, body, udp, ipv6: A::HEADER_CHECKSUM.is_none() };
    packet.fix_checksum(transport + checksum, &change)
}

/// Corrects SCTP's checksum for ports that were overwritten. One that is left to the device (CHECKSUM_PARTIAL, as between
/// pods) will be made of what is there then.
#[inline(always)]
fn fix_sctp<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, to: &Tuple<A>) -> Option<()> {
    let at = parsed.transport() + SCTP_CHECKSUM;
    let old: [u8; 4] = packet.load(at)?;
    if old == [0; 4] {
        // None, by agreement of both ends (RFC 9653), or yet to be made.
        return Some(());
    }
    if packet.is_checksum_partial(at)? {
        return packet.store(at, old);
    }
    let length = A::total_length(packet)?.saturating_sub(parsed.transport() as u32);
    packet.store(at, crc32c::replace_first(old, parsed.tuple.ports(), to.ports(), length))
}

/// The outer source is changed only where the connection's other end itself sent the error: a router in
/// between keeps its name, so that a traceroute shows it.
#[inline(always)]
fn rewrite_quote<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>, to: &Tuple<A>) -> Option<()> {
    let from = &parsed.tuple;
    let mut outer = Delta::default();
    if packet.load::<A>(A::SRC)? == from.src {
        outer.merge(replace_address(packet, A::SRC, from.src, to.src)?);
    }
    if packet.load::<A>(A::DST)? == from.dst {
        outer.merge(replace_address(packet, A::DST, from.dst, to.dst)?);
    }
    fix_header_checksum::<A, P>(packet, 0, outer)?;

    // The quoted packet went the other way: its source is our destination.
    let (header, transport) = (parsed.quote.header(), parsed.quote.transport());
    let mut inner = replace_address(packet, header + A::SRC, from.dst, to.dst)?;
    inner.merge(replace_address(packet, header + A::DST, from.src, to.src)?);
    // The ICMP checksum covers the quote with its own checksums.
    let mut icmp = inner;
    icmp.merge(fix_header_checksum::<A, P>(packet, header, inner)?);
    let mut ports = replace_port(packet, transport, from.dst_port, to.dst_port)?;
    ports.merge(replace_port(packet, transport + 2, from.src_port, to.src_port)?);
    icmp.merge(ports);
    inner.merge(ports);
    icmp.merge(fix_quoted_checksum(packet, transport, from.proto, inner)?);
    if A::HEADER_CHECKSUM.is_none() {
        // ICMPv6 covers a pseudo header with the outer addresses (RFC 4443 §2.3).
        icmp.merge(outer);
    }
    let at = parsed.transport() + ICMP_CHECKSUM;
    let old = packet.load(at)?;
    packet.store(at, icmp.applied_to(old))
}

/// Corrects the transport checksum of a quoted packet, if it is there, and answers what changed.
#[inline(always)]
fn fix_quoted_checksum<P: Packet>(packet: &mut P, transport: usize, proto: u8, change: Delta) -> Option<Delta> {
    let at = transport + if proto == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let mut changed = Delta::default();
    if proto == SCTP {
        // A CRC over what is not quoted in full; nobody checks it.
        return Some(changed);
    }
    // Of TCP only 8 bytes need to be there; then there is no checksum to correct.
    let Some(old) = packet.load::<[u8; 2]>(at) else {
        return Some(changed);
    };
    if proto == UDP && old == [0; 2] {
        return Some(changed);
    }
    let new = change.applied_to(old);
    let new = if proto == UDP { never_zero(new) } else { new };
    packet.store(at, new)?;
    changed.replace(old, new);
    Some(changed)
}

/// Overwrites an address, if it is to be another, and answers what changed.
#[inline(always)]
fn replace_address<A: Family, P: Packet>(packet: &mut P, at: usize, from: A, to: A) -> Option<Delta> {
    let mut change = Delta::default();
    if from != to {
        packet.store(at, to)?;
        change.replace_address(from, to);
    }
    Some(change)
}

/// Overwrites a port, if it is to be another, and answers what changed.
#[inline(always)]
fn replace_port<P: Packet>(packet: &mut P, at: usize, from: [u8; 2], to: [u8; 2]) -> Option<Delta> {
    let mut change = Delta::default();
    if from != to {
        packet.store(at, to)?;
        change.replace(from, to);
    }
    Some(change)
}

/// Corrects an IP header's own checksum, where the family has one, and answers what changed.
#[inline(always)]
fn fix_header_checksum<A: Family, P: Packet>(packet: &mut P, header: usize, change: Delta) -> Option<Delta> {
    let mut changed = Delta::default();
    if let Some(offset) = A::HEADER_CHECKSUM {
        let old = packet.load(header + offset)?;
        let new = change.applied_to(old);
        packet.store(header + offset, new)?;
        changed.replace(old, new);
    }
    Some(changed)
}
