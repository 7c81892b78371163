//! Sockets: what a process asks for is translated once, where it asks, and not in its packets.
//!
//! Packets of the node's own processes never come *in* from a device, so the packet path cannot send them to a backend.
//! Their sockets can be: a hook changes the address that the process names before the kernel sees it. The kernel then
//! looks up the route to the backend, and the source address with it. What the backend answers needs no translation but
//! where the process asks who its peer is.
//!
//! | hook | function |
//! |---|---|
//! | connect | [`connect`]; the choice stays with the socket until it is closed or connected anew |
//! | sendmsg, for datagrams with an address of their own | [`send`]; the choice is kept for socket and frontend |
//! | recvmsg | [`sender`] |
//! | getpeername | [`peer`] |
//!
//! The rules are [`select`](super::select())'s, the same as for packets, with the socket's own address as the client's: that which it is
//! bound to, or the unspecified one, which stands for the node. Absent on purpose: masquerade. The kernel's choice of a
//! source address is one of the node.

use super::select::{Aligned, Choice, Refusal};
use super::{Env, Family, Origin};
use crate::flows::{FlowMemory, is_over};
use crate::maps::{
    DatagramKey, DatagramSide, DropReason, FlowState, FlowWay, Frontend, FrontendKey, Masquerade, Peer, TCP, UDP,
};

/// The kernel has no room for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A socket at a hook.
pub trait Socket<A: Family> {
    /// Its cookie.
    fn cookie(&self) -> u64;

    /// The address that it is bound to; the unspecified one where the kernel is yet to choose.
    fn source(&self) -> A;

    /// What is stored with the socket.
    fn peer(&self) -> Option<Peer<A>>;

    /// Stores it.
    fn set_peer(&mut self, peer: &Peer<A>) -> Result<(), NoRoom>;

    /// Removes it, if it is there.
    fn clear_peer(&mut self);

    /// An entry of the `datagram` map.
    fn datagram(&mut self, key: &DatagramKey<A>) -> Option<&mut Peer<A>>;

    /// Writes one.
    fn store_datagram(&mut self, key: &DatagramKey<A>, peer: &Peer<A>) -> Result<(), NoRoom>;
}

/// The address and port of the other end, as the process names it or is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<A> {
    /// Address.
    pub addr: A,
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number of the socket.
    pub proto: u8,
}

/// What the hook is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not ours: nothing has changed.
    Pass,
    /// The destination is another one now.
    Translated,
    /// The call fails: nobody serves, or the frontend's address has no such port.
    Refused(DropReason),
    /// The call fails: packets would have been dropped.
    Dropped(DropReason),
}

/// Leads a socket that is being connected to a backend.
#[inline(always)]
pub fn connect<A: Family, E: Env<A>, S: Socket<A>>(env: &mut E, socket: &mut S, to: &mut Destination<A>) -> Outcome {
    let mut peer = Aligned(Peer::default());
    let outcome = lead(env, socket, to, &mut peer.0);
    let peer = &peer.0;
    match outcome {
        Outcome::Translated => {
            // Without memory for it the connection stands all the same. Its process learns the backend's address if it
            // asks for its peer's, and is not told when the backend goes.
            let _ = socket.set_peer(peer);
            (to.addr, to.port) = (peer.backend, peer.backend_port);
        }
        // Of an earlier connection of the same socket.
        Outcome::Pass | Outcome::Refused(_) | Outcome::Dropped(_) => socket.clear_peer(),
    }
    outcome
}

