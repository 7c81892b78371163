//! One agent on one node of a lab.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Family, Host, eventually};
use crate::manifest::Service;
use crate::netns::NsHandle;
use crate::process::Process;
use crate::shell;
use crate::teardown::{self, Undo};

/// How long an agent may take to start, or to take up a change. Far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How agents are to be run.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// The binary; by default `$POINTSMAN_AGENT`, or the one built beside the running program.
    pub binary: Option<PathBuf>,
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// A folder that gets a copy of its log.
    pub logs: Option<PathBuf>,
}

/// Where an agent learns of Services.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server, as a kubeconfig tells.
    Kubeconfig(PathBuf),
    /// An API server, as a pod is told: by its environment, and by a folder with the service account's token.
    Pod {
        /// The folder.
        account: PathBuf,
        /// The API server.
        server: SocketAddr,
    },
}

/// An agent, stopped and cleaned up after on drop.
#[derive(Debug)]
pub struct Agent {
    node: String,
    ns: NsHandle,
    binary: PathBuf,
    pins: PathBuf,
    /// Where it attaches its socket hooks: never to the machine's own processes.
    cgroup: Option<PathBuf>,
    source: Source,
    arguments: Vec<String>,
    logs: Option<PathBuf>,
    process: Option<Process>,
    /// What agents of this node said that run no more.
    past: String,
    // Declared last: the process ends first.
    _cleanup: Undo,
}

