//! The rule that says which devices get the programs, and what is on the other end of each.
//!
//! A device is an **uplink** unless it is made for pods and such: one end of a pair or a tap (`veth`, `netkit`,
//! `tun` with Ethernet headers), while it holds no address of the Node and no default route leads through it.
//! Then it is a **pod**'s. So hardware, VLANs, bonds, tunnels and overlays are uplinks, and so is the `veth` that
//! is `eth0` of a node that is itself a container.
//!
//! The programs are attached to every device but these:
//!
//! - the loopback device and `dummy` devices: nothing comes in there;
//! - bridges (and Open vSwitch devices) that are not uplinks: their ports have the programs;
//! - hardware that is a port of a bridge that is an uplink: the bridge has them;
//! - devices that do nothing but serve a master (ports of a bond or team, accelerated functions of a virtual
//!   NIC): the master has them;
//! - `vrf` devices: their ports have them;
//! - `macvlan` and `ipvlan` devices above a device of this namespace: all their packets pass that one;
//! - `ifb`, and devices that carry no IP or whose headers are not known.
//!
//! Whether a device is up does not matter: it gets its programs when it appears.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxy_common::maps::DeviceRole;

use super::{Layer, Link, Network};

/// What a device is to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// What is on its other end.
    pub role: DeviceRole,
    /// What its packets begin with.
    pub layer: Layer,
}

/// Applies the rule to a device. `None`: no programs there.
pub fn classify(link: &Link, network: &Network, node_addresses: &BTreeSet<IpAddr>) -> Option<Class> {
    if link.is_loopback {
        return None;
    }
    let layer = layer(link)?;
    let is_uplink = |link: &Link| is_known_uplink(link, network, node_addresses);
    match link.kind.as_deref() {
        Some("dummy" | "ifb" | "vrf") => return None,
        Some("bridge" | "openvswitch") if !is_uplink(link) => return None,
        Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap") if !link.is_lower_elsewhere && link.lower.is_some() => {
            return None;
        }
        _ => {}
    }
    if let Some(master) = link.master {
        match link.port_of.as_deref() {
            Some("bridge") => {
                let is_bridge_uplink = network.links.get(&master).is_some_and(is_uplink);
                if is_bridge_uplink && !is_made_for_pods(link, layer) {
                    return None;
                }
            }
            Some("openvswitch" | "vrf") => {}
            _ => return None,
        }
    }
    Some(Class { role: role(link, layer, network, node_addresses), layer })
}

/// The same for a device that the operator wants the programs on, whatever the rule says. `None` only where its
/// packets cannot be read.
pub(super) fn forced(link: &Link, network: &Network, node_addresses: &BTreeSet<IpAddr>) -> Option<Class> {
    let layer = layer(link)?;
    Some(Class { role: role(link, layer, network, node_addresses), layer })
}

fn role(link: &Link, layer: Layer, network: &Network, node_addresses: &BTreeSet<IpAddr>) -> DeviceRole {
    if is_made_for_pods(link, layer) && !is_known_uplink(link, network, node_addresses) {
        DeviceRole::Pod
    } else {
        DeviceRole::Uplink
    }
}

fn is_made_for_pods(link: &Link, layer: Layer) -> bool {
    match link.kind.as_deref() {
        Some("veth" | "netkit") => true,
        Some("tun") => layer == Layer::Ethernet,
        _ => false,
    }
}

fn is_known_uplink(link: &Link, network: &Network, node_addresses: &BTreeSet<IpAddr>) -> bool {
    network.holds_one_of(link.ifindex, node_addresses) || network.has_default_route(link.ifindex)
}

