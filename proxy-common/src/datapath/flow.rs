//! What the packets of a flow say about it.

use super::parse::{Kind, Parsed, TcpFlags};
use crate::maps::FlowState;

/// What a client's packet says about the state of its flow, which is `before` so far.
#[inline(always)]
pub(super) fn client_state<A>(parsed: &Parsed<A>, before: u8) -> u8 {
    if !matches!(parsed.kind, Kind::Tcp | Kind::Sctp) {
        return 0;
    }
    // Whoever answers the backend's SYN has seen it: it is where it says it is.
    let confirms = before & FlowState::ANSWERED != 0 && parsed.flags.0 & (TcpFlags::SYN | TcpFlags::RST) == 0;
    bit(parsed, TcpFlags::SYN, FlowState::SYN)
        | bit(parsed, TcpFlags::FIN, FlowState::CLIENT_FIN)
        | bit(parsed, TcpFlags::RST, FlowState::RESET)
        | if confirms { FlowState::CONFIRMED } else { 0 }
}

/// What a backend's packet says about the state of its flow.
#[inline(always)]
pub(super) fn backend_state<A>(parsed: &Parsed<A>) -> u8 {
    match parsed.kind {
        Kind::Error => 0,
        Kind::Tcp | Kind::Sctp => {
            FlowState::ANSWERED
                | bit(parsed, TcpFlags::FIN, FlowState::BACKEND_FIN)
                | bit(parsed, TcpFlags::RST, FlowState::RESET)
        }
        Kind::Udp => FlowState::ANSWERED,
    }
}

#[inline(always)]
fn bit<A>(parsed: &Parsed<A>, flag: u8, state: u8) -> u8 {
    if parsed.flags.0 & flag != 0 { state } else { 0 }
}
