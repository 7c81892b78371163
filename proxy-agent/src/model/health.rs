//! What is said of the Services to others than the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proxy_common::maps::FrontendKind;

use super::node_ports::node_port_addresses;
use super::{DesiredPort, Family, List, ModelOptions, NodePortAddresses, NodeView, ServicePort};
use crate::store::Store;

/// How many Service ports have endpoints, but under a Local policy none on this node (kube-proxy's metric
/// `sync_proxy_rules_no_local_endpoints_total`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// IPv4, then IPv6; of each, those with the internal policy, then those with the external one.
    pub by_family: [[usize; 2]; 2],
}

impl NoLocal {
    /// Counts them.
    pub(super) fn of(ports: &BTreeMap<ServicePort, DesiredPort>) -> Self {
        let mut counts = Self::default();
        ports.iter().for_each(|(port, want)| counts.add(Self::of_port(port, want)));
        counts
    }

    /// Those of one Service port: 1 or 0 each.
    pub(super) fn of_port(port: &ServicePort, want: &DesiredPort) -> Self {
        let mut counts = Self::default();
        let frontends = || want.frontends.values();
        let internal = frontends().any(|it| it.kind == FrontendKind::ClusterIp && it.inside == List::Local);
        let external = frontends().any(|it| it.kind != FrontendKind::ClusterIp && it.outside == List::Local);
        let is_served = || want.backends.values().any(|backend| backend.lists.contain(List::Local));
        if !want.has_endpoints || !(internal || external) || is_served() {
            return counts;
        }
        let [v4, v6] = &mut counts.by_family;
        let of_family = if port.family == Family::V4 { v4 } else { v6 };
        *of_family = [usize::from(internal), usize::from(external)];
        counts
    }

    pub(super) fn add(&mut self, other: Self) {
        self.each(other, usize::saturating_add);
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.each(other, usize::saturating_sub);
    }

    fn each(&mut self, other: Self, change: fn(usize, usize) -> usize) {
        let counts = self.by_family.iter_mut().flatten();
        counts.zip(other.by_family.into_iter().flatten()).for_each(|(count, by)| *count = change(*count, by));
    }
}

/// Where health check node ports are to be served: on the addresses of NodePorts. Empty where that is all of them, or
/// where none is known.
pub fn health_check_addresses(store: &Store, view: &NodeView, options: &ModelOptions) -> BTreeSet<IpAddr> {
    let is_all = |wanted: &NodePortAddresses| match wanted {
        NodePortAddresses::All => true,
        NodePortAddresses::Range(range) => range.prefix_len() == 0,
        NodePortAddresses::Primary | NodePortAddresses::Localhost => false,
    };
    if options.node_port_addresses.iter().any(is_all) {
        return BTreeSet::new();
    }
    node_port_addresses(&options.node_port_addresses, store.node(&view.name), &view.addresses)
}
