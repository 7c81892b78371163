//! What is held, brought up to date, is what comes out anew.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::model::Changes;
use crate::object::ObjectName;

fn options() -> ModelOptions {
    let service_cidrs = ["10.96.0.0/16".parse().unwrap()].into();
    ModelOptions { service_cidrs, ..super::options() }
}

/// A Service as few words tell it.
#[derive(Clone, Debug)]
struct Draft {
    name: usize,
    /// `None`: it is deleted.
    spec: Option<Spec>,
}

#[derive(Clone, Debug)]
struct Spec {
    kind: &'static str,
    address: u8,
    ports: u8,
    node_port: Option<u8>,
    external: Option<u8>,
    is_local: bool,
    is_others: bool,
    endpoints: u8,
}

fn draft() -> impl Strategy<Value = Draft> {
    const KINDS: [&str; 5] = ["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let spec = (
        proptest::sample::select(&KINDS[..]),
        0..7_u8,
        1..3_u8,
        option::weighted(0.5, 0..5_u8),
        option::weighted(0.1, 0..3_u8),
        any::<bool>(),
        proptest::bool::weighted(0.05),
        0..3_u8,
    );
    let spec = spec.prop_map(|(kind, address, ports, node_port, external, is_local, is_others, endpoints)| Spec {
        kind,
        address,
        ports,
        node_port: node_port.filter(|_| kind != "ClusterIP"),
        external,
        is_local,
        is_others,
        endpoints,
    });
    (0..4_usize, option::weighted(0.8, spec)).prop_map(|(name, spec)| Draft { name, spec })
}

impl Draft {
    /// Its events: of the Service and of its slice.
    fn events(&self) -> Vec<Event> {
        let name = format!("s{}", self.name);
        let Some(spec) = &self.spec else {
            let (service, slice) =
                (ObjectName::new("default", &*name), ObjectName::new("default", format!("{name}-1")));
            return vec![
                Event::Delete(crate::object::ObjectRef::Service(service)),
                Event::Delete(crate::object::ObjectRef::EndpointSlice(slice)),
            ];
        };
        // One address in seven is outside of the range that is known.
        let address = if spec.address == 6 { "10.200.0.1".to_owned() } else { format!("10.96.0.{}", spec.address) };
        let ports: Vec<_> = (0..spec.ports)
            .map(|number| {
                let node_port =
                    spec.node_port.map(|first| format!(", nodePort: {}", 30_000 + u16::from(first + number)));
                format!("{{name: p{number}, port: {}{}}}", 80 + u16::from(number), node_port.unwrap_or_default())
            })
            .collect();
        let external = spec.external.map(|last| format!("externalIPs: [10.96.0.{last}],")).unwrap_or_default();
        let labels = if spec.is_others { "  labels: {service.kubernetes.io/service-proxy-name: other}\n" } else { "" };
        let policy = if spec.is_local { "Local" } else { "Cluster" };
        let external_policy =
            if spec.kind == "ClusterIP" { String::new() } else { format!("externalTrafficPolicy: {policy},") };
        let endpoints: Vec<_> = (0..spec.endpoints)
            .map(|last| format!("{{addresses: [10.244.0.{}], nodeName: n{}}}", last + 1, 1 + last % 2))
            .collect();
        let yaml = format!(
            "        Service {name}
{labels}        spec: {{type: {}, externalName: a, clusterIP: {address}, internalTrafficPolicy: {policy}, {external_policy} {external}
          healthCheckNodePort: 31000, ports: [{}]}}
        Slice {name}-1
        addressType: IPv4
        ports: [{{name: p0, port: 8080}}, {{name: p1, port: 8081}}]
        endpoints: [{}]
",
            spec.kind,
            ports.join(", "),
            endpoints.join(", ")
        );
        objects(&yaml).into_iter().map(|object| Event::Apply(Box::new(object))).collect()
    }
}

fn listed_store() -> Store {
    let mut store = Store::default();
    Kind::ALL.into_iter().for_each(|kind| drop(store.apply(listed(kind, &[]))));
    store
}

fn whole(store: &Store) -> (Desired, usize) {
    let (desired, problems) = desired(store, &node(), &options()).unwrap();
    (desired, problems.len())
}

/// Takes events in and brings what is held up to date. What that changed, unless it took more.
fn update(store: &mut Store, held: &mut Held, events: Vec<Event>) -> Option<Changes> {
    let mut scope = Scope::Nothing;
    events.into_iter().for_each(|event| scope.add(store.apply(event)));
    match scope {
        Scope::Nothing => Some(Changes::default()),
        Scope::Services(services) => held.update(store, &node(), &options(), &services),
        Scope::Everything => None,
    }
}

proptest! {
    #[test]
    fn whatever_services_do(rounds in vec(vec(draft(), 1..4), 1..12)) {
        let mut store = listed_store();
        let (desired, mut problems_before) = whole(&store);
        let mut held = Held::new(desired, problems_before);
        for drafts in rounds {
            let former = held.desired().clone();
            let events = drafts.iter().flat_map(Draft::events).collect();
            let changes = update(&mut store, &mut held, events);
            let (desired, problems) = whole(&store);
            if let Some(changes) = changes {
                prop_assert_eq!(held.desired(), &desired);
                prop_assert_eq!(problems, problems_before);
                let ports = former.ports.keys().chain(desired.ports.keys());
                for port in ports.filter(|port| former.ports.get(port) != desired.ports.get(port)) {
                    prop_assert!(changes.ports.contains(port), "{} is different", port);
                }
                for address in former.cluster_ips.symmetric_difference(&desired.cluster_ips) {
                    prop_assert!(changes.cluster_ips.contains(address), "{} has come or gone", address);
                }
                for address in former.external_ips.symmetric_difference(&desired.external_ips) {
                    prop_assert!(changes.external_ips.contains(address), "{} has come or gone", address);
                }
                prop_assert!(changes.health_checks || former.health_checks == desired.health_checks);
            }
            held = Held::new(desired, problems);
            problems_before = problems;
        }
    }
}

#[test]
fn what_usually_happens_to_a_service_does_not_take_more() {
    let mut store = listed_store();
    let (desired, problems) = whole(&store);
    let mut held = Held::new(desired, problems);
    let spec = |kind, address, node_port, endpoints| Spec {
        kind,
        address,
        ports: 2,
        node_port,
        external: None,
        is_local: false,
        is_others: false,
        endpoints,
    };
    for (what, name, spec, count) in [
        ("comes", 0, Some(spec("ClusterIP", 1, None, 0)), 2),
        ("another one", 1, Some(spec("ClusterIP", 2, None, 2)), 4),
        ("gets NodePorts", 0, Some(spec("NodePort", 1, Some(0), 1)), 4),
        ("goes", 1, None, 2),
        ("its address is another's", 2, Some(spec("ClusterIP", 2, None, 1)), 4),
    ] {
        let changes = update(&mut store, &mut held, Draft { name, spec }.events());
        assert!(changes.is_some_and(|changes| !changes.ports.is_empty()), "{what}");
        assert_eq!(held.desired(), &whole(&store).0, "{what}");
        assert_eq!(held.desired().ports.len(), count, "{what}");
    }
    let taken = Draft { name: 3, spec: Some(spec("ClusterIP", 2, None, 1)) };
    assert_eq!(update(&mut store, &mut held, taken.events()), None, "two want the same");
    let none: Vec<IpAddr> = Vec::new();
    let (desired, problems) = whole(&store);
    assert_eq!((problems > 0, desired.left_to_others.into_iter().collect::<Vec<_>>()), (true, none));
}
