//! What the kernel should hold, worked out from the objects.
//!
//! Pure: the result depends on the arguments alone, and not on the order in which the objects came.

mod desired;
mod endpoints;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proxy_common::maps::FrontendKind;

use crate::object::{ObjectName, Protocol};

pub use desired::desired;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// 4 or 6, as in the maps.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.number())
    }
}

/// One port of a Service in one family: what has an id and counters. Displayed as `default/web:http`, or
/// `default/web` where the port has no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The Service.
    pub service: ObjectName,
    /// `spec.ports[].name`; empty where the only port has none.
    pub port_name: String,
    /// `spec.ports[].port`.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port_name.is_empty() {
            write!(f, ":{}", self.port_name)?;
        }
        Ok(())
    }
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every Service port that has a frontend.
    pub ports: BTreeMap<ServicePort, DesiredPort>,
}

/// What the kernel should hold for one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    /// Address and port of each frontend. Never empty, and no two Service ports have one in common.
    pub frontends: BTreeMap<(IpAddr, u16), FrontendKind>,
    /// The backends that new connections may go to; with none, clients are refused.
    pub backends: BTreeMap<SocketAddr, DesiredBackend>,
}

/// What is to be known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DesiredBackend {
    /// It is on this node.
    pub local: bool,
}

/// This node, as the model has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name, which endpoints refer to.
    pub name: String,
    /// Addresses found on its devices. Those of its Node object are added to them.
    pub addresses: BTreeSet<IpAddr>,
    /// Which proxy this is: the value of the label `service.kubernetes.io/service-proxy-name` that it serves. The
    /// cluster's own has none.
    pub proxy_name: Option<String>,
}

#[cfg(test)]
mod tests;
