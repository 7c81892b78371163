//! What the API server accepts and nobody would write.

use proxy_testkit::lab::{Family, Protocol};

use crate::common::{Traffic, at, cluster, service, slice, steady};

/// Ports and endpoints of a slice, and how many backends come of it.
const ODD: [(&str, &str, u64); 9] = [
    ("no ports", "addressType: IPv4\nendpoints: [{addresses: [10.244.1.10]}]", 0),
    ("ports that are null", "addressType: IPv4\nports: null\nendpoints: [{addresses: [10.244.1.10]}]", 0),
    ("a port without a number", "addressType: IPv4\nports: [{name: who}]\nendpoints: [{addresses: [10.244.1.10]}]", 0),
    ("no endpoints", "addressType: IPv4\nports: [{name: who, port: 9000}]\nendpoints: []", 0),
    (
        "a name of no port",
        "addressType: IPv4\nports: [{name: other, port: 9000}]\nendpoints: [{addresses: [10.244.1.10]}]",
        0,
    ),
    (
        "an endpoint twice",
        "addressType: IPv4\nports: [{name: who, port: 9000}]\nendpoints: [{addresses: [10.244.1.10]}, {addresses: [10.244.1.10]}]",
        1,
    ),
    (
        "conditions that are not there",
        "addressType: IPv4\nports: [{name: who, port: 9000}]\nendpoints: [{addresses: [10.244.1.10], conditions: {}}]",
        1,
    ),
    ("names", "addressType: FQDN\nports: [{name: who, port: 9000}]\nendpoints: [{addresses: [pod.example.org]}]", 0),
    (
        "a node and a pod that nobody knows",
        "addressType: IPv4\nports: [{name: who, port: 9000}]\nendpoints: [{addresses: [10.244.1.10], nodeName: nowhere, \
         targetRef: {kind: Pod, name: gone, namespace: default}}]",
        1,
    ),
];

#[test]
fn odd_slices_harm_nobody() {
    let cluster = cluster();
    let traffic = Traffic::start(&cluster.lab.node1.b, steady(&cluster));
    let (to, address) = (at(30, Family::V4), at(30, Family::V4).to_string());
    let without_selector = service("odd", 30).replace("  selector: {app: odd}\n", "");
    cluster.apply(&without_selector).unwrap();
    let pids: Vec<_> = cluster.agents().iter().map(|agent| agent.pid()).collect();
    // Two slices of one Service: the odd one, and one that is not, with an endpoint that some of the odd ones have, too.
    let good = "addressType: IPv4\nports: [{name: who, port: 9000}]\nendpoints: [{addresses: [10.244.2.10]}]";
    for (what, rest, backends) in ODD {
        println!("{what}");
        cluster.apply(&slice("odd-1", "odd", rest)).unwrap();
        cluster.wait_for("default/odd", &address, backends).unwrap();
        cluster.apply(&slice("odd-2", "odd", good)).unwrap();
        cluster.wait_for("default/odd", &address, backends + 1).unwrap();
        assert!(cluster.lab.node2.b.ask(Protocol::Tcp, to).is_ok(), "{what}");
        cluster.kubectl("delete endpointslice odd-1 odd-2").unwrap();
        cluster.wait_for("default/odd", &address, 0).unwrap();
    }
    // The same endpoint in two slices is one.
    cluster.apply(&(slice("odd-1", "odd", good) + &slice("odd-2", "odd", good))).unwrap();
    cluster.wait_for("default/odd", &address, 1).unwrap();
    cluster.kubectl("delete endpointslice odd-1").unwrap();
    cluster.wait_for("default/odd", &address, 1).unwrap();
    cluster.kubectl("delete endpointslice odd-2").unwrap();

    let legacy = good.replace("10.244.2.10", "010.244.002.010");
    let is_accepted = cluster.apply(&slice("odd-3", "odd", &legacy)).is_ok();
    println!("an address with leading zeros: {}", if is_accepted { "accepted" } else { "refused" });
    if is_accepted {
        cluster.wait_for("default/odd", &address, 1).unwrap();
        assert_eq!(cluster.lab.node1.b.ask(Protocol::Tcp, to).unwrap().pod, "pod2a");
        cluster.kubectl("delete endpointslice odd-3").unwrap();
    }
    // As many as a slice takes.
    let many: String = (0..1000).map(|n| format!("- {{addresses: [10.250.{}.{}]}}\n", n / 250, n % 250 + 1)).collect();
    let many = format!("addressType: IPv4\nports: [{{name: who, port: 9000}}]\nendpoints:\n{many}");
    for number in 0..3 {
        let many = many.replace("10.250.", &format!("10.25{number}."));
        cluster.apply(&slice(&format!("odd-many-{number}"), "odd", &many)).unwrap();
    }
    cluster.wait_for("default/odd", &address, 3000).unwrap();
    traffic.all_answered();
    cluster.kubectl("delete service odd").unwrap();
    cluster.kubectl("delete endpointslices -l kubernetes.io/service-name=odd").unwrap();
    cluster.wait_until_gone("odd").unwrap();
    assert_eq!(cluster.agents().iter().map(|agent| agent.pid()).collect::<Vec<_>>(), pids, "an agent was restarted");
}
