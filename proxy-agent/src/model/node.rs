//! What this node's own object says about it.

use crate::object::Node;

/// The cluster autoscaler's mark on a node that it is about to remove (`utils/taints` in kubernetes/autoscaler).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether load balancers are to send clients to this node: not if it is going away (kube-proxy's `NodeEligible`,
/// `pkg/proxy/healthcheck/proxy_health.go`), and not if there is no such node.
pub fn is_eligible(node: Option<&Node>) -> bool {
    node.is_some_and(|node| !node.is_being_deleted && !node.taints.contains(TO_BE_DELETED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_goes_away_gets_no_clients() {
        let node = |json: serde_json::Value| {
            serde_json::from_value::<k8s_openapi::api::core::v1::Node>(json).ok().and_then(|n| Node::try_from(&n).ok())
        };
        let named = |metadata: &str, key: &str| {
            let text = format!(
                r#"{{"metadata": {{"name": "n" {metadata}}}, "spec": {{"taints": [{{"key": "{key}", "effect": "NoSchedule"}}]}}}}"#
            );
            node(serde_json::from_str(&text).unwrap_or_default())
        };
        assert!(!is_eligible(None));
        assert!(is_eligible(named("", "node.kubernetes.io/unschedulable").as_ref()));
        assert!(!is_eligible(named("", "ToBeDeletedByClusterAutoscaler").as_ref()));
        let deleted = named(r#", "deletionTimestamp": "2026-01-01T00:00:00Z""#, "other");
        assert!(deleted.is_some() && !is_eligible(deleted.as_ref()));
    }
}
