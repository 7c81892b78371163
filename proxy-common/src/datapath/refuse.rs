//! Telling a client that nobody serves: TCP RST (RFC 9293 §3.10.7.1), ICMP port unreachable (RFC 792),
//! ICMPv6 port unreachable (RFC 4443 §3.1), SCTP ABORT (RFC 9260 §8.4). The packet itself becomes the answer.
//!
//! A socket turns any of them into ECONNREFUSED at once, as after the REJECT of kube-proxy.

use super::checksum::Delta;
use super::family::{Part, locate};
use super::parse::{ICMP_HEADER, Kind, Parsed, TcpFlags, UDP_HEADER, parse_at, tcp_header};
use super::rewrite::{SCTP_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM};
use super::{Env, Family, Packet, Tuple, Verdict, crc32c};
use crate::addr::Address;
use crate::maps::{DropReason, SCTP, TCP};

/// Bytes in a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes in an SCTP header and an ABORT chunk without a cause.
const SCTP_ABORT: usize = 16;
/// Most 32-bit words that an ICMP error quotes here: an IPv4 header with all its options, and 8 bytes.
const QUOTED_WORDS: usize = (60 + UDP_HEADER) / 4;

/// Turns a TCP, UDP or SCTP packet into its refusal: `answer`, if it may be answered.
#[inline(never)]
pub(super) fn refuse<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E, answer: Verdict) -> Verdict {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return Verdict::Pass;
    };
    // A RST or ABORT is never answered, or two hosts could go on for ever; nor is what did not come from one host (RFC 1122
    // §3.2.2), nor a part of a packet, of which too little is known.
    // Where IPv6 extension headers are in the way, there is no room for an answer but UDP's.
    let is_extended = A::HEADER_CHECKSUM.is_none() && parsed.transport() != A::HEADER;
    let is_in_the_way = is_extended && (parsed.kind != Kind::Udp || parsed.transport() + UDP_HEADER > QUOTED_WORDS * 4);
    let is_whole = place.part == Part::Whole && !is_in_the_way;
    if parsed.flags.0 & TcpFlags::RST != 0 || !parsed.tuple.src.is_unicast() || !is_whole {
        return Verdict::Drop(DropReason::NoBackendSilent);
    }
    let now = env.now();
    if !env.may_answer(now) {
        return Verdict::Drop(DropReason::AnswerLimit);
    }
    let refused = match parsed.kind {
        Kind::Tcp => reset(packet, &parsed),
        Kind::Sctp => abort(packet, &parsed),
        Kind::Udp | Kind::Error => unreachable(packet, &parsed),
    };
    match refused {
        Some(()) => answer,
        None => Verdict::Drop(DropReason::Rewrite),
    }
}

/// Turns a TCP packet into the RST that answers it.
///
/// The TCP header stays where it is, as a checksum that the device completes is bound to its place; the
/// options of an IPv4 header in between become padding.
#[inline(always)]
fn reset<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>) -> Option<()> {
    let TcpFlags(flags) = parsed.flags;
    let tcp = parsed.transport();
    let checksum_at = tcp + TCP_CHECKSUM;
    let sequence: [u8; 4] = packet.load(tcp + 4)?;
    let acknowledgement: [u8; 4] = packet.load(tcp + 8)?;
    // Not the buffer's length: a short Ethernet frame is padded.
    let payload = A::end(packet).saturating_sub(tcp as u32 + tcp_header(packet, tcp));
    let is_partial = packet.is_checksum_partial(checksum_at)?;
    packet.truncate((tcp + TCP_HEADER) as u32)?;

    let (sequence, acknowledgement, flags) = if flags & TcpFlags::ACK != 0 {
        (acknowledgement, [0; 4], TcpFlags::RST)
    } else {
        let control = u32::from(flags & TcpFlags::SYN != 0) + u32::from(flags & TcpFlags::FIN != 0);
        let next = u32::from_be_bytes(sequence).wrapping_add(payload).wrapping_add(control);
        ([0; 4], next.to_be_bytes(), TcpFlags::RST | TcpFlags::ACK)
    };
    let answer = parsed.tuple.swapped();
    let words = [
        [answer.src_port[0], answer.src_port[1], answer.dst_port[0], answer.dst_port[1]],
        sequence,
        acknowledgement,
        [((TCP_HEADER / 4) as u8) << 4, flags, 0, 0],
    ];
    let pseudo = pseudo_header(&answer, TCP, TCP_HEADER);
    let mut sum = pseudo;
    packet.store(tcp, words[0])?;
    packet.store(tcp + 4, words[1])?;
    packet.store(tcp + 8, words[2])?;
    packet.store(tcp + 12, words[3])?;
    for word in words {
        sum.add4(word);
    }
    let checksum = if is_partial { pseudo.folded().to_ne_bytes() } else { sum.checksum() };
    packet.store(checksum_at, checksum)?;
    packet.store(tcp + 18, [0_u8; 2])?;
    A::write_answer_header(packet, &answer, TCP, tcp, TCP_HEADER)
}

