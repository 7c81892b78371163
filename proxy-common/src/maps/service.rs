//! Names of Service ports, for people who read the maps.

use super::plain;

/// Value of the `service` array, at the id of the Service port. All zero where the id is free.
///
/// The lengths are the API's own limits (RFC 1123 labels of 63 characters, port names of 15), so that no name
/// is cut; each is filled up with zero bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: [u8; 64],
    /// `metadata.name`.
    pub name: [u8; 64],
    /// `spec.ports[].name`; empty where the only port has none.
    pub port_name: [u8; 16],
    /// `spec.ports[].port`, network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
}
plain!(ServiceName = 148);
