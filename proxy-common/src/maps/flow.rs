//! Flows: the connections that are being translated.

use super::plain;
use crate::addr::{Ipv4, Ipv6};

/// Key of the `flow_v4` and `flow_v6` maps: a packet's addresses, put in the order near, far.
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
    /// IP protocol number.
    pub proto: u8,
    /// A [`FlowSide`].
    pub side: u8,
    /// Always 0.
    pub zero: [u8; 2],
}
plain!(FlowKey<Ipv4> = 16, FlowKey<Ipv6> = 40);

/// Where on its way a packet of a flow is met, which decides what its addresses are.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowSide {
    /// On the client's side: client and frontend.
    Client = 1,
    /// In the node's stack: client and backend.
    Stack = 2,
    /// On the backend's side of a masqueraded flow: masquerade address and backend.
    Masquerade = 3,
}

impl FlowSide {
    /// The side that a map's byte stands for.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Client),
            2 => Some(Self::Stack),
            3 => Some(Self::Masquerade),
            _ => None,
        }
    }
}

/// Value of the `flow_v4` and `flow_v6` maps: a whole connection, stored once for each side it is met on.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// The client, as it sees itself.
    pub client: A,
    /// The address that the client talks to.
    pub frontend: A,
    /// The endpoint that serves it.
    pub backend: A,
    /// The address that the backend sees instead of the client; all zero until masqueraded.
    pub masquerade: A,
    // The order of the ports matters: the compiler writes neighbours at once, which BPF's stack takes only aligned.
    /// The client's port, as it sees itself; network order, as all ports here.
    pub client_port: [u8; 2],
    /// The port that the client talks to.
    pub frontend_port: [u8; 2],
    /// The port of the endpoint.
    pub backend_port: [u8; 2],
    /// The port that the backend sees instead of the client's; 0 until masqueraded.
    pub masquerade_port: [u8; 2],
    /// The client's port inside the node's stack: another one than `client_port` only where two frontends
    /// would have led one client port to one backend.
    pub stack_port: [u8; 2],
    /// Bits of [`FlowState`].
    pub state: u8,
    /// [`Flow::MASQUERADE`].
    pub flags: u8,
    /// Id of the Service port, for its counters.
    pub service: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// Generation of the backend when it was chosen.
    pub generation: u32,
    /// When the flow began: whole seconds since boot (CLOCK_MONOTONIC).
    pub began: u32,
    /// When a packet was last seen on this side: likewise.
    pub seen: u32,
}
plain!(Flow<Ipv4> = 48, Flow<Ipv6> = 96);

impl<A> Flow<A> {
    /// The flow's source address is to be replaced where it leaves the node towards the backend.
    pub const MASQUERADE: u8 = 1;

    /// The key of the entry on one side, for a flow of protocol `proto`.
    #[inline(always)]
    pub const fn key(&self, side: FlowSide, proto: u8) -> FlowKey<A>
    where
        A: Copy,
    {
        let (near, near_port, far, far_port) = match side {
            FlowSide::Client => (self.client, self.client_port, self.frontend, self.frontend_port),
            FlowSide::Stack => (self.client, self.stack_port, self.backend, self.backend_port),
            FlowSide::Masquerade => (self.masquerade, self.masquerade_port, self.backend, self.backend_port),
        };
        FlowKey { near, far, near_port, far_port, proto, side: side as u8, zero: [0; 2] }
    }

    /// Whether the flow is to be masqueraded.
    #[inline(always)]
    pub const fn is_masqueraded(&self) -> bool {
        self.flags & Self::MASQUERADE != 0
    }
}

/// What has been seen of a TCP connection, as bits of [`Flow::state`]; 0 for other protocols.
#[derive(Clone, Copy, Debug)]
pub struct FlowState;

impl FlowState {
    /// The client's SYN.
    pub const SYN: u8 = 1;
    /// An answer of the backend.
    pub const ANSWERED: u8 = 2;
    /// A FIN of the client.
    pub const CLIENT_FIN: u8 = 4;
    /// A FIN of the backend.
    pub const BACKEND_FIN: u8 = 8;
    /// A RST of either.
    pub const RESET: u8 = 16;
    /// Closing or closed: the next SYN begins a new connection.
    pub const CLOSING: u8 = Self::CLIENT_FIN | Self::BACKEND_FIN | Self::RESET;
}
