//! The objects that are put into the API server.

use proxy_testkit::Host;
use proxy_testkit::server::{ECHO, WHO};
use serde_json::{Value, json};

use super::node::Place;
use super::servers::{COUNT, SINK};

/// The namespace of all that is measured.
pub const NAMESPACE: &str = "bench";

/// A Service's ports: name, protocol, number, number at the endpoint.
pub const PORTS: [(&str, &str, u16, u16); 5] = [
    ("who", "TCP", 80, WHO),
    ("echo", "TCP", 7, ECHO),
    ("sink", "TCP", 81, SINK),
    ("count", "UDP", 82, COUNT),
    ("ask", "UDP", 83, WHO),
];

/// The place of a port among a Service's: its NodePorts are next to each other.
pub fn place_of(name: &str) -> u16 {
    (0..).zip(PORTS).find(|(_, port)| port.0 == name).map_or(0, |(place, _)| place)
}

/// Where Services are created.
pub fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

/// Where slices are created.
pub fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

/// A Node.
pub fn node(place: &Place) -> String {
    let host = &place.host;
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": host.name, "labels": {"kubernetes.io/hostname": host.name}},
        "spec": {"podCIDR": place.pod_range(), "podCIDRs": [place.pod_range()], "unschedulable": true},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": host.name},
                {"type": "InternalIP", "address": host.v4},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "a network namespace"}],
        },
    })
    .to_string()
}

/// A Service that is asked.
pub fn served(name: &str, node_port: Option<u16>) -> Value {
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(port, protocol, number, _)| {
            let mut entry = json!({"name": port, "protocol": protocol, "port": number});
            if let Some(first) = node_port {
                entry["nodePort"] = json!(first + place_of(port));
            }
            entry
        })
        .collect();
    let kind = if node_port.is_some() { "NodePort" } else { "ClusterIP" };
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": ports}})
}

/// Its slice.
pub fn slice(name: &str, endpoints: &[&Host]) -> Value {
    let ports: Vec<_> = PORTS
        .iter()
        .map(|(port, protocol, _, target)| json!({"name": port, "protocol": protocol, "port": target}))
        .collect();
    json!({
        "metadata": {"name": slice_name(name), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints_of(endpoints),
    })
}

/// The name of a Service's slice.
pub fn slice_name(service: &str) -> String {
    format!("{service}-1")
}

/// The endpoints of a slice.
pub fn endpoints_of(hosts: &[&Host]) -> Vec<Value> {
    // A pod's name is that of its node and a letter.
    let node = |host: &Host| host.name.rsplit_once('-').map_or_else(String::new, |(node, _)| node.to_owned());
    hosts.iter().map(|host| json!({"addresses": [host.v4], "nodeName": node(host)})).collect()
}

/// A Service that nobody asks. Its name comes before those that are.
pub fn ballast(number: usize) -> Value {
    json!({"metadata": {"name": format!("ballast-{number:05}")}, "spec": {"ports": [{"name": "who", "port": 80}]}})
}

/// Its slice.
pub fn ballast_slice(number: usize, endpoints: usize) -> Value {
    let name = format!("ballast-{number:05}");
    json!({
        "metadata": {"name": slice_name(&name), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "who", "port": 9000}], "endpoints": ballast_endpoints(number, endpoints, 0),
    })
}

/// So many addresses, all others for each generation, which is below 16.
pub fn ballast_endpoints(number: usize, endpoints: usize, generation: usize) -> Vec<Value> {
    let address = |n: usize| {
        let at = number * endpoints + n;
        // 250 × 250 addresses in each range: as many ranges as it takes.
        format!("{}.{}.{}.{}", 20 + generation, at / 62_500, at / 250 % 250, at % 250 + 1)
    };
    (0..endpoints).map(|n| json!({"addresses": [address(n)], "nodeName": "backend"})).collect()
}
