//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::{FlowTimeout, KubeProxyFlags};
use crate::devices::{DeviceFilter, XdpMode};
use crate::kernel::{AttachMode, PinPath, Sizes, SocketLb};
use crate::object::{ObjectName, parse_range};
use crate::output::Format;

/// Pointsman: a Kubernetes Service load balancer in the kernel.
#[derive(Debug, Parser)]
#[command(name = "proxy-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the kernel's maps true to the Services, until told to stop; the kernel then goes on as it is
    Run(Box<RunArgs>),
    /// Remove all that agents ever made at a pin path: programs, filters, maps, folders
    Cleanup(CleanupArgs),
    /// List the frontends: addresses and ports that are balanced
    Frontends(LookArgs),
    /// List the backends: addresses and ports that traffic goes to
    Backends(LookArgs),
    /// List the flows: connections that are being translated
    Flows(LookArgs),
    /// List what the programs counted: for each Service port, and dropped packets by reason
    Counters(LookArgs),
}

/// `proxy-agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder of manifests (Services, EndpointSlices, Nodes; YAML or JSON), watched for changes, in place of a cluster
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_servers"])]
    pub manifests: Option<PathBuf>,
    /// How to reach the cluster; without it, by the service account of the pod
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of the API servers, in place of the one of the kubeconfig or the pod: the first that answers is used.
    /// Nothing in it is as good as no flag
    #[arg(long, visible_alias = "master", value_name = "URL,...", value_delimiter = ',')]
    pub api_servers: Vec<String>,
    /// Serve the Services with this value of the label service.kubernetes.io/service-proxy-name, in place of those
    /// without that label
    #[arg(long, value_name = "NAME")]
    pub service_proxy_name: Option<String>,
    /// Name of this node, as EndpointSlices and its Node object have it [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// kube-proxy's configuration: a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do what `proxy-agent cleanup` does, and end
    #[arg(long)]
    pub cleanup: bool,
    /// Where the maps and links are pinned; agents on one kernel need one each.
    #[command(flatten)]
    pub pins: PinArgs,
    /// Which rules differ from what is usual.
    #[command(flatten)]
    pub rules: RuleArgs,
    /// Keep what the API server tells in this file, and serve it after a reboot until the API server answers
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    pub state_file: Option<PathBuf>,
    /// Do not start where a range of ClusterIPs (ServiceCIDR objects, --service-cluster-ip-range) overlaps with pods' ranges,
    /// this node's addresses or its routes; by default that is a warning
    #[arg(long)]
    pub strict: bool,
    /// Devices to attach to instead of those that the rule finds: names, or beginnings of names with +; with ! to
    /// exclude; the last that fits decides
    #[arg(long, value_name = "LIST")]
    pub devices: Option<DeviceFilter>,
    /// Who takes care of packets of clients outside where they come in: with any mode but `off`, those for pods of other nodes
    /// pass neither this node's stack nor its netfilter
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub xdp: XdpMode,
    /// Whose sockets are translated, so that processes reach Services which do not come in by a device: those of the
    /// host's network namespace, those of pods too (TCP only), or none
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t)]
    pub socket_lb: SocketLb,
    /// Control group (version 2) to attach to for that [default: the root, wherever it is mounted]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// The most that the maps may hold: they begin smaller and grow.
    #[command(flatten)]
    pub sizes: Sizes,
    /// How long flows may be idle, where kube-proxy has no flag: tcp-syn (2m), tcp-opening (1m), tcp-closed (66s), reset (10s),
    /// sctp-opening (30s), sctp (3m30s)
    #[arg(long, value_name = "KIND=DURATION,...", value_delimiter = ',')]
    pub flow_timeouts: Vec<FlowTimeout>,
    /// Most entries that the maps of frontends, slots, backends and Service ports begin with; they grow as they fill
    /// [default: 65536, 1048576, 131072 and 16384]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub initial_entries: Option<u32>,
    /// How programs are attached; by default the best that the kernel has.
    #[arg(long, value_enum, hide = true)]
    pub attach: Option<AttachMode>,
    /// kube-proxy's flags.
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
}

/// Rules of Services that kube-proxy has no setting for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct RuleArgs {
    /// Services to leave to others, such as a DNS cache on the node that answers at the Service's address
    #[arg(long, value_name = "NAMESPACE/NAME,...", value_delimiter = ',', value_parser = service_name)]
    pub skip_services: Vec<ObjectName>,
    /// Do not serve spec.externalIPs, with which whoever may make a Service may take over any address
    #[arg(long)]
    pub ignore_external_ips: bool,
    /// Masquerade clients from outside also where the chosen backend is on this node, as kube-proxy does with
    /// externalTrafficPolicy Cluster; by default they keep their address there
    #[arg(long)]
    pub masquerade_local_backends: bool,
    /// Ranges that ClusterIPs are from, beside those of ServiceCIDR objects: packets to addresses there that no Service
    /// has are dropped
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', value_parser = service_range)]
    pub service_cluster_ip_range: Vec<IpNet>,
}

