//! A node and its pods, wired as one kind of CNI or the other would.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::{Host, Options, Overlay, plan};
use crate::cgroup::Cgroup;
use crate::netns::{NetNs, NsHandle};
use crate::server::Servers;
use crate::shell;

/// No duplicate address detection and no router solicitations: addresses work at once.
pub(super) const QUIET_IPV6: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// Where nodes listen for VXLAN, as flannel does on Linux.
const VXLAN_PORT: u16 = 8472;

/// A node of the lab with three pods, `a`, `b` and `c`.
#[derive(Debug)]
pub struct Node {
    /// The node itself.
    pub host: Host,
    /// First pod.
    pub a: Host,
    /// Second pod.
    pub b: Host,
    /// Third pod.
    pub c: Host,
    cni: Cni,
    _pods: Vec<Pod>,
    _cgroup: Option<Cgroup>,
    _ns: NetNs,
}

/// A pod with the usual servers; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The pod, from outside.
    pub host: Host,
    _servers: Servers,
    _ns: NetNs,
}

/// What connects pods to a node.
#[derive(Clone, Debug)]
pub(crate) struct Cni {
    number: u8,
    wiring: Wiring,
    id: String,
    mtu: u16,
}

#[derive(Clone, Copy, Debug)]
enum Wiring {
    Bridged,
    Routed,
}

impl Cni {
    /// Makes a pod and connects it; `last` ends its addresses and the name of its device.
    pub(crate) fn add(&self, node: &NsHandle, name: &str, last: u8) -> Result<Pod> {
        let pod = NetNs::create(&format!("pm{}-{name}", self.id))?;
        pod.sysctl(QUIET_IPV6)?;
        let (v4, v6) = plan::pod(self.number, last);
        let wire = match self.wiring {
            Wiring::Bridged => Self::wire_to_bridge,
            Wiring::Routed => Self::wire_by_route,
        };
        wire(self, node, &pod, last).with_context(|| format!("cannot connect {name}"))?;
        let servers = Servers::start(name, &pod)?;
        Ok(Pod {
            host: Host { name: name.into(), v4, v6, ns: pod.handle().clone(), cgroup: None },
            _servers: servers,
            _ns: pod,
        })
    }

    /// Takes a pod's device away at once: its namespace may live as long as a connection in it.
    pub(crate) fn cut_off(&self, node: &NsHandle, last: u8) -> Result<()> {
        let name = match self.wiring {
            Wiring::Bridged => "veth",
            Wiring::Routed => "cali",
        };
        node.ip(&format!("link del {name}{last}"))
    }

    fn wire_to_bridge(&self, node: &NsHandle, pod: &NetNs, last: u8) -> Result<()> {
        let ((gateway_v4, gateway_v6), (v4, v6)) = (plan::pod(self.number, 1), plan::pod(self.number, last));
        node.ip(&format!(
            "link add veth{last} mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {pod}
             link set veth{last} master cni0 up",
            mtu = self.mtu,
            mac = mac(self.number, last),
            pod = pod.name(),
        ))?;
        pod.ip(&format!(
            "link set eth0 up
             addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             route add default via {gateway_v4}
             route add default via {gateway_v6}"
        ))
    }

    fn wire_by_route(&self, node: &NsHandle, pod: &NetNs, last: u8) -> Result<()> {
        let (v4, v6) = plan::pod(self.number, last);
        node.ip(&format!(
            "link add cali{last} mtu {mtu} address ee:ee:ee:ee:ee:ee type veth \
                 peer name eth0 mtu {mtu} address {mac} netns {pod}
             link set cali{last} up
             route add {v4}/32 dev cali{last} scope link
             route add {v6}/128 dev cali{last}",
            mtu = self.mtu,
            mac = mac(self.number, last),
            pod = pod.name(),
        ))?;
        node.sysctl(&[
            (&format!("ipv4/conf/cali{last}/proxy_arp"), "1"),
            (&format!("ipv4/neigh/cali{last}/proxy_delay"), "0"),
        ])?;
        pod.ip(&format!(
            "link set eth0 up
             addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             route add default via fe80::ecee:eeff:feee:eeee dev eth0"
        ))
    }
}

