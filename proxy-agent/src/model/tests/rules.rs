//! The rules of frontends: kinds, policies, masquerade, source ranges, affinity. The scenarios are those of kube-proxy's
//! `pkg/proxy/nftables/proxier_test.go`.

use proxy_common::maps::Masquerade;

use super::*;
use crate::model::{DesiredFrontend, DesiredPort, DetectLocal, List};

/// One line for each frontend: where clients on this node go and where others do (L is the endpoint here, R another),
/// and who is masqueraded: P(ods), N(ode), O(thers), K(eeping the source of others where the backend is here).
fn rules(desired: &Desired) -> Vec<String> {
    let one = |entry: &DesiredPort, at: &(std::net::IpAddr, u16), rule: &DesiredFrontend| {
        let list = |list: List| {
            let backends = entry.backends.iter().filter(|(_, backend)| backend.lists.contain(list));
            let letters: BTreeSet<&str> = backends.map(|(_, backend)| if backend.local { "L" } else { "R" }).collect();
            match (letters.is_empty(), entry.has_endpoints) {
                (false, _) => letters.into_iter().collect::<Vec<_>>().join("+"),
                (true, true) => "drop".into(),
                (true, false) => "refuse".into(),
            }
        };
        let (inside, outside) = (list(rule.inside), list(rule.outside));
        let lists = if inside == outside { inside } else { format!("{inside} others {outside}") };
        let who = [
            (Masquerade::PODS, "P"),
            (Masquerade::NODE, "N"),
            (Masquerade::OUTSIDE, "O"),
            (Masquerade::KEEP_OUTSIDE, "K"),
        ];
        let who: String = who.iter().filter(|(bit, _)| rule.masquerade & bit != 0).map(|(_, letter)| *letter).collect();
        let guarded = if rule.guarded { " guarded" } else { "" };
        let at = std::net::SocketAddr::new(at.0, at.1);
        format!("{} {at} {lists} {who}{guarded}", rule.kind.name()).replace("  ", " ").trim_end().to_owned()
    };
    let ports = desired.ports.values();
    ports.flat_map(|entry| entry.frontends.iter().map(|(at, rule)| one(entry, at, rule))).collect()
}

fn load_balancer(rest: &str) -> String {
    format!(
        "        Service web
        spec: {{type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{{port: 80, nodePort: 30080}}], {rest}}}
        status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.9}}]}}}}
"
    )
}

/// `InternalExternalMasquerade`: each flow of kube-proxy's matrix follows from a line here.
#[test]
fn who_goes_where_and_who_is_masqueraded() {
    let cluster = load_balancer("externalIPs: [203.0.113.7]");
    let external = load_balancer("externalTrafficPolicy: Local, externalIPs: [203.0.113.7]");
    let internal = load_balancer("internalTrafficPolicy: Local");
    let parity = || ModelOptions { keep_source_of_outside_clients: false, ..options() };
    let off = || ModelOptions { detect_local: DetectLocal::Off, ..parity() };
    for (case, options, service, expected) in [
        (
            "Cluster",
            parity(),
            &cluster,
            &[
                "NodePort 10.0.0.1:30080 L+R PNO",
                "ClusterIP 10.96.0.1:80 L+R NO",
                "LoadBalancer 192.0.2.9:80 L+R PNO",
                "ExternalIP 203.0.113.7:80 L+R PNO",
            ][..],
        ),
        (
            "Cluster, the improvement",
            options(),
            &cluster,
            &[
                "NodePort 10.0.0.1:30080 L+R PNOK",
                "ClusterIP 10.96.0.1:80 L+R NO",
                "LoadBalancer 192.0.2.9:80 L+R PNOK",
                "ExternalIP 203.0.113.7:80 L+R PNOK",
            ],
        ),
        (
            "externalTrafficPolicy Local",
            options(),
            &external,
            &[
                "NodePort 10.0.0.1:30080 L+R others L N",
                "ClusterIP 10.96.0.1:80 L+R NO",
                "LoadBalancer 192.0.2.9:80 L+R others L N",
                "ExternalIP 203.0.113.7:80 L+R others L N",
            ],
        ),
        (
            "internalTrafficPolicy Local",
            parity(),
            &internal,
            &["NodePort 10.0.0.1:30080 L+R PNO", "ClusterIP 10.96.0.1:80 L NO", "LoadBalancer 192.0.2.9:80 L+R PNO"],
        ),
        (
            "no local detector: nobody is masqueraded at a ClusterIP, and pods count as others",
            off(),
            &external,
            &[
                "NodePort 10.0.0.1:30080 L+R others L N",
                "ClusterIP 10.96.0.1:80 L+R",
                "LoadBalancer 192.0.2.9:80 L+R others L N",
                "ExternalIP 203.0.113.7:80 L+R others L N",
            ],
        ),
        (
            "masqueradeAll",
            ModelOptions { masquerade_all: true, ..parity() },
            &internal,
            &["NodePort 10.0.0.1:30080 L+R PNO", "ClusterIP 10.96.0.1:80 L PNO", "LoadBalancer 192.0.2.9:80 L+R PNO"],
        ),
        (
            "masqueradeAll without a local detector",
            ModelOptions { masquerade_all: true, ..off() },
            &external,
            &[
                "NodePort 10.0.0.1:30080 L+R others L N",
                "ClusterIP 10.96.0.1:80 L+R PNO",
                "LoadBalancer 192.0.2.9:80 L+R others L N",
                "ExternalIP 203.0.113.7:80 L+R others L N",
            ],
        ),
    ] {
        let (desired, problems) = model_with(&options, &format!("{service}{SLICE}"));
        assert_eq!(rules(&desired), *expected, "{case}");
        assert!(problems.is_empty(), "{case}: {problems:?}");
    }
}

