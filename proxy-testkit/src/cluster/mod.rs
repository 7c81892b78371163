//! A cluster: the lab's two nodes under a real control plane.
//!
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real ones, so that EndpointSlices come from
//! the real controller. Nodes and Pods are network namespaces; what kubelets would do is done by one thread. On each node
//! runs an agent with the rights of `deploy/` and no others.

mod api;
mod certificates;
mod control_plane;
mod kubelets;
pub mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
pub use api::Api;
pub use certificates::Secrets;
pub use control_plane::{ControlPlane, PORT, addresses, url};
use kubelets::Kubelets;

use crate::agent::{Agent, AgentOptions, Source};
use crate::lab::{self, Lab, Node, eventually};
use crate::teardown::{self, Undo};

/// Who the agents are, and what they may do: the manifest that users apply.
const RBAC: &str = include_str!("../../../deploy/base/rbac.yaml");
/// The agents' service account, and its namespace.
const ACCOUNT: [&str; 2] = ["kube-system", "pointsman"];

/// A running cluster. Dropping it removes everything.
#[derive(Debug)]
pub struct Cluster {
    /// node1's first. Declared in the order in which all is taken away.
    agents: Vec<Agent>,
    _kubelets: Kubelets,
    /// The control plane.
    pub plane: ControlPlane,
    /// The nodes, their own pods, and the client outside.
    pub lab: Lab,
    folder: PathBuf,
    _folder: Undo,
}

impl Cluster {
    /// The cluster, with an agent on each node, or none.
    pub fn start(agents: Option<AgentOptions>) -> Result<Self> {
        Self::start_in(lab::Options { agents, ..lab::Options::default() })
    }

    /// The same in a lab of one's own choice.
    pub fn start_in(options: lab::Options) -> Result<Self> {
        let agents = options.agents.clone();
        let lab = Lab::new(lab::Options { agents: None, ..options })?;
        let folder = std::env::temp_dir().join(format!("pointsman-lab-{}", lab.id()));
        let ((), undo) = teardown::step(|| {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let folder = folder.clone();
            Ok(((), move || drop(fs::remove_dir_all(folder))))
        })?;
        let plane = ControlPlane::start(lab.control_plane()?, &folder)?;
        plane.kubectl(["apply", "-f", "-"], RBAC)?;
        for node in lab.nodes() {
            plane.kubectl(["create", "-f", "-"], &node_object(node))?;
        }
        let kubelets = Kubelets::start(&plane, lab.nodes())?;
        let mut cluster = Self { agents: Vec::new(), _kubelets: kubelets, plane, lab, folder, _folder: undo };
        if let Some(options) = agents {
            for number in 0..2 {
                let source = Source::Kubeconfig(cluster.agent_kubeconfig(number)?);
                let options = AgentOptions { logs: Some(cluster.folder.clone()), ..options.clone() };
                let agent = cluster.agent(number, "", source, options)?;
                cluster.agents.push(agent);
            }
            for agent in &mut cluster.agents {
                agent.wait_until_ready()?;
            }
        }
        Ok(cluster)
    }

    /// Starts an agent on node 0 or 1, without waiting for it. `name` sets its pins apart from those of others there.
    pub fn agent(&self, node: usize, name: &str, source: Source, options: AgentOptions) -> Result<Agent> {
        let node = self.node(node)?;
        let pins = format!("pointsman-lab-{}-{}{name}", self.lab.id(), node.host.name);
        Agent::launch(&node.host, &pins, source, options)
    }

    /// A kubeconfig with a token of the agents' service account, for node 0 or 1.
    pub fn agent_kubeconfig(&self, node: usize) -> Result<PathBuf> {
        let name = format!("agent-{}", self.node(node)?.host.name);
        let token = format!("{name}.token");
        self.plane.secrets().write(&token, &self.agent_token()?)?;
        self.plane.secrets().write_kubeconfig(&name, &url(0))
    }

