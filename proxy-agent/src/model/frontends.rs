//! The frontends of a Service port and their rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::maps::{FrontendKind, Masquerade};

use super::endpoints::Policies;
use super::{DesiredFrontend, Family, List, ModelOptions};
use crate::object::{PortSpec, Service, ServiceType, TrafficPolicy};

/// What is so for all Services of a node.
pub(super) struct Ground<'a> {
    pub options: &'a ModelOptions,
    /// Where NodePorts are answered.
    pub node_addresses: &'a BTreeSet<IpAddr>,
    /// The addresses by which the node is known.
    pub primary: &'a [IpAddr],
    /// The families in which local clients are known as such.
    pub detects: [bool; 2],
}

/// A frontend that a Service asks for.
pub(super) type Asked = ((IpAddr, u16), DesiredFrontend);

/// The frontends that a Service port asks for in the family of one of its cluster addresses.
///
/// kube-proxy's rules for each kind are in `syncProxyRules` of `pkg/proxy/nftables/proxier.go`, and what they read
/// of a Service in `pkg/proxy/serviceport.go`:
///
/// | kind | clients on this node | other clients | masqueraded |
/// |---|---|---|---|
/// | ClusterIP | by internalTrafficPolicy | the same | all but local pods, if these are known; `masqueradeAll`: all |
/// | others, externalTrafficPolicy Cluster | Cluster | Cluster | all |
/// | others, externalTrafficPolicy Local | Cluster (the short circuit) | Local | the node itself |
pub(super) fn frontends(ground: &Ground<'_>, service: &Service, spec: &PortSpec, cluster_ip: IpAddr) -> Vec<Asked> {
    let family = Family::of(cluster_ip);
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let internal = match service.internal_policy {
        TrafficPolicy::Cluster => List::Cluster,
        TrafficPolicy::Local => List::Local,
    };
    let masquerade = match (ground.options.masquerade_all, ground.detects_in(family)) {
        (true, _) => Masquerade::ALL,
        (false, true) => Masquerade::NODE | Masquerade::OUTSIDE,
        (false, false) => 0,
    };
    let mut asked = vec![(
        (cluster_ip, spec.port.get()),
        DesiredFrontend {
            kind: FrontendKind::ClusterIp,
            inside: internal,
            outside: internal,
            masquerade,
            guarded: false,
        },
    )];

    let external = |kind, guarded| external(ground, service, kind, guarded);
    if service.service_type == ServiceType::LoadBalancer {
        let rule = external(FrontendKind::LoadBalancer, !source_ranges(ground, service, family).is_empty());
        let addresses = service.load_balancer_ips.iter().filter(of_family);
        asked.extend(addresses.map(|address| ((*address, spec.port.get()), rule)));
    }
    if ground.options.external_ips {
        let rule = external(FrontendKind::ExternalIp, false);
        let addresses = service.external_ips.iter().filter(of_family);
        asked.extend(addresses.map(|address| ((*address, spec.port.get()), rule)));
    }
    if let (ServiceType::NodePort | ServiceType::LoadBalancer, Some(port)) = (service.service_type, spec.node_port) {
        let rule = external(FrontendKind::NodePort, false);
        let addresses = ground.node_addresses.iter().filter(of_family);
        asked.extend(addresses.map(|address| ((*address, port.get()), rule)));
    }
    asked
}

/// The rule of every kind that outside clients are to use.
fn external(ground: &Ground<'_>, service: &Service, kind: FrontendKind, guarded: bool) -> DesiredFrontend {
    let keep = if ground.options.keep_source_of_outside_clients { Masquerade::KEEP_OUTSIDE } else { 0 };
    let (outside, masquerade) = match service.external_policy {
        TrafficPolicy::Cluster => (List::Cluster, Masquerade::ALL | keep),
        TrafficPolicy::Local => (List::Local, Masquerade::NODE),
    };
    DesiredFrontend { kind, inside: List::Cluster, outside, masquerade, guarded }
}

/// The ranges that clients of a load balancer's addresses must be in; empty where anybody may come.
///
/// Only the ranges of the frontend's family count: if there is none, anybody of that family may come, as with
/// kube-proxy. They hold for pods too, and for the node itself, which is in if its address is. A node that is in may
/// also come from the load balancer's address itself: where that address is on one of the node's devices, the
/// node's own connections to it have it as their source. Where its connections are met at their sockets, before they
/// have any source, the unspecified address stands for the node. NodePorts and external IPs are not guarded.
pub(super) fn source_ranges(ground: &Ground<'_>, service: &Service, family: Family) -> BTreeSet<IpNet> {
    let mut ranges: BTreeSet<IpNet> =
        service.source_ranges.iter().filter(|range| Family::of(range.addr()) == family).copied().collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return BTreeSet::new();
    }
    if ranges.iter().any(|range| ground.primary.iter().any(|address| range.contains(address))) {
        let addresses = service.load_balancer_ips.iter().filter(|address| Family::of(**address) == family);
        ranges.extend(addresses.map(|address| IpNet::from(*address)));
        ranges.insert(IpNet::from(family.unspecified()));
    }
    ranges
}

/// The policies that frontends use (`UsesClusterEndpoints` and `UsesLocalEndpoints` of kube-proxy's serviceport.go).
pub(super) fn policies<'a>(frontends: impl Iterator<Item = &'a DesiredFrontend> + Clone) -> Policies {
    let uses = |list| frontends.clone().any(|frontend| frontend.inside == list || frontend.outside == list);
    Policies { cluster: uses(List::Cluster), local: uses(List::Local) }
}

impl Ground<'_> {
    fn detects_in(&self, family: Family) -> bool {
        let [v4, v6] = self.detects;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}
