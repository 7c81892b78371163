//! One state after another, as in kube-proxy's `TestUpdateEndpointsMap` (`pkg/proxy/endpointschangetracker_test.go`),
//! `TestBuildServiceMapAddRemove` and `TestBuildServiceMapServiceUpdate` (`servicechangetracker_test.go`): what is left of
//! the former state is nothing.

use super::*;

/// Slices, each as name, ports and endpoints.
type Slices<'a> = &'a [(&'a str, &'a str, &'a str)];

fn slices(slices: Slices<'_>) -> Vec<Object> {
    let yaml: String = slices
        .iter()
        .map(|(name, ports, endpoints)| {
            format!("        Slice {name}\n        addressType: IPv4\n        ports: [{ports}]\n        endpoints: [{endpoints}]\n")
        })
        .collect();
    objects(&yaml)
}

const SERVICES: &str = "        Service a
        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
        Service b
        spec: {clusterIP: 10.96.0.2, ports: [{name: p11, port: 11}, {name: p12, port: 12}, {name: p13, port: 13}]}
";

/// The backends of each Service port that has some.
fn backends(store: &Store) -> String {
    let (desired, problems) = desired(store, &node(), &options()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let lines: Vec<_> = short(&desired)
        .iter()
        .filter_map(|line| {
            let (port, rest) = line.split_once(' ')?;
            let (_, backends) = rest.split_once(" => ")?;
            let name = port.strip_prefix("default/")?;
            (!backends.is_empty()).then(|| format!("{name} {backends}"))
        })
        .collect();
    lines.join(", ")
}

/// What was held before, brought up to date, is what comes out anew. Slices never take more than that.
fn assert_updated(held: &mut Option<Held>, store: &Store, scope: &Scope, case: &str) {
    let (whole, problems) = desired(store, &node(), &options()).unwrap();
    if let Some(mut held) = held.take() {
        let Scope::Services(services) = scope else {
            return assert_eq!((scope, held.desired()), (&Scope::Nothing, &whole));
        };
        let former = held.desired().ports.clone();
        let changes = held.update(store, &node(), &options(), services).unwrap();
        assert_eq!(held.desired(), &whole, "{case}");
        let differ = whole.ports.iter().filter(|(port, want)| former.get(port) != Some(want));
        assert_eq!(changes.ports, differ.map(|(port, _)| port.clone()).collect(), "{case}");
    }
    *held = Some(Held::new(whole, problems.len()));
}

#[test]
fn local_policies_and_health_checks_follow_the_endpoints() {
    let all = objects(
        "        Service a
        spec: {type: LoadBalancer, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, healthCheckNodePort: 31000,
               ports: [{port: 80, nodePort: 30080}]}
        Service b
        spec: {clusterIP: 10.96.0.2, internalTrafficPolicy: Local, ports: [{port: 80}]}
",
    );
    let mut store = Store::default();
    all.iter().for_each(|object| drop(store.apply(Event::Apply(Box::new(object.clone())))));
    Kind::ALL.into_iter().for_each(|kind| drop(store.apply(listed(kind, &all))));
    let mut held = None;
    let (here, there) = ("{addresses: [1.1.1.1], nodeName: n1}", "{addresses: [1.1.1.2], nodeName: n2}");
    let both = format!("{here}, {there}");
    for (endpoints, no_local, checks) in
        [("", 0, 0), (there, 1, 0), (&both, 0, 1), (here, 0, 1), (there, 1, 0), ("", 0, 0)]
    {
        let mut scope = Scope::Nothing;
        for object in slices(&[("a-1", "{port: 80}", endpoints), ("b-1", "{port: 80}", endpoints)]) {
            scope.add(store.apply(Event::Apply(Box::new(object))));
        }
        assert_updated(&mut held, &store, &scope, endpoints);
        let held = held.as_ref().unwrap().desired();
        assert_eq!(held.no_local.by_family, [[no_local, no_local], [0, 0]], "{endpoints}");
        assert_eq!(held.health_checks.values().map(|check| check.local_endpoints).collect::<Vec<_>>(), [checks]);
    }
}

#[test]
fn nothing_is_left_of_a_former_state() {
    let one = "{addresses: [1.1.1.1]}";
    let local = "{addresses: [1.1.1.2], nodeName: n1}";
    let last = "{addresses: [1.1.1.1], conditions: {ready: false, serving: true, terminating: true}}";
    let (p11, p12) = ("{name: p11, port: 11}", "{name: p12, port: 12}");
    let both = format!("{p11}, {p12}");
    let both = both.as_str();
    for (case, before, after, was, is) in [
        ("nothing", &[][..], &[][..], "", ""),
        (
            "no change, unnamed port",
            &[("a-1", "{port: 80}", one)],
            &[("a-1", "{port: 80}", one)],
            "a 1.1.1.1:80",
            "a 1.1.1.1:80",
        ),
        (
            "no change, named port, local",
            &[("b-1", p11, local)],
            &[("b-1", p11, local)],
            "b:p11 1.1.1.2:11*",
            "b:p11 1.1.1.2:11*",
        ),
        (
            "no change, many slices and services",
            &[("a-1", "{port: 80}", one), ("b-1", p11, one), ("b-2", p12, local)],
            &[("a-1", "{port: 80}", one), ("b-1", p11, one), ("b-2", p12, local)],
            "a 1.1.1.1:80, b:p11 1.1.1.1:11, b:p12 1.1.1.2:12*",
            "a 1.1.1.1:80, b:p11 1.1.1.1:11, b:p12 1.1.1.2:12*",
        ),
        ("add a slice", &[], &[("a-1", "{port: 80}", local)], "", "a 1.1.1.2:80*"),
        ("remove a slice", &[("a-1", "{port: 80}", local)], &[], "a 1.1.1.2:80*", ""),
        (
            "add an address and a port",
            &[("b-1", p11, one)],
            &[("b-1", both, "{addresses: [1.1.1.1]}, {addresses: [1.1.1.2], nodeName: n1}")],
            "b:p11 1.1.1.1:11",
            "b:p11 1.1.1.1:11 1.1.1.2:11*, b:p12 1.1.1.1:12 1.1.1.2:12*",
        ),
        (
            "remove an address and a port",
            &[("b-1", both, "{addresses: [1.1.1.1]}, {addresses: [1.1.1.2], nodeName: n1}")],
            &[("b-1", p11, one)],
            "b:p11 1.1.1.1:11 1.1.1.2:11*, b:p12 1.1.1.1:12 1.1.1.2:12*",
            "b:p11 1.1.1.1:11",
        ),
        (
            "add a slice to a Service",
            &[("b-1", p11, one)],
            &[("b-1", p11, one), ("b-2", p12, local)],
            "b:p11 1.1.1.1:11",
            "b:p11 1.1.1.1:11, b:p12 1.1.1.2:12*",
        ),
        (
            "remove a slice from a Service",
            &[("b-1", p11, one), ("b-2", p12, local)],
            &[("b-1", p11, one)],
            "b:p11 1.1.1.1:11, b:p12 1.1.1.2:12*",
            "b:p11 1.1.1.1:11",
        ),
        (
            "rename a port",
            &[("b-1", p11, one)],
            &[("b-1", "{name: p12, port: 11}", one)],
            "b:p11 1.1.1.1:11",
            "b:p12 1.1.1.1:11",
        ),
        (
            "renumber a port",
            &[("b-1", p11, one)],
            &[("b-1", "{name: p11, port: 22}", one)],
            "b:p11 1.1.1.1:11",
            "b:p11 1.1.1.1:22",
        ),
        ("0 to 1 endpoint", &[("a-1", "{port: 80}", "")], &[("a-1", "{port: 80}", one)], "", "a 1.1.1.1:80"),
        ("1 to 0 endpoints", &[("a-1", "{port: 80}", one)], &[("a-1", "{port: 80}", "")], "a 1.1.1.1:80", ""),
        (
            "ready to terminating",
            &[("a-1", "{port: 80}", one)],
            &[("a-1", "{port: 80}", last)],
            "a 1.1.1.1:80",
            "a 1.1.1.1:80",
        ),
        ("terminating to none", &[("a-1", "{port: 80}", last)], &[("a-1", "{port: 80}", "")], "a 1.1.1.1:80", ""),
        (
            "an endpoint goes over to another slice",
            &[("a-1", "{port: 80}", one), ("a-2", "{port: 80}", "")],
            &[("a-1", "{port: 80}", ""), ("a-2", "{port: 80}", one)],
            "a 1.1.1.1:80",
            "a 1.1.1.1:80",
        ),
        (
            "much at once",
            &[("a-1", "{port: 80}", one), ("b-1", p11, one), ("b-2", p12, local)],
            &[("b-2", "{name: p13, port: 13}", local), ("b-3", p11, local)],
            "a 1.1.1.1:80, b:p11 1.1.1.1:11, b:p12 1.1.1.2:12*",
            "b:p11 1.1.1.2:11*, b:p13 1.1.1.2:13*",
        ),
    ] {
        let mut store = Store::default();
        let services = objects(SERVICES);
        for object in &services {
            store.apply(Event::Apply(Box::new(object.clone())));
        }
        store.apply(listed(Kind::Service, &services));
        store.apply(listed(Kind::EndpointSlice, &[]));
        let mut held = None;
        for (slices, expected) in [(slices(before), was), (slices(after), is)] {
            let mut scope = Scope::Nothing;
            for object in &slices {
                scope.add(store.apply(Event::Apply(Box::new(object.clone()))));
            }
            scope.add(store.apply(listed(Kind::EndpointSlice, &slices)));
            assert_eq!(backends(&store), expected, "{case}");
            assert_updated(&mut held, &store, &scope, case);
        }
    }
}

#[test]
fn hints_are_followed_as_the_node_gets_its_zone() {
    let mut store = Store::default();
    let all = objects(
        "        Service a
        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
        Slice a-1
        addressType: IPv4
        ports: [{port: 80}]
        endpoints:
        - {addresses: [1.1.1.1], hints: {forZones: [{name: a}], forNodes: [{name: n1}]}}
        - {addresses: [1.1.1.2], hints: {forZones: [{name: b}, {name: a}]}}
        - {addresses: [1.1.1.3], hints: {forZones: [{name: b}]}}
",
    );
    let apply = |store: &mut Store, object: &Object| store.apply(Event::Apply(Box::new(object.clone())));
    for object in &all {
        apply(&mut store, object);
    }
    for kind in Kind::ALL {
        store.apply(listed(kind, &all));
    }
    assert_eq!(backends(&store), "a 1.1.1.1:80 1.1.1.2:80 1.1.1.3:80", "the zone is not known");
    let labels = |zone: &str| format!("        Node n1\n          labels: {{topology.kubernetes.io/zone: '{zone}'}}\n");
    for (zone, expected) in [
        ("a", "a 1.1.1.1:80 1.1.1.2:80"),
        ("b", "a 1.1.1.2:80 1.1.1.3:80"),
        ("c", "a 1.1.1.1:80 1.1.1.2:80 1.1.1.3:80"),
        ("", "a 1.1.1.1:80 1.1.1.2:80 1.1.1.3:80"),
    ] {
        apply(&mut store, &objects(&labels(zone))[0]);
        assert_eq!(backends(&store), expected, "zone '{zone}'");
    }
}

/// Replaces all Services of a store. Gives the frontends and what load balancers are told.
fn serve(store: &mut Store, yaml: &str) -> Vec<String> {
    let services = objects(yaml);
    for object in &services {
        store.apply(Event::Apply(Box::new(object.clone())));
    }
    store.apply(listed(Kind::Service, &services));
    store.apply(listed(Kind::EndpointSlice, &[]));
    let (desired, problems) = desired(store, &node(), &options()).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let lines = short(&desired).into_iter().map(|line| line.trim_end_matches(" => ").to_owned());
    let checks = desired.health_checks.iter().map(|(service, check)| format!("{service} checked at {}", check.port));
    lines.chain(checks).collect()
}

#[test]
fn services_come_and_go() {
    let mut store = Store::default();
    let all = "        Service cluster
        spec: {clusterIP: 10.96.0.1, ports: [{name: p1, port: 1234, protocol: UDP}, {name: p2, port: 1235, protocol: UDP}]}
        Service door
        spec: {type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 53, nodePort: 30053}]}
        Service balanced
        spec: {type: LoadBalancer, clusterIP: 10.96.0.3, ports: [{port: 80, nodePort: 30080}]}
        status: {loadBalancer: {ingress: [{ip: 192.0.2.9}]}}
        Service local
        spec:
          type: LoadBalancer
          clusterIP: 10.96.0.4
          externalTrafficPolicy: Local
          healthCheckNodePort: 30345
          ports: [{port: 80, nodePort: 30081}]
        status: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}
";
    let of_all = [
        "default/balanced IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.3 80, LoadBalancer 192.0.2.9 80",
        "default/cluster:p1 IPv4 UDP: ClusterIP 10.96.0.1 1234",
        "default/cluster:p2 IPv4 UDP: ClusterIP 10.96.0.1 1235",
        "default/door IPv4 TCP: NodePort 10.0.0.1 30053, ClusterIP 10.96.0.2 53",
        "default/local IPv4 TCP: NodePort 10.0.0.1 30081, ClusterIP 10.96.0.4 80, LoadBalancer 192.0.2.10 80",
        "default/local checked at 30345",
    ];
    assert_eq!(serve(&mut store, all), of_all);
    let some = "        Service cluster
        spec: {clusterIP: 10.96.0.1, ports: [{name: p2, port: 1235, protocol: UDP}, {name: p3, port: 1236}]}
";
    let of_some = [
        "default/cluster:p2 IPv4 UDP: ClusterIP 10.96.0.1 1235",
        "default/cluster:p3 IPv4 TCP: ClusterIP 10.96.0.1 1236",
    ];
    assert_eq!(serve(&mut store, some), of_some);
    assert_eq!(serve(&mut store, all), of_all, "nothing is remembered of those that were gone");
    assert_eq!(serve(&mut store, ""), [""; 0]);
}

