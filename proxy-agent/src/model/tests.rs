//! Objects in, frontends and backends out. The rules are those of kube-proxy's own tests
//! (`pkg/proxy/servicechangetracker_test.go`, `endpointschangetracker_test.go`), as far as they are served yet.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod changes;
mod held;
mod rules;
mod service_nets;

use std::collections::BTreeSet;

use super::{Desired, Held, ModelOptions, NodePortAddresses, NodeView, desired};
use crate::event::Event;
use crate::object::{Kind, Object};
use crate::store::{Scope, Store};
use crate::watch::manifests::read_text;

/// The node that the tests look from, with one address that its Node object does not have.
fn node() -> NodeView {
    NodeView {
        name: "n1".into(),
        addresses: ["10.0.0.1", "fd01::1", "127.0.0.1", "::1"].map(|a| a.parse().unwrap()).into(),
        own: ["10.0.0.1", "10.244.0.254"].map(|a| a.parse().unwrap()).into(),
        routes: ["10.244.0.0/24", "10.244.1.0/24"].map(|a| a.parse().unwrap()).into(),
    }
}

/// NodePorts on every address of the node, and otherwise the defaults.
fn options() -> ModelOptions {
    ModelOptions { node_port_addresses: vec![NodePortAddresses::All], ..ModelOptions::default() }
}

/// Objects from YAML documents. A line `Service NAME` or `Slice NAME` begins one that has apiVersion, kind and name
/// by that; the rest is indented as in a manifest.
fn objects(yaml: &str) -> Vec<Object> {
    let mut documents = String::new();
    for line in yaml.lines() {
        let line = line.strip_prefix("        ").unwrap_or(line);
        match line.split_once(' ') {
            Some(("Service", name)) => {
                documents.push_str(&format!("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n"))
            }
            Some(("Slice", name)) => {
                let service = name.split('-').next().unwrap();
                documents.push_str(&format!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
                     labels: {{kubernetes.io/service-name: {service}}}\n"
                ));
            }
            Some(("Node", name)) => {
                documents.push_str(&format!("---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n"));
            }
            _ => {
                documents.push_str(line);
                documents.push('\n');
            }
        }
    }
    let (objects, problems) = read_text(&documents);
    assert!(problems.is_empty(), "{problems:?}\n{documents}");
    objects
}

fn listed(kind: Kind, objects: &[Object]) -> Event {
    let references = objects.iter().map(Object::reference).filter(|object| object.kind() == kind);
    Event::Listed { kind, objects: references.collect() }
}

/// The model of some objects; the same whichever comes first.
fn model(yaml: &str) -> (Desired, Vec<String>) {
    model_with(&options(), yaml)
}

fn model_with(options: &ModelOptions, yaml: &str) -> (Desired, Vec<String>) {
    let objects = objects(yaml);
    let outcomes = [objects.clone(), objects.into_iter().rev().collect()].map(|objects| {
        let mut store = Store::default();
        for object in &objects {
            store.apply(Event::Apply(Box::new(object.clone())));
        }
        assert_eq!(desired(&store, &node(), options), None, "nothing is planned before all is listed");
        for kind in Kind::ALL {
            store.apply(listed(kind, &objects));
        }
        desired(&store, &node(), options).unwrap()
    });
    let [(one, problems), other] = outcomes;
    assert_eq!((&one, &problems), (&other.0, &other.1), "the order of the objects makes a difference");
    (one, problems.iter().map(ToString::to_string).collect())
}

/// A model in short: one line for each Service port, local backends with a star.
fn short(desired: &Desired) -> Vec<String> {
    let one = |(port, entry): (&super::ServicePort, &super::DesiredPort)| {
        let frontends =
            entry.frontends.iter().map(|((ip, number), rule)| format!("{} {ip} {number}", rule.kind.name()));
        let backends = entry.backends.iter().map(|(at, backend)| {
            let at = std::net::SocketAddr::from(*at);
            format!("{at}{}", if backend.local { "*" } else { "" })
        });
        let (frontends, backends): (Vec<_>, Vec<_>) = (frontends.collect(), backends.collect());
        format!("{port} {} {}: {} => {}", port.family, port.protocol, frontends.join(", "), backends.join(" "))
    };
    desired.ports.iter().map(one).collect()
}

/// A row of a table: what it is about, the objects, the model, the problems.
type Row<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

