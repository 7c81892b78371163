//! What the programs count, on each CPU by itself.

use super::plain;

/// Value of the per-CPU array `service_stats`, at the id of the Service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// New flows.
    pub flows: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes: u64,
    /// Packets to clients.
    pub reply_packets: u64,
    /// Bytes to clients, from the IP header on.
    pub reply_bytes: u64,
    /// Packets refused because nobody serves.
    pub refused: u64,
    /// Packets of new flows dropped because no source port was free: [`DropReason::MasqueradePorts`] and
    /// [`DropReason::PortClash`].
    pub without_port: u64,
}
plain!(ServiceCounters = 56);

impl ServiceCounters {
    /// What several CPUs counted.
    pub fn sum(cpus: &[Self]) -> Self {
        cpus.iter().fold(Self::default(), |mut sum, cpu| {
            sum.flows += cpu.flows;
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
            sum.reply_packets += cpu.reply_packets;
            sum.reply_bytes += cpu.reply_bytes;
            sum.refused += cpu.refused;
            sum.without_port += cpu.without_port;
            sum
        })
    }
}

/// Index into the per-CPU array `drop_stats`: why a packet did not go on.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Nobody serves the Service port: the client was told so.
    NoBackend = 0,
    /// The client was to be told that there is nothing, and the packet is of a kind that may not be answered.
    NoBackendSilent = 1,
    /// The maps disagree: a slot or a backend is missing.
    BackendMissing = 2,
    /// The flow could not be stored.
    FlowTable = 3,
    /// The same client port already leads to this backend through another frontend, and no other port was free.
    PortClash = 4,
    /// No masquerade port was free.
    MasqueradePorts = 5,
    /// The device has no address of this family to masquerade to.
    MasqueradeAddress = 6,
    /// The packet could not be rewritten (out of memory, or its headers are not writable).
    Rewrite = 7,
    /// Somebody serves, but nobody on this node, and the frontend's policy is Local.
    NoLocalBackend = 8,
    /// The client is in none of the Service's source ranges.
    SourceRange = 9,
    /// The address is a ClusterIP, the port is none of its Service: the client was told so.
    UnknownPort = 10,
    /// The address is in a range of Services, and none has it.
    UnknownAddress = 11,
    /// The client was to be told, but too many have been in this second.
    AnswerLimit = 12,
}

impl DropReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::NoBackend,
        Self::NoBackendSilent,
        Self::BackendMissing,
        Self::FlowTable,
        Self::PortClash,
        Self::MasqueradePorts,
        Self::MasqueradeAddress,
        Self::Rewrite,
        Self::NoLocalBackend,
        Self::SourceRange,
        Self::UnknownPort,
        Self::UnknownAddress,
        Self::AnswerLimit,
    ];

    /// The reason's name in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::NoBackendSilent => "no_backend_silent",
            Self::BackendMissing => "backend_missing",
            Self::FlowTable => "flow_table",
            Self::PortClash => "port_clash",
            Self::MasqueradePorts => "masquerade_ports",
            Self::MasqueradeAddress => "masquerade_address",
            Self::Rewrite => "rewrite",
            Self::NoLocalBackend => "no_local_backend",
            Self::SourceRange => "source_range",
            Self::UnknownPort => "unknown_port",
            Self::UnknownAddress => "unknown_address",
            Self::AnswerLimit => "answer_limit",
        }
    }
}

/// Index into the per-CPU array `xdp_stats`: what XDP did with a packet.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpAction {
    /// It was translated and sent on past the stack.
    SentOn = 0,
    /// It was translated, and went up to the stack.
    Up = 1,
    /// It is of no flow and no frontend.
    NotOurs = 2,
    /// It was left to tc as it came.
    Left = 3,
    /// It was dropped: `drop_stats` says why.
    Dropped = 4,
}

impl XdpAction {
    /// Every action, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::SentOn, Self::Up, Self::NotOurs, Self::Left, Self::Dropped];

    /// The action's name in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SentOn => "sent_on",
            Self::Up => "up",
            Self::NotOurs => "not_ours",
            Self::Left => "left",
            Self::Dropped => "dropped",
        }
    }
}

/// Index into the per-CPU array `flow_stats`: what happened in the table of flows.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEvent {
    /// A new flow took the place of one that was over.
    Reused = 0,
    /// A closed connection, not yet forgotten, made way for a new flow.
    EvictedClosed = 1,
    /// A flow that was half open made way for a new one.
    EvictedHalfOpen = 2,
    /// A new flow or an alias found no room: all the others were established.
    Full = 3,
    /// Another CPU held what was needed for too long.
    Contended = 4,
    /// A flow's source port was changed inside the node, as another flow has it at the same backend.
    PortChanged = 5,
}

impl FlowEvent {
    /// Every event, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Reused, Self::EvictedClosed, Self::EvictedHalfOpen, Self::Full, Self::Contended, Self::PortChanged];

    /// The event's name in output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reused => "reused",
            Self::EvictedClosed => "evicted_closed",
            Self::EvictedHalfOpen => "evicted_half_open",
            Self::Full => "full",
            Self::Contended => "contended",
            Self::PortChanged => "port_changed",
        }
    }
}
