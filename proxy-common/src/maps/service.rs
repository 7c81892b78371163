//! Names of Service ports, for people who read the maps.

use core::fmt;

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

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, port_name, port, proto, family } = self;
        let text = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| match core::str::from_utf8(bytes) {
            Ok(text) => f.write_str(text.trim_end_matches('\0')),
            Err(_) => bytes.fmt(f),
        };
        text(f, namespace)?;
        f.write_str("/")?;
        text(f, name)?;
        f.write_str(":")?;
        text(f, port_name)?;
        write!(f, " port {} protocol {proto} family {family}", u16::from_be_bytes(*port))
    }
}
