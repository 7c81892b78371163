//! What people do with kubectl, and what agents make of it.

use std::collections::BTreeSet;
use std::time::Duration;

use proxy_testkit::agent::{Agent, AgentOptions, Source};
use proxy_testkit::client;
use proxy_testkit::cluster::Cluster;
use proxy_testkit::lab::{Family, Host, Protocol, eventually};

use crate::common::{Traffic, at, cluster, pods, service, slice, steady};

/// Who answers: one of four is missed by chance once in 10^7.
fn answering(from: &Host, to: std::net::SocketAddr) -> BTreeSet<String> {
    from.ask_many(Protocol::Tcp, to, 60).unwrap().into_iter().map(|answer| answer.pod).collect()
}

fn cluster_ip(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&format!("get service {name} -o jsonpath={{.spec.clusterIP}}")).unwrap()
}

#[test]
fn create_expose_scale_and_delete_are_seen_by_traffic() {
    let cluster = cluster();
    cluster.kubectl("create deployment web --image=any --replicas=2").unwrap();
    cluster.kubectl("expose deployment web --port=80 --target-port=9000 --type=NodePort").unwrap();
    let address = format!("{}:80", cluster_ip(&cluster, "web"));
    let to = address.parse().unwrap();
    let node_port = cluster.kubectl("get service web -o jsonpath={.spec.ports[0].nodePort}").unwrap().parse().unwrap();
    let (inside, outside) = (&cluster.lab.node1.a, &cluster.lab.client);
    let pods_of = || -> BTreeSet<String> {
        let names = cluster.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}").unwrap();
        names.split_whitespace().map(str::to_owned).collect()
    };
    for replicas in [2, 4, 1] {
        cluster.kubectl(&format!("scale deployment web --replicas={replicas}")).unwrap();
        cluster.wait_for("default/web", &address, replicas).unwrap();
        let expected = eventually(Duration::from_secs(20), || {
            let pods = pods_of();
            anyhow::ensure!(pods.len() as u64 == replicas, "{pods:?} are left");
            Ok(pods)
        });
        let expected = expected.unwrap();
        assert_eq!(answering(inside, to), expected);
        assert_eq!(answering(outside, cluster.lab.node2.host.at(Family::V4, node_port)), expected);
    }
    cluster.kubectl("scale deployment web --replicas=0").unwrap();
    cluster.wait_for("default/web", &address, 0).unwrap();
    let refused = inside.ask(Protocol::Tcp, to).unwrap_err();
    assert_eq!(client::describe(&refused), "ECONNREFUSED");
    cluster.kubectl("delete service web").unwrap();
    cluster.kubectl("delete deployment web").unwrap();
    cluster.wait_until_gone("web").unwrap();
}

#[test]
fn no_connection_fails_while_pods_and_services_come_and_go() {
    let cluster = cluster();
    cluster.apply(&(service("busy", 10) + &pods("busy", 2))).unwrap();
    let address = at(10, Family::V4).to_string();
    cluster.wait_for("default/busy", &address, 2).unwrap();
    let clients = [
        Traffic::start(&cluster.lab.node1.b, at(10, Family::V4)),
        Traffic::start(&cluster.lab.node2.b, at(10, Family::V6)),
    ];
    for round in 0..3 {
        cluster.apply(&pods("busy", 4)).unwrap();
        cluster.apply(&service("passing", 11)).unwrap();
        cluster.wait_for("default/busy", &address, 4).unwrap();
        cluster.wait_for("default/passing", &at(11, Family::V4).to_string(), 0).unwrap();
        cluster.kubectl(&format!("label service busy round={round} --overwrite")).unwrap();
        // They go on serving for a while, as pods do.
        cluster.kubectl("delete pod busy-2 busy-3 --wait=false").unwrap();
        cluster.kubectl("delete service passing").unwrap();
        cluster.wait_for("default/busy", &address, 2).unwrap();
        cluster.wait_until_gone("passing").unwrap();
        cluster.kubectl("wait --for=delete pod/busy-2 pod/busy-3 --timeout=30s").unwrap();
    }
    clients.into_iter().for_each(Traffic::all_answered);
    cluster.kubectl("delete service busy").unwrap();
    cluster.kubectl("delete pods -l app=busy").unwrap();
}

