//! The node's network devices: found and followed by rtnetlink, and sorted by a documented rule.
//!
//! [`follow`] publishes a [`Network`] whenever something changes; [`decide`] is pure and says what follows from
//! it. Absent on purpose: BPF. What is attached where is the kernel module's.

mod classify;
mod filter;
mod masquerade;
mod netlink;
mod network;

pub use classify::{Class, classify};
pub use filter::{DeviceFilter, ParseFilterError, Verdict};
pub use netlink::{NetlinkError, follow};
pub use network::{Address, DefaultRoute, Link, Network};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{Device, DeviceRole};

/// Where the IP header stands in a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// After an Ethernet header.
    Ethernet,
    /// After an Ethernet header, and the device is a pod's port of a bridge.
    BridgePort,
    /// At the beginning.
    Ip,
}

/// What is to be done with the node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The devices to attach to, by ifindex.
    pub attach: BTreeMap<u32, Target>,
    /// The node's own addresses on uplinks: where NodePorts are answered.
    pub addresses: BTreeSet<IpAddr>,
}

/// A device to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Which programs it needs.
    pub layer: Layer,
    /// What the programs have to know of it.
    pub device: Device,
}

/// The Ethernet address of the bridge that a device is a port of.
fn bridge_of(link: &Link, network: &Network) -> Option<[u8; 6]> {
    let master = link.master.filter(|_| link.port_of.as_deref() == Some("bridge"))?;
    network.links.get(&master)?.ethernet
}

/// Works out which devices to attach to, and as what.
pub fn decide(network: &Network, filter: &DeviceFilter, node_addresses: &BTreeSet<IpAddr>) -> Decision {
    let mut decision = Decision::default();
    for link in network.links.values() {
        let class = match filter.verdict(&link.name) {
            Verdict::Exclude => continue,
            Verdict::Rule => classify(link, network, node_addresses),
            Verdict::Include => classify::forced(link, network, node_addresses),
        };
        let Some(Class { role, layer }) = class else { continue };
        let bridge = bridge_of(link, network).filter(|_| role == DeviceRole::Pod && layer == Layer::Ethernet);
        let layer = if bridge.is_some() { Layer::BridgePort } else { layer };
        let (masquerade_v4, masquerade_v6) = masquerade::addresses(link.ifindex, network, node_addresses);
        let device = Device {
            masquerade_v4: masquerade_v4.map(|address| Ipv4::new(address.octets())).unwrap_or_default(),
            masquerade_v6: masquerade_v6.map(|address| Ipv6::new(address.octets())).unwrap_or_default(),
            bridge: bridge.unwrap_or_default(),
            role: role as u8,
            zero: [0; 5],
        };
        if role == DeviceRole::Uplink {
            decision.addresses.extend(network.global_addresses(link.ifindex).map(|address| address.ip));
        }
        decision.attach.insert(link.ifindex, Target { name: link.name.clone(), layer, device });
    }
    decision
}