    /// A token of the agents' service account.
    pub fn agent_token(&self) -> Result<String> {
        let [namespace, account] = ACCOUNT;
        let token = self.plane.kubectl(["create", "token", "--duration=24h", "-n", namespace, account], "")?;
        Ok(token.trim().to_owned())
    }

    /// A folder as a pod with the agents' service account finds it.
    pub fn service_account_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.join("serviceaccount");
        fs::create_dir_all(&folder)?;
        fs::copy(self.plane.secrets().path("ca.crt"), folder.join("ca.crt"))?;
        fs::write(folder.join("token"), self.agent_token()?)?;
        fs::write(folder.join("namespace"), "kube-system")?;
        Ok(folder)
    }

    fn node(&self, number: usize) -> Result<&Node> {
        let [one, two] = self.lab.nodes();
        ensure!(number < 2, "there is no node {number}");
        Ok(if number == 0 { one } else { two })
    }

    /// The agents, node1's first.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// The same, to stop and start them.
    pub fn agents_mut(&mut self) -> &mut [Agent] {
        &mut self.agents
    }

    /// The folder with logs, secrets and kubeconfigs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs kubectl with the words of a line.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        let mut command = self.plane.kubectl_command()?;
        crate::shell::run(command.args(line.split_whitespace()))
    }

    /// `kubectl apply` of a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.plane.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest).map(drop)
    }

    /// Works with the API, on a thread where it is within reach.
    pub fn with_api<T: Send>(&self, work: impl FnOnce(&Api) -> Result<T> + Send) -> Result<T> {
        self.plane.ns().run(|| work(&self.plane.api()))?
    }

    /// Waits until every agent lists a frontend, `NAMESPACE/NAME` of the Service and its address with the port, with so
    /// many backends.
    pub fn wait_for(&self, service: &str, at: &str, backends: u64) -> Result<()> {
        self.agents.iter().try_for_each(|agent| wait_for(agent, service, at, backends))
    }

    /// Waits until no agent lists anything of a Service.
    pub fn wait_until_gone(&self, name: &str) -> Result<()> {
        self.agents.iter().try_for_each(|agent| agent.wait_until_gone(name))
    }
}

/// How long news may take from the API server to an agent. Right after an outage each client of the API server waits, up to
/// 45 seconds, before it asks again: the controllers, what plays kubelet, and the agent, one after the other.
const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until an agent lists a frontend with so many backends.
pub fn wait_for(agent: &Agent, service: &str, at: &str, backends: u64) -> Result<()> {
    eventually(PATIENCE, || {
        let frontends = agent.look_json("frontends")?;
        let mut found = frontends.as_array().into_iter().flatten().filter(|entry| {
            entry["service"].as_str().is_some_and(|name| name.starts_with(service)) && entry["address"] == at
        });
        let entry = found.next().with_context(|| format!("{} has no frontend {at} of {service}", agent.node()))?;
        ensure!(entry["backends"] == backends, "{} has {entry} of {service}, not {backends}", agent.node());
        Ok(())
    })
}

fn node_object(node: &Node) -> String {
    let (host, [range_v4, range_v6]) = (&node.host, node.pod_ranges());
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": host.name,
            "labels": {"kubernetes.io/hostname": host.name, "topology.kubernetes.io/zone": format!("zone{}", node.number())},
        },
        "spec": {"podCIDR": range_v4, "podCIDRs": [range_v4, range_v6]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": host.name},
                {"type": "InternalIP", "address": host.v4},
                {"type": "InternalIP", "address": host.v6},
            ],
            "capacity": {"cpu": "32", "memory": "64Gi", "pods": "200"},
            "allocatable": {"cpu": "32", "memory": "64Gi", "pods": "200"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "a network namespace"}],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": programs::version(),
                "kubeProxyVersion": "", "kernelVersion": "", "osImage": "a network namespace", "machineID": "",
                "systemUUID": "", "bootID": "", "containerRuntimeVersion": "",
            },
        },
    })
    .to_string()
}
