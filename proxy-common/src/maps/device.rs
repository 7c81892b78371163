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
    /// Ethernet address of the bridge that this device is a port of; all zero where it is none.
    pub bridge: [u8; 6],
    /// A [`DeviceRole`].
    pub role: u8,
    /// Always 0.
    pub zero: [u8; 5],
}
plain!(Device = 32);

/// What is on the other end of a device.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceRole {
    /// A pod of this node.
    Pod = 1,
    /// Other nodes and the world outside.
    Uplink = 2,
}
