//! Packets from outside that are sent on at the device where they came in, past the node's stack.
//!
//! A request to a backend on another node comes in by an uplink and leaves by one, and so does the reply to it. The stack has
//! nothing to add: such a packet gets its whole translation at once, what a router does to it, and goes out again. Which flows
//! these are is said when they begin ([`Flow::SENT_ON`]), and holds for both directions until they end: netfilter sees all
//! packets of a connection, or none. A packet of theirs that it alone saw would be INVALID to it, or a connection that the
//! backend begins, which a CNI's rule masquerades once more.
//!
//! | | who | what |
//! |---|---|---|
//! | [`accelerate`] | XDP | the common packets: everything that it does not do, it leaves as it came |
//! | [`onward`] | tc, at the same device | the others: fragments, ICMP errors, neighbours that have yet to be asked for |
//!
//! What the stack has to answer (a packet that is too long or has come to the end of its hops) goes there as all packets
//! do at other devices: the answer is an ICMP error, and no connection.

use core::mem::MaybeUninit;

use super::balance::Opening;
use super::checksum::Delta;
use super::family::{Part, locate};
use super::flow;
use super::fragment::{is_noted, note};
use super::ingress::{has_ended, is_bystander, may_end, open_flow};
use super::masquerade::allocate;
use super::parse::{Kind, Parsed, UDP_HEADER, is_sound, parse, parse_at, parse_error, tcp_header};
use super::refuse::pseudo_header;
use super::rewrite::{SCTP_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM, rewrite};
use super::select::Refusal;
use super::{Env, Family, Host, Packet, Place, Tuple, Verdict};
use crate::addr::Address;
use crate::blank::blank;
use crate::flows::{Missing, NOBODY, find, find_fast, is_masquerade_port};
use crate::maps::{DropReason, Flow, FlowSide, FragmentHook, TCP};

/// What routes are found by: the addresses that the node's stack would see.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Way<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Bytes of the packet, its IP header included; 0 where they do not matter.
    pub length: u32,
    /// IP protocol number.
    pub proto: u8,
}

/// Routes of the node, and what a hook can do with a packet beside the verdicts of others.
pub trait Router<A: Address> {
    /// Finds a packet's way out by an uplink that sends packets on. The hook sends it there if it is told to.
    fn route(&mut self, way: &Way<A>) -> Route;

    /// The device that the packet leaves by: that of the way found last, be it by [`Tables::is_sent_on`](super::Tables::is_sent_on).
    fn device(&self) -> u32;

    /// Tells the hook behind this one that the work of [`ingress`](super::ingress) is done. False where it cannot be told.
    fn announce(&mut self) -> bool;
}

/// What has been found out about a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It can be sent on there.
    Open,
    /// It could be, once the neighbour has been asked for.
    Unresolved,
    /// It is the stack's.
    Closed,
}

/// What one step of [`accelerate`] did with a packet; a number, as functions of their own answer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swift {
    /// Nothing: it is as it came, and tc is to look at it.
    Left,
    /// Nothing, as it is of no flow and no frontend: tc would find the same.
    NotOurs,
    /// What [`ingress`](super::ingress) does: it goes up to the stack, and tc has been told.
    Up,
    /// All of it: it is to be sent where the router found.
    Out,
    /// It is to be dropped, and has been counted.
    Drop,
    /// Nothing yet: it is of no flow, and may begin one.
    Begin,
    /// Nothing yet: its flow has no masquerade, and the router knows the device that it leaves by.
    Masquerade,
    /// What it needs has been made: it can be translated now.
    Ready,
}

impl Swift {
    /// From its number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Left,
            1 => Self::NotOurs,
            2 => Self::Up,
            3 => Self::Out,
            4 => Self::Drop,
            5 => Self::Begin,
            6 => Self::Masquerade,
            _ => Self::Ready,
        }
    }
}

/// A step of [`accelerate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwiftStep {
    /// Translate a packet of a flow that is there.
    Translate,
    /// Open a flow.
    Begin,
    /// Give the flow its masquerade.
    Masquerade,
}

/// Translates a packet as far as that can be done at once. `step` runs [`accelerate_step`], which may be a function of its own for
/// each step. One that is still [ready](Swift::Ready) to be translated has lost what was just stored for it.
#[inline(always)]
pub fn accelerate(mut step: impl FnMut(SwiftStep) -> Swift) -> Swift {
    let mut done = step(SwiftStep::Translate);
    if done == Swift::Begin {
        done = after(step(SwiftStep::Begin), &mut step);
    }
    if done == Swift::Masquerade {
        done = after(step(SwiftStep::Masquerade), &mut step);
    }
    if done == Swift::Begin || done == Swift::Masquerade { Swift::Ready } else { done }
}

