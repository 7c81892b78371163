//! What is said of the Services to others than the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxy_common::maps::FrontendKind;

use super::node_ports::node_port_addresses;
use super::{Desired, Family, List, ModelOptions, NodePortAddresses, NodeView};
use crate::store::Store;

/// How many Service ports have endpoints, but under a Local policy none on this node (kube-proxy's metric
/// `sync_proxy_rules_no_local_endpoints_total`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// IPv4, then IPv6; of each, those with the internal policy, then those with the external one.
    pub by_family: [[usize; 2]; 2],
}

/// Counts them.
pub fn no_local(desired: &Desired) -> NoLocal {
    let mut counts = NoLocal::default();
    for (port, want) in &desired.ports {
        if !want.has_endpoints || want.backends.values().any(|backend| backend.lists.contain(List::Local)) {
            continue;
        }
        let frontends = || want.frontends.values();
        let internal = frontends().any(|it| it.kind == FrontendKind::ClusterIp && it.inside == List::Local);
        let external = frontends().any(|it| it.kind != FrontendKind::ClusterIp && it.outside == List::Local);
        let [v4, v6] = &mut counts.by_family;
        let [internals, externals] = if port.family == Family::V4 { v4 } else { v6 };
        *internals += usize::from(internal);
        *externals += usize::from(external);
    }
    counts
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