/// `NoEndpointsReject`, `InternalTrafficPolicy`, `TerminatingEndpoints`: ClusterIP, and the load balancer's address.
#[test]
fn who_is_refused_and_who_is_dropped() {
    let last = "{ready: false, serving: true, terminating: true}";
    let here = "{addresses: [10.244.0.1], nodeName: n1";
    let there = "{addresses: [10.244.1.1], nodeName: n2";
    for (case, policy, endpoints, cluster_ip, balancer) in [
        ("no endpoint", "externalTrafficPolicy: Local", String::new(), "refuse", "refuse"),
        ("none here", "externalTrafficPolicy: Local", format!("{there}}}"), "R", "R others drop"),
        ("none here, iTP", "internalTrafficPolicy: Local", format!("{there}}}"), "drop", "R"),
        ("one here, iTP", "internalTrafficPolicy: Local", format!("{here}}}, {there}}}"), "L", "L+R"),
        (
            "only terminating here, ready elsewhere",
            "externalTrafficPolicy: Local",
            format!("{here}, conditions: {last}}}, {there}}}"),
            "R",
            "R others L",
        ),
        (
            "terminating elsewhere",
            "externalTrafficPolicy: Local",
            format!("{there}, conditions: {last}}}"),
            "R",
            "R others drop",
        ),
        (
            "all terminating",
            "externalTrafficPolicy: Cluster",
            format!("{here}, conditions: {last}}}, {there}, conditions: {last}}}"),
            "L+R",
            "L+R",
        ),
        (
            "nobody that serves",
            "externalTrafficPolicy: Local",
            format!(
                "{here}, conditions: {{ready: false, serving: false, terminating: true}}}}, {there}, conditions: {{ready: false}}}}"
            ),
            "refuse",
            "refuse",
        ),
        (
            "nobody that serves, iTP",
            "internalTrafficPolicy: Local",
            format!("{there}, conditions: {{ready: false}}}}"),
            "refuse",
            "refuse",
        ),
    ] {
        let yaml = format!(
            "{}        Slice web-1
        addressType: IPv4
        ports: [{{port: 8080}}]
        endpoints: [{endpoints}]
",
            load_balancer(policy)
        );
        let lines = rules(&model(&yaml).0);
        let of = |kind: &str| -> String {
            let line = lines.iter().find(|line| line.starts_with(kind)).unwrap();
            let words: Vec<_> = line.split(' ').skip(2).collect();
            words[..words.len() - 1].join(" ")
        };
        assert_eq!((of("ClusterIP").as_str(), of("LoadBalancer").as_str()), (cluster_ip, balancer), "{case}");
    }
    // A policy for traffic that cannot come is none (`externalTrafficPolicy ignored if not externally accessible`).
    let yaml = format!(
        "        Service web\n        spec: {{clusterIP: 10.96.0.1, externalTrafficPolicy: Local, ports: [{{port: 80}}]}}\n{SLICE}"
    );
    assert_eq!(rules(&model(&yaml).0), ["ClusterIP 10.96.0.1:80 L+R NO"]);
}