#[inline(always)]
fn after(done: Swift, step: &mut impl FnMut(SwiftStep) -> Swift) -> Swift {
    if done == Swift::Ready { step(SwiftStep::Translate) } else { done }
}

/// Does one step of [`accelerate`].
#[inline(always)]
pub fn accelerate_step<A: Family, E: Env<A>, R: Router<A>, P: Packet>(
    step: SwiftStep,
    packet: &mut P,
    env: &mut E,
    router: &mut R,
) -> Swift {
    match step {
        SwiftStep::Translate => translate::<A, E, R, P>(packet, env, router),
        SwiftStep::Begin => match begin::<A, E, P>(packet, env) {
            Opening::Opened => Swift::Ready,
            Opening::SentOn => Swift::Masquerade,
            Opening::Refused(Refusal::NoFrontend) => Swift::NotOurs,
            // It waits, and the answers are given, at tc.
            Opening::Held | Opening::Refused(Refusal::NobodyServes | Refusal::UnknownPort) => Swift::Left,
            Opening::Refused(Refusal::Drop(reason)) => dropped(env, reason),
        },
        SwiftStep::Masquerade => {
            env.leave_by(router.device());
            match begin_masquerade::<A, E, P>(packet, env) {
                Ok(()) => Swift::Ready,
                Err(reason) => dropped(env, reason),
            }
        }
    }
}

#[inline(always)]
fn dropped(env: &mut impl Host, reason: DropReason) -> Swift {
    env.count_drop(reason);
    Swift::Drop
}

/// A packet of a flow that is there.
#[inline(always)]
fn translate<A: Family, E: Env<A>, R: Router<A>, P: Packet>(packet: &mut P, env: &mut E, router: &mut R) -> Swift {
    let Some(parsed) = parse::<A, P>(packet) else {
        return Swift::Left;
    };
    if parsed.transport() != A::HEADER {
        // A router would have to look at options.
        return Swift::Left;
    }
    let mut to = parsed.tuple;
    let done = follow::<A, E, R, P>(packet, env, router, &parsed, &mut to);
    if done != Swift::Out && done != Swift::Up {
        return done;
    }
    if let Verdict::Drop(reason) = rewrite(packet, &parsed, &to) {
        return dropped(env, reason);
    }
    if done == Swift::Out && take_hop::<A, P>(packet).is_none() {
        return dropped(env, DropReason::Rewrite);
    }
    done
}

/// Says what becomes of a packet, and what its addresses and ports are then. Nothing is noted or counted of one that is left,
/// as all are whose checksum may be yet to be completed.
#[inline(always)]
fn follow<A: Family, E: Env<A>, R: Router<A>, P: Packet>(
    packet: &P,
    env: &mut E,
    router: &mut R,
    parsed: &Parsed<A>,
    to: &mut Tuple<A>,
) -> Swift {
    let flows = env.flows();
    let found = match find_fast(&flows, &parsed.tuple.as_request(), FlowSide::Client) {
        Ok(found) => found,
        Err(missing) => {
            let done = reply::<A, E, R, P>(packet, env, router, parsed, to);
            return done.unwrap_or_else(|| begins(env, parsed, missing));
        }
    };
    let now = env.now();
    to.dst = found.backend();
    [to.src_port, to.dst_port] = found.inner_ports();
    let (port, flags) = found.masquerade_port();
    let is_sent_on = flags & Flow::<A>::SENT_ON != 0;
    if is_sent_on {
        to.src = found.masquerade();
        to.src_port = port;
    }
    let service = found.service();
    if may_end(parsed) && has_ended::<A, E>(env, &flows, &found, now) || !found.is_whole() {
        return Swift::Begin;
    }
    if may_be_partial::<A, P>(packet, parsed) {
        return Swift::Left;
    }
    let done = leave(packet, router, is_sent_on, &parsed.tuple, to.dst);
    if done == Swift::Left {
        return Swift::Left;
    }
    if is_sent_on && port == [0; 2] {
        return Swift::Masquerade;
    }
    found.touch(now, flow::client_state(parsed, found.word.state));
    env.count(service, |counters| {
        counters.packets += 1;
        counters.bytes += u64::from(packet.length());
    });
    done
}

