//! The ground that whole proxies are measured on: a real control plane, and a node of its own for each subject, so that all
//! of them stand at once and are measured by turns.
//!
//! ```text
//!   control plane   client    backends a, b     direct  tc  xdp  kube-proxy-…   each with pods a (a client), b (a server)
//!        └─────────────┴──────────┴────── switch ──┴─────┴───┴──────┘
//! ```
//!
//! Nodes are alike but for their proxy: routed pods, plain routes between nodes, a CNI's masquerade rule and a rule about
//! invalid packets, as on real nodes, so that netfilter's connection tracking sees everything on each of them.
//! Everything is in network namespaces and goes with [`Ground`].

pub mod agent_metrics;
pub mod node;
pub mod objects;
pub mod proxy;
pub mod servers;
pub mod subject;
pub mod usage;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proxy_testkit::Host;
use proxy_testkit::client;
use proxy_testkit::cluster::{Api, Cluster};
use proxy_testkit::lab::{Options, Overlay};
use serde_json::Value;

use node::Place;
use subject::Subject;

/// How many requests to the API server are under way at once.
const WORKERS: usize = 6;

/// The ground. Nodes go before the cluster that they are plugged into.
pub struct Ground {
    /// The subjects' nodes.
    pub nodes: Vec<Place>,
    /// A node without a proxy, whose pods are the endpoints on another node: a, b.
    pub backend: Place,
    /// The control plane and the client outside.
    pub cluster: Cluster,
}

impl Ground {
    /// Sets it up, without any proxy yet.
    pub fn new(subjects: &[Subject]) -> Result<Self> {
        let options = Options {
            overlay: Overlay::Routes,
            agents: None,
            masquerade: false,
            drop_invalid: false,
            ..Options::default()
        };
        let cluster = Cluster::start_in(options)?;
        let backend = Place::new(&cluster, "backend", 0)?;
        let mut nodes = Vec::new();
        for (number, subject) in (1..).zip(subjects) {
            nodes.push(Place::new(&cluster, subject.name(), number)?);
        }
        let ground = Self { nodes, backend, cluster };
        for node in ground.nodes.iter().chain([&ground.backend]) {
            ground.places().try_for_each(|other| node.know(other))?;
            ground.cluster.plane.kubectl(["create", "-f", "-"], &objects::node(node))?;
        }
        ground.places().try_for_each(|place| place.be_known_to(&ground.cluster.lab.client))?;
        ground.cluster.plane.kubectl(["create", "namespace", objects::NAMESPACE], "")?;
        Ok(ground)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.nodes.iter().chain([&self.backend])
    }

    /// The node of a subject.
    pub fn node(&self, subject: Subject) -> Result<&Place> {
        let node = self.nodes.iter().find(|node| node.host.name == subject.name());
        node.with_context(|| format!("there is no node {}", subject.name()))
    }

    /// The client outside.
    pub fn client(&self) -> &Host {
        &self.cluster.lab.client
    }

    /// Works with the API server.
    pub fn with_api<T: Send>(&self, work: impl FnOnce(&Api) -> Result<T> + Send) -> Result<T> {
        self.cluster.with_api(work)
    }

    /// Does something for each of these numbers, some at once.
    pub fn for_each(
        &self,
        numbers: std::ops::Range<usize>,
        work: impl Fn(&Api, usize) -> Result<()> + Sync,
    ) -> Result<()> {
        let work = &work;
        thread::scope(|scope| {
            let run = |worker: usize| {
                let numbers = numbers.clone().skip(worker).step_by(WORKERS);
                scope.spawn(move || self.with_api(|api| numbers.into_iter().try_for_each(|number| work(api, number))))
            };
            let running: Vec<_> = (0..WORKERS).map(run).collect();
            running
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Creates Services, each with its slice of so many endpoints that nobody asks.
    pub fn load(&self, numbers: std::ops::Range<usize>, endpoints: usize) -> Result<()> {
        self.for_each(numbers, |api, number| {
            api.create(&objects::services(), &objects::ballast(number))?;
            api.create(&objects::slices(), &objects::ballast_slice(number, endpoints)).map(drop)
        })
    }

    /// Creates a Service that is asked, with its slice of these endpoints. Answers its address.
    pub fn serve(&self, name: &str, node_port: Option<u16>, endpoints: &[&Host]) -> Result<Ipv4Addr> {
        let (service, slice) = (objects::served(name, node_port), objects::slice(name, endpoints));
        let created: Value = self.with_api(|api| {
            let created = api.create(&objects::services(), &service)?;
            api.create(&objects::slices(), &slice)?;
            Ok(created)
        })?;
        let address = created["spec"]["clusterIP"].as_str().context("the API server gave no ClusterIP")?;
        address.parse().with_context(|| format!("{address} is no address"))
    }
}

/// Asks again and again from inside a host until somebody answers. How long that took; `None` if it was too long.
pub fn until_answered(from: &Host, to: SocketAddr, name: Option<&str>, limit: Duration) -> Result<Option<Duration>> {
    let began = Instant::now();
    let asked = from.inside(|| {
        while began.elapsed() < limit {
            if let Ok(answer) = ask_soon(to)
                && name.is_none_or(|name| name == answer)
            {
                return Ok(Some(began.elapsed()));
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(None)
    });
    asked.context("asking")
}

/// Asks by one datagram from a new socket, and waits no longer than an answer takes in a lab.
pub fn ask_soon(to: SocketAddr) -> std::io::Result<String> {
    let socket = client::connect_udp(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    client::ask_again(&socket).map(|answer| answer.pod)
}
