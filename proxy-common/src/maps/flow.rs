//! Flows: the connections that are being translated, in a table of sets.
//!
//! What the table is and how it is used by many CPUs at once is told by [`crate::flows`].

use super::{SCTP, TCP, UDP, plain};
use crate::addr::{Address, Ipv4, Ipv6};

/// Value of the arrays `flow_v4` and `flow_v6`: a set of flows. A connection's set follows from its client's address
/// and port.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSet<A: Address> {
    /// What each of the ways has in a word. A look-up that finds nothing reads this line of the cache alone.
    pub ways: [FlowWay; 7],
    /// Odd while a program inserts into the set; counts the insertions.
    pub lock: u32,
    /// How many of the sets that follow have flows which belong here.
    pub reach: u32,
    /// Always 0.
    pub fill: A::SetFill,
    /// The flows themselves.
    pub flows: [Flow<A>; 7],
}
plain!(FlowSet<Ipv4> = 512, FlowSet<Ipv6> = 1024);

impl<A: Address> FlowSet<A> {
    /// How many flows there is room for in a set.
    pub const WAYS: u32 = 7;
}

/// What tells a flow from others in its set, and how alive it is: one word that is always exchanged as a whole.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowWay {
    /// When a packet was last seen: whole seconds since boot (CLOCK_MONOTONIC). Of an alias: where its flow is, the number
    /// of the set × 8 and that of the way, from 1 on.
    pub seen: u32,
    /// 16 bits of the hash.
    pub tag: u16,
    /// [`FlowWay::PROTOCOL`] and those that follow it; 0 where nothing is.
    pub kind: u8,
    /// Bits of [`FlowState`].
    pub state: u8,
}
plain!(FlowWay = 8);

impl FlowWay {
    /// Nothing is here.
    pub const FREE: Self = Self { seen: 0, tag: 0, kind: 0, state: 0 };
    /// Bits of `kind` for the protocol: 1 TCP, 2 UDP, 3 SCTP.
    pub const PROTOCOL: u8 = 3;
    /// Bit of `kind`: a second entry of a flow, for the addresses that it has on another side.
    pub const ALIAS: u8 = 4;
    /// Bit of `kind`, beside that: on the backend's side of a masqueraded flow.
    pub const MASQUERADE: u8 = 8;
    /// Bits of `kind`: how many sets further on than it belongs this is, times 16.
    pub const DISTANCE: u8 = 0x30;

    /// The number of a protocol in `kind` and in [`Flow::sequence`]; 0 where there are no flows of it.
    #[inline(always)]
    pub const fn protocol(proto: u8) -> u8 {
        match proto {
            TCP => 1,
            UDP => 2,
            SCTP => 3,
            _ => 0,
        }
    }

    /// The IP protocol number.
    pub const fn proto(self) -> u8 {
        match self.kind & Self::PROTOCOL {
            1 => TCP,
            2 => UDP,
            3 => SCTP,
            _ => 0,
        }
    }

    /// Its place in [`FlowConfig::lives`].
    #[inline(always)]
    pub const fn life_index(self) -> u8 {
        (self.kind & Self::PROTOCOL) << 6 | self.state & 63
    }

    /// Whether nothing is here.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.kind == 0
    }

    /// Whether this is a second entry of a flow.
    #[inline(always)]
    pub const fn is_alias(self) -> bool {
        self.kind & Self::ALIAS != 0
    }

    /// The place of the flow: its own, which is `at`, or that to which an alias leads.
    #[inline(always)]
    pub(crate) fn place(self, at: u32) -> u32 {
        // All ones for an alias.
        let mask = 0_u32.wrapping_sub(u32::from(self.is_alias()));
        at ^ ((at ^ self.seen) & mask)
    }

    #[inline(always)]
    /// All of it in one number.
    pub fn to_word(self) -> u64 {
        bytemuck::cast(self)
    }

    #[inline(always)]
    /// From that number.
    pub fn from_word(word: u64) -> Self {
        bytemuck::cast(word)
    }
}