/// The same for a packet that is no request of a flow: it may be a reply to the address that one was masqueraded to. `None`: nor that.
#[inline(always)]
fn reply<A: Family, E: Env<A>, R: Router<A>, P: Packet>(
    packet: &P,
    env: &mut E,
    router: &mut R,
    parsed: &Parsed<A>,
    to: &mut Tuple<A>,
) -> Option<Swift> {
    if !is_masquerade_port(parsed.tuple.dst_port) {
        return None;
    }
    let flows = env.flows();
    let found = find(&flows, &parsed.tuple.as_reply(), FlowSide::Masquerade)?;
    let (_, flags) = found.masquerade_port();
    let is_sent_on = flags & Flow::<A>::SENT_ON != 0;
    let service = found.service();
    to.dst = found.client();
    if is_sent_on {
        to.src = found.frontend();
        [to.dst_port, to.src_port] = found.outer_ports();
    } else {
        [to.dst_port, _] = found.inner_ports();
    }
    if may_be_partial::<A, P>(packet, parsed) || !found.is_whole() {
        return Some(Swift::Left);
    }
    let done = leave(packet, router, is_sent_on, &parsed.tuple, to.dst);
    if done == Swift::Out {
        // Of one that goes up, state and counters are left to the hook where it leaves for the client.
        found.touch(env.now(), flow::backend_state(parsed));
        env.count(service, |counters| {
            counters.reply_packets += 1;
            counters.reply_bytes += u64::from(packet.length());
        });
    }
    Some(done)
}

/// What becomes of a packet of no flow: it may begin one, unless it surely passes as it is.
#[inline(always)]
fn begins<A: Family, E: Env<A>>(env: &E, parsed: &Parsed<A>, missing: Missing) -> Swift {
    if is_bystander(env, parsed, missing) { Swift::NotOurs } else { Swift::Begin }
}

/// Where a packet of a flow goes, from where it came to what is its destination now.
#[inline(always)]
fn leave<A: Family, R: Router<A>, P: Packet>(
    packet: &P,
    router: &mut R,
    is_sent_on: bool,
    from: &Tuple<A>,
    dst: A,
) -> Swift {
    let (is_open, done) = if is_sent_on {
        let way = Way { src: from.src, dst, length: packet.length(), proto: from.proto };
        (hops::<A, P>(packet) > 1 && router.route(&way) == Route::Open, Swift::Out)
    } else {
        (router.announce(), Swift::Up)
    };
    if is_open { done } else { Swift::Left }
}

/// A packet of no flow opens one, if it is for a frontend and as it should be.
#[inline(always)]
fn begin<A: Family, E: Env<A>, P: Packet>(packet: &mut P, env: &mut E) -> Opening {
    let place = locate::<A, P>(packet);
    if is_sound::<A, P>(packet, place) { open_flow::<A, E, P>(packet, env, place) } else { NOT_SOUND }
}

/// What comes of a packet that tc would let pass as it is.
const NOT_SOUND: Opening = Opening::Refused(Refusal::NoFrontend);

/// Gives the flow of a request its masquerade.
#[inline(never)]
fn begin_masquerade<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> Result<(), DropReason> {
    let mut inside = MaybeUninit::uninit();
    let inside = blank(&mut inside);
    let number = inside_of::<A, E, P>(packet, env, inside);
    allocate(env, inside, number)
}

/// The addresses and ports that a request has in the node's stack, and the number of its flow; [`NOBODY`] where it is of none.
#[inline(never)]
fn inside_of<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &E, inside: &mut Tuple<A>) -> u64 {
    let Some(parsed) = parse::<A, P>(packet) else {
        return NOBODY;
    };
    let flows = env.flows();
    let Some(found) = find(&flows, &parsed.tuple.as_request(), FlowSide::Client) else {
        return NOBODY;
    };
    *inside = parsed.tuple;
    inside.dst = found.backend();
    [inside.src_port, inside.dst_port] = found.inner_ports();
    if found.is_whole() { found.number() } else { NOBODY }
}

/// Prepares a packet that [`ingress`](super::ingress) has translated for being sent on, if its flow is one of those.
/// [`Verdict::Translated`]: it is to be sent to the device that the router found, where [`egress`](super::egress) does the rest;
/// [`Verdict::Pass`]: it goes up to the stack.
#[inline(always)]
pub fn onward<A: Family, E: Env<A>, R: Router<A>, P: Packet>(packet: &mut P, env: &mut E, router: &mut R) -> Verdict {
    if !is_sent_on::<A, E, P>(packet, env) || hops::<A, P>(packet) <= 1 {
        return Verdict::Pass;
    }
    if find_way::<A, R, P>(packet, router) == Route::Closed {
        return Verdict::Pass;
    }
    match take_hop::<A, P>(packet) {
        Some(()) => Verdict::Translated,
        None => Verdict::Drop(DropReason::Rewrite),
    }
}

