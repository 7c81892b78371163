//! `cargo xtask kind`: Pointsman in a cluster of kind (Kubernetes in Docker), from nothing to a Service that works.
//!
//! The smoke test is the cluster's own: CoreDNS becomes ready only once it has reached the API server through the
//! ClusterIP of the Service `kubernetes`, which only Pointsman serves.
//!
//! Absent on purpose: installing Docker or kind, and deleting clusters.

use std::fs;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{image, workspace};

/// Build the image, and run it in place of kube-proxy in a cluster of kind, which is made if it is not there
#[derive(clap::Args)]
pub struct Args {
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "pointsman")]
    name: String,
    /// Kubernetes' version, as an image for kind's nodes, where the cluster is made
    #[arg(long, value_name = "IMAGE")]
    node_image: Option<String>,
    /// Cargo's profile for the agent, as for `cargo xtask image`
    #[arg(long, value_name = "PROFILE", default_value = "image")]
    profile: String,
}

/// The programs that this takes, with how to see that they work and where they come from.
const TOOLS: [(&str, &[&str], &str); 3] = [
    ("docker", &["info"], "https://docs.docker.com/engine/install/"),
    ("kind", &["version"], "https://kind.sigs.k8s.io/docs/user/quick-start/"),
    ("kubectl", &["version", "--client"], "https://kubernetes.io/docs/tasks/tools/"),
];

/// The verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let lacks: Vec<_> = TOOLS.iter().filter_map(|(tool, args, from)| lack(tool, args, from)).collect();
    if !lacks.is_empty() {
        bail!("this takes Docker and kind, and nothing was done: {}", lacks.join("; "));
    }
    let cluster = Cluster { name: args.name.clone() };
    let image = image::make(&image::Reference::default(), None, &args.profile)?;
    cluster.make_sure_it_is_there(args.node_image.as_deref())?;
    cluster.load(&image)?;
    cluster.install(&image)?;
    cluster.smoke_test()?;
    println!("\nPointsman serves the cluster. To look:");
    println!("  kubectl --context {} -n kube-system exec ds/pointsman -- proxy-agent frontends", cluster.context());
    println!("To end it: kind delete cluster --name {}", cluster.name);
    Ok(ExitCode::SUCCESS)
}

/// What keeps a tool from being used.
fn lack(tool: &str, args: &[&str], from: &str) -> Option<String> {
    match Command::new(tool).args(args).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("it fails");
            Some(format!("`{tool} {}`: {}", args.join(" "), error.trim()))
        }
        Err(_) => Some(format!("there is no `{tool}` in PATH ({from})")),
    }
}

struct Cluster {
    name: String,
}

impl Cluster {
    /// Its name in the kubeconfig.
    fn context(&self) -> String {
        format!("kind-{}", self.name)
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["--context", &self.context()]);
        kubectl
    }

    fn make_sure_it_is_there(&self, node_image: Option<&str>) -> Result<()> {
        let clusters = output(Command::new("kind").args(["get", "clusters"]))?;
        if clusters.lines().any(|line| line == self.name) {
            let mut kube_proxy = self.kubectl();
            kube_proxy.args([
                "-n",
                "kube-system",
                "get",
                "daemonset",
                "kube-proxy",
                "--ignore-not-found",
                "-o",
                "name",
            ]);
            if !output(&mut kube_proxy)?.trim().is_empty() {
                bail!(
                    "the cluster {} has kube-proxy, which has the same ports: delete the DaemonSet kube-proxy first, or \
                     name another cluster (nothing was changed in it)",
                    self.name
                );
            }
            return Ok(());
        }
        // It is not waited for its nodes: they are ready only with what needs Services.
        let config = workspace::root().join("deploy/kind/cluster.yaml");
        let mut create = Command::new("kind");
        create.args(["create", "cluster", "--name", &self.name, "--config"]).arg(config);
        if let Some(image) = node_image {
            create.args(["--image", image]);
        }
        step("Making the cluster", &mut create)
    }

    fn load(&self, image: &image::Written) -> Result<()> {
        let mut load = Command::new("kind");
        load.args(["load", "image-archive", "--name", &self.name]).arg(&image.path);
        step("Loading the image", &mut load)?;
        // Systemd mounts it on a machine, but not in a container.
        for node in output(Command::new("kind").args(["get", "nodes", "--name", &self.name]))?.lines() {
            let mount = "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf";
            step(
                &format!("Mounting the BPF filesystem of {node}"),
                Command::new("docker").args(["exec", node, "sh", "-c", mount]),
            )?;
        }
        Ok(())
    }

    fn install(&self, image: &image::Written) -> Result<()> {
        let folder = workspace::root().join("target/kind").join(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let file = folder.join("kustomization.yaml");
        fs::write(&file, self.kustomization(image)).with_context(|| format!("could not write {}", file.display()))?;
        step("Applying deploy/", self.kubectl().arg("apply").arg("-k").arg(&folder))?;
        // The archive may have changed under the same tag.
        step(
            "Restarting the agents",
            self.kubectl().args(["-n", "kube-system", "rollout", "restart", "daemonset/pointsman"]),
        )?;
        step("Waiting for the agents", &mut self.rollout("daemonset/pointsman"))
    }

    /// deploy/ with what is particular to a cluster of kind. It lies at target/kind/NAME.
    fn kustomization(&self, image: &image::Written) -> String {
        // The name is the control plane's in Docker's DNS, and in its certificate.
        format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\n\
             kind: Kustomization\n\
             resources:\n  - ../../../deploy\n\
             images:\n  - name: localhost/pointsman\n    newName: {}\n    newTag: \"{}\"\n\
             configMapGenerator:\n  - name: pointsman\n    namespace: kube-system\n    behavior: merge\n    \
             literals:\n      - API_SERVERS=https://{}-control-plane:6443\n",
            image.name.name(),
            image.name.tag(),
            self.name,
        )
    }

    fn smoke_test(&self) -> Result<()> {
        step(
            "Waiting for CoreDNS, which reaches the API server through a Service",
            &mut self.rollout("deployment/coredns"),
        )?;
        let mut frontends = self.kubectl();
        frontends.args(["-n", "kube-system", "exec", "daemonset/pointsman", "--", "proxy-agent", "frontends"]);
        step("What the agent of one node serves", &mut frontends)
    }

    fn rollout(&self, what: &str) -> Command {
        let mut rollout = self.kubectl();
        rollout.args(["-n", "kube-system", "rollout", "status", what, "--timeout=180s"]);
        rollout
    }
}

/// Runs a step; its output is the user's to see.
fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("\n{what}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{what}: could not be run"))?;
    if !status.success() {
        bail!("{what}: failed, see above");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("could not run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!("{} failed, see above", command.get_program().to_string_lossy());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
