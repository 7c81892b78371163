//! Nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::{Fields, ObjectError, ObjectRef};

/// A core/v1 Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of the types InternalIP and ExternalIP.
    pub addresses: BTreeSet<IpAddr>,
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
        let mut addresses = BTreeSet::new();
        for (index, address) in status.and_then(|s| s.addresses.as_deref()).unwrap_or_default().iter().enumerate() {
            if matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
                let path = format!("status.addresses[{index}].address");
                addresses.insert(fields.address(&path, &address.address)?);
            }
        }
        Ok(Self { name, addresses })
    }
}
