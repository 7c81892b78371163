//! EndpointSlices.

use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Fields, Kind, ObjectError, ObjectName, ObjectRef, Protocol, ProxyLabels, Text, Texts};

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its name.
    pub name: ObjectName,
    /// Who is to act on it.
    pub labels: ProxyLabels,
    /// The label `kubernetes.io/service-name`: the Service, in the same namespace, that the endpoints serve.
    pub service: Option<Text>,
    /// `ports`, without those that have no number (which the API takes for "all ports" and a proxy cannot serve).
    pub ports: Vec<EndpointPort>,
    /// `endpoints`, without those that have no address. Empty for address types that are no IP family.
    pub endpoints: Vec<Endpoint>,
    /// When what made the slice change happened, and nothing that a rule reads.
    #[serde(skip)]
    pub trigger: Trigger,
}

/// When a pod or Service changed so that an EndpointSlice had to, by the annotation
/// `endpoints.kubernetes.io/last-change-trigger-time`. Alike whatever it is: a slice with another one alone is the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trigger {
    /// When, as far as it is known.
    pub time: Option<Timestamp>,
    /// `addressType` is IPv6.
    pub is_v6: bool,
}

impl PartialEq for Trigger {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trigger {}

impl EndpointSlice {
    /// The Service that the endpoints serve.
    pub fn service_name(&self) -> Option<ObjectName> {
        let service = self.service.as_ref()?;
        Some(ObjectName::new(self.name.namespace.clone(), service.clone()))
    }

    /// Has what many slices have in common once.
    pub(crate) fn share(&mut self, texts: &mut Texts) {
        texts.share(&mut self.name.namespace);
        self.ports.iter_mut().for_each(|port| texts.share(&mut port.name));
        for endpoint in &mut self.endpoints {
            endpoint.node.iter_mut().for_each(|node| texts.share(node));
            let Some(hints) = &mut endpoint.hints else { continue };
            hints.zones.iter_mut().chain(&mut hints.nodes).for_each(|text| texts.share(text));
        }
    }
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Name of the Service's port that it answers.
    pub name: Text,
    /// Port of the endpoints.
    pub port: NonZeroU16,
    /// Protocol.
    pub protocol: Protocol,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses[0]`. The API says of the others: "consumers must only use the first".
    pub address: IpAddr,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means true.
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// `nodeName`: where it runs.
    pub node: Option<Text>,
    /// `hints`, where there is one.
    pub hints: Option<Box<Hints>>,
}

/// Whose clients should prefer an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`: those of these zones.
    pub zones: Box<[Text]>,
    /// `forNodes`: those on these nodes.
    pub nodes: Box<[Text]>,
}

impl Hints {
    /// `None` where nothing is hinted at.
    fn of(api: &discovery::EndpointHints) -> Option<Box<Self>> {
        let zones = api.for_zones.iter().flatten().map(|zone| Text::from(&*zone.name)).collect();
        let nodes = api.for_nodes.iter().flatten().map(|node| Text::from(&*node.name)).collect();
        let hints = Self { zones, nodes };
        (hints != Self::default()).then(|| Box::new(hints))
    }
}

impl TryFrom<&discovery::EndpointSlice> for EndpointSlice {
    type Error = ObjectError;

    fn try_from(api: &discovery::EndpointSlice) -> Result<Self, ObjectError> {
        let name = Fields::name(Kind::EndpointSlice, &api.metadata)?;
        let fields = Fields::of(ObjectRef::EndpointSlice(name.clone()));
        let service = api.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        let (ports, endpoints) = match api.address_type.as_str() {
            "IPv4" | "IPv6" => (
                ports(&fields, api.ports.as_deref().unwrap_or_default())?,
                endpoints(&fields, &api.address_type, api.endpoints.as_deref().unwrap_or_default())?,
            ),
            "FQDN" => (Vec::new(), Vec::new()),
            "" => return Err(fields.error("addressType", "missing: expected IPv4, IPv6 or FQDN")),
            other => {
                let message = format!("'{other}' is not an address type: expected IPv4, IPv6 or FQDN");
                return Err(fields.error("addressType", message));
            }
        };
        Ok(Self {
            name,
            labels: ProxyLabels::of(&api.metadata),
            service: service.filter(|service| !service.is_empty()).map(|service| Text::from(&**service)),
            ports,
            endpoints,
            trigger: Trigger { time: trigger_time(api), is_v6: api.address_type == "IPv6" },
        })
    }
}

/// What cannot be read is as if it were not there: it is only measured by.
fn trigger_time(api: &discovery::EndpointSlice) -> Option<Timestamp> {
    api.metadata.annotations.as_ref()?.get("endpoints.kubernetes.io/last-change-trigger-time")?.parse().ok()
}

fn ports(fields: &Fields, ports: &[discovery::EndpointPort]) -> Result<Vec<EndpointPort>, ObjectError> {
    let mut read = Vec::with_capacity(ports.len());
    for (index, api) in ports.iter().enumerate() {
        let path = |field: &str| format!("ports[{index}].{field}");
        let Some(number) = api.port else { continue };
        read.push(EndpointPort {
            name: fields.port_name(&path("name"), api.name.as_deref())?,
            port: fields.port(&path("port"), number)?,
            protocol: Protocol::parse(api.protocol.as_deref()).map_err(|m| fields.error(path("protocol"), m))?,
        });
    }
    Ok(read)
}

fn endpoints(fields: &Fields, family: &str, api: &[discovery::Endpoint]) -> Result<Vec<Endpoint>, ObjectError> {
    let mut read = Vec::with_capacity(api.len());
    for (index, api) in api.iter().enumerate() {
        let Some(text) = api.addresses.first() else { continue };
        let path = format!("endpoints[{index}].addresses[0]");
        let address = fields.address(&path, text)?;
        if address.is_ipv4() != (family == "IPv4") {
            return Err(fields.error(path, format!("{address} is not of the slice's addressType {family}")));
        }
        let conditions = api.conditions.as_ref();
        read.push(Endpoint {
            address,
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            node: api.node_name.as_deref().map(Text::from),
            hints: api.hints.as_ref().and_then(Hints::of),
        });
    }
    Ok(read)
}
