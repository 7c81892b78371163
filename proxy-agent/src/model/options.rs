//! What the operator decides about all Services.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Family, NodePortAddresses};
use crate::object::{Node, ObjectName};

/// What the operator decides about all Services. The defaults are those of kube-proxy's nftables mode, but for
/// what is said to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOptions {
    /// Which proxy this is: the value of the label `service.kubernetes.io/service-proxy-name` that it serves. The
    /// cluster's own has none.
    pub proxy_name: Option<String>,
    /// kube-proxy's `masqueradeAll`: masquerade whatever goes to a ClusterIP.
    pub masquerade_all: bool,
    /// How pods of this node are told from other clients.
    pub detect_local: DetectLocal,
    /// Where NodePorts are answered: on the union of these.
    pub node_port_addresses: Vec<NodePortAddresses>,
    /// Whether they are answered on 127.0.0.1 and ::1, too, for processes of the node itself: kube-proxy's
    /// `iptables.localhostNodePorts`. It takes hooks at sockets; packets to these addresses are never translated.
    pub localhost_node_ports: bool,
    /// Whether `spec.externalIPs` are served. Whoever may make a Service may take over any address with them
    /// (CVE-2020-8554), and upstream is about to give them up (KEP-5707).
    pub external_ips: bool,
    /// A client from elsewhere keeps its address under externalTrafficPolicy Cluster when the chosen backend is on
    /// this node. kube-proxy masquerades it, as a chain of rules cannot know the backend yet.
    pub keep_source_of_outside_clients: bool,
    /// The ranges that ClusterIPs are from (the API server's `--service-cluster-ip-range`), beside those of the cluster's
    /// ServiceCIDR objects.
    pub service_cidrs: BTreeSet<IpNet>,
    /// Services that are left to others.
    pub skip_services: BTreeSet<ObjectName>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            proxy_name: None,
            masquerade_all: false,
            detect_local: DetectLocal::default(),
            node_port_addresses: vec![NodePortAddresses::Primary],
            localhost_node_ports: false,
            external_ips: true,
            keep_source_of_outside_clients: true,
            service_cidrs: BTreeSet::new(),
            skip_services: BTreeSet::new(),
        }
    }
}

/// How pods of this node are told from other clients (kube-proxy's `detectLocalMode`,
/// `pkg/proxy/util/localdetector.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// They are not: clients of a ClusterIP keep their addresses, and pods get no more of a Service with
    /// externalTrafficPolicy Local than other clients.
    Off,
    /// By the device that their packets come from. Which devices are pods' is decided where devices are: the modes
    /// BridgeInterface and InterfaceNamePrefix are this one with a rule for names.
    #[default]
    Devices,
    /// By these ranges (ClusterCIDR). A family without one is as if off.
    Ranges(BTreeSet<IpNet>),
    /// By the ranges that the Node object gives (NodeCIDR). Likewise.
    NodeRanges,
}

impl DetectLocal {
    /// The ranges that the addresses of local clients are in; none where addresses do not tell.
    pub(super) fn ranges(&self, node: Option<&Node>) -> BTreeSet<IpNet> {
        match self {
            Self::Off | Self::Devices => BTreeSet::new(),
            Self::Ranges(ranges) => ranges.iter().map(IpNet::trunc).collect(),
            Self::NodeRanges => node.into_iter().flat_map(|node| &node.pod_cidrs).copied().collect(),
        }
    }

    /// Whether local clients of a family are known as such, `ranges` being what [`Self::ranges`] gave.
    pub(super) fn works_for(&self, family: Family, ranges: &BTreeSet<IpNet>) -> bool {
        match self {
            Self::Off => false,
            Self::Devices => true,
            Self::Ranges(_) | Self::NodeRanges => ranges.iter().any(|range| Family::of(range.addr()) == family),
        }
    }
}