/// `LoadBalancer`, `LoadBalancerIngressRouteType`, and the families of servicechangetracker_test.go.
#[test]
fn addresses_beside_the_cluster_ip() {
    let service = |kind: &str, rest: &str, status: &str| {
        format!(
            "        Service web
        spec: {{type: {kind}, clusterIPs: [10.96.0.1], ports: [{{port: 80}}], {rest}}}
        status: {{loadBalancer: {{ingress: [{status}]}}}}
"
        )
    };
    let cluster_ip = "ClusterIP 10.96.0.1:80 refuse NO";
    for (case, yaml, expected) in [
        (
            "ipMode absent",
            service("LoadBalancer", "", "{ip: 192.0.2.9}"),
            &["LoadBalancer 192.0.2.9:80 refuse PNOK"][..],
        ),
        (
            "ipMode VIP",
            service("LoadBalancer", "", "{ip: 192.0.2.9, ipMode: VIP}"),
            &["LoadBalancer 192.0.2.9:80 refuse PNOK"],
        ),
        ("ipMode Proxy", service("LoadBalancer", "", "{ip: 192.0.2.9, ipMode: Proxy}"), &[]),
        ("a name", service("LoadBalancer", "", "{hostname: lb.example.com}"), &[]),
        (
            "a name, an address of the other family, a legacy address",
            service("LoadBalancer", "", "{hostname: a}, {ip: '2001:db8::9'}, {ip: '192.000.002.010'}"),
            &["LoadBalancer 192.0.2.10:80 refuse PNOK"],
        ),
        ("a status left from another type", service("ClusterIP", "", "{ip: 192.0.2.9}"), &[]),
        (
            "external IPs, of the Service's family only",
            service("ClusterIP", "externalIPs: [203.0.113.7, '2001:db8::7', '::ffff:203.0.113.8']", ""),
            &["ExternalIP 203.0.113.7:80 refuse PNOK", "ExternalIP 203.0.113.8:80 refuse PNOK"],
        ),
        (
            "an external IP that is also the load balancer's: the stricter rules",
            service(
                "LoadBalancer",
                "externalIPs: [192.0.2.9], loadBalancerSourceRanges: [10.0.0.0/8]",
                "{ip: 192.0.2.9}",
            ),
            &["LoadBalancer 192.0.2.9:80 refuse PNOK guarded"],
        ),
    ] {
        let (desired, problems) = model(&yaml);
        let lines: Vec<_> = rules(&desired).into_iter().filter(|line| line != cluster_ip).collect();
        assert_eq!(lines, expected, "{case}");
        assert!(problems.is_empty(), "{case}: {problems:?}");
    }
    let without = ModelOptions { external_ips: false, ..options() };
    let (desired, _) = model_with(&without, &service("ClusterIP", "externalIPs: [203.0.113.7]", ""));
    assert_eq!(rules(&desired), [cluster_ip], "external IPs are switched off");
}

#[test]
fn dual_stack_load_balancers() {
    let (desired, _) = model(
        "        Service web
        spec:
          type: LoadBalancer
          clusterIPs: [fd00::1, 10.96.0.1]
          ports: [{port: 80}]
          externalIPs: [203.0.113.7, '2001:db8::7']
          loadBalancerSourceRanges: [198.51.100.0/24]
        status: {loadBalancer: {ingress: [{ip: 192.0.2.9}, {ip: '2001:db8::9'}]}}
",
    );
    let expected = [
        "ClusterIP 10.96.0.1:80 refuse NO",
        "LoadBalancer 192.0.2.9:80 refuse PNOK guarded",
        "ExternalIP 203.0.113.7:80 refuse PNOK",
        "LoadBalancer [2001:db8::9]:80 refuse PNOK",
        "ExternalIP [2001:db8::7]:80 refuse PNOK",
        "ClusterIP [fd00::1]:80 refuse NO",
    ];
    let lines: BTreeSet<_> = rules(&desired).into_iter().collect();
    assert_eq!(lines, expected.map(str::to_owned).into(), "a family without ranges is open");
}

