//! Services.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as core;
use proxy_common::maps::{TCP, UDP};

use super::{Fields, ObjectError, ObjectName, ObjectRef, ProxyLabels};

/// IP protocol number of SCTP (RFC 9260).
const SCTP: u8 = 132;

/// A core/v1 Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Who is to serve it.
    pub labels: ProxyLabels,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIP` is `None`: clients talk to the endpoints themselves.
    pub headless: bool,
    /// `spec.clusterIPs`; empty for a headless Service, for an ExternalName, and where none is allocated yet.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`. No two have one name, or one number and protocol.
    pub ports: Vec<PortSpec>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached at its cluster addresses.
    ClusterIp,
    /// Also at a port of every node.
    NodePort,
    /// Also at the addresses of a load balancer.
    LoadBalancer,
    /// A name in DNS, nothing for a proxy.
    ExternalName,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name, by which slices refer to it; empty where the only port has none.
    pub name: String,
    /// Port of the cluster addresses.
    pub port: NonZeroU16,
    /// Port of the nodes, where one is allocated.
    pub node_port: Option<NonZeroU16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// A transport protocol that Services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
            Self::Sctp => SCTP,
        }
    }

    /// The protocol of an IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            SCTP => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As the API writes it; absent means TCP.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("" | "TCP") => Ok(Self::Tcp),
            Some("UDP") => Ok(Self::Udp),
            Some("SCTP") => Ok(Self::Sctp),
            Some(other) => Err(format!("'{other}' is not a protocol: expected TCP, UDP or SCTP")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl TryFrom<&core::Service> for Service {
    type Error = ObjectError;

    fn try_from(api: &core::Service) -> Result<Self, ObjectError> {
        let name = Fields::name(super::Kind::Service, &api.metadata)?;
        let fields = Fields::of(ObjectRef::Service(name.clone()));
        let default = core::ServiceSpec::default();
        let spec = api.spec.as_ref().unwrap_or(&default);

        let service_type = match spec.type_.as_deref() {
            None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            Some(other) => {
                let expected = "expected ClusterIP, NodePort, LoadBalancer or ExternalName";
                return Err(fields.error("spec.type", format!("'{other}' is not a type: {expected}")));
            }
        };
        let (headless, cluster_ips) = match service_type {
            // The API keeps the addresses of a Service that became an ExternalName out; files may not.
            ServiceType::ExternalName => (false, Vec::new()),
            _ => cluster_ips(&fields, spec)?,
        };
        let ports = match service_type {
            ServiceType::ExternalName => Vec::new(),
            _ => ports(&fields, spec.ports.as_deref().unwrap_or_default())?,
        };
        Ok(Self { name, labels: ProxyLabels::of(&api.metadata), service_type, headless, cluster_ips, ports })
    }
}

/// Whether the Service is headless, and its addresses. `clusterIP` counts only where `clusterIPs` is absent, as
/// in objects older than dual stack.
fn cluster_ips(fields: &Fields, spec: &core::ServiceSpec) -> Result<(bool, Vec<IpAddr>), ObjectError> {
    let (texts, indexed): (&[String], bool) = match (spec.cluster_ips.as_deref(), &spec.cluster_ip) {
        (Some(several), _) if !several.is_empty() => (several, true),
        (_, Some(one)) => (std::slice::from_ref(one), false),
        (_, None) => (&[], false),
    };
    if texts.iter().any(|text| text == "None") {
        return Ok((true, Vec::new()));
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let path = if indexed { format!("spec.clusterIPs[{index}]") } else { "spec.clusterIP".to_owned() };
        let address = fields.address(&path, text)?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(fields.error(path, format!("{address} is a second address of its family: one is allowed")));
        }
        addresses.push(address);
    }
    Ok((false, addresses))
}

/// `spec.ports`.
fn ports(fields: &Fields, ports: &[core::ServicePort]) -> Result<Vec<PortSpec>, ObjectError> {
    let mut names = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut read = Vec::with_capacity(ports.len());
    for (index, api) in ports.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{index}].{field}");
        let name = fields.port_name(&path("name"), api.name.as_deref())?;
        let protocol = Protocol::parse(api.protocol.as_deref()).map_err(|m| fields.error(path("protocol"), m))?;
        let port = fields.port(&path("port"), api.port)?;
        let node_port = match api.node_port {
            None | Some(0) => None,
            Some(number) => Some(fields.port(&path("nodePort"), number)?),
        };
        if let Some(first) = names.insert(name.clone(), index) {
            return Err(fields.error(path("name"), format!("'{name}' is also the name of spec.ports[{first}]")));
        }
        if let Some(first) = numbers.insert((port, protocol), index) {
            return Err(fields.error(path("port"), format!("{port}/{protocol} is also spec.ports[{first}]")));
        }
        read.push(PortSpec { name, port, node_port, protocol });
    }
    Ok(read)
}