fn check(rows: &[Row<'_>]) {
    for (case, yaml, expected, expected_problems) in rows {
        let (desired, problems) = model(yaml);
        assert_eq!(short(&desired), *expected, "{case}");
        assert_eq!(problems, *expected_problems, "{case}");
    }
}

const SLICE: &str = "
        Slice web-1
        addressType: IPv4
        ports: [{port: 8080}]
        endpoints: [{addresses: [10.244.0.1], nodeName: n1}, {addresses: [10.244.1.1], nodeName: n2}]
";

#[test]
fn kinds_of_services() {
    let slice = |service: &str| format!("{service}\n{SLICE}");
    let backends = "10.244.0.1:8080* 10.244.1.1:8080";
    check(&[
        ("nothing", "", &[], &[]),
        (
            "ClusterIP",
            &slice("        Service web\n        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}"),
            &[&format!("default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => {backends}")],
            &[],
        ),
        (
            "NodePort: every address of the node, but no loopback",
            &slice(
                "        Service web
        spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}
        Node n1
        status:
          addresses: [{type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}]
        Node n2
        status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}",
            ),
            &[&format!(
                "default/web IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.1 80, NodePort 192.0.2.1 30080 => {backends}"
            )],
            &[],
        ),
        (
            "LoadBalancer: with a NodePort",
            &slice(
                "        Service web
        spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}",
            ),
            &[&format!("default/web IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.1 80 => {backends}")],
            &[],
        ),
        (
            "LoadBalancer for which no NodePort was allocated",
            &slice("        Service web\n        spec: {type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80}]}"),
            &[&format!("default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => {backends}")],
            &[],
        ),
        (
            "a ClusterIP Service that was a NodePort and still says so",
            &slice("        Service web\n        spec: {clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}"),
            &[&format!("default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => {backends}")],
            &[],
        ),
        (
            "headless, with and without a port, SCTP too",
            &slice(
                "        Service web
        spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}
        Service sctp
        spec: {clusterIP: None, ports: [{port: 80, protocol: SCTP}]}
        Service portless
        spec: {clusterIP: None}",
            ),
            &[],
            &[],
        ),
        (
            "ExternalName, even one that kept an address",
            &slice(
                "        Service web
        spec: {type: ExternalName, externalName: example.com, clusterIP: 10.96.0.1, ports: [{port: 80}]}",
            ),
            &[],
            &[],
        ),
        (
            "no address yet",
            &slice("        Service web\n        spec: {ports: [{port: 80}]}"),
            &[],
            &["Service default/web: spec.clusterIP: no address is allocated yet: the Service cannot be reached"],
        ),
        (
            "no endpoint: a frontend that refuses",
            "        Service web\n        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}",
            &["default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => "],
            &[],
        ),
        (
            "one number for three protocols, each with its own target",
            "        Service dns
        spec:
          clusterIPs: [10.96.0.10, fd00::10]
          ports: [{name: u, port: 53, protocol: UDP}, {name: t, port: 53}, {name: s, port: 53, protocol: SCTP}]
        Slice dns-1
        addressType: IPv4
        ports: [{name: u, port: 5353, protocol: UDP}, {name: t, port: 5300}, {name: s, port: 53, protocol: SCTP}]
        endpoints: [{addresses: [10.244.1.1]}]",
            &[
                "default/dns:s IPv4 SCTP: ClusterIP 10.96.0.10 53 => 10.244.1.1:53",
                "default/dns:s IPv6 SCTP: ClusterIP fd00::10 53 => ",
                "default/dns:t IPv4 TCP: ClusterIP 10.96.0.10 53 => 10.244.1.1:5300",
                "default/dns:t IPv6 TCP: ClusterIP fd00::10 53 => ",
                "default/dns:u IPv4 UDP: ClusterIP 10.96.0.10 53 => 10.244.1.1:5353",
                "default/dns:u IPv6 UDP: ClusterIP fd00::10 53 => ",
            ],
            &[],
        ),
        (
            "dual stack, each family with its own addresses and endpoints",
            "        Service web
        spec: {type: NodePort, clusterIPs: [fd00::1, 10.96.0.1], ports: [{port: 80, nodePort: 30080}]}
        Slice web-4
        addressType: IPv4
        ports: [{port: 8080}]
        endpoints: [{addresses: [10.244.0.1]}]
        Slice web-6
        addressType: IPv6
        ports: [{port: 8080}]
        endpoints: [{addresses: [fd02::1], nodeName: n1}]",
            &[
                "default/web IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.1 80 => 10.244.0.1:8080",
                "default/web IPv6 TCP: ClusterIP fd00::1 80, NodePort fd01::1 30080 => [fd02::1]:8080*",
            ],
            &[],
        ),
        (
            "legacy addresses",
            "        Service web
        spec: {clusterIP: 010.096.000.001, ports: [{port: 80}]}
        Slice web-1
        addressType: IPv4
        ports: [{port: 8080}]
        endpoints: [{addresses: ['::ffff:10.244.0.1']}, {addresses: [10.244.000.002]}]",
            &["default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => 10.244.0.1:8080 10.244.0.2:8080"],
            &[],
        ),
    ]);
}

