//! The hosts of every scenario and their addresses: those of the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use proxy_testkit::lab::{Family, plan};

/// A host, in the lab as on the core's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: &'static str,
    kind: Kind,
    addresses: (Ipv4Addr, Ipv6Addr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod(u8),
    Node(u8),
    Outside,
}

/// The names of all hosts.
pub const HOSTS: [&str; 10] =
    ["pod1a", "pod1b", "pod1c", "pod2a", "pod2b", "pod2c", "node1", "node2", "client", "stranger"];

/// The host of a name.
pub fn host(name: &str) -> Result<Host> {
    let (kind, addresses) = match name {
        "pod1a" => (Kind::Pod(1), plan::pod(1, 10)),
        "pod1b" => (Kind::Pod(1), plan::pod(1, 11)),
        "pod1c" => (Kind::Pod(1), plan::pod(1, 12)),
        "pod2a" => (Kind::Pod(2), plan::pod(2, 10)),
        "pod2b" => (Kind::Pod(2), plan::pod(2, 11)),
        "pod2c" => (Kind::Pod(2), plan::pod(2, 12)),
        "node1" => (Kind::Node(1), plan::node(1)),
        "node2" => (Kind::Node(2), plan::node(2)),
        "client" => (Kind::Outside, plan::client()),
        "stranger" => (Kind::Outside, plan::stranger()),
        _ => bail!("`{name}` is no host; there are {}", HOSTS.join(", ")),
    };
    let name = HOSTS.into_iter().find(|known| *known == name).unwrap_or_default();
    Ok(Host { name, kind, addresses })
}

/// All hosts.
pub fn hosts() -> impl Iterator<Item = Host> {
    HOSTS.into_iter().flat_map(host)
}

impl Host {
    /// Whether it is a machine outside of the cluster.
    pub fn is_outside(&self) -> bool {
        self.kind == Kind::Outside
    }

    /// Whether it is a node.
    pub fn is_node(&self) -> bool {
        matches!(self.kind, Kind::Node(_))
    }

    /// The node that it is or is on: 1 or 2; `None` outside.
    pub fn node(&self) -> Option<u8> {
        match self.kind {
            Kind::Pod(node) | Kind::Node(node) => Some(node),
            Kind::Outside => None,
        }
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        of_family(self.addresses, family)
    }

    /// A node's second address of a family.
    pub fn second(&self, family: Family) -> Option<IpAddr> {
        match self.kind {
            Kind::Node(node) => Some(of_family(plan::second(node), family)),
            Kind::Pod(_) | Kind::Outside => None,
        }
    }

    /// Whether it has an address; a node has many.
    pub fn has(&self, address: IpAddr) -> bool {
        let own = |(v4, v6): (Ipv4Addr, Ipv6Addr)| address == v4 || address == v6;
        own(self.addresses)
            || match self.kind {
                Kind::Node(node) => own(plan::second(node)) || own(plan::pod(node, 0)) || own(plan::pod(node, 1)),
                Kind::Pod(_) | Kind::Outside => false,
            }
    }
}

/// The addresses of a node's devices that lead to other nodes, as its agent finds them.
pub fn uplink_addresses(node: u8) -> impl Iterator<Item = IpAddr> {
    [plan::node(node), plan::second(node), plan::pod(node, 0)]
        .into_iter()
        .flat_map(|(v4, v6)| [IpAddr::from(v4), IpAddr::from(v6)])
}

/// All addresses of a node's devices that others can reach.
pub fn own_addresses(node: u8) -> impl Iterator<Item = IpAddr> {
    // Only node1 has a bridge.
    let bridge = (node == 1).then(|| plan::pod(node, 1));
    uplink_addresses(node).chain(bridge.into_iter().flat_map(|(v4, v6)| [IpAddr::from(v4), IpAddr::from(v6)]))
}

fn of_family((v4, v6): (Ipv4Addr, Ipv6Addr), family: Family) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}
