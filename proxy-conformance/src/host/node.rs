//! One node of the network in memory: an agent's rules, maps, and the packet core.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use proxy_agent::devices::{Link, Network, PodDevices};
use proxy_agent::event::Event;
use proxy_agent::kernel::Sizes;
use proxy_agent::model::{ModelOptions, NodeView, desired};
use proxy_agent::object::Kind;
use proxy_agent::plan::{Capacities, PlanFamily, Realized, plan};
use proxy_agent::store::Store;
use proxy_common::addr::{Address, Ipv4, Ipv6};
use proxy_common::datapath::{Origin, Verdict};
use proxy_common::maps::{DetectLocal, Device, DeviceRole, RangeKey};
use proxy_testkit::lab;
use proxy_testkit::packets::{Hook, HostEnv, HostPacket, Tables, World};

use super::socket::{self, Led};
use crate::places;
use crate::scenario::Objects;

/// How often a plan is made anew until there is nothing to do.
const ROUNDS: usize = 4;

/// A node.
pub(super) struct Node {
    /// 1 or 2.
    pub number: u8,
    options: ModelOptions,
    pods: PodDevices,
    realized: Realized,
    env: HostEnv,
}

impl Node {
    pub(super) fn new(number: u8, options: ModelOptions, pods: PodDevices) -> Self {
        let mut env = HostEnv::with_sets(&world(&Realized::default()), FLOW_SETS);
        // The clock of a machine that has been up for a while.
        env.now = 100_000;
        Self { number, options, pods, realized: Realized::default(), env }
    }

    /// Brings the maps to what the objects say, as the agent does.
    pub(super) fn apply(&mut self, objects: &Objects) -> Result<()> {
        let capacities = capacities();
        let store = store(objects);
        let Some((desired, _)) = desired(&store, &view(self.number), &self.options) else { return Ok(()) };
        for _ in 0..ROUNDS {
            let plan = plan(&desired, &self.realized, &capacities);
            if plan.ops.is_empty() {
                ensure!(plan.full.is_empty(), "the maps are too small for the scenario: {:?}", plan.full);
                self.env.set_world(&world(&self.realized));
                return Ok(());
            }
            for op in &plan.ops {
                self.realized.apply(op);
            }
        }
        anyhow::bail!("the plan does not come to an end")
    }

    /// Lets seconds pass.
    pub(super) fn wait(&mut self, seconds: u32) {
        self.env.now += seconds;
    }

    /// Runs a packet through a hook of a device.
    pub(super) fn run(&mut self, hook: Hook, role: DeviceRole, packet: &mut HostPacket) -> Verdict {
        let (v4, v6) = lab::plan::node(self.number);
        self.env.set_device_entry(Device {
            masquerade_v4: Ipv4::new(v4.octets()),
            masquerade_v6: Ipv6::new(v6.octets()),
            role: role as u8,
            detect: self.detect(role) as u8,
            ..Device::default()
        });
        self.env.run(hook, packet)
    }

    /// A process of the node connects a socket.
    pub(super) fn connect(&mut self, to: SocketAddr, protocol: u8) -> Led {
        self.env.set_origin(Origin::Node);
        socket::lead(&mut self.env, to, protocol)
    }

    /// What a device tells of clients: it is named, and a port of a bridge or not, as in the lab.
    fn detect(&self, role: DeviceRole) -> DetectLocal {
        const BRIDGE: u32 = 9;
        let (name, master) = match (role, self.number) {
            (DeviceRole::Uplink, _) => ("eth0", None),
            (DeviceRole::Pod, 1) => ("veth10", Some(BRIDGE)),
            (DeviceRole::Pod, _) => ("cali10", None),
        };
        let bridge = Link { name: "cni0".to_owned(), ..Link::default() };
        let network = Network { links: [(BRIDGE, bridge)].into(), ..Network::default() };
        self.pods.detect(&Link { name: name.to_owned(), master, ..Link::default() }, role, &network)
    }
}

/// The store of an agent that has read these objects.
pub fn store(objects: &Objects) -> Store {
    let mut store = Store::default();
    let read = objects.read();
    for kind in Kind::ALL {
        let of_kind = read.iter().map(|object| object.reference()).filter(|object| object.kind() == kind);
        let listed = Event::Listed { kind, objects: of_kind.collect() };
        for object in read.iter().filter(|object| object.reference().kind() == kind) {
            store.apply(Event::Apply(Box::new(object.clone())));
        }
        store.apply(listed);
    }
    store
}

/// What the agent of a node knows of it.
pub fn view(node: u8) -> NodeView {
    NodeView {
        name: format!("node{node}"),
        addresses: places::uplink_addresses(node).collect::<BTreeSet<_>>(),
        own: places::own_addresses(node).collect(),
        routes: BTreeSet::new(),
    }
}

/// Sets of the tables of flows: room for the flows of a scenario, which are not closed.
const FLOW_SETS: u32 = 1_024;

/// Sizes of the maps that are plenty for a scenario.
pub fn sizes() -> Sizes {
    Sizes {
        max_frontends: 1_000,
        max_slots: 2_000,
        max_backends: 1_000,
        max_services: 500,
        initial_flows: 65_536,
        max_flows: 65_536,
        max_devices: 100,
        max_ranges: 500,
        max_affinities: 1_000,
        max_datagrams: 1_000,
    }
}

/// The same, as a plan needs them.
pub fn capacities() -> Capacities {
    sizes().into()
}

/// The maps' entries, as the packet core's surroundings take them.
fn world(realized: &Realized) -> World {
    World { v4: tables::<Ipv4>(realized), v6: tables::<Ipv6>(realized) }
}

fn tables<A: PlanFamily + Address>(realized: &Realized) -> Tables<A> {
    let (sizes, tables) = (sizes(), A::tables(realized));
    // Those of Service ports, and the owners that are none: they are numbered from the other end.
    let owners = (0..sizes.max_services).chain(RangeKey::<A>::NODE - 15..=RangeKey::<A>::NODE);
    Tables {
        frontends: tables.frontends().map(|(key, frontend)| (*key, *frontend)).collect(),
        slots: tables.slots(0..sizes.max_slots).to_vec(),
        backends: (0..sizes.max_backends).map(|id| tables.backend(id)).collect(),
        ranges: owners.flat_map(|owner| tables.ranges_of(owner).copied()).collect(),
        service_nets: tables.service_nets().to_vec(),
        affinities: Vec::new(),
    }
}