/// Leads a datagram that names its destination to a backend: the same one as before, while that serves and the socket
/// goes on sending.
#[inline(always)]
pub fn send<A: Family, E: Env<A>, S: Socket<A>>(env: &mut E, socket: &mut S, to: &mut Destination<A>) -> Outcome {
    let now = env.now();
    let key = DatagramKey::new(socket.cookie(), to.addr, to.port, DatagramSide::Request);
    if let Some(known) = socket.datagram(&key) {
        let way = FlowWay { seen: known.seen, tag: 0, kind: FlowWay::protocol(UDP), state: FlowState::ANSWERED };
        let is_over = is_over(way, now, env.flows().config());
        let serves = env.backend(known.backend_id).is_some_and(|backend| backend.generation == known.generation);
        if serves && !is_over {
            if known.seen != now {
                known.seen = now;
            }
            (to.addr, to.port) = (known.backend, known.backend_port);
            return Outcome::Translated;
        }
    }
    let mut peer = Aligned(Peer::default());
    let outcome = lead(env, socket, to, &mut peer.0);
    let peer = &peer.0;
    if outcome != Outcome::Translated {
        return outcome;
    }
    for side in [DatagramSide::Reply, DatagramSide::Request] {
        if socket.store_datagram(&peer.key(key.cookie, side), peer).is_err() {
            // The process would not know the answer for one of its own.
            return Outcome::Dropped(DropReason::FlowTable);
        }
    }
    (to.addr, to.port) = (peer.backend, peer.backend_port);
    Outcome::Translated
}

/// Puts the frontend in the place of the backend that a datagram has come from. `from.proto` is not looked at.
#[inline(always)]
pub fn sender<A: Family, S: Socket<A>>(socket: &mut S, from: &mut Destination<A>) -> Outcome {
    if peer(socket, from) == Outcome::Translated {
        return Outcome::Translated;
    }
    let key = DatagramKey::new(socket.cookie(), from.addr, from.port, DatagramSide::Reply);
    match socket.datagram(&key) {
        Some(known) => {
            (from.addr, from.port) = (known.frontend, known.frontend_port);
            Outcome::Translated
        }
        None => Outcome::Pass,
    }
}

/// Puts the frontend in the place of the backend that a socket is connected to. `of.proto` is not looked at.
#[inline(always)]
pub fn peer<A: Family, S: Socket<A>>(socket: &mut S, of: &mut Destination<A>) -> Outcome {
    match socket.peer() {
        Some(known) if known.backend == of.addr && known.backend_port == of.port => {
            (of.addr, of.port) = (known.frontend, known.frontend_port);
            Outcome::Translated
        }
        _ => Outcome::Pass,
    }
}

/// Chooses a backend and counts the new flow.
#[inline(always)]
fn lead<A: Family, E: Env<A>, S: Socket<A>>(
    env: &mut E,
    socket: &S,
    to: &Destination<A>,
    peer: &mut Peer<A>,
) -> Outcome {
    let key = FrontendKey::new(to.addr, to.port, to.proto);
    if env.origin() == Origin::Pods && !is_plain(env, &key) {
        return Outcome::Pass;
    }
    let mut choice = Choice::default();
    match env.select(&socket.source(), [0; 2], &key, &mut choice) {
        Ok(()) => {}
        Err(Refusal::NoFrontend) => return Outcome::Pass,
        Err(Refusal::NobodyServes) => return Outcome::Refused(DropReason::NoBackend),
        Err(Refusal::UnknownPort) => return Outcome::Refused(DropReason::UnknownPort),
        Err(Refusal::Drop(reason)) => return Outcome::Dropped(reason),
    }
    peer.frontend = to.addr;
    peer.frontend_port = to.port;
    peer.backend = choice.addr;
    peer.backend_port = choice.port;
    peer.service = choice.service;
    peer.backend_id = choice.backend;
    peer.generation = choice.generation;
    peer.seen = env.now();
    env.count(choice.service, |counters| counters.flows += 1);
    Outcome::Translated
}

/// Whether a pod's connection to a frontend may be translated at its socket, and not in its packets.
///
/// At the socket a pod's address is not known yet, and what it sends cannot be masqueraded: source ranges, affinity and
/// masquerade are left to the packets. So is all but TCP: the agent, which tells sockets when their backend goes, sees
/// those of its own network namespace only.
#[inline(always)]
fn is_plain<A: Family, E: Env<A>>(env: &E, key: &FrontendKey<A>) -> bool {
    key.proto == TCP
        && env.frontend(key).is_some_and(|frontend| {
            frontend.flags & Frontend::RANGES == 0
                && frontend.affinity == 0
                && frontend.masquerade & Masquerade::PODS == 0
        })
}
