//! Nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use super::{Fields, ObjectError, ObjectRef};

/// A core/v1 Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of the types InternalIP and ExternalIP.
    pub addresses: BTreeSet<IpAddr>,
    /// Of each family, the address that the node is known by: the first InternalIP, else the first ExternalIP.
    pub primary: Vec<IpAddr>,
    /// The label `topology.kubernetes.io/zone`; none where it is empty.
    pub zone: Option<String>,
    /// `spec.podCIDRs`: what this node's pods have their addresses from, where the control plane hands that out.
    pub pod_cidrs: Vec<IpNet>,
    /// The keys of `spec.taints`.
    pub taints: BTreeSet<String>,
    /// `metadata.deletionTimestamp` is set.
    pub is_being_deleted: bool,
}

impl TryFrom<&core::Node> for Node {
    type Error = ObjectError;

    fn try_from(api: &core::Node) -> Result<Self, ObjectError> {
        let name = api.metadata.name.clone().unwrap_or_default();
        let fields = Fields::of(ObjectRef::Node(name.clone()));
        if name.is_empty() {
            return Err(fields.error("metadata.name", "missing"));
        }
        let status = api.status.as_ref();
        let (mut addresses, mut internal, mut external) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (index, address) in status.and_then(|s| s.addresses.as_deref()).unwrap_or_default().iter().enumerate() {
            let of_type = match address.type_.as_str() {
                "InternalIP" => &mut internal,
                "ExternalIP" => &mut external,
                _ => continue,
            };
            let path = format!("status.addresses[{index}].address");
            let address = fields.address(&path, &address.address)?;
            of_type.push(address);
            addresses.insert(address);
        }
        let mut primary: Vec<IpAddr> = Vec::new();
        for address in internal.into_iter().chain(external) {
            if !primary.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                primary.push(address);
            }
        }
        let label = |key: &str| api.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let zone = label("topology.kubernetes.io/zone").filter(|zone| !zone.is_empty()).cloned();
        let spec = api.spec.as_ref();
        // The field of one range is older; the API fills both.
        let texts = match spec.and_then(|spec| spec.pod_cidrs.as_deref()) {
            Some(several) if !several.is_empty() => several,
            _ => spec.and_then(|spec| spec.pod_cidr.as_ref()).map(std::slice::from_ref).unwrap_or_default(),
        };
        let mut pod_cidrs = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            pod_cidrs.push(fields.range(&format!("spec.podCIDRs[{index}]"), text)?);
        }
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let taints = taints.iter().map(|taint| taint.key.clone()).collect();
        let is_being_deleted = api.metadata.deletion_timestamp.is_some();
        Ok(Self { name, addresses, primary, zone, pod_cidrs, taints, is_being_deleted })
    }
}