#[test]
fn source_ranges_of_load_balancers() {
    let node = "        Node n1\n        status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}\n";
    let annotated = |ranges: &str| {
        load_balancer("").replace(
            "        Service web\n",
            &format!(
                "        Service web\n          annotations: {{service.beta.kubernetes.io/load-balancer-source-ranges: '{ranges}'}}\n"
            ),
        )
    };
    for (case, service, expected) in [
        ("none", load_balancer(""), &[][..]),
        (
            "with space, legacy zeros and the other family",
            load_balancer("loadBalancerSourceRanges: [' 203.0.113.0/25', '010.0.0.0/8 ', 'fd00::/8']"),
            &["10.0.0.0/8", "203.0.113.0/25"],
        ),
        (
            "the node is in: so are the load balancer's address and what has none yet",
            load_balancer("loadBalancerSourceRanges: [192.168.0.0/24]"),
            &["0.0.0.0/32", "192.0.2.9/32", "192.168.0.0/24"],
        ),
        ("everybody", load_balancer("loadBalancerSourceRanges: [10.0.0.0/8, 0.0.0.0/0]"), &[]),
        ("the annotation", annotated("203.0.113.0/25, 10.0.0.0/8"), &["10.0.0.0/8", "203.0.113.0/25"]),
        ("an empty annotation", annotated(" "), &[]),
    ] {
        let (desired, problems) = model(&format!("{service}{node}"));
        let port = desired.ports.values().next().unwrap();
        let ranges: Vec<_> = port.source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, expected, "{case}");
        let guarded: Vec<_> =
            port.frontends.values().filter(|rule| rule.guarded).map(|rule| rule.kind.name()).collect();
        let wanted: &[&str] = if expected.is_empty() { &[] } else { &["LoadBalancer"] };
        assert_eq!(guarded, wanted, "{case}");
        assert!(problems.is_empty(), "{case}: {problems:?}");
    }
}

#[test]
fn affinity_by_seconds() {
    for (spec, expected) in [
        ("sessionAffinity: None", 0),
        ("sessionAffinity: ClientIP", 10_800),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}", 1),
        ("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}", 86_400),
        ("sessionAffinity: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}", 0),
    ] {
        let (desired, _) = model(&load_balancer(spec));
        let seconds = desired.ports.values().next().unwrap().affinity.map_or(0, std::num::NonZeroU32::get);
        assert_eq!(seconds, expected, "{spec}");
    }
}

#[test]
fn fields_that_nothing_can_be_made_of_are_told() {
    for (spec, expected) in [
        (
            "internalTrafficPolicy: Here",
            "spec.internalTrafficPolicy: 'Here' is not a policy: expected Cluster or Local",
        ),
        ("externalIPs: [x]", "spec.externalIPs[0]: 'x' is not an IP address"),
        (
            "loadBalancerSourceRanges: [10.0.0.0]",
            "spec.loadBalancerSourceRanges[0]: '10.0.0.0' is not a range of addresses: expected one such as 10.0.0.0/8 or fd00::/8",
        ),
        ("sessionAffinity: Cookie", "spec.sessionAffinity: 'Cookie' is not an affinity: expected None or ClientIP"),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is out of range: expected 1 to 86400",
        ),
        ("healthCheckNodePort: 70000", "spec.healthCheckNodePort: 70000 is not a port: expected 1 to 65535"),
    ] {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {spec}}}\n"
        );
        let (objects, problems) = read_text(&yaml);
        assert!(objects.is_empty(), "{spec}");
        let said: Vec<_> = problems.iter().map(|problem| problem.to_string()).collect();
        assert!(said.len() == 1 && said[0].ends_with(&format!("Service default/web: {expected}")), "{said:?}");
    }
}

#[test]
fn a_cluster_ip_cannot_be_taken_over_by_an_external_ip() {
    let (desired, problems) = model(
        "        Service a
        spec: {clusterIP: 10.96.0.1, externalIPs: [10.96.0.2, 10.0.0.1], ports: [{port: 80}]}
        Service b
        spec: {type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 80, nodePort: 80}]}
",
    );
    let expected =
        ["ExternalIP 10.0.0.1:80 refuse PNOK", "ClusterIP 10.96.0.1:80 refuse NO", "ClusterIP 10.96.0.2:80 refuse NO"];
    assert_eq!(rules(&desired), expected);
    assert_eq!(
        problems,
        [
            "Service default/a: ExternalIP 10.96.0.2:80/TCP is already taken by Service default/b: ignored here",
            "Service default/b: NodePort 80/TCP is already taken by Service default/a: ignored here",
        ]
    );
}

#[test]
fn services_that_are_left_to_others() {
    let skip = crate::object::ObjectName::new("default", "web");
    let options = ModelOptions { skip_services: [skip].into(), ..options() };
    let (desired, problems) = model_with(&options, &load_balancer("healthCheckNodePort: 32000"));
    assert_eq!((desired.ports.len(), desired.health_checks.len(), problems), (0, 0, Vec::new()));
}

