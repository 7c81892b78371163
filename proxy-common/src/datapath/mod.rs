//! The packet core: what happens to a packet, in ordinary Rust.
//!
//! | module | what it does |
//! |---|---|
//! | [`packet`](Packet), [`env`](Env) | the two traits that a hook implements |
//! | `family` | the headers of the two families |
//! | `parse` | headers to [`Tuple`]; ICMP errors speak of the packet they quote |
//! | `fragment` | fragments without ports, which go where the first one went |
//! | `ingress` | towards the backend: undo the masquerade of replies, DNAT requests |
//! | `egress` | towards the wire: undo the DNAT of replies, masquerade requests |
//! | `forward` | both at once, for what is sent on where it came in |
//! | [`select`](select()) | frontend to backend: the rules of a Service, without a packet |
//! | [`socket`] | the same rules for what the node's own processes ask for |
//! | `balance` | the new flow |
//! | `masquerade` | a source address and port for a flow that leaves the node |
//! | `rewrite` | the only place that changes a forwarded packet |
//! | `refuse` | TCP RST and ICMP port unreachable where nobody serves |
//! | `flow` | what packets say about their flow |
//! | `checksum`, `crc32c` | sums, and SCTP's checksum |
//!
//! Invariant: a packet that is not of a frontend or of a flow is left as it is, byte for byte.
//! Absent on purpose: routing and neighbours (the stack does them, or a hook's [`Router`]), and anything that names a hook.

pub mod checksum;

mod balance;
mod crc32c;
mod egress;
mod env;
mod family;
mod flow;
mod forward;
mod fragment;
mod ingress;
mod masquerade;
mod packet;
mod parse;
mod refuse;
mod rewrite;
mod select;
pub mod socket;

pub use egress::egress;
pub use env::{Client, Env, Host, Origin, Tables};
pub use family::{Family, IpHeader, Part, Place, place};
pub use forward::{Route, Router, Swift, SwiftStep, Way, accelerate, accelerate_step, onward};
pub use ingress::{ingress, is_reply};
pub use packet::{Packet, TransportChange};
pub use parse::Tuple;
pub use select::{Choice, Refusal, select};

use crate::maps::DropReason;

/// What the hook is to do with the packet.
///
/// This and all that travels by value between functions is one number to the compiler: at most one variant has something
/// in it. What is in no variant would never be written, and moved about all the same; the verifier sees that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: hand it on as it came.
    Pass,
    /// Translated: hand it on. A new flow was made for it.
    Opened,
    /// Translated by a flow that was there: hand it on.
    Translated,
    /// A later fragment whose first has not come. It has been kept, and will come in again after that: drop it.
    Kept,
    /// It cannot be told yet what is to become of it: have it come in here once more, as it is.
    Again,
    /// It has been turned into an answer to its sender, as nobody serves: send it back where it came from.
    AnswerNobody,
    /// The same, as the Service has no such port.
    AnswerUnknownPort,
    /// Drop it.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Verdict>() == size_of::<DropReason>() && size_of::<Step>() == size_of::<DropReason>());

/// What one function of the core leaves to the next.
///
/// A hook runs several functions in turn, each with a stack frame of its own, and each reads the packet anew: the
/// kernel gives a program and all the functions that are active at once 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Done(Verdict),
    /// It is no whole packet of a protocol that Services have, right behind its IP header: an ICMP error, perhaps, or a fragment.
    Other,
    /// What is not done for most packets.
    Slow,
}
