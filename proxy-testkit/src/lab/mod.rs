//! The lab: two nodes of unlike networks, three pods each, and a client outside.
//!
//! ```text
//!   pod1a pod1b pod1c          pod2a pod2b pod2c
//!     └─────┼─────┘              │     │     │    each its own routed veth, no bridge,
//!         cni0  node1            node2 ──────┘    gateway 169.254.1.1, as Calico does
//!    (a bridge CNI) │            │
//!                   ├── switch ──┤    172.18.0.0/24, fd00:172:18::/64
//!                         │           pod to pod between nodes: VXLAN (as flannel) or plain routes
//!                       client
//! ```
//!
//! Pods send with checksum offload and GSO, as real ones do. Nodes are as strict as nodes get: reverse path filters on, a
//! CNI's masquerade rule, and a rule that drops and counts what conntrack calls invalid.

mod host;
mod node;
pub mod plan;
mod tun;
mod wire;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use host::{Family, Host, Protocol};
pub use node::Node;
pub(crate) use node::{Cni, Pod};
use tun::Tunnel;
pub use wire::make_wire;

use crate::agent::{Agent, AgentOptions, Source};
use crate::manifest::{Manifests, Published, Service};
use crate::netns::{self, NetNs, NsHandle};
use crate::server::Servers;

/// How traffic between pods of different nodes travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// A VXLAN device on each node, with static neighbours: as flannel.
    Vxlan,
    /// Plain routes through the shared segment.
    Routes,
    /// A tun device on each node: packets without Ethernet headers, as WireGuard has them.
    Tun,
}

/// What a lab is to be like. The default is the standard lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// How pods reach other nodes' pods.
    pub overlay: Overlay,
    /// Strict reverse path filtering on every device of the nodes.
    pub rp_filter: bool,
    /// A masquerade rule for pods that leave the cluster, as CNIs have.
    pub masquerade: bool,
    /// A rule in the forward hook that counts and drops packets that conntrack calls invalid.
    pub drop_invalid: bool,
    /// Netfilter, conntrack with it, also sees what node1's bridge passes from pod to pod (`br_netfilter`). Without it
    /// conntrack sees only what is routed, so half of a connection may pass it by.
    pub bridge_netfilter: bool,
    /// Frames reach the nodes as from a wire: with complete checksums. And what their XDP programs send is taken.
    pub wired: bool,
    /// A second address for each node, and a second client outside.
    pub second_addresses: bool,
    /// Agents on both nodes, or none.
    pub agents: Option<AgentOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            overlay: Overlay::Vxlan,
            rp_filter: true,
            masquerade: true,
            drop_invalid: true,
            bridge_netfilter: false,
            wired: false,
            second_addresses: false,
            agents: Some(AgentOptions::default()),
        }
    }
}

/// A running lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// The agent of each node. Declared first: agents end before the namespaces they live in.
    agents: Vec<Agent>,
    /// What carries packets between the nodes, where no device of the kernel does.
    _tunnel: Option<Tunnel>,
    id: String,
    switch: NetNs,
    /// The node with a bridge.
    pub node1: Node,
    /// The node with routed pods.
    pub node2: Node,
    /// A machine outside of the cluster.
    pub client: Host,
    /// Another one, where the options ask for it.
    pub stranger: Option<Host>,
    manifests: Manifests,
    /// Servers that a test wanted in addition.
    servers: Vec<Servers>,
    _clients: Vec<NetNs>,
    /// What makes wires of the nodes' uplinks.
    _wires: Vec<OwnedFd>,
}

impl Lab {
    /// The standard lab, with agents.
    pub fn standard() -> Result<Self> {
        Self::new(Options::default())
    }

