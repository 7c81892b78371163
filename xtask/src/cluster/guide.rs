//! What to do with a cluster that stands, as text; and kubectl as one command.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use proxy_testkit::cluster::Cluster;
use proxy_testkit::cluster::programs::Program;

/// Writes both into the folder, the guide last and at once: it says that all stands.
pub fn write(cluster: &Cluster, folder: &Path) -> Result<()> {
    let kubectl = folder.join("kubectl");
    let text = format!(
        "#!/bin/sh\nexport KUBECONFIG={}\nexec nsenter --net={} {} kubectl \"$@\"\n",
        cluster.plane.admin().display(),
        cluster.plane.ns().path().display(),
        Program::Kubernetes.find()?.display(),
    );
    fs::write(&kubectl, text).with_context(|| format!("could not write {}", kubectl.display()))?;
    fs::set_permissions(&kubectl, Permissions::from_mode(0o755))?;
    let draft = folder.join("guide.draft");
    fs::write(&draft, guide(cluster, &kubectl)?)?;
    fs::rename(&draft, folder.join("guide"))?;
    Ok(())
}

fn guide(cluster: &Cluster, kubectl: &Path) -> Result<String> {
    let enter = |host: &proxy_testkit::Host| format!("nsenter --net={}", host.ns.path().display());
    let lab = &cluster.lab;
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}");
    say("As root. kubectl, as the cluster's administrator:")?;
    say(&format!("  alias kubectl={}", kubectl.display()))?;
    say(
        "\nA Deployment and a Service. Whatever its image, a pod is a namespace with servers in it: who is there at TCP and",
    )?;
    say("UDP port 9000, the same by HTTP at 8080, an echo at TCP port 7.")?;
    say("  kubectl create deployment web --image=any --replicas=3")?;
    say("  kubectl expose deployment web --port=80 --target-port=8080")?;
    say("  kubectl get pods,services,endpointslices -o wide")?;
    say("\nAsk it from a pod of node1, and from outside (with a NodePort):")?;
    say(&format!("  {} curl -s http://CLUSTER-IP/", enter(&lab.node1.a)))?;
    say(&format!("  {} curl -s http://{}:NODE-PORT/", enter(&lab.client), lab.node1.host.v4))?;
    say("\nWhat each node's agent has in the kernel (also: backends, flows, counters):")?;
    for agent in cluster.agents() {
        let agent_path = agent.binary().display();
        say(&format!("  {agent_path} frontends --pin-path {}   # {}", agent.pins().display(), agent.node()))?;
    }
    say(&format!("\nLogs of the agents, of the API server and of the rest: {}/*.log", cluster.folder().display()))?;
    say("To end it: cargo xtask cluster down")?;
    Ok(text)
}
