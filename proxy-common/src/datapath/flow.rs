//! The life of a flow: what its packets say about it, and when it is over.

use super::parse::{Kind, Parsed, TcpFlags};
use crate::maps::{Flow, FlowState, TCP};

/// Seconds without a packet after which a UDP flow is over: netfilter's `nf_conntrack_udp_timeout_stream`
/// (120), as nothing tells its one-way `nf_conntrack_udp_timeout` (30) apart here.
const UDP_IDLE: u32 = 120;
/// Seconds without a packet after which a TCP connection that nobody answered, or that is closing, is over:
/// netfilter's `nf_conntrack_tcp_timeout_syn_sent` and `..._time_wait`.
const TCP_HALF_IDLE: u32 = 120;
/// Seconds without a packet after which an established TCP connection is over: kube-proxy's default of 24 h.
const TCP_IDLE: u32 = 86_400;

/// For how long a flow has been idle.
#[derive(Clone, Copy)]
pub(super) struct Idle(u32);

impl Idle {
    /// Seconds from the flow's last packet to `now`. A packet that another CPU saw "later" counts as now.
    #[inline(always)]
    pub fn since<A>(flow: &Flow<A>, now: u32) -> Self {
        Self(now.saturating_sub(flow.seen))
    }

    /// Whether a flow in this state is over after being idle for so long.
    #[inline(always)]
    pub fn is_over(self, proto: u8, state: u8) -> bool {
        let limit = if proto != TCP {
            UDP_IDLE
        } else if state & FlowState::CLOSING != 0 {
            // FIN or RST seen: what is late is a retransmission, within seconds.
            return true;
        } else if state & FlowState::ANSWERED == 0 {
            TCP_HALF_IDLE
        } else {
            TCP_IDLE
        };
        self.0 > limit
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
    if parsed.kind != Kind::Tcp {
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
