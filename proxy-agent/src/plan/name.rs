//! The names of Service ports in the maps.

use std::str;

use proxy_common::maps::ServiceName;

use crate::model::{Family, ServicePort};
use crate::object::{ObjectName, Protocol};

/// The name of an id that is free.
pub(super) const FREE: ServiceName =
    ServiceName { namespace: [0; 64], name: [0; 64], port_name: [0; 16], port: [0; 2], proto: 0, family: 0 };

impl From<&ServicePort> for ServiceName {
    fn from(port: &ServicePort) -> Self {
        Self {
            namespace: padded(&port.service.namespace),
            name: padded(&port.service.name),
            port_name: padded(&port.port_name),
            port: port.port.to_be_bytes(),
            proto: port.protocol.number(),
            family: port.family.number(),
        }
    }
}

/// A map entry that names no Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a Service port")]
pub struct NotAName;

impl TryFrom<&ServiceName> for ServicePort {
    type Error = NotAName;

    fn try_from(name: &ServiceName) -> Result<Self, NotAName> {
        Ok(Self {
            service: ObjectName::new(text(&name.namespace)?, text(&name.name)?),
            port_name: text(&name.port_name)?.into(),
            port: u16::from_be_bytes(name.port),
            protocol: Protocol::from_number(name.proto).ok_or(NotAName)?,
            family: match name.family {
                4 => Family::V4,
                6 => Family::V6,
                _ => return Err(NotAName),
            },
        })
    }
}

/// Text filled up with zeros. The object types allow nothing that is longer than the fields.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

fn text(bytes: &[u8]) -> Result<&str, NotAName> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).and_then(|bytes| str::from_utf8(bytes).ok()).ok_or(NotAName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_way_into_the_map_and_back() {
        let longest = ServicePort {
            service: ObjectName::new("n".repeat(63), "s".repeat(63)),
            port_name: "p".repeat(15).into(),
            port: 65535,
            protocol: Protocol::Udp,
            family: Family::V6,
        };
        let shortest = ServicePort {
            service: ObjectName::new("n", "s"),
            port_name: "".into(),
            port: 1,
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        for port in [longest, shortest] {
            assert_eq!(ServicePort::try_from(&ServiceName::from(&port)), Ok(port));
        }
        assert_eq!(ServicePort::try_from(&FREE), Err(NotAName));
    }
}