/// Turns an SCTP packet into the ABORT that answers it (RFC 9260 §8.4): with the tag that an INIT asks for, or with the
/// packet's own and a bit that says so.
#[inline(always)]
fn abort<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>) -> Option<()> {
    const ABORT: u8 = 6;
    let sctp = parsed.transport();
    let (tag, is_reflected): ([u8; 4], bool) =
        if parsed.flags.opens() { (packet.load(sctp + 16)?, false) } else { (packet.load(sctp + 4)?, true) };
    let is_partial = packet.is_checksum_partial(sctp + SCTP_CHECKSUM)?;
    packet.truncate((sctp + SCTP_ABORT) as u32)?;
    let answer = parsed.tuple.swapped();
    let words = [answer.ports(), tag, [0; 4], [ABORT, u8::from(is_reflected), 0, 4]];
    packet.store(sctp, words[0])?;
    packet.store(sctp + 4, words[1])?;
    packet.store(sctp + 12, words[3])?;
    // What the device is to make it begins with 0.
    let checksum = if is_partial { [0; 4] } else { crc32c::checksum(&words) };
    packet.store(sctp + SCTP_CHECKSUM, checksum)?;
    A::write_answer_header(packet, &answer, SCTP, sctp, SCTP_ABORT)
}

/// Turns a UDP packet into the ICMP error that quotes its headers.
#[inline(always)]
fn unreachable<A: Family, P: Packet>(packet: &mut P, parsed: &Parsed<A>) -> Option<()> {
    let quoted = parsed.transport() + UDP_HEADER;
    let checksum_at = parsed.transport() + UDP_CHECKSUM;
    let old: [u8; 2] = packet.load(checksum_at)?;
    let is_partial = packet.is_checksum_partial(checksum_at)?;
    // What the kernel is to complete begins at the quoted UDP header. With 0 in the checksum's place it
    // makes that header sum up to nothing, so the ICMP checksum does not depend on it.
    packet.store(checksum_at, if is_partial { [0_u8; 2] } else { old })?;
    packet.truncate(quoted as u32)?;
    packet.prepend((A::HEADER + ICMP_HEADER) as u32)?;

    let answer = parsed.tuple.swapped();
    let icmp = A::HEADER;
    let [icmp_type, code] = A::PORT_UNREACHABLE;
    let mut sum = if A::HEADER_CHECKSUM.is_none() {
        pseudo_header(&answer, A::ICMP, ICMP_HEADER + quoted)
    } else {
        Delta::default()
    };
    sum.add([icmp_type, code]);
    let summed = if is_partial { parsed.transport() } else { quoted };
    for word in 0..QUOTED_WORDS {
        if word * 4 >= summed {
            break;
        }
        sum.add4(packet.load::<[u8; 4]>(icmp + ICMP_HEADER + word * 4)?);
    }
    let [high, low] = sum.checksum();
    packet.store(icmp, [icmp_type, code, high, low])?;
    packet.store(icmp + 4, [0_u8; 4])?;
    A::write_answer_header(packet, &answer, A::ICMP, A::HEADER, ICMP_HEADER + quoted)
}

/// The sum of a pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
pub(super) fn pseudo_header<A: Address>(tuple: &Tuple<A>, proto: u8, length: usize) -> Delta {
    let mut sum = Delta::default();
    sum.add_address(tuple.src);
    sum.add_address(tuple.dst);
    sum.add([0, proto]);
    sum.add((length as u16).to_be_bytes());
    sum
}
