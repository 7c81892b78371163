//! Backends: the addresses and ports that traffic can go to.

use super::plain;
use crate::addr::{Address, Ipv4, Ipv6};

/// Value of the `slot_v4` and `slot_v6` arrays: the id of the backend in this slot.
pub type SlotIndex = u32;

/// Value of the `backend_v4` and `backend_v6` arrays, at the backend's id.
///
/// A backend belongs to one Service port: the same pod behind two Service ports is two backends. So a flow
/// can be asked whether its backend still serves *this* Service. Id 0 is never used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Backend<A: Address> {
    /// Address of the endpoint; all zero in a free entry.
    pub addr: A,
    /// Port, network order.
    pub port: [u8; 2],
    /// [`Backend::LOCAL`] and those that follow it.
    pub flags: u8,
    /// Always 0.
    pub zero: u8,
    /// Counts up each time this id is freed: a flow that remembers another number has lost its backend.
    pub generation: u32,
    /// Id of the Service port it serves.
    pub service: u32,
    /// Always 0.
    pub fill: A::Fill,
}
plain!(Backend<Ipv4> = 16, Backend<Ipv6> = 32);

impl<A: Address> Backend<A> {
    /// The endpoint is on this node.
    pub const LOCAL: u8 = 1;
    /// The entry is in use.
    pub const LIVE: u8 = 2;
    /// New flows under the Cluster policy may go to it: it is in that list.
    pub const CLUSTER: u8 = 4;
    /// New flows under a Local policy may go to it: it is in that list.
    pub const POLICY_LOCAL: u8 = 8;

    /// Whether the endpoint is on this node.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }

    /// Whether the entry is in use.
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        self.flags & Self::LIVE != 0
    }
}
