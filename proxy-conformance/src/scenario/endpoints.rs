//! `endpoints:`, which stands for the EndpointSlices that the control plane would write.
//!
//! ```text
//! endpoints: web
//!   pod1a
//!   pod2a terminating
//!   pod2b http:9001 zones=a,b nodes=node2
//! ```
//!
//! One slice for each family of the Service, and one more for each other set of ports. The ports are the Service's
//! `targetPort`s as far as they are numbers, the others are named.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use proxy_testkit::lab::Family;
use serde_json::{Map, Value, json};

use super::{Key, Objects};
use crate::places;

/// The endpoints of a Service.
#[derive(Clone, Debug)]
pub struct EndpointLines {
    service: Key,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    host: places::Host,
    /// Port numbers by the name of the Service's port, where they are not its `targetPort`.
    ports: BTreeMap<String, u16>,
    /// `conditions`; `None` where the slice says nothing.
    conditions: Option<[bool; 3]>,
    zones: Vec<String>,
    nodes: Vec<String>,
    has_node: bool,
}

impl EndpointLines {
    /// Reads the block.
    pub(super) fn parse(service: &str, body: &[(usize, &str)]) -> Result<Self, (usize, String)> {
        let mut endpoints = Vec::new();
        for (line, text) in body {
            let text = text.split(" #").next().unwrap_or_default().trim();
            if !text.is_empty() && !text.starts_with('#') {
                endpoints.push(Endpoint::parse(text).map_err(|error| (*line, format!("{error:#}")))?);
            }
        }
        Ok(Self { service: Key::service(service), endpoints })
    }

    /// Puts the slices in place of those that the Service has.
    pub fn apply(&self, objects: &mut Objects) -> Result<()> {
        let service = objects.get(&self.service)?.clone();
        objects.delete_slices_of(&self.service);
        for family in families(&service) {
            for (number, (ports, endpoints)) in self.by_ports(&service)?.into_iter().enumerate() {
                let (suffix, address_type) = match family {
                    Family::V4 => ("ipv4", "IPv4"),
                    Family::V6 => ("ipv6", "IPv6"),
                };
                objects.set(json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "name": format!("{}-{suffix}-{number}", self.service.name),
                        "namespace": self.service.namespace,
                        "labels": labels(&service, &self.service.name),
                    },
                    "addressType": address_type,
                    "ports": ports,
                    "endpoints": endpoints.iter().map(|endpoint| endpoint.object(family)).collect::<Vec<_>>(),
                }))?;
            }
        }
        Ok(())
    }

    /// The endpoints, by the ports that they have.
    fn by_ports(&self, service: &Value) -> Result<Vec<(Value, Vec<&Endpoint>)>> {
        let mut all: Vec<(Value, Vec<&Endpoint>)> = Vec::new();
        for endpoint in &self.endpoints {
            let ports =
                endpoint.ports(service).with_context(|| format!("{} of {}", endpoint.host.name, self.service))?;
            match all.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => all.push((ports, vec![endpoint])),
            }
        }
        Ok(all)
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let host = places::host(words.next().unwrap_or_default())?;
        ensure!(!host.is_outside(), "{} is no endpoint", host.name);
        let mut endpoint = Self {
            host,
            ports: BTreeMap::new(),
            conditions: Some([true, true, false]),
            zones: Vec::new(),
            nodes: Vec::new(),
            has_node: true,
        };
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        for word in words {
            match (word, word.split_once('=')) {
                ("not-ready", _) => endpoint.conditions = Some([false, false, false]),
                ("serving-not-ready", _) => endpoint.conditions = Some([false, true, false]),
                ("terminating", _) => endpoint.conditions = Some([false, true, true]),
                ("ready-terminating", _) => endpoint.conditions = Some([true, true, true]),
                ("terminating-not-serving", _) => endpoint.conditions = Some([false, false, true]),
                ("without-conditions", _) => endpoint.conditions = None,
                ("without-node", _) => endpoint.has_node = false,
                (_, Some(("zones", zones))) => endpoint.zones = list(zones),
                (_, Some(("nodes", nodes))) => endpoint.nodes = list(nodes),
                _ => {
                    let (name, port) = word.split_once(':').with_context(|| {
                        format!(
                            "`{word}`: expected not-ready, serving-not-ready, terminating, ready-terminating, \
                             terminating-not-serving, without-conditions, without-node, zones=A,B, nodes=N or PORT:NUMBER"
                        )
                    })?;
                    let number = port.parse().with_context(|| format!("`{port}` is no port"))?;
                    endpoint.ports.insert(name.to_owned(), number);
                }
            }
        }
        Ok(endpoint)
    }

    /// The `ports` of the endpoint's slice.
    fn ports(&self, service: &Value) -> Result<Value> {
        let mut unknown: BTreeSet<&String> = self.ports.keys().collect();
        let mut ports = Vec::new();
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let name = port["name"].as_str().unwrap_or_default().to_owned();
            unknown.remove(&name);
            let by_default = match &port["targetPort"] {
                Value::Null => port["port"].as_u64(),
                target => target.as_u64(),
            };
            let number = self.ports.get(&name).map(|number| u64::from(*number)).or(by_default);
            let number = number.with_context(|| format!("what number is the port `{name}`? (`{name}:NUMBER`)"))?;
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            ports.push(json!({"name": name, "protocol": protocol, "port": number}));
        }
        match unknown.first() {
            Some(name) => bail!("the Service has no port `{name}`"),
            None => Ok(ports.into()),
        }
    }

    fn object(&self, family: Family) -> Value {
        let mut object = Map::new();
        object.insert("addresses".to_owned(), json!([self.host.ip(family).to_string()]));
        if let Some([ready, serving, terminating]) = self.conditions {
            let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
            object.insert("conditions".to_owned(), conditions);
        }
        if let Some(node) = self.host.node().filter(|_| self.has_node) {
            object.insert("nodeName".to_owned(), json!(format!("node{node}")));
        }
        let named = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let mut hints = Map::new();
        if !self.zones.is_empty() {
            hints.insert("forZones".to_owned(), named(&self.zones).into());
        }
        if !self.nodes.is_empty() {
            hints.insert("forNodes".to_owned(), named(&self.nodes).into());
        }
        if !hints.is_empty() {
            object.insert("hints".to_owned(), hints.into());
        }
        object.into()
    }
}

/// The labels of a slice: the name of its Service, and the Service's own, which the control plane copies.
fn labels(service: &Value, name: &str) -> Value {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("kubernetes.io/service-name".to_owned(), json!(name));
    labels.into()
}

/// The families of a Service's cluster addresses; both where it has none.
fn families(service: &Value) -> Vec<Family> {
    let several = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
    let one = [service["spec"]["clusterIP"].clone()];
    let addresses = several.iter().chain(&one).filter_map(Value::as_str);
    let addresses: Vec<_> = addresses.flat_map(proxy_agent::object::parse_address).map(Family::of).collect();
    let of_service = Family::BOTH.into_iter().filter(|family| addresses.contains(family)).collect::<Vec<_>>();
    if of_service.is_empty() { Family::BOTH.to_vec() } else { of_service }
}