    /// A lab of one's own choice.
    pub fn new(options: Options) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab makes network namespaces and needs root: run it with sudo");
        }
        netns::sweep();
        let id = next_id();
        let manifests = Manifests::create(&format!("pointsman-lab-{id}"))?;
        let switch = NetNs::create(&format!("pm{id}-switch"))?;
        switch.sysctl(node::QUIET_IPV6)?;
        switch.ip(&format!(
            "link add br0 type bridge mcast_snooping 0
             addr add {}/24 dev br0
             addr add {}/64 dev br0 nodad
             link set br0 up",
            plan::GATEWAY_V4,
            plan::GATEWAY_V6,
        ))?;
        let node1 = Node::bridged(&id, &switch, &options)?;
        let node2 = Node::routed(&id, &switch, &options)?;
        let tunnel = match options.overlay {
            Overlay::Tun => Some(Tunnel::dig([&node1, &node2])?),
            Overlay::Vxlan | Overlay::Routes => None,
        };
        let mut wires = Vec::new();
        if options.wired {
            for node in ["node1", "node2"] {
                wires.push(make_wire(&switch, node)?);
            }
        }
        let (client_ns, client) = outside_client(&id, &switch, "client", 100)?;
        let (mut clients, mut stranger) = (vec![client_ns], None);
        if options.second_addresses {
            let (ns, host) = outside_client(&id, &switch, "stranger", 101)?;
            clients.push(ns);
            stranger = Some(host);
            for (number, node) in (1..).zip([&node1, &node2]) {
                let (v4, v6) = plan::second(number);
                node.host.ns.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"))?;
            }
        }
        let mut lab = Self {
            agents: Vec::new(),
            _tunnel: tunnel,
            id,
            switch,
            node1,
            node2,
            client,
            stranger,
            manifests,
            servers: Vec::new(),
            _clients: clients,
            _wires: wires,
        };
        for node in [&lab.node1, &lab.node2] {
            lab.manifests.publish_node(node)?;
        }
        if let Some(agent) = options.agents {
            for node in [&lab.node1, &lab.node2] {
                let name = format!("pointsman-lab-{}-{}", lab.id, node.host.name);
                let source = Source::Manifests(lab.manifests.folder().to_owned());
                lab.agents.push(Agent::launch(&node.host, &name, source, agent.clone())?);
            }
            for agent in &mut lab.agents {
                agent.wait_until_ready()?;
            }
        }
        Ok(lab)
    }

    /// What tells it from other labs.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the nodes' segment is: a namespace with the bridge `br0`, to plug more machines in.
    pub fn switch(&self) -> &NsHandle {
        self.switch.handle()
    }

    /// One more machine on the nodes' segment, with the addresses of API servers.
    pub(crate) fn control_plane(&self) -> Result<NetNs> {
        let ns = NetNs::create(&format!("pm{}-control", self.id))?;
        ns.sysctl(node::QUIET_IPV6)?;
        node::plug_in(&self.switch, &ns, "control", 3)?;
        for (v4, v6) in [0, 1].map(plan::api_server) {
            ns.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"))?;
        }
        Ok(ns)
    }

    /// Both nodes.
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.node1, &self.node2]
    }

    /// The agents, node1's first.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// The same, to stop and start them.
    pub fn agents_mut(&mut self) -> &mut [Agent] {
        &mut self.agents
    }

    /// The folder that the agents read.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Writes a Service with its endpoints into the agents' folder, and waits until every agent has taken it up.
    pub fn publish(&self, service: &Service) -> Result<Published> {
        let published = self.manifests.publish(service)?;
        self.agents.iter().try_for_each(|agent| agent.wait_for(service))?;
        Ok(published)
    }

    /// Writes a published Service anew, with other endpoints or ports, and waits until every agent has taken it up.
    pub fn change(&self, published: &Published, to: &Service) -> Result<()> {
        self.manifests.change(published, to)?;
        self.agents.iter().try_for_each(|agent| agent.wait_for(to))
    }

    /// Withdraws a Service and waits until no agent knows it any more.
    pub fn withdraw(&self, published: Published) -> Result<()> {
        let name = published.name().to_owned();
        drop(published);
        self.agents.iter().try_for_each(|agent| agent.wait_until_gone(&name))
    }

    /// Opens one more port of a host, answering who it is, until the lab ends.
    pub fn serve(&mut self, host: &Host, protocol: Protocol, port: u16) -> Result<()> {
        let mut servers = Servers::none(&host.name, &host.ns);
        match protocol {
            Protocol::Tcp => servers.serve_tcp(port)?,
            Protocol::Udp => servers.serve_udp(port)?,
        }
        self.servers.push(servers);
        Ok(())
    }

    /// How many packets the nodes' rules against invalid ones have dropped so far.
    pub fn invalid_packets(&self) -> Result<u64> {
        Ok(self.node1.invalid_packets()? + self.node2.invalid_packets()?)
    }
}

/// Process id and letters: unlike for every lab that this process has made, as one may live through all its tests.
fn next_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut letters = Vec::new();
    loop {
        letters.extend(char::from_digit(number % 26 + 10, 36));
        number /= 26;
        if number == 0 {
            break;
        }
    }
    format!("{}{}", std::process::id(), letters.into_iter().rev().collect::<String>())
}

fn outside_client(id: &str, switch: &NetNs, name: &str, number: u8) -> Result<(NetNs, Host)> {
    let ns = NetNs::create(&format!("pm{id}-{name}"))?;
    ns.sysctl(node::QUIET_IPV6)?;
    let (v4, v6) = plan::underlay(number);
    node::plug_in(switch, &ns, name, number)?;
    // The client knows its way to pods: what is not a frontend must pass the nodes untouched.
    let routes: String = [1, 2].into_iter().map(|n| node::route_to_pods(n, "eth0")).collect();
    ns.ip(&format!(
        "addr add {v4}/24 dev eth0
         addr add {v6}/64 dev eth0 nodad
         {routes}"
    ))?;
    let host = Host { name: name.into(), v4, v6, ns: ns.handle().clone(), cgroup: None };
    Ok((ns, host))
}

/// Tries until it succeeds or `patience` has passed, then gives the last error.
pub fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if std::time::Instant::now() > deadline => {
                return Err(error).with_context(|| format!("not so within {patience:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::next_id;

    #[test]
    fn no_two_labs_of_a_process_have_the_same_name() {
        let ids: BTreeSet<String> = (0..2000).map(|_| next_id()).collect();
        assert_eq!(ids.len(), 2000);
    }
}
