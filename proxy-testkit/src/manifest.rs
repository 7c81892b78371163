//! The objects that agents are fed: a folder of YAML files, each written at once by rename.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::lab::{Family, Host, Node, Protocol, plan};
use crate::teardown::{self, Undo};

/// A folder of manifests, removed on drop.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    _undo: Undo,
}

impl Manifests {
    /// Makes the folder `name` in the temporary folder.
    pub fn create(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(name);
        let ((), undo) = teardown::step(|| {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let folder = folder.clone();
            Ok(((), move || drop(fs::remove_dir_all(folder))))
        })?;
        Ok(Self { folder, _undo: undo })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes one file at once: a watcher never reads half of it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        let draft = self.folder.join(format!(".{file}.draft"));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes one file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Writes a Service and its EndpointSlices.
    pub fn publish(&self, service: &Service) -> Result<Published> {
        let file = format!("{}.yaml", service.name);
        self.write(&file, &service.to_yaml())?;
        Ok(Published { path: self.folder.join(file), name: service.name.clone() })
    }

    /// Writes a published Service anew.
    pub fn change(&self, published: &Published, to: &Service) -> Result<()> {
        ensure!(published.name == to.name, "{} cannot become {}", published.name, to.name);
        self.write(&format!("{}.yaml", to.name), &to.to_yaml())
    }

    /// Writes a Node object.
    pub(crate) fn publish_node(&self, node: &Node) -> Result<()> {
        let (host, [range_v4, range_v6]) = (&node.host, node.pod_ranges());
        let text = format!(
            "apiVersion: v1
kind: Node
metadata:
  name: {name}
spec:
  podCIDR: {range_v4}
  podCIDRs: [{range_v4}, \"{range_v6}\"]
status:
  addresses:
  - {{type: Hostname, address: {name}}}
  - {{type: InternalIP, address: {v4}}}
  - {{type: InternalIP, address: \"{v6}\"}}
",
            name = host.name,
            v4 = host.v4,
            v6 = host.v6,
        );
        self.write(&format!("{}.yaml", host.name), &text)
    }
}

/// A Service that is in the folder; dropping this withdraws it.
#[derive(Debug)]
#[must_use = "the Service is withdrawn as soon as this is dropped"]
pub struct Published {
    path: PathBuf,
    name: String,
}

impl Published {
    /// The Service's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // Gone already where the test removed it or the whole folder went first.
        let _ = fs::remove_file(&self.path);
    }
}

/// What kind of Service it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    Cluster,
    LoadBalancer,
    Headless,
    ExternalName(String),
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    name: String,
    protocol: Protocol,
    port: u16,
    target: u16,
    node_port: Option<u16>,
}

/// A Service in both families and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name, in the namespace `default`.
    pub name: String,
    number: u8,
    kind: Type,
    ports: Vec<Port>,
    backends: Vec<Host>,
    /// Endpoints that are not ready, each with its conditions.
    others: Vec<(Host, &'static str)>,
    is_internal_local: bool,
    /// Further lines of the Service's `spec`.
    spec: String,
    /// The Service's `status`.
    status: String,
}

impl Service {
    /// A ClusterIP Service at `10.96.0.<number>` and `fd00:10:96::<number>`, without ports and endpoints yet.
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.into(),
            number,
            kind: Type::Cluster,
            ports: Vec::new(),
            backends: Vec::new(),
            others: Vec::new(),
            is_internal_local: false,
            spec: String::new(),
            status: String::new(),
        }
    }

    /// The same without an address.
    pub fn headless(mut self) -> Self {
        self.kind = Type::Headless;
        self
    }

    /// The same as a mere alias of a DNS name, with the ClusterIP a former life left behind.
    pub fn external_name(mut self, name: &str) -> Self {
        self.kind = Type::ExternalName(name.into());
        self
    }

    /// Adds a port that leads to another port of the endpoints.
    pub fn port(mut self, protocol: Protocol, port: u16, target: u16) -> Self {
        let name = format!("{}-{port}", lower(protocol));
        self.ports.push(Port { name, protocol, port, target, node_port: None });
        self
    }

