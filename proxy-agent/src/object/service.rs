//! Services.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use proxy_common::maps::{SCTP, TCP, UDP};
use serde::{Deserialize, Serialize};

use super::{Fields, ObjectError, ObjectName, ObjectRef, ProxyLabels, Text, Texts};

/// What `sessionAffinityConfig.clientIP.timeoutSeconds` is where it is absent: three hours.
const DEFAULT_AFFINITY: i32 = 10_800;
/// The longest that the API allows: a day.
const LONGEST_AFFINITY: i32 = 86_400;
/// Where source ranges were before they had a field.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// A core/v1 Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `spec.internalTrafficPolicy`: for clients of the cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: for clients of all other addresses.
    pub external_policy: TrafficPolicy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of the ipMode VIP, which absent means. The load balancer rewrites the
    /// destination of packets to those of the mode Proxy, so that a node never sees them; names are no addresses.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, or else the annotation that was there before it.
    pub source_ranges: Vec<IpNet>,
    /// `spec.sessionAffinity` ClientIP: for how many seconds.
    pub affinity: Option<NonZeroU32>,
    /// `spec.healthCheckNodePort`, where one is allocated.
    pub health_check_node_port: Option<NonZeroU16>,
}

impl Service {
    /// Has what many Services have in common once.
    pub(crate) fn share(&mut self, texts: &mut Texts) {
        texts.share(&mut self.name.namespace);
        self.ports.iter_mut().for_each(|port| texts.share(&mut port.name));
    }
}

/// `spec.internalTrafficPolicy` or `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints on the node that the traffic came to.
    Local,
}

impl TrafficPolicy {
    fn parse(fields: &Fields, path: &str, text: Option<&str>) -> Result<Self, ObjectError> {
        match text {
            None | Some("" | "Cluster") => Ok(Self::Cluster),
            Some("Local") => Ok(Self::Local),
            Some(other) => Err(fields.error(path, format!("'{other}' is not a policy: expected Cluster or Local"))),
        }
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Its name, by which slices refer to it; empty where the only port has none.
    pub name: Text,
    /// Port of the cluster addresses.
    pub port: NonZeroU16,
    /// Port of the nodes, where one is allocated.
    pub node_port: Option<NonZeroU16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// A transport protocol that Services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
        let policy = |path: &str, text: &Option<String>| TrafficPolicy::parse(&fields, path, text.as_deref());
        let health_check_node_port = match spec.health_check_node_port {
            None | Some(0) => None,
            Some(number) => Some(fields.port("spec.healthCheckNodePort", number)?),
        };
        Ok(Self {
            labels: ProxyLabels::of(&api.metadata),
            service_type,
            headless,
            cluster_ips,
            ports,
            internal_policy: policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy)?,
            external_policy: policy("spec.externalTrafficPolicy", &spec.external_traffic_policy)?,
            external_ips: external_ips(&fields, spec)?,
            load_balancer_ips: load_balancer_ips(&fields, api)?,
            source_ranges: source_ranges(&fields, api, spec)?,
            affinity: affinity(&fields, spec)?,
            health_check_node_port,
            name,
        })
    }
}

/// `spec.externalIPs`.
fn external_ips(fields: &Fields, spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, ObjectError> {
    let texts = spec.external_ips.as_deref().unwrap_or_default().iter().enumerate();
    texts.map(|(index, text)| fields.address(&format!("spec.externalIPs[{index}]"), text)).collect()
}

/// `status.loadBalancer.ingress`, as far as nodes see the address (KEP-1860).
fn load_balancer_ips(fields: &Fields, api: &core::Service) -> Result<Vec<IpAddr>, ObjectError> {
    let status = api.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let mut addresses = Vec::with_capacity(ingress.len());
    for (index, ingress) in ingress.iter().enumerate() {
        let Some(text) = ingress.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
        if matches!(ingress.ip_mode.as_deref(), None | Some("VIP")) {
            addresses.push(fields.address(&format!("status.loadBalancer.ingress[{index}].ip"), text)?);
        }
    }
    Ok(addresses)
}

/// The field counts; the annotation, with commas between the ranges, only where the field is empty.
fn source_ranges(fields: &Fields, api: &core::Service, spec: &core::ServiceSpec) -> Result<Vec<IpNet>, ObjectError> {
    let texts = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !texts.is_empty() {
        let texts = texts.iter().enumerate();
        return texts
            .map(|(index, text)| fields.range(&format!("spec.loadBalancerSourceRanges[{index}]"), text))
            .collect();
    }
    let annotation = api.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    let texts = annotation.map(String::as_str).unwrap_or_default().split(',').filter(|text| !text.trim().is_empty());
    texts.map(|text| fields.range(&format!("metadata.annotations[{SOURCE_RANGES}]"), text)).collect()
}

/// For how long clients stay with their backend.
fn affinity(fields: &Fields, spec: &core::ServiceSpec) -> Result<Option<NonZeroU32>, ObjectError> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            let message = format!("'{other}' is not an affinity: expected None or ClientIP");
            return Err(fields.error("spec.sessionAffinity", message));
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY);
    let allowed = u32::try_from(seconds).ok().filter(|_| seconds <= LONGEST_AFFINITY).and_then(NonZeroU32::new);
    match allowed {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(fields.error(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is out of range: expected 1 to {LONGEST_AFFINITY}"),
        )),
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
