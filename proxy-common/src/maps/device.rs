//! Network devices that the programs are attached to.

use super::plain;
use crate::addr::{Ipv4, Ipv6};

/// Value of the `device` map; the key is the ifindex.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// IPv6 address that flows leaving here are masqueraded to; all zero where there is none.
    pub masquerade_v6: Ipv6,
    /// IPv4 address that flows leaving here are masqueraded to; all zero where there is none.
    pub masquerade_v4: Ipv4,
    /// An Ethernet address: that of the bridge that this device is a port of, or its own where packets are sent on past the
    /// stack ([`Device::SENDS_ON`]); all zero otherwise.
    pub ethernet: [u8; 6],
    /// A [`DeviceRole`].
    pub role: u8,
    /// How pods of this node are told from other clients that come in here: a [`DetectLocal`].
    pub detect: u8,
    /// [`Device::SENDS_ON`] and [`Device::BY_SOURCE`].
    pub flags: u8,
    /// Always 0.
    pub zero: [u8; 3],
}
plain!(Device = 32);

/// How many entries each CPU has of the per-CPU array `hop`: a power of two.
pub const HOPS: u32 = 4096;

impl Device {
    /// An uplink that packets of clients outside for pods of other nodes, and the replies, are sent on by, past the stack.
    pub const SENDS_ON: u8 = 1;
    /// Beside that: which way packets take from here depends on where they come from, not only on where they go to.
    pub const BY_SOURCE: u8 = 2;
}

/// How a device tells that clients which come in by it are pods of this node (kube-proxy's detectLocalMode).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetectLocal {
    /// They are not.
    No = 0,
    /// They are.
    Yes = 1,
    /// Their addresses tell: those in a range of [`RangeKey::PODS`](super::RangeKey::PODS) are.
    ByAddress = 2,
}

/// What is on the other end of a device.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceRole {
    /// A pod of this node.
    Pod = 1,
    /// Other nodes and the world outside.
    Uplink = 2,
}
