//! Ranges of ClusterIPs.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as networking;
use serde::{Deserialize, Serialize};

use super::{Fields, ObjectError, ObjectRef};

/// A networking.k8s.io/v1 ServiceCIDR: ranges that the API server takes ClusterIPs from (KEP-1880).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: String,
    /// `spec.cidrs`.
    pub ranges: Vec<IpNet>,
}

impl TryFrom<&networking::ServiceCIDR> for ServiceCidr {
    type Error = ObjectError;

    fn try_from(api: &networking::ServiceCIDR) -> Result<Self, ObjectError> {
        let name = api.metadata.name.clone().unwrap_or_default();
        let fields = Fields::of(ObjectRef::ServiceCidr(name.clone()));
        if name.is_empty() {
            return Err(fields.error("metadata.name", "missing"));
        }
        let texts = api.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        let range = |(index, text): (usize, &String)| fields.range(&format!("spec.cidrs[{index}]"), text);
        let ranges = texts.iter().enumerate().map(range).collect::<Result<_, _>>()?;
        Ok(Self { name, ranges })
    }
}