/// A whole connection. Its last packet and its state are in the [`FlowWay`] of the same number.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A: Address> {
    /// The client, as it sees itself.
    pub client: A,
    /// The address that the client talks to.
    pub frontend: A,
    /// The endpoint that serves it.
    pub backend: A,
    /// The client's port, as it sees itself; network order, as all ports here.
    pub client_port: [u8; 2],
    /// The port that the client talks to.
    pub frontend_port: [u8; 2],
    /// The client's port inside the node's stack: another one than `client_port` only where two frontends
    /// would have led one client port to one backend.
    pub stack_port: [u8; 2],
    /// The port of the endpoint.
    pub backend_port: [u8; 2],
    /// Counts up by 8 each time that the way gets another flow. 1: it is being written; 2 and 4: the protocol, as in
    /// [`FlowWay::kind`], times 2. The highest bit: it is being masqueraded.
    pub sequence: u32,
    /// Id of the Service port, for its counters, or [`OF_NO_SERVICE`](Self::OF_NO_SERVICE).
    pub service: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// Generation of the backend when it was chosen.
    pub generation: u32,
    /// The address that the backend sees instead of the client; all zero until masqueraded.
    pub masquerade: A,
    /// The port that the backend sees instead of the client's; 0 until masqueraded.
    pub masquerade_port: [u8; 2],
    /// [`Flow::MASQUERADE`] and [`Flow::SENT_ON`].
    pub flags: u8,
    /// Always 0.
    pub zero: u8,
    /// Where the alias for `stack_port` is, as in [`FlowWay::seen`]; 0 where there is none.
    pub stack_alias: u32,
    /// Where the alias for the masquerade address is; likewise.
    pub masquerade_alias: u32,
    /// When the flow began: whole seconds since boot (CLOCK_MONOTONIC).
    pub began: u32,
    /// Always 0.
    pub fill: A::FlowFill,
}
plain!(Flow<Ipv4> = 64, Flow<Ipv6> = 128);

impl<A: Address> Flow<A> {
    /// The flow's source address is to be replaced where it leaves the node towards the backend.
    pub const MASQUERADE: u8 = 1;
    /// Beside that: its packets come in and leave by uplinks that send them on past the node's stack, in both directions. Said
    /// when it begins, for all of its life.
    pub const SENT_ON: u8 = 2;
    /// In place of a Service port's id, which are from 1 on: of a connection past all Services, whose client port already leads to the same
    /// backend through one.
    pub const OF_NO_SERVICE: u32 = 0;
}

/// A packet's addresses and ports, put in the order near, far.
///
/// *Near* is the side of the client, *far* the side of the backend, so that a request (near to far) and its
/// reply (far to near) have one key.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Address on the client's side.
    pub near: A,
    /// Address on the backend's side.
    pub far: A,
    /// Port on the client's side, network order.
    pub near_port: [u8; 2],
    /// Port on the backend's side, network order.
    pub far_port: [u8; 2],
    /// The number of the IP protocol, as [`FlowWay::protocol`] has it. A whole word, as the compiler fills odd bytes behind a
    /// shorter one by a call.
    pub protocol: u32,
}

/// Where on its way a packet of a flow is met, which decides what its addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowSide {
    /// On the client's side: client and frontend.
    Client,
    /// In the node's stack: client and backend.
    Stack,
    /// On the backend's side of a masqueraded flow: masquerade address and backend.
    Masquerade,
}

/// What has been seen of a connection, as bits of [`FlowWay::state`].
#[derive(Clone, Copy, Debug)]
pub struct FlowState;

