//! Settings: from kube-proxy's flags and its configuration file to what the rules read.
//!
//! Every flag of kube-proxy and every field of `kubeproxy.config.k8s.io/v1alpha1` is a row of one table
//! (`table.rs`), which says how a value is checked and what it does here. What has no meaning here is accepted,
//! checked, and named in one warning; what is unknown or wrong is refused in one line.
//!
//! Invariant: a setting means the same whichever way it came. Absent on purpose: settings of the agent itself
//! that kube-proxy does not have; those are flags only (`timeouts.rs` has the one that goes with settings of kube-proxy).

mod configz;
mod file;
mod flags;
mod table;
mod timeouts;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use proxy_common::maps::FlowLimits;

pub use flags::KubeProxyFlags;
pub use timeouts::FlowTimeout;

/// Port of /healthz and /livez (`ProxyHealthzPort` in kubernetes' `pkg/cluster/ports`).
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of /metrics (`ProxyStatusPort`, as above).
pub const METRICS_PORT: u16 = 10249;

/// A setting that cannot be used. Displayed as `FILE: FIELD: message`, or `--FLAG: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// Which file and field, or which flag.
    pub place: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// How it is told whether a client is a pod of this node (`LocalMode` in kube-proxy's `pkg/proxy/apis/config`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// Its address is in the cluster's range of pods.
    ClusterCidr,
    /// Its address is in the node's range of pods.
    NodeCidr,
    /// It comes in by this bridge.
    BridgeInterface(String),
    /// It comes in by a device whose name begins so.
    InterfaceNamePrefix(String),
}

/// The addresses that NodePorts are answered on (`NodePortAddresses` in kube-proxy's `pkg/proxy/util`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// Those of its Node object, as kube-proxy's nftables mode does.
    #[default]
    Primary,
    /// Those of the loopback device.
    Localhost,
    /// All that the node has.
    All,
    /// Those in one of these ranges.
    Ranges(Vec<IpNet>),
}

/// What kube-proxy's flags and configuration say, as far as it means something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of this node in place of the host's.
    pub hostname_override: Option<String>,
    /// How to reach the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Its family is the node's first one, and that of the addresses below where they are not given.
    pub bind_address: IpAddr,
    /// Where /healthz and /livez are served; `None`: nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where /metrics is served; `None`: nowhere.
    pub metrics_bind_address: Option<SocketAddr>,
    /// An address that cannot be served on ends the agent.
    pub bind_address_hard_fail: bool,
    /// Masquerade everything that goes to a ClusterIP.
    pub masquerade_all: bool,
    /// How to tell whether a client is a pod of this node, if a mode was named.
    pub detect_local: Option<DetectLocal>,
    /// The cluster's ranges of pods, one for each family at most.
    pub cluster_cidrs: Vec<IpNet>,
    /// Which addresses NodePorts are answered on.
    pub node_port_addresses: NodePortAddresses,
    /// Whether NodePorts are answered on the loopback device, where nothing else says so.
    pub localhost_node_ports: bool,
    /// Whether `spec.externalIPs` are served: the feature gate `AllowServiceExternalIPs` (KEP-5707).
    pub external_ips: bool,
    /// How soon a change that could not be applied is tried again at the latest. After twice that time with a
    /// change in the queue the node is unhealthy.
    pub sync_period: Duration,
    /// Changes are brought into the kernel at most once in this time.
    pub min_sync_period: Duration,
    /// After which times without a packet flows are over.
    pub flow_limits: FlowLimits,
    /// How much is logged, as Kubernetes counts: from 4 on what is decided, from 6 on everything.
    pub verbosity: u32,
    /// Log lines are JSON.
    pub logs_json: bool,
    /// Only do what needs full privileges, and end.
    pub init_only: bool,
    /// `oom_score_adj` of the process, if it is to be changed.
    pub oom_score_adj: Option<i64>,
    /// What was given and means nothing here, as it was named.
    pub not_applicable: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname_override: None,
            kubeconfig: None,
            bind_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            healthz_bind_address: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), HEALTHZ_PORT)),
            metrics_bind_address: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), METRICS_PORT)),
            bind_address_hard_fail: false,
            masquerade_all: false,
            detect_local: None,
            cluster_cidrs: Vec::new(),
            node_port_addresses: NodePortAddresses::default(),
            localhost_node_ports: true,
            external_ips: true,
            sync_period: Duration::from_secs(30),
            min_sync_period: Duration::ZERO,
            flow_limits: FlowLimits::DEFAULT,
            verbosity: 0,
            logs_json: false,
            init_only: false,
            oom_score_adj: None,
            not_applicable: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether processes of the node reach NodePorts on 127.0.0.1 and ::1: unless they are told not to, or the ranges of
    /// `nodePortAddresses` decide.
    pub fn localhost_node_ports(&self) -> bool {
        self.localhost_node_ports && !matches!(self.node_port_addresses, NodePortAddresses::Ranges(_))
    }

    /// Reads the file, if there is one, and the flags. As with kube-proxy, the flags count only without a file,
    /// but for `--hostname-override`.
    ///
    /// # Errors
    /// At the first thing that is wrong.
    pub fn load(file: Option<&Path>, flags: &KubeProxyFlags) -> Result<Self, ConfigError> {
        let mut draft = Draft::default();
        match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError::at(path.display(), format!("cannot be read: {error}")))?;
                file::read(&mut draft, &text).map_err(|error| {
                    ConfigError::at(format_args!("{}: {}", path.display(), error.place), error.message)
                })?;
                flags.override_file(&mut draft)?;
            }
            None => flags.read(&mut draft)?,
        }
        draft.finish()
    }

    /// One line that names what was given and means nothing here.
    pub fn warning(&self) -> Option<String> {
        let names = self.not_applicable.join(", ");
        (!names.is_empty())
            .then(|| format!("these settings of kube-proxy have no meaning here and are ignored: {names}"))
    }
}