impl Agent {
    /// Starts an agent without waiting for it. `pins` names its folder under bpffs.
    pub fn launch(host: &Host, pins: &str, source: Source, options: AgentOptions) -> Result<Self> {
        let binary = match options.binary {
            Some(binary) => binary,
            None => find_binary()?,
        };
        let bpffs = Path::new("/sys/fs/bpf");
        let kind = nix::sys::statfs::statfs(bpffs).context("cannot look at /sys/fs/bpf")?.filesystem_type();
        ensure!(kind == nix::sys::statfs::BPF_FS_MAGIC, "no bpffs at {}: run `mount -t bpf bpf {0}`", bpffs.display());
        let pins = bpffs.join(pins);
        // Nothing is made yet: the agent will.
        let ((), cleanup) = teardown::step(|| {
            let (ns, binary, pins) = (host.ns.clone(), binary.clone(), pins.clone());
            Ok(((), move || clean_up(&ns, &binary, &pins)))
        })?;
        let mut agent = Self {
            node: host.name.clone(),
            ns: host.ns.clone(),
            binary,
            pins,
            cgroup: host.cgroup.as_ref().map(|group| group.path().to_owned()),
            source,
            arguments: options.arguments,
            logs: options.logs,
            process: None,
            past: String::new(),
            _cleanup: cleanup,
        };
        agent.start()?;
        Ok(agent)
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub fn start(&mut self) -> Result<()> {
        let mut command = match &self.source {
            Source::Manifests(_) | Source::Kubeconfig(_) => self.ns.command(&self.binary),
            Source::Pod { account, server } => self.command_in_pod(account, *server),
        };
        command.arg("run");
        match &self.source {
            Source::Manifests(folder) => drop(command.arg("--manifests").arg(folder)),
            Source::Kubeconfig(file) => drop(command.arg("--kubeconfig").arg(file)),
            Source::Pod { .. } => {}
        }
        command.args(["--node-name", &self.node]).arg("--pin-path").arg(&self.pins);
        match &self.cgroup {
            Some(cgroup) => command.arg("--cgroup").arg(cgroup),
            None => command.args(["--socket-lb", "off"]),
        };
        command.args(&self.arguments).env("NO_COLOR", "1");
        self.process = Some(match &self.logs {
            Some(folder) => Process::start_logging(command, &folder.join(format!("agent-{}.log", self.node)))?,
            None => Process::start(command)?,
        });
        Ok(())
    }

    /// The agent's binary, where its service account is found at the path that is the same in every pod.
    fn command_in_pod(&self, account: &Path, server: SocketAddr) -> Command {
        const SEE_ACCOUNT: &str = "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && \
                                   ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
        let mut command = self.ns.command("unshare");
        command.args(["--mount", "sh", "-c", SEE_ACCOUNT]).arg(account).arg(&self.binary);
        command.env("KUBERNETES_SERVICE_HOST", server.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        command
    }

    /// The process's id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.is_running()).map(Process::id)
    }

    /// Waits until it answers and knows the Services of its folder as far as they were there when it started.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        eventually(PATIENCE, || {
            let process = self.process.as_ref().context("the agent is not running")?;
            if !process.is_running() {
                return Ok(None);
            }
            ensure!(self.is_ready(), "the agent has not logged that it is ready");
            self.look_json("frontends").map(Some)
        })?
        .map(drop)
        .with_context(|| format!("the agent of {} ended:\n{}", self.node, self.log()))
    }

    /// Whether it has got so far since it was last started.
    pub fn is_ready(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.log().contains(" ready: "))
    }

    /// From its next start on it is this binary, and runs with these arguments.
    pub fn become_another(&mut self, binary: PathBuf, arguments: Vec<String>) {
        self.binary = binary;
        self.arguments = arguments;
    }

    /// SIGKILL, as in a crash.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            self.past.push_str(&process.kill());
        }
    }

    /// SIGTERM; the kernel goes on forwarding.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            self.past.push_str(&process.terminate()?);
        }
        Ok(())
    }

    /// `proxy-agent cleanup`.
    pub fn clean_up(&self) -> Result<String> {
        shell::run(&mut cleanup_command(&self.ns, &self.binary, &self.pins))
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The agent's binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its folder under bpffs.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Everything that agents of this node have said.
    pub fn log(&self) -> String {
        let present = self.process.as_ref().map(Process::log).unwrap_or_default();
        format!("{}{present}", self.past)
    }

    /// One of the commands that look into the maps, as text for people.
    pub fn look(&self, what: &str) -> Result<String> {
        shell::run(&mut self.looking(what))
    }

    /// The same as JSON.
    pub fn look_json(&self, what: &str) -> Result<Value> {
        let text = shell::run(self.looking(what).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("`{what} -o json` is not JSON: {text}"))
    }

    fn looking(&self, what: &str) -> Command {
        let mut command = self.ns.command(&self.binary);
        command.arg(what).arg("--pin-path").arg(&self.pins).env("NO_COLOR", "1");
        command
    }

    /// A pinned map as `bpftool -j map dump` prints it.
    pub fn dump_map(&self, map: &str) -> Result<String> {
        shell::run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(self.pin_of(map)?))
    }

    /// Where a map is pinned.
    pub fn pin_of(&self, map: &str) -> Result<PathBuf> {
        let path = self.pins.join("current").join(map);
        ensure!(path.exists(), "no map {map} under {}", self.pins.display());
        Ok(path)
    }

    /// Waits until the maps hold a Service as it is: each port in each family, leading to these endpoints and no others.
    pub fn wait_for(&self, service: &Service) -> Result<()> {
        let service = &service.known_to(&self.node);
        let expected_frontends = if service.is_proxied() { Family::BOTH.len() * service.ports().count() } else { 0 };
        let expected_backends = if service.is_proxied() { service.backend_addresses() } else { BTreeSet::new() };
        eventually(PATIENCE, || {
            let backends = self.entries("backends", &service.name)?;
            let addresses = backends.iter().filter_map(|entry| entry["address"].as_str()?.parse().ok()).collect();
            ensure!(expected_backends == addresses, "{} has backends {addresses:?} of {}", self.node, service.name);
            let frontends = self.entries("frontends", &service.name)?;
            let is_ready = |entry: &&Value| {
                entry["kind"] == "ClusterIP"
                    && entry["backends"].as_u64() == u64::try_from(service.backend_count()).ok()
            };
            let found = frontends.iter().filter(is_ready).count();
            ensure!(found == expected_frontends, "{} has frontends {frontends:?} of {}", self.node, service.name);
            Ok(())
        })
    }

    /// Waits until the maps hold nothing of a Service.
    pub fn wait_until_gone(&self, name: &str) -> Result<()> {
        eventually(PATIENCE, || {
            let frontends = self.entries("frontends", name)?;
            ensure!(frontends.is_empty(), "{} still has {} frontends of {name}", self.node, frontends.len());
            Ok(())
        })
    }

    /// What a command lists of a Service in the namespace `default`.
    fn entries(&self, what: &str, name: &str) -> Result<Vec<Value>> {
        let text = shell::run(self.looking(what).args(["-o", "json"]).arg(format!("default/{name}")))?;
        serde_json::from_str(&text).with_context(|| format!("`{what} -o json` is not a list in JSON: {text}"))
    }
}

fn cleanup_command(ns: &NsHandle, binary: &Path, pins: &Path) -> Command {
    let mut command = ns.command(binary);
    command.arg("cleanup").arg("--pin-path").arg(pins);
    command
}

fn clean_up(ns: &NsHandle, binary: &Path, pins: &Path) {
    if !pins.exists() {
        return;
    }
    if let Err(error) = shell::run(&mut cleanup_command(ns, binary, pins)) {
        eprintln!("{error:#}");
    }
    // The lab leaves nothing even where the agent did.
    let _ = std::fs::remove_dir_all(pins);
}

/// `$POINTSMAN_AGENT`, or the agent in the target folder that the running program was built into.
///
/// # Errors
/// When there is none.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POINTSMAN_AGENT") {
        return Ok(path.into());
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let built =
        program.ancestors().skip(1).take(2).map(|folder| folder.join("proxy-agent")).find(|path| path.is_file());
    match built {
        Some(path) => Ok(path),
        None => bail!(
            "no agent beside {}: run `cargo build -p proxy-agent`, or name it in POINTSMAN_AGENT",
            program.display()
        ),
    }
}