#[test]
fn a_service_becomes_a_load_balancer_and_a_cluster_ip_again() {
    let mut store = Store::default();
    let ports = "[{name: p1, port: 80, nodePort: 30080}, {name: p2, port: 81, nodePort: 30081}]";
    let cluster = format!("        Service web\n        spec: {{clusterIP: 10.96.0.1, ports: {ports}}}\n");
    let balanced = format!(
        "        Service web
        spec: {{type: LoadBalancer, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, healthCheckNodePort: 30345, ports: {ports}}}
        status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.9}}]}}}}
"
    );
    let of_cluster =
        ["default/web:p1 IPv4 TCP: ClusterIP 10.96.0.1 80", "default/web:p2 IPv4 TCP: ClusterIP 10.96.0.1 81"];
    let of_balanced = [
        "default/web:p1 IPv4 TCP: NodePort 10.0.0.1 30080, ClusterIP 10.96.0.1 80, LoadBalancer 192.0.2.9 80",
        "default/web:p2 IPv4 TCP: NodePort 10.0.0.1 30081, ClusterIP 10.96.0.1 81, LoadBalancer 192.0.2.9 81",
        "default/web checked at 30345",
    ];
    for (yaml, expected) in [
        (&cluster, &of_cluster[..]),
        (&balanced, &of_balanced[..]),
        (&balanced, &of_balanced[..]),
        (&cluster, &of_cluster[..]),
    ] {
        assert_eq!(serve(&mut store, yaml), expected);
    }
}
