//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in a namespace of their own on the nodes' segment.
//!
//! API servers can be stopped and started one by one: there may be a second one, with the same etcd.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::api::{Api, PROXY_PORT};
use super::certificates::{ADMIN, Secrets};
use super::programs;
use crate::lab::{eventually, plan};
use crate::netns::{NetNs, NsHandle};
use crate::process::Process;
use crate::shell;

/// Where API servers listen.
pub const PORT: u16 = 6443;
/// A control plane starts in four seconds, if it has the machine to itself.
const PATIENCE: Duration = Duration::from_secs(120);
const ETCD: &str = "http://127.0.0.1:2379";
/// The controllers that labs need. Without that of the nodes' life, nodes need no heartbeat to stay.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,deployment-controller,\
                           replicaset-controller,daemonset-controller,namespace-controller,serviceaccount-controller,\
                           root-ca-certificate-publisher-controller,garbage-collector-controller";

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // What needs the API server ends first, etcd last.
    controllers: Vec<Process>,
    servers: [Option<Process>; 2],
    etcd: Process,
    secrets: Secrets,
    admin: PathBuf,
    ns: NetNs,
}

impl ControlPlane {
    /// Starts all of it in `ns`, with its files in `folder`, and waits until it answers.
    pub(super) fn start(ns: NetNs, folder: &Path) -> Result<Self> {
        let mut known: Vec<IpAddr> = [0, 1].into_iter().flat_map(addresses).collect();
        let (v4, v6) = plan::service(1);
        known.extend([IpAddr::from(v4), v6.into(), [127, 0, 0, 1].into()]);
        let secrets = Secrets::create(folder, &known)?;
        let admin = secrets.write_kubeconfig(ADMIN, &url(0))?;

        let mut etcd = command(&ns, "etcd")?;
        etcd.arg("--data-dir").arg(folder.join("etcd")).args(["--unsafe-no-fsync", "--log-level=warn"]);
        etcd.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        etcd.args(["--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
        etcd.arg("--initial-cluster=default=http://127.0.0.1:2380");
        let etcd = Process::start_logging(etcd, &folder.join("etcd.log"))?;

        let mut plane = Self { controllers: Vec::new(), servers: [None, None], etcd, secrets, admin, ns };
        plane.start_server(0)?;
        plane.wait_for_server(0)?;
        plane.startcontrollers(folder)?;
        // Pods need the service account that a controller makes.
        eventually(PATIENCE, || plane.kubectl(["get", "serviceaccount", "default"], "").map(drop))
            .with_context(|| plane.logs())?;
        Ok(plane)
    }

    fn startcontrollers(&mut self, folder: &Path) -> Result<()> {
        for program in ["kube-controller-manager", "kube-scheduler"] {
            let config = self.secrets.write_kubeconfig(program, &url(0))?;
            let mut command = command(&self.ns, program)?;
            command.arg("--kubeconfig").arg(config).args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
            command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
            if program == "kube-controller-manager" {
                command.arg("--service-account-private-key-file").arg(self.secrets.path("accounts.key"));
                command.arg("--root-ca-file").arg(self.secrets.path("ca.crt"));
                command.arg("--use-service-account-credentials").arg(format!("--controllers={CONTROLLERS}"));
            }
            let log = folder.join(format!("{program}.log"));
            self.controllers.push(Process::start_logging(command, &log)?);
        }
        let mut proxy = self.kubectl_command()?;
        proxy.arg("proxy").arg(format!("--port={PROXY_PORT}"));
        self.controllers.push(Process::start_logging(proxy, &folder.join("kubectl-proxy.log"))?);
        Ok(())
    }

    /// Starts an API server, 0 or 1, without waiting for it.
    pub fn start_server(&mut self, number: usize) -> Result<()> {
        self.start_server_with(number, &[])
    }

    /// The same with more flags.
    pub fn start_server_with(&mut self, number: usize, flags: &[&str]) -> Result<()> {
        let secret = |name: &str| self.secrets.path(name).display().to_string();
        let [address, _] = addresses(number);
        let mut command = command(&self.ns, "kube-apiserver")?;
        command.args([
            format!("--etcd-servers={ETCD}"),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={PORT}"),
            "--endpoint-reconciler-type=lease".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".into(),
            format!("--tls-cert-file={}", secret("server.crt")),
            format!("--tls-private-key-file={}", secret("server.key")),
            format!("--client-ca-file={}", secret("ca.crt")),
            format!("--token-auth-file={}", secret("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", secret("accounts.pub")),
            format!("--service-account-signing-key-file={}", secret("accounts.key")),
            "--allow-privileged".into(),
            // Nobody here would take away the taint that it gives to new nodes.
            "--disable-admission-plugins=TaintNodesByCondition".into(),
        ]);
        command.args(flags);
        let log = self.secrets.path(&format!("kube-apiserver-{number}.log"));
        let server = Process::start_logging(command, &log)?;
        if let Some(slot) = self.servers.get_mut(number) {
            *slot = Some(server);
        }
        Ok(())
    }

    /// Waits until an API server calls itself ready.
    pub fn wait_for_server(&self, number: usize) -> Result<()> {
        eventually(PATIENCE, || {
            for process in self.servers.iter().flatten().chain([&self.etcd]) {
                if !process.is_running() {
                    return Ok(None);
                }
            }
            let mut command = self.kubectl_command()?;
            let server = format!("--server={}", url(number));
            let answer = shell::run(command.args([&server, "get", "--raw=/readyz"]))?;
            ensure!(answer == "ok", "the API server is not ready: {answer}");
            Ok(Some(()))
        })?
        .with_context(|| format!("a part of the control plane ended:\n{}", self.logs()))
    }

    /// SIGKILL to an API server, as in a crash.
    pub fn kill_server(&mut self, number: usize) {
        if let Some(server) = self.servers.get_mut(number).and_then(Option::take) {
            server.kill();
        }
    }

    /// SIGTERM to an API server: it closes what it has open. One that still waits for its clients after some seconds is
    /// killed.
    pub fn stop_server(&mut self, number: usize) {
        if let Some(server) = self.servers.get_mut(number).and_then(Option::take) {
            drop(server);
        }
    }

    /// Has etcd forget all that was before now, so that no watch can be taken up from there (`etcdctl compaction`).
    pub fn compact(&self) -> Result<()> {
        let call = |what: &str, body: Value| -> Result<Value> {
            let answer = ureq::post(format!("{ETCD}/v3/kv/{what}")).send(body.to_string());
            let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
            let text = text.with_context(|| format!("asking etcd for a {what}"))?;
            Ok(serde_json::from_str(&text)?)
        };
        self.ns.run(|| {
            // Any key: the answer's header tells the present revision.
            let now = call("range", json!({"key": "AA=="}))?;
            call("compaction", json!({"revision": now["header"]["revision"], "physical": true})).map(drop)
        })?
    }

    /// Runs kubectl as the cluster's administrator.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N], input: &str) -> Result<String> {
        shell::run_with_input(self.kubectl_command()?.args(arguments), input)
    }

    /// kubectl, as the cluster's administrator, within reach of the API servers.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = command(&self.ns, "kubectl")?;
        command.arg("--kubeconfig").arg(&self.admin);
        // Nothing of the user's.
        command.env("KUBECONFIG", "").env("KUBERC", "off").env("HOME", self.secrets.path("home"));
        Ok(command)
    }

    /// The API, for those who work in this namespace.
    pub(super) fn api(&self) -> Api {
        Api::new()
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// Certificates and tokens.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The namespace that all of it is in.
    pub fn ns(&self) -> &NsHandle {
        &self.ns
    }

    /// The last lines of every component's log.
    fn logs(&self) -> String {
        let mut text = String::new();
        let servers = self.servers.iter().flatten().map(|server| ("kube-apiserver", server));
        let controllers = self.controllers.iter().map(|process| ("controllers", process));
        for (name, process) in [("etcd", &self.etcd)].into_iter().chain(servers).chain(controllers) {
            let log = process.log();
            let lines: Vec<_> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
            text.push_str(&format!("the end of {name}'s log:\n{}\n", end.join("\n")));
        }
        text
    }
}

/// One of Kubernetes' programs, to be run in a namespace.
fn command(ns: &NsHandle, part: &str) -> Result<Command> {
    let mut command = ns.command(programs::Program::Kubernetes.find()?);
    command.arg(part);
    Ok(command)
}

/// The addresses of API server 0 or 1 on the nodes' segment.
pub fn addresses(number: usize) -> [IpAddr; 2] {
    let (v4, v6) = plan::api_server(number);
    [v4.into(), v6.into()]
}

/// Where API server 0 or 1 is, by IPv4.
pub fn url(number: usize) -> String {
    let [address, _] = addresses(number);
    format!("https://{}", SocketAddr::new(address, PORT))
}