impl ConfigError {
    fn at(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into() }
    }
}

/// Settings while they are read: what depends on other settings is still open.
#[derive(Debug, Default)]
struct Draft {
    settings: Settings,
    bind_address: Option<IpAddr>,
    /// `Some(None)`: served nowhere.
    healthz: Option<Option<SocketAddr>>,
    metrics: Option<Option<SocketAddr>>,
    /// For an address without a port; 0: served nowhere.
    healthz_port: Option<u16>,
    metrics_port: Option<u16>,
    /// The place is that of the name of the mode.
    local_mode: Option<(String, LocalMode)>,
    bridge_interface: Option<String>,
    interface_name_prefix: Option<String>,
}

/// The name of a [`DetectLocal`].
#[derive(Clone, Copy, Debug)]
enum LocalMode {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl Draft {
    fn finish(self) -> Result<Settings, ConfigError> {
        let mut settings = self.settings;
        settings.bind_address = self.bind_address.unwrap_or(settings.bind_address);
        // As kube-proxy's defaults do (`pkg/proxy/apis/config/v1alpha1/defaults.go`).
        let (any, loopback) = match settings.bind_address {
            IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::LOCALHOST)),
        };
        settings.healthz_bind_address = self.healthz.unwrap_or(Some(SocketAddr::new(any, HEALTHZ_PORT)));
        settings.metrics_bind_address = self.metrics.unwrap_or(Some(SocketAddr::new(loopback, METRICS_PORT)));
        for (address, usual, port) in [
            (&mut settings.healthz_bind_address, HEALTHZ_PORT, self.healthz_port),
            (&mut settings.metrics_bind_address, METRICS_PORT, self.metrics_port),
        ] {
            match port {
                Some(0) => *address = None,
                Some(port) => {
                    for address in address.iter_mut().filter(|address| address.port() == usual) {
                        address.set_port(port);
                    }
                }
                None => {}
            }
        }
        if let Some((place, mode)) = self.local_mode {
            let missing = |mode: &str, what: &str| ConfigError::at(&place, format!("{mode} needs {what}"));
            settings.detect_local = Some(match mode {
                LocalMode::ClusterCidr => DetectLocal::ClusterCidr,
                LocalMode::NodeCidr => DetectLocal::NodeCidr,
                LocalMode::BridgeInterface => DetectLocal::BridgeInterface(self.bridge_interface.ok_or_else(|| {
                    missing("BridgeInterface", "detectLocal.bridgeInterface (--pod-bridge-interface)")
                })?),
                LocalMode::InterfaceNamePrefix => {
                    DetectLocal::InterfaceNamePrefix(self.interface_name_prefix.ok_or_else(|| {
                        missing("InterfaceNamePrefix", "detectLocal.interfaceNamePrefix (--pod-interface-name-prefix)")
                    })?)
                }
            });
        }
        Ok(settings)
    }
}
