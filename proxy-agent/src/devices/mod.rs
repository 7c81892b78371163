//! The node's network devices: found and followed by rtnetlink, and sorted by a documented rule.
//!
//! [`follow`] publishes a [`Network`] whenever something changes; [`decide`] is pure and says what follows from
//! it. Absent on purpose: BPF. What is attached where is the kernel module's.

mod classify;
mod filter;
mod masquerade;
mod netlink;
mod network;
mod xdp;

pub use classify::{Class, classify};
pub use filter::{DeviceFilter, ParseFilterError, Verdict};
pub use netlink::{NetlinkError, follow};
pub use network::{Address, DefaultRoute, Link, Network, XdpProgram};
use xdp::Sender;
pub use xdp::{Xdp, XdpMode};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proxy_common::addr::{Ipv4, Ipv6};
use proxy_common::maps::{DetectLocal, Device, DeviceRole};

/// Where the IP header stands in a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// After an Ethernet header.
    Ethernet,
    /// After an Ethernet header, and the device is a pod's port of a bridge.
    BridgePort,
    /// After an Ethernet header, and packets are sent on by the device, past the stack.
    Uplink,
    /// At the beginning.
    Ip,
}

/// Which devices tell that a client is a pod of this node (kube-proxy's `detectLocalMode`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodDevices {
    /// Those of the role pod. Not one of kube-proxy's modes: what is right without a setting.
    #[default]
    ByRole,
    /// A bridge, and its ports.
    Bridge(String),
    /// Those whose names begin so.
    Prefix(String),
    /// None: addresses tell.
    ByAddress,
    /// None: nothing tells.
    Nowhere,
}

impl PodDevices {
    /// What a device tells of the clients that come in by it.
    pub fn detect(&self, link: &Link, role: DeviceRole, network: &Network) -> DetectLocal {
        let is_pods = match self {
            Self::ByRole => role == DeviceRole::Pod,
            Self::Bridge(name) => {
                let master = link.master.and_then(|master| network.links.get(&master));
                link.name == *name || master.is_some_and(|master| master.name == *name)
            }
            Self::Prefix(prefix) => link.name.starts_with(prefix),
            Self::ByAddress => return DetectLocal::ByAddress,
            Self::Nowhere => false,
        };
        if is_pods { DetectLocal::Yes } else { DetectLocal::No }
    }
}

/// What is to be done with the node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The devices to attach to, by ifindex.
    pub attach: BTreeMap<u32, Target>,
    /// The node's own addresses on uplinks: where NodePorts are answered.
    pub addresses: BTreeSet<IpAddr>,
    /// The node's own addresses on any device that others can reach.
    pub own: BTreeSet<IpAddr>,
}

/// A device to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Which programs it needs.
    pub layer: Layer,
    /// Whether it gets an XDP program, and how.
    pub xdp: Option<Xdp>,
    /// The XDP program that it has already.
    pub has_xdp: Option<XdpProgram>,
    /// What the programs have to know of it.
    pub device: Device,
}

/// The Ethernet address of the bridge that a device is a port of.
fn bridge_of(link: &Link, network: &Network) -> Option<[u8; 6]> {
    let master = link.master.filter(|_| link.port_of.as_deref() == Some("bridge"))?;
    network.links.get(&master)?.ethernet
}

/// Works out which devices to attach to, and as what.
pub fn decide(
    network: &Network,
    filter: &DeviceFilter,
    pods: &PodDevices,
    mode: XdpMode,
    node_addresses: &BTreeSet<IpAddr>,
) -> Decision {
    let own = network.addresses.iter().filter(|address| address.is_global).map(|address| address.ip).collect();
    let sends_on = Device::SENDS_ON | if network.routes_by_source { Device::BY_SOURCE } else { 0 };
    let mut decision = Decision { own, ..Decision::default() };
    for link in network.links.values() {
        let class = match filter.verdict(&link.name) {
            Verdict::Exclude => continue,
            Verdict::Rule => classify(link, network, node_addresses),
            Verdict::Include => classify::forced(link, network, node_addresses),
        };
        let Some(Class { role, layer }) = class else { continue };
        let bridge = bridge_of(link, network).filter(|_| role == DeviceRole::Pod && layer == Layer::Ethernet);
        let sender = xdp::sender(mode, Class { role, layer }, link);
        let layer = match (bridge, sender) {
            (Some(_), _) => Layer::BridgePort,
            (None, Some(_)) => Layer::Uplink,
            (None, None) => layer,
        };
        let (masquerade_v4, masquerade_v6) = masquerade::addresses(link.ifindex, network, node_addresses);
        let device = Device {
            masquerade_v4: masquerade_v4.map(|address| Ipv4::new(address.octets())).unwrap_or_default(),
            masquerade_v6: masquerade_v6.map(|address| Ipv6::new(address.octets())).unwrap_or_default(),
            ethernet: bridge.or(link.ethernet.filter(|_| sender.is_some())).unwrap_or_default(),
            role: role as u8,
            detect: pods.detect(link, role, network) as u8,
            flags: if sender.is_some() { sends_on } else { 0 },
            zero: [0; 3],
        };
        if role == DeviceRole::Uplink {
            decision.addresses.extend(network.global_addresses(link.ifindex).map(|address| address.ip));
        }
        let xdp = match sender {
            Some(Sender::Xdp(xdp)) => Some(xdp),
            Some(Sender::Tc) | None => None,
        };
        decision.attach.insert(link.ifindex, Target { name: link.name.clone(), layer, xdp, has_xdp: link.xdp, device });
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices 1 to 5: the node's eth0, a bridge cni0 with the port veth1, a veth of its own, and a second uplink.
    fn network() -> Network {
        let link = |ifindex, name: &str, kind: Option<&str>, master: Option<u32>| {
            let port_of = master.map(|_| "bridge".to_owned());
            let kind = kind.map(str::to_owned);
            (ifindex, Link { ifindex, name: name.to_owned(), hardware: 1, kind, master, port_of, ..Link::default() })
        };
        let links = [
            link(1, "eth0", None, None),
            link(2, "cni0", Some("bridge"), None),
            link(3, "veth1", Some("veth"), Some(2)),
            link(4, "vethx", Some("veth"), None),
            link(5, "pods0", None, None),
        ];
        Network { links: links.into(), ..Network::default() }
    }

    #[test]
    fn which_devices_tell_that_a_client_is_a_pod_of_this_node() {
        for (pods, expected) in [
            (PodDevices::ByRole, &["veth1", "vethx"][..]),
            (PodDevices::Bridge("cni0".into()), &["veth1"]),
            (PodDevices::Bridge("cni1".into()), &[]),
            (PodDevices::Prefix("pods".into()), &["pods0"]),
            (PodDevices::Prefix("v".into()), &["veth1", "vethx"]),
            (PodDevices::ByAddress, &[]),
            (PodDevices::Nowhere, &[]),
        ] {
            let decision = decide(&network(), &DeviceFilter::default(), &pods, XdpMode::Off, &BTreeSet::new());
            let local = decision.attach.values().filter(|target| target.device.detect == DetectLocal::Yes as u8);
            assert_eq!(local.map(|target| target.name.as_str()).collect::<Vec<_>>(), expected, "{pods:?}");
            let roles: Vec<u8> = decision.attach.values().map(|target| target.device.role).collect();
            assert_eq!(roles, [2, 1, 1, 2], "a device's role does not depend on it");
        }
    }
}