impl FlowState {
    /// The client's SYN.
    pub const SYN: u8 = 1;
    /// A packet of the backend.
    pub const ANSWERED: u8 = 2;
    /// A FIN of the client.
    pub const CLIENT_FIN: u8 = 4;
    /// A FIN of the backend.
    pub const BACKEND_FIN: u8 = 8;
    /// A RST of either.
    pub const RESET: u8 = 16;
    /// A packet of the client after the backend's: nobody who only pretends an address gets that far.
    pub const CONFIRMED: u8 = 32;
    /// FINs of both.
    pub const CLOSED: u8 = Self::CLIENT_FIN | Self::BACKEND_FIN;
    /// Closing or closed: the next SYN begins a new connection.
    pub const CLOSING: u8 = Self::CLOSED | Self::RESET;

    /// Whether both ends are done with it.
    #[inline(always)]
    pub const fn is_over(state: u8) -> bool {
        state & Self::RESET != 0 || state & Self::CLOSED == Self::CLOSED
    }
}

/// Value of the array `flow_config`, which has one entry: what programs and agent have to agree upon about the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowConfig {
    /// Where the hash begins: random, so that nobody can tell who shares a set. It stays what it is while there are flows.
    pub seed: u64,
    /// The kernel's jiffies when it was booted.
    pub boot_jiffies: u64,
    /// 2³² divided by the number of jiffies in a second, rounded up.
    pub second: u32,
    /// How many sets there are.
    pub sets: u32,
    /// What becomes of idle flows, by [`FlowWay::life_index`]: how many seconds without a packet they have until they are
    /// over, and from bit 29 on whom they make way for, a [`FlowLife`]. A table, as the programs ask for each way of a
    /// full set; filled from [`FlowLimits`].
    pub lives: [u32; 256],
}
plain!(FlowConfig = 1048);

/// Whether a flow makes room for another one before it is over.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowLife {
    /// Never: it is established.
    Stays = 0,
    /// If it must be: nobody has shown yet that there is a client.
    HalfOpen = 1,
    /// Sooner than those that are half open: both ends are done with it.
    Closed = 2,
    /// There is none.
    Free = 4,
}

impl FlowConfig {
    /// The most seconds that an entry of `lives` can tell: 17 years. All its bits are set.
    pub const SECONDS: u32 = (1 << 29) - 1;

    /// The jiffies of the kernel's `INITIAL_JIFFIES` (include/linux/jiffies.h), where so many make a second.
    const fn initial_jiffies(hz: u32) -> u64 {
        0_u32.wrapping_sub(300 * hz) as u64
    }

    /// For a kernel with so many jiffies in a second (its `HZ`).
    #[expect(clippy::cast_possible_truncation, reason = "a quotient below 2^32, as a second has more than one jiffy")]
    pub const fn new(seed: u64, hz: u32, sets: u32, limits: FlowLimits) -> Self {
        let second = (1_u64 << 32).div_ceil(hz as u64) as u32;
        Self { seed, boot_jiffies: Self::initial_jiffies(hz), second, sets, lives: limits.lives() }
    }

    /// Whole seconds since boot (CLOCK_MONOTONIC, within a second in 200 days): the clock of all flows.
    ///
    /// The kernel counts jiffies by that same clock (`tick_do_update_jiffies64`). A load and a product, where the coarse
    /// clock takes a call.
    #[inline(always)]
    pub const fn seconds(&self, jiffies: u64) -> u32 {
        ((jiffies.wrapping_sub(self.boot_jiffies)).wrapping_mul(self.second as u64) >> 32) as u32
    }
}

/// Value of the array `flow_hold`, which has one entry: whether new flows are to wait, as the tables are about to be replaced
/// by others.
///
/// While programs with different tables run, a flow that begins in one table would be unknown to the programs with the
/// other. So for that moment none begins: a packet that would begin one comes in again and again until the time is over,
/// which the agent says, or has come, if the agent was killed meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHold {
    /// Whole seconds since boot (CLOCK_MONOTONIC): new flows wait before that.
    pub until: u32,
}
plain!(FlowHold = 4);