#[test]
fn local_clients_known_by_ranges() {
    let node = "        Node n1\n        spec: {podCIDRs: [10.244.1.7/24]}\n        Node n2\n        spec: {podCIDR: 10.244.2.0/24}\n";
    let service = "        Service web\n        spec: {clusterIPs: [10.96.0.1, fd00::1], ports: [{port: 80}]}\n";
    let ranges = DetectLocal::Ranges(["10.244.0.0/16", "fd02::/48"].map(|range| range.parse().unwrap()).into());
    for (detect_local, ranges, lines) in [
        (DetectLocal::Devices, &[][..], ["ClusterIP 10.96.0.1:80 refuse NO", "ClusterIP [fd00::1]:80 refuse NO"]),
        (DetectLocal::Off, &[], ["ClusterIP 10.96.0.1:80 refuse", "ClusterIP [fd00::1]:80 refuse"]),
        (
            DetectLocal::NodeRanges,
            &["10.244.1.0/24"],
            ["ClusterIP 10.96.0.1:80 refuse NO", "ClusterIP [fd00::1]:80 refuse"],
        ),
        (
            ranges,
            &["10.244.0.0/16", "fd02::/48"],
            ["ClusterIP 10.96.0.1:80 refuse NO", "ClusterIP [fd00::1]:80 refuse NO"],
        ),
    ] {
        let (desired, _) = model_with(&ModelOptions { detect_local, ..options() }, &format!("{service}{node}"));
        assert_eq!(desired.local_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ranges);
        let own: Vec<_> = desired.node_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(own, ["10.0.0.1", "10.244.0.254", "fd01::1"]);
        assert_eq!(rules(&desired), lines);
    }
}

/// `HealthCheckNodePortWhenTerminating`, and when there is one at all.
#[test]
fn health_checks_count_ready_endpoints_here() {
    let local = load_balancer("externalTrafficPolicy: Local, healthCheckNodePort: 32000");
    let cluster = load_balancer("healthCheckNodePort: 32000");
    let terminating =
        SLICE.replace("nodeName: n1", "nodeName: n1, conditions: {ready: false, serving: true, terminating: true}");
    for (case, yaml, expected) in [
        ("one here", format!("{local}{SLICE}"), Some((32_000, 1))),
        ("it terminates, and is still served", format!("{local}{terminating}"), Some((32_000, 0))),
        ("none", local.clone(), Some((32_000, 0))),
        ("externalTrafficPolicy Cluster", format!("{cluster}{SLICE}"), None),
    ] {
        let (desired, _) = model(&yaml);
        let checks: Vec<_> =
            desired.health_checks.values().map(|check| (check.port.get(), check.local_endpoints)).collect();
        assert_eq!(checks, Vec::from_iter(expected), "{case}");
    }
}

/// `NoEndpointsMetric`: Service ports by family and policy that have endpoints, and none on this node.
#[test]
fn local_policies_without_an_endpoint_here_are_counted() {
    let service = |internal: &str, external: &str| {
        format!(
            "        Service web
        spec:
          type: NodePort
          clusterIPs: [10.96.0.1, fd00::1]
          internalTrafficPolicy: {internal}
          externalTrafficPolicy: {external}
          ports: [{{port: 80, nodePort: 30080}}]
"
        )
    };
    let here = SLICE;
    let there = SLICE.replace("nodeName: n1", "nodeName: n3");
    let none = [[0, 0]; 2];
    for (case, yaml, expected) in [
        ("Cluster", service("Cluster", "Cluster") + &there, none),
        ("one is here", service("Local", "Local") + here, none),
        ("none is here: internal", service("Local", "Cluster") + &there, [[1, 0], [0, 0]]),
        ("none is here: external", service("Cluster", "Local") + &there, [[0, 1], [0, 0]]),
        ("none is here: both", service("Local", "Local") + &there, [[1, 1], [0, 0]]),
        ("no endpoint anywhere", service("Local", "Local"), none),
    ] {
        assert_eq!(model(&yaml).0.no_local.by_family, expected, "{case}");
    }
}

#[test]
fn node_ports_on_loopback_are_for_sockets() {
    let options = ModelOptions { localhost_node_ports: true, ..options() };
    let (desired, problems) = model_with(&options, &load_balancer(""));
    let ports: Vec<_> = desired.ports.values().flat_map(|port| port.frontends.keys()).collect();
    let on_loopback = ports.iter().filter(|(address, _)| address.is_loopback()).count();
    let elsewhere = model(&load_balancer("")).0.ports.values().map(|port| port.frontends.len()).sum::<usize>();
    assert_eq!((on_loopback, ports.len()), (1, elsewhere + 1), "{ports:?} {problems:?}");
}
