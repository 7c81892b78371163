//! The life of a flow: what its packets say about it, and when it is over.

use super::parse::{Kind, Parsed, TcpFlags};
use crate::maps::{Flow, FlowState, SCTP, TCP};

/// Seconds after which a UDP flow is over: netfilter's `nf_conntrack_udp_timeout_stream` (120), as nothing tells its
/// one-way `nf_conntrack_udp_timeout` (30) apart here.
const UDP_IDLE: u32 = 120;
/// TCP, with a SYN that nobody answered: netfilter's `nf_conntrack_tcp_timeout_syn_sent`.
const TCP_UNANSWERED: u32 = 120;
/// TCP, with a FIN of one side: kube-proxy's `conntrack.tcpCloseWaitTimeout`.
const TCP_HALF_CLOSED: u32 = 3_600;
/// TCP, with a FIN of both sides: for so long Linux keeps the socket in TIME_WAIT (TCP_TIMEWAIT_LEN).
const TCP_CLOSED: u32 = 60;
/// TCP, with a RST: what is late comes within seconds (netfilter's `nf_conntrack_tcp_timeout_close`).
const TCP_RESET: u32 = 10;
/// TCP, established: kube-proxy's `conntrack.tcpEstablishedTimeout`.
const TCP_ESTABLISHED: u32 = 86_400;

/// Seconds without a packet after which a flow is over. `state` has the bits of all its entries.
#[inline(always)]
pub const fn idle_limit(proto: u8, state: u8) -> u32 {
    const FINS: u8 = FlowState::CLIENT_FIN | FlowState::BACKEND_FIN;
    if proto == SCTP {
        return sctp_limit(state);
    }
    if proto != TCP {
        UDP_IDLE
    } else if state & FlowState::RESET != 0 {
        TCP_RESET
    } else if state & FINS == FINS {
        TCP_CLOSED
    } else if state & FINS != 0 {
        TCP_HALF_CLOSED
    } else if state & FlowState::ANSWERED == 0 {
        TCP_UNANSWERED
    } else {
        TCP_ESTABLISHED
    }
}

/// SCTP, as netfilter has it (`nf_conntrack_proto_sctp.c`): an association is kept alive by heartbeats, by default every 30
/// seconds, so that one of which nothing was heard for 210 is gone.
const fn sctp_limit(state: u8) -> u32 {
    if state & FlowState::CLOSING != 0 {
        10
    } else if state & FlowState::ANSWERED == 0 {
        30
    } else {
        210
    }
}

/// For how long a flow has been idle, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Idle(u32);

impl Idle {
    /// From the flow's last packet to `now`. A packet that another CPU saw "later" counts as now.
    #[inline(always)]
    pub fn since<A>(flow: &Flow<A>, now: u32) -> Self {
        Self::of(flow.seen, now)
    }

    /// From the time `seen` to `now`, both in whole seconds.
    #[inline(always)]
    pub fn of(seen: u32, now: u32) -> Self {
        Self(now.saturating_sub(seen))
    }

    /// Whether the client's next SYN or datagram begins a new flow.
    ///
    /// A client that opens a closing connection again has seen to it itself that its old one does not disturb.
    #[inline(always)]
    pub fn is_over(self, proto: u8, state: u8) -> bool {
        state & FlowState::CLOSING != 0 || self.0 > idle_limit(proto, state)
    }

    /// Whether somebody else may have the addresses and ports that the flow has on the backend's side.
    ///
    /// While the backend's socket is in TIME_WAIT it would take a stranger's SYN for an old packet of its own: the
    /// stranger's sequence numbers and timestamps count from another beginning (RFC 6191).
    #[inline(always)]
    pub fn is_free(self, proto: u8, state: u8) -> bool {
        state & FlowState::RESET != 0 || self.0 > idle_limit(proto, state)
    }
}

/// Notes that a packet was seen. Writes only what differs: the entry's cache line is shared among CPUs.
#[inline(always)]
pub(super) fn touch<A>(flow: &mut Flow<A>, now: u32, state: u8) {
    if flow.seen != now {
        flow.seen = now;
    }
    if flow.state & state != state {
        flow.state |= state;
    }
}

/// What a client's packet says about the state of its connection.
#[inline(always)]
pub(super) fn client_state<A>(parsed: &Parsed<A>) -> u8 {
    bit(parsed, TcpFlags::SYN, FlowState::SYN)
        | bit(parsed, TcpFlags::FIN, FlowState::CLIENT_FIN)
        | bit(parsed, TcpFlags::RST, FlowState::RESET)
}

/// What a backend's packet says about the state of its connection.
#[inline(always)]
pub(super) fn backend_state<A>(parsed: &Parsed<A>) -> u8 {
    if !matches!(parsed.kind, Kind::Tcp | Kind::Sctp) {
        return 0;
    }
    FlowState::ANSWERED
        | bit(parsed, TcpFlags::FIN, FlowState::BACKEND_FIN)
        | bit(parsed, TcpFlags::RST, FlowState::RESET)
}

#[inline(always)]
fn bit<A>(parsed: &Parsed<A>, flag: u8, state: u8) -> u8 {
    if parsed.flags.0 & flag != 0 { state } else { 0 }
}