impl Node {
    /// node1: pods on a bridge, which is their gateway.
    pub(super) fn bridged(id: &str, switch: &NetNs, options: &Options) -> Result<Self> {
        let ns = Self::prepare(1, id, switch, options)?;
        let (v4, v6) = plan::pod(1, 1);
        let mtu = pod_mtu(options);
        ns.ip(&format!(
            "link add cni0 address {mac} mtu {mtu} type bridge mcast_snooping 0
             addr add {v4}/24 dev cni0
             addr add {v6}/64 dev cni0 nodad
             link set cni0 up",
            mac = mac(1, 1),
        ))?;
        Self::finish(ns, Cni { number: 1, wiring: Wiring::Bridged, id: id.into(), mtu })
    }

    /// node2: each pod behind a veth of its own without an address of its range; the node answers ARP for the
    /// pods' gateway, and IPv6 goes by the veth's link-local address, the same for all.
    pub(super) fn routed(id: &str, switch: &NetNs, options: &Options) -> Result<Self> {
        let ns = Self::prepare(2, id, switch, options)?;
        Self::finish(ns, Cni { number: 2, wiring: Wiring::Routed, id: id.into(), mtu: pod_mtu(options) })
    }

    /// The node's own address and name, its place in the shared segment, its ways to other nodes' pods, its rules.
    fn prepare(number: u8, id: &str, switch: &NetNs, options: &Options) -> Result<NetNs> {
        let name = format!("node{number}");
        let ns = NetNs::create(&format!("pm{id}-{name}"))?;
        ns.sysctl(QUIET_IPV6)?;
        ns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let strict = if options.rp_filter { "1" } else { "0" };
        ns.sysctl(&[("ipv4/conf/all/rp_filter", strict), ("ipv4/conf/default/rp_filter", strict)])?;
        set_bridge_netfilter(&ns, options.bridge_netfilter)?;
        plug_in(switch, &ns, &name, number)?;
        let (v4, v6) = plan::node(number);
        ns.ip(&format!(
            "addr add {v4}/24 dev eth0
             addr add {v6}/64 dev eth0 nodad
             route add default via {}
             route add default via {}",
            plan::GATEWAY_V4,
            plan::GATEWAY_V6,
        ))?;
        let other = 3 - number;
        match options.overlay {
            Overlay::Vxlan => vxlan(&ns, number, other)?,
            Overlay::Routes => ns.ip(&route_to_pods(other, "eth0"))?,
            // Needs both nodes.
            Overlay::Tun => {}
        }
        ns.nft(&rules(number, options))?;
        Ok(ns)
    }

    fn finish(ns: NetNs, cni: Cni) -> Result<Self> {
        let number = cni.number;
        let (mut pods, mut hosts) = (Vec::new(), Vec::new());
        for (letter, last) in [('a', 10), ('b', 11), ('c', 12)] {
            let pod = cni.add(&ns, &format!("pod{number}{letter}"), last)?;
            hosts.push(pod.host.clone());
            pods.push(pod);
        }
        let [a, b, c] = hosts.try_into().map_err(|_| anyhow::anyhow!("a node has three pods"))?;
        let (v4, v6) = plan::node(number);
        let name = format!("node{number}");
        let cgroup = Cgroup::create(&format!("pm{}-{name}", cni.id))?;
        let handle = cgroup.as_ref().map(|cgroup| cgroup.handle().clone());
        let host = Host { name, v4, v6, ns: ns.handle().clone(), cgroup: handle };
        Ok(Self { host, a, b, c, cni, _pods: pods, _cgroup: cgroup, _ns: ns })
    }

    /// How it gets more pods.
    pub(crate) fn cni(&self) -> &Cni {
        &self.cni
    }

    /// All pods.
    pub fn pods(&self) -> [&Host; 3] {
        [&self.a, &self.b, &self.c]
    }

    /// 1 or 2.
    pub fn number(&self) -> u8 {
        self.cni.number
    }

    /// Whether an address is one of the node's own: towards the segment, the pods or the tunnel.
    pub fn owns(&self, address: std::net::IpAddr) -> bool {
        let own = |(v4, v6): (Ipv4Addr, Ipv6Addr)| address == v4 || address == v6;
        self.host.has(address) || own(plan::pod(self.number(), 0)) || own(plan::pod(self.number(), 1))
    }

    /// The addresses of its pods.
    pub fn pod_ranges(&self) -> [String; 2] {
        let (v4, v6) = plan::pod(self.number(), 0);
        [format!("{v4}/24"), format!("{v6}/64")]
    }

    /// How many packets the rule against invalid ones has dropped.
    pub fn invalid_packets(&self) -> Result<u64> {
        self.counter("invalid")
    }

    /// How many packets the node's stack has forwarded from one device to another.
    pub fn forwarded_packets(&self) -> Result<u64> {
        self.counter("forwarded")
    }