#[test]
fn a_service_changes_its_type_and_back() {
    let cluster = cluster();
    let traffic = Traffic::start(&cluster.lab.node1.b, steady(&cluster));
    cluster.apply(&(service("flip", 12) + &pods("flip", 1))).unwrap();
    let (at, from) = (at(12, Family::V4), &cluster.lab.node2.a);
    let patch = |patch: &str| {
        cluster.plane.kubectl(["patch", "service", "flip", "--type=merge", "-p", patch], "").map(drop).unwrap();
    };
    let is_served = || {
        cluster.wait_for("default/flip", &at.to_string(), 1).unwrap();
        assert_eq!(from.ask(Protocol::Tcp, at).unwrap().pod, "flip-0");
    };
    is_served();
    patch(
        r#"{"spec": {"type": "NodePort", "ports": [{"name": "who", "port": 80, "targetPort": 9000, "nodePort": 30412}]}}"#,
    );
    let node_port = cluster.lab.node1.host.at(Family::V4, 30412);
    let has_node_port = |agent: &Agent| agent.look("frontends").unwrap().contains(":30412");
    wait(|| has_node_port(&cluster.agents()[0]));
    assert_eq!(cluster.lab.client.ask(Protocol::Tcp, node_port).unwrap().pod, "flip-0");
    is_served();

    patch(r#"{"spec": {"type": "ClusterIP"}}"#);
    wait(|| !has_node_port(&cluster.agents()[0]));
    is_served();

    patch(
        r#"{"spec": {"type": "ExternalName", "externalName": "x.example", "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}}"#,
    );
    cluster.wait_until_gone("flip").unwrap();
    // Headless, from nothing: an address cannot be taken away otherwise.
    patch(r#"{"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": "None", "clusterIPs": ["None"]}}"#);
    cluster.kubectl("delete service flip").unwrap();
    cluster.apply(&service("flip", 12)).unwrap();
    is_served();
    traffic.all_answered();
    cluster.kubectl("delete service flip").unwrap();
    cluster.kubectl("delete pods -l app=flip").unwrap();
}

#[test]
fn a_node_that_changes_takes_effect_at_once() {
    let cluster = cluster();
    // Hints by hand: the controller would write others as soon as the zone changes.
    let (one, two) = (&cluster.lab.node1.a, &cluster.lab.node2.a);
    let endpoint = |pod: &Host, node: u8| {
        format!(
            "- {{addresses: [\"{}\"], conditions: {{ready: true}}, nodeName: node{node}, zone: zone{node}, \
             hints: {{forZones: [{{name: zone{node}}}]}}}}\n",
            pod.v4
        )
    };
    let manifest = service("zoned", 13).replace("  selector: {app: zoned}\n", "")
        + &slice(
            "zoned-1",
            "zoned",
            &format!(
                "addressType: IPv4\nports: [{{name: who, port: 9000}}]\nendpoints:\n{}{}",
                endpoint(one, 1),
                endpoint(two, 2)
            ),
        );
    cluster.apply(&manifest).unwrap();
    let (from, to) = (&cluster.lab.node1.b, at(13, Family::V4));
    let reaches = |pod: &str| {
        wait(|| {
            let answers = from.ask_many(Protocol::Tcp, to, 10);
            answers.is_ok_and(|answers| answers.iter().all(|answer| answer.pod == pod))
        });
    };
    reaches("pod1a");
    cluster.kubectl("label node node1 topology.kubernetes.io/zone=zone2 --overwrite").unwrap();
    reaches("pod2a");
    cluster.kubectl("label node node1 topology.kubernetes.io/zone=zone1 --overwrite").unwrap();
    reaches("pod1a");

    cluster.kubectl("delete service zoned").unwrap();
    cluster.kubectl("delete endpointslice zoned-1 --ignore-not-found").unwrap();

    // NodePorts on the primary address follow the Node's.
    let arguments = ["--service-proxy-name=primary", "--nodeport-addresses=primary"].map(str::to_owned);
    let options = AgentOptions { arguments: arguments.into(), ..AgentOptions::default() };
    let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
    let mut agent = cluster.agent(0, "-primary", source, options).unwrap();
    let label = "name: addressed, labels: {service.kubernetes.io/service-proxy-name: primary}}";
    let open = service("addressed", 14).replace("name: addressed}", label);
    cluster.apply(&open.replace("spec:\n", "spec:\n  type: NodePort\n")).unwrap();
    agent.wait_until_ready().unwrap();
    let (node, other) = (&cluster.lab.node1.host, "172.18.0.77");
    let set_address = |address: &str| {
        let patch = format!(
            r#"{{"status": {{"addresses": [{{"type": "InternalIP", "address": "{address}"}}, {{"type": "InternalIP", "address": "{}"}}]}}}}"#,
            node.v6
        );
        let arguments = ["patch", "node", "node1", "--subresource=status", "--type=merge", "-p", &patch];
        cluster.plane.kubectl(arguments, "").map(drop).unwrap();
    };
    let listens_at = |address: &str| agent.look("frontends").unwrap().contains(address);
    wait(|| listens_at("172.18.0.11:"));
    set_address(other);
    wait(|| listens_at(other) && !listens_at("172.18.0.11:"));
    set_address("172.18.0.11");
    wait(|| !listens_at(other) && listens_at("172.18.0.11:"));
    agent.stop().unwrap();
    cluster.kubectl("delete service addressed").unwrap();
}

/// Waits until it is so.
fn wait(is_so: impl Fn() -> bool) {
    eventually(Duration::from_secs(150), || {
        anyhow::ensure!(is_so(), "still not so");
        Ok(())
    })
    .unwrap();
}
