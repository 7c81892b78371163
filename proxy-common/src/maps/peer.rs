//! Peers: whom the sockets of the node's processes talk to, and whom they believe to talk to.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// Value of the socket storages `peer_v4` and `peer_v6`, for connected sockets, and of the maps `datagram_v4` and
/// `datagram_v6`, for those that name the address with each datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer<A: Address> {
    /// The address that the process named.
    pub frontend: A,
    /// The endpoint that it was led to.
    pub backend: A,
    /// The port that the process named, network order.
    pub frontend_port: [u8; 2],
    /// The port of the endpoint, network order.
    pub backend_port: [u8; 2],
    /// Id of the Service port, for its counters.
    pub service: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// Generation of the backend when it was chosen.
    pub generation: u32,
    /// When the socket was connected, or last sent there: whole seconds since boot (CLOCK_MONOTONIC).
    pub seen: u32,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(Peer<Ipv4> = 28, Peer<Ipv6> = 56);

/// Key of the `datagram_v4` and `datagram_v6` maps.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey<A: Address> {
    /// The socket's cookie (`SO_COOKIE`): no two sockets have the same as long as the machine runs.
    pub cookie: u64,
    /// The address of a frontend or of a backend.
    pub addr: A,
    /// Its port, network order.
    pub port: [u8; 2],
    /// A [`DatagramSide`].
    pub side: u8,
    /// Always 0.
    pub zero: u8,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(DatagramKey<Ipv4> = 16, DatagramKey<Ipv6> = 32);

/// What the address of a [`DatagramKey`] is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramSide {
    /// That of the frontend: what is sent there goes on to the backend.
    Request = 1,
    /// That of the backend: what comes from there seems to come from the frontend.
    Reply = 2,
}

impl<A: Address> Peer<A> {
    /// The key of the entry on one side, for a socket.
    #[inline(always)]
    pub fn key(&self, cookie: u64, side: DatagramSide) -> DatagramKey<A> {
        match side {
            DatagramSide::Request => DatagramKey::new(cookie, self.frontend, self.frontend_port, side),
            DatagramSide::Reply => DatagramKey::new(cookie, self.backend, self.backend_port, side),
        }
    }
}

impl<A: Address> DatagramKey<A> {
    /// A key from its parts; `port` in network order.
    #[inline(always)]
    pub fn new(cookie: u64, addr: A, port: [u8; 2], side: DatagramSide) -> Self {
        Self { cookie, addr, port, side: side as u8, zero: 0, fill: A::Fill::default() }
    }
}