fn service_range(text: &str) -> Result<IpNet, String> {
    parse_range(text).map_err(|error| error.to_string())
}

/// `NAMESPACE/NAME`.
fn service_name(text: &str) -> Result<ObjectName, String> {
    match text.trim().split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("expected NAMESPACE/NAME, such as kube-system/kube-dns".to_owned()),
    }
}

/// `proxy-agent cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Where to clean up.
    #[command(flatten)]
    pub pins: PinArgs,
    /// Do it though an agent runs
    #[arg(long)]
    pub force: bool,
}

/// The commands that look into the pinned maps. No agent has to run.
#[derive(Debug, Args)]
pub struct LookArgs {
    /// Where to look.
    #[command(flatten)]
    pub pins: PinArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Only Services of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only the Service of this name, or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `--pin-path`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Folder on a BPF filesystem where maps and links are pinned; every agent on a kernel needs its own
    #[arg(long, value_name = "DIR", default_value = PinPath::DEFAULT)]
    pub pin_path: PathBuf,
}

impl PinArgs {
    /// The pin path.
    pub fn path(&self) -> PinPath {
        PinPath::new(&self.pin_path)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_line_of_kube_proxy_is_taken() {
        let line = "proxy-agent run --config=/etc/c.conf --hostname-override=n1 --masquerade-all --oom-score-adj=-999 \
                    --bind-address-hard-fail=false --nodeport-addresses=10.0.0.0/8,primary --v=2 --proxy-mode iptables";
        let args = match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Run(args)) => args,
            other => unreachable!("{other:?}"),
        };
        let expected = KubeProxyFlags::of(&[
            ("hostname-override", "n1"),
            ("masquerade-all", "true"),
            ("oom-score-adj", "-999"),
            ("bind-address-hard-fail", "false"),
            ("nodeport-addresses", "10.0.0.0/8,primary"),
            ("v", "2"),
            ("proxy-mode", "iptables"),
        ]);
        assert_eq!(args.kube_proxy, expected);
    }

    #[test]
    fn services_to_skip_have_a_namespace() {
        let skipped = |list: &str| match Cli::try_parse_from(["proxy-agent", "run", "--skip-services", list]) {
            Ok(Cli { command: Command::Run(args) }) => Some(args.rules.skip_services),
            _ => None,
        };
        let (dns, web) = (ObjectName::new("kube-system", "kube-dns"), ObjectName::new("default", "web"));
        assert_eq!(skipped("kube-system/kube-dns,default/web"), Some(vec![dns, web]));
        for wrong in ["kube-dns", "/kube-dns", "kube-system/", "a/b/c", "a/b,"] {
            assert_eq!(skipped(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_level_of_the_log_in_every_way_that_it_is_written() {
        let given = |words: &str| match Cli::try_parse_from(format!("proxy-agent run {words}").split_whitespace()) {
            Ok(Cli { command: Command::Run(args) }) => Some((args.kube_proxy, args.manifests.is_some())),
            _ => None,
        };
        for (words, level) in [
            ("-v=2 --manifests d", "2"),
            ("-v 2 --manifests d", "2"),
            ("-v2 --manifests d", "2"),
            ("--v=2 --manifests d", "2"),
            ("--v 2 --manifests d", "2"),
            ("--verbose --manifests d", ""),
            ("-v --manifests d", ""),
            ("-vv --manifests d", "v"),
            ("-v=4 --v=2 --manifests d", "2"),
        ] {
            assert_eq!(given(words), Some((KubeProxyFlags::of(&[("v", level)]), true)), "{words}");
        }
    }

    #[test]
    fn there_is_one_source() {
        for other in ["--kubeconfig=f", "--api-servers=https://a:6443", "--master=https://a:6443"] {
            let line = ["proxy-agent", "run", "--manifests", "d", other];
            assert!(Cli::try_parse_from(line).is_err(), "{other}");
        }
    }

    #[test]
    fn sizes_by_default_are_those_of_the_type() {
        let cli = Cli::try_parse_from(["proxy-agent", "run", "--manifests", "d", "--node-name", "n"]);
        let sizes = match cli.map(|cli| cli.command) {
            Ok(Command::Run(args)) => args.sizes,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(sizes, Sizes::default());
    }
}