    /// Opens the port added last on every node, too.
    pub fn node_port(mut self, node_port: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(node_port);
        }
        self
    }

    /// Only endpoints on the node that a client from outside asks serve it.
    pub fn external_local(mut self) -> Self {
        self.spec.push_str("  externalTrafficPolicy: Local\n");
        self
    }

    /// With session affinity ClientIP, for so many seconds.
    pub fn affinity(mut self, seconds: u32) -> Self {
        let _ = write!(
            self.spec,
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}\n"
        );
        self
    }

    /// Only endpoints on the client's own node serve its ClusterIP.
    pub fn internal_local(mut self) -> Self {
        self.is_internal_local = true;
        self.spec.push_str("  internalTrafficPolicy: Local\n");
        self
    }

    /// Gives it addresses of a load balancer, open to some sources alone.
    pub fn load_balancer(mut self, addresses: [IpAddr; 2], sources: &[String]) -> Self {
        let [one, two] = addresses;
        let _ = writeln!(self.spec, "  loadBalancerSourceRanges: {sources:?}");
        self.status = format!("status:\n  loadBalancer:\n    ingress: [{{ip: \"{one}\"}}, {{ip: \"{two}\"}}]\n");
        self.kind = Type::LoadBalancer;
        self
    }

    /// Sets the endpoints that are ready.
    pub fn backends<'a>(mut self, pods: impl IntoIterator<Item = &'a Host>) -> Self {
        self.backends = pods.into_iter().cloned().collect();
        self
    }

    /// Adds endpoints that are terminating, and serve as long as they can.
    pub fn terminating<'a>(mut self, pods: impl IntoIterator<Item = &'a Host>) -> Self {
        let conditions = "ready: false, serving: true, terminating: true";
        self.others.extend(pods.into_iter().map(|pod| (pod.clone(), conditions)));
        self
    }

    /// Adds endpoints that are not ready yet.
    pub fn unready<'a>(mut self, pods: impl IntoIterator<Item = &'a Host>) -> Self {
        let conditions = "ready: false, serving: false, terminating: false";
        self.others.extend(pods.into_iter().map(|pod| (pod.clone(), conditions)));
        self
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        let (v4, v6) = plan::service(self.number);
        match family {
            Family::V4 => v4.into(),
            Family::V6 => v6.into(),
        }
    }

    /// Its address with a port.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// The Service as the node of this name has to know it: without the endpoints that nobody there may reach.
    pub(crate) fn known_to(&self, node: &str) -> Self {
        let mut known = self.clone();
        known.backends.retain(|pod| !self.is_internal_local || node_of(pod) == node);
        known
    }

    /// How many endpoints it has in each family.
    pub fn backend_count(&self) -> usize {
        self.backends.len()
    }

    /// The endpoints' addresses with their ports.
    pub fn backend_addresses(&self) -> BTreeSet<SocketAddr> {
        let of = |pod: &Host| {
            let pod = pod.clone();
            self.ports.iter().flat_map(move |port| Family::BOTH.map(|family| pod.at(family, port.target)))
        };
        self.backends.iter().flat_map(of).collect()
    }

    /// Whether a proxy has to serve it.
    pub fn is_proxied(&self) -> bool {
        matches!(self.kind, Type::Cluster | Type::LoadBalancer)
    }

    /// Its ports' protocols and numbers.
    pub fn ports(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.ports.iter().map(|port| (port.protocol, port.port))
    }

    /// The Service and a slice for each family, as documents of one file.
    pub fn to_yaml(&self) -> String {
        let mut text = self.service_yaml();
        for family in Family::BOTH {
            text.push_str("---\n");
            text.push_str(&self.slice_yaml(family));
        }
        text
    }

    fn service_yaml(&self) -> String {
        let (v4, v6) = plan::service(self.number);
        let mut text =
            format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: default\nspec:\n", self.name);
        match &self.kind {
            Type::Cluster => {
                let node_ports = self.ports.iter().any(|port| port.node_port.is_some());
                let kind = if node_ports { "NodePort" } else { "ClusterIP" };
                let _ = write!(text, "  type: {kind}\n  clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]\n");
            }
            Type::LoadBalancer => {
                let _ = write!(text, "  type: LoadBalancer\n  clusterIP: {v4}\n  clusterIPs: [{v4}, \"{v6}\"]\n");
            }
            Type::Headless => text.push_str("  type: ClusterIP\n  clusterIP: None\n  clusterIPs: [None]\n"),
            Type::ExternalName(name) => {
                let _ = write!(text, "  type: ExternalName\n  externalName: {name}\n  clusterIP: {v4}\n");
            }
        }
        text.push_str("  ipFamilyPolicy: PreferDualStack\n  ipFamilies: [IPv4, IPv6]\n  ports:\n");
        for port in &self.ports {
            let _ = write!(
                text,
                "  - {{name: {}, protocol: {}, port: {}, targetPort: {}",
                port.name,
                upper(port.protocol),
                port.port,
                port.target
            );
            if let Some(node_port) = port.node_port {
                let _ = write!(text, ", nodePort: {node_port}");
            }
            text.push_str("}\n");
        }
        text.push_str(&self.spec);
        text.push_str(&self.status);
        text
    }

    fn slice_yaml(&self, family: Family) -> String {
        let (name, suffix, address_type) = match family {
            Family::V4 => (&self.name, "v4", "IPv4"),
            Family::V6 => (&self.name, "v6", "IPv6"),
        };
        let mut text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{suffix}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: {address_type}\n"
        );
        text.push_str(if self.ports.is_empty() { "ports: []\n" } else { "ports:\n" });
        for port in &self.ports {
            let protocol = upper(port.protocol);
            let _ = writeln!(text, "- {{name: {}, protocol: {protocol}, port: {}}}", port.name, port.target);
        }
        let ready = self.backends.iter().map(|pod| (pod, "ready: true"));
        let endpoints: Vec<_> = ready.chain(self.others.iter().map(|(pod, conditions)| (pod, *conditions))).collect();
        text.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for (pod, conditions) in endpoints {
            let node = node_of(pod);
            let _ = write!(
                text,
                "- addresses: [\"{}\"]\n  conditions: {{{conditions}}}\n  nodeName: {node}\n  targetRef: {{kind: Pod, \
                 namespace: default, name: {}}}\n",
                pod.ip(family),
                pod.name
            );
        }
        text
    }
}

/// The name of the node that a pod is on: `pod2c` is on `node2`.
fn node_of(pod: &Host) -> String {
    format!("node{}", pod.name.chars().nth(3).unwrap_or('1'))
}

fn lower(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn upper(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}
