//! A node with two pods.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use proxy_testkit::Host;
use proxy_testkit::cluster::Cluster;
use proxy_testkit::netns::NetNs;
use proxy_testkit::server::Servers;

use super::servers::Sinks;
use crate::offload;

/// Where the numbers of the nodes' addresses begin on their segment.
const FIRST: u8 = 31;

/// A node, its pods and their servers.
pub struct Place {
    /// The node itself.
    pub host: Host,
    /// A pod that asks.
    pub a: Host,
    /// A pod that serves.
    pub b: Host,
    /// The node's device on the switch.
    pub port: String,
    /// Which node it is.
    pub number: u8,
    sinks: Vec<Sinks>,
    _servers: Vec<Servers>,
    _pods: Vec<NetNs>,
    _ns: NetNs,
}

impl Place {
    /// Makes it and plugs it in.
    pub(super) fn new(cluster: &Cluster, name: &str, number: u8) -> Result<Self> {
        let id = cluster.lab.id();
        let ns = NetNs::create(&format!("pm{id}-bench{number}"))?;
        quiet(&ns)?;
        ns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        ns.sysctl(&[("ipv4/conf/all/rp_filter", "1"), ("ipv4/conf/default/rp_filter", "1")])?;
        let (port, v4) = (format!("bench{number}"), address(number));
        cluster.lab.switch().ip(&format!(
            "link add {port} type veth peer name eth0 address {} netns {}
             link set {port} master br0 up",
            mac(number, 0),
            ns.name(),
        ))?;
        ns.ip(&format!("link set eth0 up\naddr add {v4}/24 dev eth0\nroute add default via 172.18.0.1"))?;
        offload::receive_in_batches(&ns, "eth0")?;
        ns.nft(&rules(number))?;
        let (mut hosts, mut pods, mut servers, mut sinks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (letter, last) in [("a", 10), ("b", 11)] {
            let pod = NetNs::create(&format!("pm{id}-bench{number}{letter}"))?;
            quiet(&pod)?;
            let v4 = pod_address(number, last);
            wire(&ns, &pod, number, last, v4)?;
            let name = format!("{name}-{letter}");
            servers.push(Servers::start(&name, &pod)?);
            sinks.push(Sinks::start(pod.handle())?);
            hosts.push(Host { name, v4, v6: v4.to_ipv6_mapped(), ns: pod.handle().clone(), cgroup: None });
            pods.push(pod);
        }
        let [a, b] = hosts.try_into().ok().context("a node has two pods")?;
        let host = Host { name: name.into(), v4, v6: v4.to_ipv6_mapped(), ns: ns.handle().clone(), cgroup: None };
        Ok(Self { host, a, b, port, number, sinks, _servers: servers, _pods: pods, _ns: ns })
    }

    /// Tells it the way to another node's pods. Neighbours are permanent: nothing has to be asked for while it is measured.
    pub(super) fn know(&self, other: &Self) -> Result<()> {
        if self.number == other.number {
            return Ok(());
        }
        self.host.ns.ip(&format!(
            "neigh replace {via} lladdr {} dev eth0 nud permanent
             route add {}/24 via {via} dev eth0",
            mac(other.number, 0),
            pod_address(other.number, 0),
            via = other.host.v4,
        ))
    }

    /// Tells a machine outside the way to this node and its pods, and the node the way back.
    pub(super) fn be_known_to(&self, client: &Host) -> Result<()> {
        client.ns.ip(&format!(
            "neigh replace {via} lladdr {} dev eth0 nud permanent
             route add {}/24 via {via} dev eth0",
            mac(self.number, 0),
            pod_address(self.number, 0),
            via = self.host.v4,
        ))
    }

    /// The node and the pod that asks.
    pub fn clone_hosts(&self) -> (Host, Host) {
        (self.host.clone(), self.a.clone())
    }

    /// The Ethernet address of its uplink.
    pub fn mac(&self) -> [u8; 6] {
        mac_bytes(self.number, 0)
    }

    /// What pod b's sinks have swallowed: UDP packets.
    pub fn swallowed(&self) -> u64 {
        self.sinks.last().map_or(0, Sinks::datagrams)
    }

    /// The range of its pods.
    pub fn pod_range(&self) -> String {
        format!("{}/24", pod_address(self.number, 0))
    }
}

fn quiet(ns: &NetNs) -> Result<()> {
    ns.sysctl(&[
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
    ])
}

/// A routed pod, as with Calico: the node answers for a gateway that nobody has.
fn wire(node: &NetNs, pod: &NetNs, number: u8, last: u8, v4: Ipv4Addr) -> Result<()> {
    node.ip(&format!(
        "link add pod{last} address {gateway} type veth peer name eth0 address {} netns {}
         link set pod{last} up
         route add {v4}/32 dev pod{last} scope link
         neigh replace {v4} lladdr {} dev pod{last} nud permanent",
        mac(number, last),
        pod.name(),
        mac(number, last),
        gateway = GATEWAY,
    ))?;
    offload::receive_in_batches(node, &format!("pod{last}"))?;
    pod.ip(&format!(
        "link set eth0 up
         addr add {v4}/32 dev eth0
         route add 169.254.1.1 dev eth0 scope link
         neigh replace 169.254.1.1 lladdr {GATEWAY} dev eth0 nud permanent
         route add default via 169.254.1.1"
    ))
}

/// The Ethernet address of a node's end of each pod's device.
pub const GATEWAY: &str = "02:00:00:00:ee:ee";
/// The same as bytes.
pub const GATEWAY_BYTES: [u8; 6] = [2, 0, 0, 0, 0xee, 0xee];

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 0, FIRST + number)
}

fn pod_address(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, FIRST + number, last)
}

fn mac_bytes(number: u8, last: u8) -> [u8; 6] {
    [2, 0, 0, 1, number, last]
}

fn mac(number: u8, last: u8) -> String {
    mac_bytes(number, last).map(|byte| format!("{byte:02x}")).join(":")
}

/// What CNIs and firewalls have.
fn rules(number: u8) -> String {
    format!(
        "table ip cni {{
            chain postrouting {{
                type nat hook postrouting priority srcnat
                ip saddr {}/24 ip daddr != {{ 10.244.0.0/16, 172.18.0.0/24 }} masquerade
            }}
        }}
        table inet guard {{
            chain forward {{
                type filter hook forward priority filter
                ct state invalid counter drop
            }}
        }}
        ",
        pod_address(number, 0)
    )
}
