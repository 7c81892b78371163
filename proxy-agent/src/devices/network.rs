//! What rtnetlink tells about the network namespace, as far as a rule reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Xdp;
use crate::model::Family;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in this network namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, if it has one.
    pub ethernet: Option<[u8; 6]>,
    /// `ARPHRD_*`: what its packets begin with.
    pub hardware: u16,
    /// What made it: `veth`, `vxlan`, …; none for hardware.
    pub kind: Option<String>,
    /// The device that it is a port of.
    pub master: Option<u32>,
    /// The kind of that device: `bridge`, `bond`, `team`, `vrf`, …
    pub port_of: Option<String>,
    /// The device below it, or the other end of a pair.
    pub lower: Option<u32>,
    /// The device below it is in another network namespace.
    pub is_lower_elsewhere: bool,
    /// `IFF_LOOPBACK`.
    pub is_loopback: bool,
    /// The XDP program that it has, if it has one.
    pub xdp: Option<XdpProgram>,
}

/// An XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// Number by which the kernel knows it.
    pub id: u32,
    /// How it is attached.
    pub how: Xdp,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the device.
    pub ifindex: u32,
    /// The address of our end.
    pub ip: IpAddr,
    /// Its scope is global: not that of a link or of the host.
    pub is_global: bool,
    /// IPv4: there is another one of the same network before it. IPv6: it is temporary.
    pub is_secondary: bool,
    /// It is not to be used for new connections (any more).
    pub is_deprecated: bool,
    /// Nobody may use it: it is not yet known, or known not to be, the only one of its kind.
    pub is_tentative: bool,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    /// Its family.
    pub family: Family,
    /// Its priority: the lowest one wins.
    pub metric: u32,
    /// The device that it leads through.
    pub ifindex: u32,
}

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The devices, by ifindex.
    pub links: BTreeMap<u32, Link>,
    /// Their addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// The default routes of all routing tables, the best first.
    pub default_routes: BTreeSet<DefaultRoute>,
    /// Where all other routes lead to, of all tables: those to hosts and networks, not to the node's own addresses. As of
    /// the last reading: a change of these alone is not heard of at once.
    pub routes: BTreeSet<IpNet>,
    /// Which way a packet takes may depend on where it comes from: by a rule, or as a route has several hops. Of a change of such a
    /// route alone is heard at the next reading.
    pub routes_by_source: bool,
}

impl Network {
    /// The addresses of a device that others can reach, in the kernel's order.
    pub fn global_addresses(&self, ifindex: u32) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.ifindex == ifindex && address.is_global)
    }

    /// Whether a device holds one of these addresses.
    pub fn holds_one_of(&self, ifindex: u32, addresses: &BTreeSet<IpAddr>) -> bool {
        self.addresses.iter().any(|address| address.ifindex == ifindex && addresses.contains(&address.ip))
    }

    /// Whether a default route leads through a device.
    pub fn has_default_route(&self, ifindex: u32) -> bool {
        self.default_routes.iter().any(|route| route.ifindex == ifindex)
    }
}
