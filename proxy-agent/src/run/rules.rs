//! From what the operator said to what the model and the devices go by.

use crate::cli::RuleArgs;
use crate::config::{self, Settings};
use crate::devices::PodDevices;
use crate::model::{DetectLocal, ModelOptions, NodePortAddresses};

/// The options of the model, and which devices are pods'.
pub fn of(settings: &Settings, proxy_name: Option<String>, rules: RuleArgs) -> (ModelOptions, PodDevices) {
    let (detect_local, pod_devices) = detect_local(settings);
    let node_port_addresses = match &settings.node_port_addresses {
        config::NodePortAddresses::Primary => vec![NodePortAddresses::Primary],
        config::NodePortAddresses::Localhost => vec![NodePortAddresses::Localhost],
        config::NodePortAddresses::All => vec![NodePortAddresses::All],
        config::NodePortAddresses::Ranges(ranges) => ranges.iter().copied().map(NodePortAddresses::Range).collect(),
    };
    let options = ModelOptions {
        proxy_name,
        masquerade_all: settings.masquerade_all,
        detect_local,
        node_port_addresses,
        localhost_node_ports: false,
        external_ips: !rules.ignore_external_ips && settings.external_ips,
        keep_source_of_outside_clients: !rules.masquerade_local_backends,
        service_cidrs: rules.service_cluster_ip_range.into_iter().collect(),
        skip_services: rules.skip_services.into_iter().collect(),
    };
    (options, pod_devices)
}

/// kube-proxy's modes are taken at their word once one is named or a range is given. Without either, devices tell, which
/// is right on every node whose pods have devices of their own.
fn detect_local(settings: &Settings) -> (DetectLocal, PodDevices) {
    let by_devices = |devices| (DetectLocal::Devices, devices);
    match &settings.detect_local {
        Some(config::DetectLocal::NodeCidr) => (DetectLocal::NodeRanges, PodDevices::ByAddress),
        Some(config::DetectLocal::BridgeInterface(name)) => by_devices(PodDevices::Bridge(name.clone())),
        Some(config::DetectLocal::InterfaceNamePrefix(prefix)) => by_devices(PodDevices::Prefix(prefix.clone())),
        None if settings.cluster_cidrs.is_empty() => by_devices(PodDevices::ByRole),
        Some(config::DetectLocal::ClusterCidr) if settings.cluster_cidrs.is_empty() => {
            tracing::warn!(
                "detectLocalMode is ClusterCIDR and there is no clusterCIDR: no client counts as a pod of this node, as \
                 with kube-proxy; leave the mode out to tell them by their devices"
            );
            (DetectLocal::Off, PodDevices::Nowhere)
        }
        None | Some(config::DetectLocal::ClusterCidr) => {
            (DetectLocal::Ranges(settings.cluster_cidrs.iter().copied().collect()), PodDevices::ByAddress)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_pods_of_this_node_are_known() {
        let range = "10.244.0.0/16";
        let ranges = || DetectLocal::Ranges([range].iter().filter_map(|range| range.parse().ok()).collect());
        for (mode, cidrs, expected) in [
            (None, &[][..], (DetectLocal::Devices, PodDevices::ByRole)),
            (None, &[range], (ranges(), PodDevices::ByAddress)),
            (Some(config::DetectLocal::ClusterCidr), &[range], (ranges(), PodDevices::ByAddress)),
            (Some(config::DetectLocal::ClusterCidr), &[], (DetectLocal::Off, PodDevices::Nowhere)),
            (Some(config::DetectLocal::NodeCidr), &[range], (DetectLocal::NodeRanges, PodDevices::ByAddress)),
            (
                Some(config::DetectLocal::BridgeInterface("cni0".into())),
                &[],
                (DetectLocal::Devices, PodDevices::Bridge("cni0".into())),
            ),
            (
                Some(config::DetectLocal::InterfaceNamePrefix("veth".into())),
                &[],
                (DetectLocal::Devices, PodDevices::Prefix("veth".into())),
            ),
        ] {
            let cluster_cidrs = cidrs.iter().filter_map(|range| range.parse().ok()).collect();
            let settings = Settings { detect_local: mode.clone(), cluster_cidrs, ..Settings::default() };
            assert_eq!(detect_local(&settings), expected, "{mode:?} {cidrs:?}");
        }
    }

    #[test]
    fn what_is_served() {
        let by_default = of(&Settings::default(), None, RuleArgs::default()).0;
        assert_eq!(by_default, ModelOptions::default());
        let rules = RuleArgs {
            skip_services: vec![crate::object::ObjectName::new("kube-system", "kube-dns")],
            ignore_external_ips: true,
            masquerade_local_backends: true,
            service_cluster_ip_range: vec![ipnet::Ipv4Net::new_assert([10, 96, 0, 0].into(), 12).into()],
        };
        let settings = Settings {
            masquerade_all: true,
            node_port_addresses: config::NodePortAddresses::Localhost,
            ..Settings::default()
        };
        let options = of(&settings, Some("mine".into()), rules.clone()).0;
        let expected = ModelOptions {
            proxy_name: Some("mine".into()),
            masquerade_all: true,
            node_port_addresses: vec![NodePortAddresses::Localhost],
            external_ips: false,
            keep_source_of_outside_clients: false,
            service_cidrs: rules.service_cluster_ip_range.into_iter().collect(),
            skip_services: rules.skip_services.into_iter().collect(),
            ..ModelOptions::default()
        };
        assert_eq!(options, expected);
        let gated = Settings { external_ips: false, ..Settings::default() };
        assert!(!of(&gated, None, RuleArgs::default()).0.external_ips);
    }
}
