//! The ranges that ClusterIPs are from.

use super::*;
use crate::object::{ObjectRef, ServiceCidr};

#[test]
fn addresses_that_nobody_has_are_known_by_the_ranges_of_service_cidrs() {
    let yaml = "        Service web\n        spec: {clusterIPs: [10.96.0.1], ports: [{port: 80}]}\n";
    let (mut store, mut service_nets) = (Store::default(), Vec::new());
    for object in objects(yaml) {
        store.apply(Event::Apply(Box::new(object)));
    }
    for kind in Kind::ALL {
        store.apply(listed(kind, &objects(yaml)));
    }
    let ranges = |ranges: &[&str]| {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Event::Apply(Box::new(Object::ServiceCidr(ServiceCidr { name: "kubernetes".to_owned(), ranges })))
    };
    let beside = ModelOptions { proxy_name: Some("mine".to_owned()), ..options() };
    for (event, options) in [
        (None, options()),
        (Some(ranges(&["10.96.0.0/16", "fd00:10:96::/112"])), options()),
        (None, beside),
        (Some(Event::Delete(ObjectRef::ServiceCidr("kubernetes".to_owned()))), options()),
    ] {
        if let Some(event) = event {
            assert!(store.apply(event).is_something());
        }
        let (desired, _) = desired(&store, &node(), &options).unwrap();
        let net = |(net, is_complete): (&ipnet::IpNet, &bool)| format!("{net}{}", if *is_complete { "!" } else { "" });
        service_nets.push(desired.service_nets.iter().map(net).collect::<Vec<_>>());
    }
    assert_eq!(
        service_nets,
        [
            vec!["10.96.0.1/32"],
            vec!["10.96.0.0/16!", "fd00:10:96::/112!"],
            // Another proxy sees its own Services only.
            vec!["10.96.0.0/16", "fd00:10:96::/112"],
            vec!["10.96.0.1/32"],
        ]
    );
}

#[test]
fn a_range_of_cluster_ips_that_pods_use_too_is_told_and_nothing_is_dropped_for_it() {
    let yaml = "        Node n1\n        spec: {podCIDRs: [10.96.7.0/24]}\n        Service web\n        spec: {clusterIPs: [10.96.0.1], ports: [{port: 80}]}\n";
    let options = ModelOptions { service_cidrs: ["10.96.0.0/16".parse().unwrap()].into(), ..options() };
    let (desired, problems) = model_with(&options, yaml);
    assert!(problems.iter().any(|problem| problem.contains("10.96.0.0/16 overlaps with the pods' range 10.96.7.0/24")));
    assert_eq!(desired.overlaps.len(), 1);
    assert_eq!(desired.service_nets.into_iter().collect::<Vec<_>>(), [("10.96.0.0/16".parse().unwrap(), false)]);
}