#[test]
fn endpoints_of_services() {
    let service = |rest: &str| {
        format!("        Service web\n        spec: {{clusterIP: 10.96.0.1, ports: [{{name: p, port: 80}}]}}\n{rest}")
    };
    let slice = |name: &str, port: &str, endpoints: &str| {
        format!(
            "        Slice {name}\n        addressType: IPv4\n        ports: [{port}]\n        endpoints: [{endpoints}]\n"
        )
    };
    let p = "{name: p, port: 8080}";
    for (case, slices, backends) in [
        (
            "many slices, with duplicates",
            vec![
                slice("web-1", p, "{addresses: [10.0.1.1]}, {addresses: [10.0.1.2]}"),
                slice("web-2", p, "{addresses: [10.0.1.2]}, {addresses: [10.0.1.3]}"),
            ],
            "10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080",
        ),
        (
            "a duplicate that is ready and local in one slice only",
            vec![
                slice("web-1", p, "{addresses: [10.0.1.1], conditions: {ready: false}}"),
                slice("web-2", p, "{addresses: [10.0.1.1], nodeName: n1}"),
            ],
            "10.0.1.1:8080*",
        ),
        (
            "a named port with another number in each slice",
            vec![
                slice("web-1", "{name: p, port: 8080}", "{addresses: [10.0.1.1]}"),
                slice("web-2", "{name: p, port: 9090}", "{addresses: [10.0.1.1]}, {addresses: [10.0.1.2]}"),
            ],
            "10.0.1.1:8080 10.0.1.1:9090 10.0.1.2:9090",
        ),
        (
            "other names and protocols are other ports",
            vec![slice(
                "web-1",
                "{name: q, port: 1}, {name: p, port: 2, protocol: UDP}, {port: 3}, {name: p, port: 4}",
                "{addresses: [10.0.1.1]}",
            )],
            "10.0.1.1:4",
        ),
        ("a port without a number", vec![slice("web-1", "{name: p}", "{addresses: [10.0.1.1]}")], ""),
        ("no ports", vec![slice("web-1", "", "{addresses: [10.0.1.1]}")], ""),
        (
            "conditions: absent and null ready mean ready",
            vec![slice(
                "web-1",
                p,
                "{addresses: [10.0.1.1], conditions: {}}, {addresses: [10.0.1.2], conditions: {ready: null}}, \
                 {addresses: [10.0.1.3], conditions: {ready: false}}",
            )],
            "10.0.1.1:8080 10.0.1.2:8080",
        ),
        (
            "none ready: terminating ones that serve",
            vec![slice(
                "web-1",
                p,
                "{addresses: [10.0.1.1], conditions: {ready: false, serving: true, terminating: true}}, \
                 {addresses: [10.0.1.2], conditions: {ready: false, serving: false, terminating: true}}, \
                 {addresses: [10.0.1.3], conditions: {ready: false}}",
            )],
            "10.0.1.1:8080",
        ),
        (
            "only the first address",
            vec![slice("web-1", p, "{addresses: [10.0.1.1, 10.0.1.2]}, {addresses: []}")],
            "10.0.1.1:8080",
        ),
        (
            "names of hosts",
            vec!["        Slice web-1\n        addressType: FQDN\n        ports: [{name: p, port: 1}]\n        endpoints: [{addresses: [example.com]}]\n".into()],
            "",
        ),
        ("another Service's slice", vec![slice("other-1", p, "{addresses: [10.0.1.1]}")], ""),
    ] {
        let (desired, problems) = model(&service(&slices.concat()));
        assert_eq!(short(&desired), [format!("default/web:p IPv4 TCP: ClusterIP 10.96.0.1 80 => {backends}")], "{case}");
        assert!(problems.is_empty(), "{case}: {problems:?}");
    }
}

#[test]
fn labels_that_hand_objects_to_others() {
    let labelled = |label: &str| {
        format!(
            "        Service web\n          labels: {{{label}}}\n        spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n{SLICE}"
        )
    };
    for label in ["service.kubernetes.io/service-proxy-name: other", "service.kubernetes.io/headless: ''"] {
        let (desired, problems) = model(&labelled(label));
        assert!(desired.ports.is_empty() && problems.is_empty(), "{label}");
        let slice =
            SLICE.replace("web-1", &format!("web-1\n          labels: {{kubernetes.io/service-name: web, {label}}}"));
        // The short form has labels of its own: these take their place.
        let slice = objects_with_one_label_map(&slice);
        let (desired, _) = model(&format!(
            "        Service web\n        spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n{slice}"
        ));
        assert_eq!(short(&desired), ["default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => "], "{label}");
    }
}

