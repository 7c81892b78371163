//! `/configz`: the settings that are in effect, under kube-proxy's names.

use serde_json::{Value, json};

use super::{NodePortAddresses, Settings};

impl Settings {
    /// As kube-proxy's `/configz`: a KubeProxyConfiguration, of which only what means something here is there.
    pub fn configz(&self) -> Value {
        let address = |address: Option<std::net::SocketAddr>| address.map_or_else(String::new, |it| it.to_string());
        let node_port_addresses: Vec<String> = match &self.node_port_addresses {
            NodePortAddresses::Primary => vec!["primary".to_owned()],
            NodePortAddresses::Localhost => vec!["localhost".to_owned()],
            NodePortAddresses::All => vec!["all".to_owned()],
            NodePortAddresses::Ranges(ranges) => ranges.iter().map(ToString::to_string).collect(),
        };
        let cluster_cidr: Vec<String> = self.cluster_cidrs.iter().map(ToString::to_string).collect();
        json!({"kubeproxy.config.k8s.io": {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "hostnameOverride": self.hostname_override.clone().unwrap_or_default(),
            "clientConnection": {
                "kubeconfig": self.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            },
            "bindAddress": self.bind_address.to_string(),
            "healthzBindAddress": address(self.healthz_bind_address),
            "metricsBindAddress": address(self.metrics_bind_address),
            "bindAddressHardFail": self.bind_address_hard_fail,
            "clusterCIDR": cluster_cidr.join(","),
            "nodePortAddresses": node_port_addresses,
            "nftables": {
                "masqueradeAll": self.masquerade_all,
                "syncPeriod": format!("{}s", self.sync_period.as_secs_f64()),
                "minSyncPeriod": format!("{}s", self.min_sync_period.as_secs_f64()),
            },
            "logging": {"format": if self.logs_json { "json" } else { "text" }, "verbosity": self.verbosity},
            "oomScoreAdj": self.oom_score_adj,
        }})
    }
}