/// Whether a packet that has the addresses of the node's stack is of a flow that is sent on.
#[inline(always)]
fn is_sent_on<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    let place = locate::<A, P>(packet);
    match place.part {
        Part::Later => is_noted::<A, E, P>(packet, env, FragmentHook::Onward),
        _ if place.proto == A::ICMP => is_error_sent_on::<A, E, P>(packet, env),
        _ => is_flow_sent_on::<A, E, P>(packet, env),
    }
}

#[inline(never)]
fn is_flow_sent_on<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    let place = locate::<A, P>(packet);
    let Some(parsed) = parse_at::<A, P>(packet, place) else {
        return false;
    };
    let is_sent_on = is_tuple_sent_on(env, &parsed.tuple);
    if is_sent_on {
        note(env, place, &parsed.tuple, &parsed.tuple, FragmentHook::Onward);
    }
    is_sent_on
}

#[inline(never)]
fn is_error_sent_on<A: Family, E: Env<A>, P: Packet>(packet: &P, env: &mut E) -> bool {
    parse_error::<A, P>(packet).is_some_and(|parsed| is_tuple_sent_on(env, &parsed.tuple))
}

#[inline(always)]
fn is_tuple_sent_on<A: Family, E: Env<A>>(env: &E, tuple: &Tuple<A>) -> bool {
    let flows = env.flows();
    let found = match find(&flows, &tuple.as_reply(), FlowSide::Stack) {
        Some(found) => Some(found),
        None => find(&flows, &tuple.as_request(), FlowSide::Stack),
    };
    found.is_some_and(|found| {
        let (_, flags) = found.masquerade_port();
        flags & Flow::<A>::SENT_ON != 0 && found.is_whole()
    })
}

#[inline(never)]
fn find_way<A: Family, R: Router<A>, P: Packet>(packet: &P, router: &mut R) -> Route {
    let (Some(src), Some(dst)) = (packet.load::<A>(A::SRC), packet.load::<A>(A::DST)) else {
        return Route::Closed;
    };
    let place = locate::<A, P>(packet);
    router.route(&Way { src, dst, length: longest(packet, place), proto: place.proto })
}

/// Bytes of the longest packet that will leave the device: of one that is cut into segments later, that is a segment with its headers.
#[inline(always)]
fn longest<P: Packet>(packet: &P, place: Place) -> u32 {
    let segment = packet.segment();
    if segment == 0 {
        return packet.length();
    }
    let header = match place.proto {
        TCP => tcp_header(packet, usize::from(place.next)),
        _ => UDP_HEADER as u32,
    };
    u32::from(place.next) + header + segment
}

/// How many more hops a packet may take; 0 where there is no header.
#[inline(always)]
fn hops<A: Family, P: Packet>(packet: &P) -> u8 {
    packet.load::<[u8; 2]>(A::HOPS).map_or(0, |[hops, _]| hops)
}

/// Takes one hop from those that a packet may take, as a router does (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline(always)]
fn take_hop<A: Family, P: Packet>(packet: &mut P) -> Option<()> {
    let [hops, next]: [u8; 2] = packet.load(A::HOPS)?;
    let fewer = [hops.wrapping_sub(1), next];
    packet.store(A::HOPS, fewer)?;
    if let Some(at) = A::HEADER_CHECKSUM {
        let mut change = Delta::default();
        change.replace([hops, next], fewer);
        let old = packet.load(at)?;
        packet.store(at, change.applied_to(old))?;
    }
    Some(())
}

/// Whether a checksum may be one that the kernel or the device is yet to complete (CHECKSUM_PARTIAL): it has the sum of the
/// pseudo header then. In one of 65,536 packets a complete one looks the same; tc knows.
///
/// XDP sees such packets on devices that are no hardware, and in generic mode those that GRO has put together.
#[inline(always)]
fn may_be_partial<A: Family, P: Packet>(packet: &P, parsed: &Parsed<A>) -> bool {
    let at = match parsed.kind {
        Kind::Tcp => TCP_CHECKSUM,
        Kind::Udp => UDP_CHECKSUM,
        // What is to be made of SCTP's begins with 0; what two ends have agreed to leave out (RFC 9653), too.
        Kind::Sctp | Kind::Error => {
            return packet.load::<[u8; 4]>(parsed.transport() + SCTP_CHECKSUM).is_none_or(|sum| sum == [0; 4]);
        }
    };
    let Some(held) = packet.load::<[u8; 2]>(parsed.transport() + at) else {
        return true;
    };
    let length = A::end(packet).wrapping_sub(parsed.transport() as u32) as usize;
    u16::from_ne_bytes(held) == pseudo_header(&parsed.tuple, parsed.tuple.proto, length).folded()
}