/// Writes the slice of the short form out, with the labels that follow its name.
fn objects_with_one_label_map(slice: &str) -> String {
    slice.replace(
        "        Slice web-1\n",
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n",
    )
}

#[test]
fn a_slice_of_no_service_is_told() {
    let yaml = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: lost}\n";
    let told =
        "EndpointSlice default/lost: has no label kubernetes.io/service-name, so it belongs to no Service: ignored";
    check(&[("no label", yaml, &[], &[told])]);
}

#[test]
fn of_two_services_that_claim_one_frontend_the_first_by_name_gets_it() {
    check(&[
        (
            "one address",
            "        Service b
        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {name: only-b, port: 81}]}
        Service a
        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {name: udp, port: 81, protocol: UDP}]}",
            &[
                "default/a IPv4 TCP: ClusterIP 10.96.0.1 80 => ",
                "default/a:udp IPv4 UDP: ClusterIP 10.96.0.1 81 => ",
                "default/b:only-b IPv4 TCP: ClusterIP 10.96.0.1 81 => ",
            ],
            &["Service default/b: ClusterIP 10.96.0.1:80/TCP is already taken by Service default/a: ignored here"],
        ),
        (
            "one NodePort on two addresses is told once",
            "        Service a
        spec: {type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}
        Service b
        spec: {type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 80, nodePort: 30080}]}
        Node n1
        status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}",
            &[
                "default/a IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.1 80, NodePort 192.0.2.1 30080 => ",
                "default/b IPv4 TCP: ClusterIP 10.96.0.2 80 => ",
            ],
            &["Service default/b: NodePort 30080/TCP is already taken by Service default/a: ignored here"],
        ),
    ]);
}

#[test]
fn the_store_knows_what_changed_and_forgets_what_is_gone() {
    let mut store = Store::default();
    let all = objects(&format!(
        "        Service web\n        spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n{SLICE}"
    ));
    let apply = |store: &mut Store, object: &Object| store.apply(Event::Apply(Box::new(object.clone()))).is_something();
    for object in &all {
        assert!(apply(&mut store, object), "new");
        assert!(!apply(&mut store, object), "the same again");
    }
    assert_eq!(store.missing().collect::<Vec<_>>(), [Kind::Service, Kind::EndpointSlice]);
    assert!(store.apply(listed(Kind::Service, &all)).is_something(), "now it is listed");
    assert!(!store.is_synced());
    assert!(store.apply(listed(Kind::EndpointSlice, &all)).is_something());
    assert!(store.is_synced());
    assert!(!store.apply(listed(Kind::EndpointSlice, &all)).is_something(), "listed again, and nothing else");
    assert_eq!(short(&desired(&store, &node(), &options()).unwrap().0).len(), 1);

    // A slice goes over to another Service and back, and away.
    let without = ["default/web IPv4 TCP: ClusterIP 10.96.0.1 80 => "];
    let Object::EndpointSlice(mut moved) = all[1].clone() else { unreachable!("the second is the slice") };
    moved.service = Some("other".into());
    assert!(apply(&mut store, &Object::EndpointSlice(moved)));
    assert_eq!(short(&desired(&store, &node(), &options()).unwrap().0), without);
    assert!(apply(&mut store, &all[1]));
    assert_ne!(short(&desired(&store, &node(), &options()).unwrap().0), without);
    assert!(store.apply(Event::Delete(all[1].reference())).is_something());
    assert!(!store.apply(Event::Delete(all[1].reference())).is_something());
    assert_eq!(short(&desired(&store, &node(), &options()).unwrap().0), without);

    // A list that does not have it any more.
    assert!(store.apply(Event::Listed { kind: Kind::Service, objects: BTreeSet::new() }).is_something());
    assert!(desired(&store, &node(), &options()).unwrap().0.ports.is_empty());

    // Service flips: ClusterIP, ExternalName, NodePort, nothing of the former left.
    for (spec, lines) in [
        ("{clusterIP: 10.96.0.1, ports: [{port: 80}]}", 1),
        ("{type: ExternalName, externalName: example.com}", 0),
        ("{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}", 1),
        ("{clusterIP: None, ports: [{port: 80}]}", 0),
    ] {
        let flipped = objects(&format!("        Service web\n        spec: {spec}"));
        assert!(apply(&mut store, &flipped[0]));
        assert_eq!(desired(&store, &node(), &options()).unwrap().0.ports.len(), lines, "{spec}");
    }
}
