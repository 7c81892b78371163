//! The parts of Kubernetes objects that a proxy acts on, checked once, at the edge.
//!
//! Each type here is made from k8s-openapi's type of the same name by `TryFrom`. After that no address is a
//! string, no port is 0, no name is too long for the maps, and nothing further in can fail over them.
//! Absent on purpose: every field that no rule reads.

mod address;
mod error;
mod fields;
mod node;
mod range;
mod service;
mod service_cidr;
mod slice;
mod text;

use std::fmt;

use fields::Fields;
use serde::{Deserialize, Serialize};

pub use address::{ParseAddressError, parse_address};
pub use error::{ObjectError, Problem};
pub use node::Node;
pub use range::{ParseRangeError, parse_range};
pub use service::{PortSpec, Protocol, Service, ServiceType, TrafficPolicy};
pub use service_cidr::ServiceCidr;
pub use slice::{Endpoint, EndpointPort, EndpointSlice, Hints, Trigger};
pub use text::Text;
pub(crate) use text::Texts;

/// The kinds of object that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// Every kind, in the order in which sources report them.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Text,
    /// `metadata.name`.
    pub name: Text,
}

impl ObjectName {
    /// A name from its parts.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which object: displayed as `Service default/web` or `Node worker-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    EndpointSlice(ObjectName),
    /// A Node.
    Node(String),
    /// A ServiceCIDR.
    ServiceCidr(String),
}

impl ObjectRef {
    /// What kind of object it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) | Self::EndpointSlice(name) => write!(f, "{} {name}", self.kind()),
            Self::Node(name) | Self::ServiceCidr(name) => write!(f, "{} {name}", self.kind()),
        }
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

impl Object {
    /// Which object it is.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Service(service) => ObjectRef::Service(service.name.clone()),
            Self::EndpointSlice(slice) => ObjectRef::EndpointSlice(slice.name.clone()),
            Self::Node(node) => ObjectRef::Node(node.name.clone()),
            Self::ServiceCidr(ranges) => ObjectRef::ServiceCidr(ranges.name.clone()),
        }
    }
}

/// The labels by which an object says that another proxy, or none, is to act on it.
///
/// kube-proxy leaves out both, for Services and slices alike, by the label selector of its informers
/// (`cmd/kube-proxy/app/server.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyLabels {
    /// `service.kubernetes.io/service-proxy-name`: the proxy that serves it.
    pub proxy_name: Option<String>,
    /// `service.kubernetes.io/headless` is present, whatever its value.
    pub headless: bool,
}

impl ProxyLabels {
    fn of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Self {
        let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key));
        Self {
            proxy_name: label("service.kubernetes.io/service-proxy-name").cloned(),
            headless: label("service.kubernetes.io/headless").is_some(),
        }
    }

    /// Whether the proxy of this name, or of none, is to act on the object.
    pub fn are_for(&self, proxy_name: Option<&str>) -> bool {
        self.proxy_name.as_deref() == proxy_name && !self.headless
    }
}
