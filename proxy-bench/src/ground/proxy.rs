//! The proxies, as processes on their nodes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxy_testkit::agent::{Agent, AgentOptions, Source};
use proxy_testkit::cluster::programs::Program;
use proxy_testkit::process::Process;

use super::Ground;
use super::subject::Subject;

/// `sh -c` with a folder `/run` of its own, for the lock that iptables puts there.
const ALONE: &str = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";

/// A proxy that can be stopped and started again. Dropping it ends it, and takes away what it has made.
pub enum Proxy {
    /// Us.
    Ours(Agent),
    /// kube-proxy.
    Theirs(KubeProxy),
}

/// kube-proxy on a node. Its rules go with the node's namespace.
pub struct KubeProxy {
    mode: &'static str,
    node: proxy_testkit::Host,
    kubeconfig: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Proxy {
    /// Starts it without waiting. `sizes` are the agent's flags for the sizes of its maps.
    pub fn start(ground: &Ground, subject: Subject, sizes: &[String]) -> Result<Option<Self>> {
        let node = &ground.node(subject)?.host;
        let plane = &ground.cluster.plane;
        if let Some(mode) = subject.mode() {
            let mut proxy = KubeProxy {
                mode,
                node: node.clone(),
                kubeconfig: plane.admin().to_owned(),
                log: ground.cluster.folder().join(format!("{}.log", node.name)),
                process: None,
            };
            proxy.start()?;
            return Ok(Some(Self::Theirs(proxy)));
        }
        let Some(xdp) = subject.xdp() else {
            return Ok(None);
        };
        // Nothing is measured at sockets, and the hooks would have to be kept from the machine's own processes.
        let mut arguments = vec!["--healthz-bind-address=127.0.0.1:10256".to_owned()];
        arguments.extend_from_slice(sizes);
        arguments.push(format!("--xdp={xdp}"));
        let options =
            AgentOptions { arguments, logs: Some(ground.cluster.folder().to_owned()), ..AgentOptions::default() };
        let pins = format!("pointsman-lab-{}-{}", ground.cluster.lab.id(), node.name);
        let agent = Agent::launch(node, &pins, Source::Kubeconfig(plane.admin().to_owned()), options)?;
        Ok(Some(Self::Ours(agent)))
    }

    /// The process's id, while it runs.
    pub fn pid(&self) -> Result<u32> {
        let pid = match self {
            Self::Ours(agent) => agent.pid(),
            Self::Theirs(proxy) => proxy.process.as_ref().filter(|process| process.is_running()).map(Process::id),
        };
        pid.with_context(|| format!("the proxy ended:\n{}", self.end_of_log()))
    }

    /// Ends it. The kernel keeps what it has.
    pub fn stop(&mut self) -> Result<()> {
        match self {
            Self::Ours(agent) => agent.stop(),
            Self::Theirs(proxy) => {
                drop(proxy.process.take());
                Ok(())
            }
        }
    }

    /// Starts it again.
    pub fn start_again(&mut self) -> Result<()> {
        match self {
            Self::Ours(agent) => agent.start(),
            Self::Theirs(proxy) => proxy.start(),
        }
    }

    /// The last that it said.
    pub fn end_of_log(&self) -> String {
        let log = match self {
            Self::Ours(agent) => agent.log(),
            Self::Theirs(proxy) => std::fs::read_to_string(&proxy.log).unwrap_or_default(),
        };
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }
}

impl KubeProxy {
    fn start(&mut self) -> Result<()> {
        let mut command = self.node.command("unshare");
        command.args(["--mount", "sh", "-c", ALONE]).arg(Program::KubeProxy.find()?);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args([
            &format!("--hostname-override={}", self.node.name),
            &format!("--proxy-mode={}", self.mode),
            "--cluster-cidr=10.244.0.0/16",
            // The limits of connection tracking are the machine's, not the node's: they stay as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
            "--nodeport-addresses=primary",
        ]);
        self.process = Some(Process::start_logging(command, &self.log)?);
        Ok(())
    }
}

/// How long a proxy may take until it serves. What takes longer is told as never.
pub const LIMIT: Duration = Duration::from_secs(120);