    fn counter(&self, name: &str) -> Result<u64> {
        let shown = shell::run(self.host.ns.command("nft").args(["-j", "list", "counter", "inet", "guard", name]))?;
        let shown: serde_json::Value = serde_json::from_str(&shown).context("nft's output is not JSON")?;
        let counters = shown["nftables"].as_array().into_iter().flatten();
        counters
            .filter_map(|object| object["counter"]["packets"].as_u64())
            .next()
            .with_context(|| format!("no such counter in {shown}"))
    }
}

/// Connects a namespace to the switch: `eth0` inside, a port named `port` on the switch's bridge.
pub(super) fn plug_in(switch: &NetNs, ns: &NetNs, port: &str, number: u8) -> Result<()> {
    switch.ip(&format!(
        "link add {port} type veth peer name eth0 address {mac} netns {ns}
         link set {port} master br0 up",
        mac = mac(0, number),
        ns = ns.name(),
    ))?;
    ns.ip("link set eth0 up")
}

/// The setting is the namespace's own, on where the kernel has the feature built in or loaded.
fn set_bridge_netfilter(ns: &NetNs, on: bool) -> Result<()> {
    let names = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
    if on || std::path::Path::new("/proc/sys/net").join(names[0]).exists() {
        let value = if on { "1" } else { "0" };
        ns.sysctl(&names.map(|name| (name, value)))?;
    }
    Ok(())
}

/// Routes to a node's pods through its address on the shared segment.
pub(super) fn route_to_pods(node: u8, device: &str) -> String {
    let ((v4, v6), (via_v4, via_v6)) = (plan::pod(node, 0), plan::node(node));
    format!("route add {v4}/24 via {via_v4} dev {device}\nroute add {v6}/64 via {via_v6} dev {device}\n")
}

/// The tunnel device, with everything static that flannel would write.
fn vxlan(ns: &NetNs, number: u8, other: u8) -> Result<()> {
    let ((own_v4, own_v6), (v4, v6)) = (plan::pod(number, 0), plan::pod(other, 0));
    ns.ip(&format!(
        "link add flannel.1 address {own_mac} type vxlan id 1 local {local} dev eth0 dstport {VXLAN_PORT} nolearning
         link set flannel.1 up
         addr add {own_v4}/32 dev flannel.1
         addr add {own_v6}/128 dev flannel.1 nodad
         neigh add {v4} lladdr {mac} dev flannel.1 nud permanent
         neigh add {v6} lladdr {mac} dev flannel.1 nud permanent
         route add {v4}/24 via {v4} dev flannel.1 onlink
         route add {v6}/64 via {v6} dev flannel.1 onlink",
        own_mac = mac(number, 0),
        local = plan::node(number).0,
        mac = mac(other, 0),
    ))?;
    let remote = plan::node(other).0.to_string();
    let mut bridge = ns.command("bridge");
    shell::run(bridge.args(["fdb", "append", &mac(other, 0), "dev", "flannel.1", "dst", &remote]))?;
    Ok(())
}

/// A fixed MAC address: stale neighbour entries never cost time.
fn mac(node: u8, number: u8) -> String {
    format!("02:00:00:00:{node:02x}:{number:02x}")
}

fn pod_mtu(options: &Options) -> u16 {
    match options.overlay {
        Overlay::Vxlan => 1450,
        Overlay::Routes => 1500,
        Overlay::Tun => super::tun::MTU,
    }
}

/// The rules a node may have. Naming conntrack also switches it on, as it is on every real node.
fn rules(number: u8, options: &Options) -> String {
    let (v4, v6) = plan::pod(number, 0);
    let mut rules = String::new();
    if options.masquerade {
        for (family, source, cluster) in
            [("ip", format!("{v4}/24"), plan::CLUSTER_V4), ("ip6", format!("{v6}/64"), plan::CLUSTER_V6)]
        {
            rules.push_str(&format!(
                "table {family} cni {{
                    chain postrouting {{
                        type nat hook postrouting priority srcnat
                        {family} saddr {source} {family} daddr != {cluster} masquerade
                    }}
                }}\n"
            ));
        }
    }
    let verdict = if options.drop_invalid { "drop" } else { "" };
    rules.push_str(&format!(
        "table inet guard {{
            counter invalid {{}}
            counter forwarded {{}}
            chain forward {{
                type filter hook forward priority filter
                counter name forwarded
                ct state invalid counter name invalid {verdict}
            }}
        }}\n"
    ));
    rules
}