/// What the packets of a device begin with (include/uapi/linux/if_arp.h). `None` where programs cannot read them.
fn layer(link: &Link) -> Option<Layer> {
    const ETHER: u16 = 1;
    const PPP: u16 = 512;
    const RAWIP: u16 = 519;
    const TUNNEL: u16 = 768;
    const TUNNEL6: u16 = 769;
    const LOOPBACK: u16 = 772;
    const SIT: u16 = 776;
    const IPGRE: u16 = 778;
    const IP6GRE: u16 = 823;
    const NONE: u16 = 0xfffe;
    match link.hardware {
        ETHER | LOOPBACK => Some(Layer::Ethernet),
        PPP | RAWIP | TUNNEL | TUNNEL6 | SIT | IPGRE | IP6GRE | NONE => Some(Layer::Ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::{Address, DefaultRoute};
    use super::*;
    use crate::model::Family;

    const NODE: [u8; 4] = [192, 168, 0, 5];
    const SELF: u32 = 5;
    const OTHER: u32 = 9;

    /// Device 5 as described: `kind`, then any of `l3` `node` (holds the Node's address) `route` (default route)
    /// `port:KIND` (of device 9) `master` (serves device 9) `lower` `lower-elsewhere` `loopback` `can`, and
    /// `other-node` (device 9 holds the Node's address).
    fn class_of(words: &str) -> Option<Class> {
        let (kind, words) = words.split_once(' ').unwrap_or((words, ""));
        let mut link = Link {
            ifindex: SELF,
            name: "dev".to_owned(),
            hardware: 1,
            kind: (kind != "-").then(|| kind.to_owned()),
            ..Link::default()
        };
        let mut network = Network::default();
        network.links.insert(OTHER, Link { ifindex: OTHER, hardware: 1, ..Link::default() });
        let address = |ifindex| Address {
            ifindex,
            ip: IpAddr::from(NODE),
            is_global: true,
            is_secondary: false,
            is_deprecated: false,
            is_tentative: false,
        };
        for word in words.split_whitespace() {
            match word {
                "l3" => link.hardware = 0xfffe,
                "can" => link.hardware = 280,
                "node" => network.addresses.push(address(SELF)),
                "other-node" => network.addresses.push(address(OTHER)),
                "route" => {
                    network.default_routes.insert(DefaultRoute { family: Family::V6, metric: 1, ifindex: SELF });
                }
                "master" => link.master = Some(OTHER),
                "lower" => link.lower = Some(OTHER),
                "lower-elsewhere" => {
                    link.lower = Some(2);
                    link.is_lower_elsewhere = true;
                }
                "loopback" => {
                    link.is_loopback = true;
                    link.hardware = 772;
                }
                port => {
                    link.master = Some(OTHER);
                    link.port_of = port.strip_prefix("port:").map(str::to_owned);
                    assert!(link.port_of.is_some(), "{port}");
                }
            }
        }
        network.links.insert(SELF, link.clone());
        classify(&link, &network, &BTreeSet::from([IpAddr::from(NODE)]))
    }

    #[test]
    fn the_rule() {
        use DeviceRole::{Pod, Uplink};
        use Layer::{Ethernet, Ip};
        for (device, expected) in [
            ("- node", Some((Uplink, Ethernet))),
            ("- route", Some((Uplink, Ethernet))),
            // A second NIC without an address of the Node: others are behind it all the same.
            ("-", Some((Uplink, Ethernet))),
            ("- loopback", None),
            ("- can", None),
            ("veth", Some((Pod, Ethernet))),
            ("veth port:bridge", Some((Pod, Ethernet))),
            ("veth port:openvswitch", Some((Pod, Ethernet))),
            // A node that is itself a container.
            ("veth node", Some((Uplink, Ethernet))),
            ("veth route", Some((Uplink, Ethernet))),
            ("netkit l3", Some((Pod, Ip))),
            ("tun", Some((Pod, Ethernet))),
            ("tun l3", Some((Uplink, Ip))),
            ("vxlan", Some((Uplink, Ethernet))),
            ("vxlan port:bridge", Some((Uplink, Ethernet))),
            ("geneve", Some((Uplink, Ethernet))),
            ("wireguard l3", Some((Uplink, Ip))),
            ("xfrm l3", Some((Uplink, Ip))),
            ("dummy", None),
            ("dummy node", None),
            ("ifb", None),
            ("bridge", None),
            ("bridge node", Some((Uplink, Ethernet))),
            ("bridge route", Some((Uplink, Ethernet))),
            ("- port:bridge other-node", None),
            ("veth port:bridge other-node", Some((Pod, Ethernet))),
            ("- port:bridge", Some((Uplink, Ethernet))),
            ("bond", Some((Uplink, Ethernet))),
            ("- port:bond", None),
            ("- port:team", None),
            // The accelerated function of a virtual NIC.
            ("- master", None),
            ("vrf", None),
            ("- port:vrf", Some((Uplink, Ethernet))),
            ("vlan lower", Some((Uplink, Ethernet))),
            ("macvlan lower", None),
            ("ipvlan lower", None),
            ("macvlan lower-elsewhere route", Some((Uplink, Ethernet))),
        ] {
            let expected = expected.map(|(role, layer)| Class { role, layer });
            assert_eq!(class_of(device), expected, "{device}");
        }
    }
}