/// Seconds without a packet after which a flow is over. The defaults are those of kube-proxy where it has one, and of
/// netfilter (`net/netfilter/nf_conntrack_proto_*.c`) where it has none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// TCP, with a SYN that nobody answered.
    pub tcp_unanswered: u32,
    /// TCP, answered, with no other packet of the client yet.
    pub tcp_unconfirmed: u32,
    /// TCP, established: kube-proxy's `conntrack.tcpEstablishedTimeout`.
    pub tcp_established: u32,
    /// TCP, with a FIN of one side: kube-proxy's `conntrack.tcpCloseWaitTimeout`.
    pub tcp_half_closed: u32,
    /// TCP, with a FIN of both sides: as long as Linux keeps the socket in TIME_WAIT (TCP_TIMEWAIT_LEN, 60 s, and what the
    /// kernel's timers add to that, 5.2 s at most). A masquerade port that is used again before that may lead to that socket, which
    /// takes the SYN for an old packet: timestamps of other ports count from another beginning.
    pub tcp_closed: u32,
    /// TCP and SCTP, with a RST or an ABORT: what is late comes within seconds.
    pub reset: u32,
    /// UDP in one direction only: kube-proxy's `conntrack.udpTimeout`.
    pub udp_unanswered: u32,
    /// UDP in both directions: kube-proxy's `conntrack.udpStreamTimeout`.
    pub udp_answered: u32,
    /// SCTP in one direction only.
    pub sctp_unanswered: u32,
    /// SCTP in both directions: several heartbeats (RFC 9260 §16: one in 30 s).
    pub sctp_answered: u32,
}

impl FlowLimits {
    /// The table that the programs use: see [`FlowConfig::lives`].
    pub const fn lives(&self) -> [u32; 256] {
        let mut lives = [0; 256];
        let mut index = 0;
        while index < 256 {
            let way = FlowWay { seen: 0, tag: 0, kind: (index >> 6) as u8, state: (index & 63) as u8 };
            let seconds = self.seconds(way);
            let seconds = if seconds > FlowConfig::SECONDS { FlowConfig::SECONDS } else { seconds };
            lives[index] = seconds | (life(way) as u32) << FlowConfig::SECONDS.count_ones();
            index += 1;
        }
        lives
    }

    /// Seconds without a packet after which a flow is over.
    pub const fn seconds(&self, way: FlowWay) -> u32 {
        let state = way.state;
        let is_answered = state & FlowState::ANSWERED != 0;
        match way.proto() {
            TCP if state & FlowState::RESET != 0 => self.reset,
            TCP if state & FlowState::CLOSED == FlowState::CLOSED => self.tcp_closed,
            TCP if !is_answered => self.tcp_unanswered,
            TCP if state & FlowState::CONFIRMED == 0 => self.tcp_unconfirmed,
            TCP if state & FlowState::CLOSED != 0 => self.tcp_half_closed,
            TCP => self.tcp_established,
            SCTP if state & FlowState::CLOSING != 0 => self.reset,
            SCTP if state & FlowState::CONFIRMED != 0 => self.sctp_answered,
            SCTP => self.sctp_unanswered,
            UDP if is_answered => self.udp_answered,
            UDP => self.udp_unanswered,
            _ => 0,
        }
    }

    /// What holds unless it is set otherwise.
    pub const DEFAULT: Self = Self {
        tcp_unanswered: 120,
        tcp_unconfirmed: 60,
        tcp_established: 86_400,
        tcp_half_closed: 3_600,
        tcp_closed: 66,
        reset: 10,
        udp_unanswered: 30,
        udp_answered: 120,
        sctp_unanswered: 30,
        sctp_answered: 210,
    };
}

/// Whom a flow makes way for.
const fn life(way: FlowWay) -> FlowLife {
    let proof = match way.proto() {
        TCP | SCTP => FlowState::CONFIRMED,
        UDP => FlowState::ANSWERED,
        _ => return FlowLife::Free,
    };
    if FlowState::is_over(way.state) {
        FlowLife::Closed
    } else if way.state & proof == 0 {
        FlowLife::HalfOpen
    } else {
        FlowLife::Stays
    }
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
