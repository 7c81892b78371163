//! What the kernel should hold, worked out from the objects.
//!
//! Pure: the result depends on the arguments alone, and not on the order in which the objects came.

mod desired;
mod endpoints;
mod frontends;
mod health;
mod held;
mod node;
mod node_ports;
mod options;
mod service_nets;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use litemap::LiteMap;
use proxy_common::maps::FrontendKind;

use crate::object::{ObjectName, Protocol, Text};

pub use desired::desired;
pub use health::{NoLocal, health_check_addresses};
pub use held::{Changes, Held};
pub use node::is_eligible;
pub use node_ports::NodePortAddresses;
pub use options::{DetectLocal, ModelOptions};
pub use service_nets::overlap_message;

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

    /// The address that stands for none.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
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
    pub port_name: Text,
    /// `spec.ports[].port`.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
}

impl ServicePort {
    /// The least of all that a Service can have, in their order.
    fn first_of(service: &ObjectName) -> Self {
        let service = service.clone();
        Self { service, port_name: Text::default(), port: 0, protocol: Protocol::Tcp, family: Family::V4 }
    }
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
    /// The ranges by which clients that are pods of this node are known; none where their devices tell.
    pub local_ranges: BTreeSet<IpNet>,
    /// The node's own addresses: a client that has one is the node itself.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The ClusterIPs of the Services that are served: at other ports than theirs, clients are refused.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// The addresses of load balancers and the external IPs that Services are served at.
    pub external_ips: BTreeSet<IpAddr>,
    /// The ClusterIPs of Services that are left to others.
    pub left_to_others: BTreeSet<IpAddr>,
    /// The ranges that ClusterIPs are from, at most [`SERVICE_NETS`](proxy_common::maps::SERVICE_NETS) of each family, and
    /// whether every ClusterIP there is known, so that packets to other addresses can be dropped.
    pub service_nets: BTreeMap<IpNet, bool>,
    /// Ranges that ClusterIPs are from and others have addresses in, too: with whom, in words. Nothing for the kernel.
    pub overlaps: BTreeMap<IpNet, String>,
    /// What load balancers are to be told about this node, by Service. Nothing for the kernel.
    pub health_checks: BTreeMap<ObjectName, HealthCheck>,
    /// How many Service ports are without an endpoint that a Local policy needs. Nothing for the kernel either.
    pub no_local: NoLocal,
}

/// What the kernel should hold for one Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    /// Address and port of each frontend. Never empty, and no two Service ports have one in common.
    pub frontends: LiteMap<(IpAddr, u16), DesiredFrontend>,
    /// Address and port of each backend that new connections may go to, by any of the frontends.
    pub backends: LiteMap<(IpAddr, u16), DesiredBackend>,
    /// Whether there is an endpoint that serves, here or not. A client whose list of backends is empty is dropped if
    /// there is, since it came to the wrong node, and refused if there is not.
    pub has_endpoints: bool,
    /// Who may come to guarded frontends. Empty if there is none.
    pub source_ranges: BTreeSet<IpNet>,
    /// For how many seconds after its last new connection a client stays with its backend.
    pub affinity: Option<NonZeroU32>,
}

/// The rules of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// What made it.
    pub kind: FrontendKind,
    /// Where clients on this node go: its pods, as far as they are known, and itself.
    pub inside: List,
    /// Where all other clients go.
    pub outside: List,
    /// Bits of [`Masquerade`](proxy_common::maps::Masquerade).
    pub masquerade: u8,
    /// Only clients in [`DesiredPort::source_ranges`] may come.
    pub guarded: bool,
}

/// One of the two lists of backends that a Service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// That of the Cluster policy.
    Cluster,
    /// That of the Local policy.
    Local,
}

/// What is to be known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DesiredBackend {
    /// It is on this node.
    pub local: bool,
    /// The lists that it is in.
    pub lists: Lists,
}

/// Which lists a backend is in. The order is that of the slots: either list is then a range of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lists {
    /// That of the Local policy alone: a local endpoint that terminates, or that the hints mean for others.
    Local,
    /// Both.
    Both,
    /// That of the Cluster policy alone.
    #[default]
    Cluster,
}

impl Lists {
    /// Whether a list is one of them.
    pub fn contain(self, list: List) -> bool {
        match list {
            List::Cluster => self != Self::Local,
            List::Local => self != Self::Cluster,
        }
    }
}

/// What a load balancer is to be told that asks at `spec.healthCheckNodePort` whether to send clients to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: NonZeroU16,
    /// How many ready endpoints are on this node.
    pub local_endpoints: usize,
}

/// This node, as the model has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name, which endpoints refer to.
    pub name: String,
    /// Addresses found on the devices that lead to others. Those of its Node object are added to them.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses found on any of its devices.
    pub own: BTreeSet<IpAddr>,
    /// Where its routes lead to, but for the default routes.
    pub routes: BTreeSet<IpNet>,
}

#[cfg(test)]
mod tests;
