//! Who the agent is to the API server: tokens, rights, and a pod's service account.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::agent::{AgentOptions, Source};
use proxy_testkit::cluster::{PORT, addresses, wait_for};
use proxy_testkit::lab::{Family, eventually};

use crate::common::{at, cluster, service};

/// An agent of Services of its own beside node1's.
fn named(name: &str) -> AgentOptions {
    AgentOptions { arguments: vec![format!("--service-proxy-name={name}")], ..AgentOptions::default() }
}

fn labelled(name: &str, number: u8, proxy: &str) -> String {
    let label = format!("name: {name}, labels: {{service.kubernetes.io/service-proxy-name: {proxy}}}}}");
    service(name, number).replace(&format!("name: {name}}}"), &label)
}

#[test]
fn an_agent_may_do_no_more_than_it_has_to() {
    let cluster = cluster();
    let can = |what: &str| {
        let account = "--as=system:serviceaccount:kube-system:pointsman";
        cluster.kubectl(&format!("auth can-i {what} --all-namespaces {account}")).is_ok()
    };
    for allowed in ["list services", "watch endpointslices.discovery.k8s.io", "watch nodes"] {
        assert!(can(allowed), "{allowed}");
    }
    for forbidden in
        ["list secrets", "list pods", "update services", "delete endpointslices.discovery.k8s.io", "patch nodes"]
    {
        assert!(!can(forbidden), "{forbidden}");
    }
}

#[test]
fn the_api_server_takes_what_deploy_holds() {
    let cluster = cluster();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let taken = cluster.kubectl(&format!("apply --dry-run=server -k {folder}")).unwrap();
    for object in
        ["serviceaccount/pointsman", "clusterrole.rbac.authorization.k8s.io/", "configmap/", "daemonset.apps/"]
    {
        assert!(taken.lines().any(|line| line.starts_with(object) && line.contains("server dry run")), "{taken}");
    }
}

#[test]
fn the_probes_of_deploy_find_the_agent_at_the_node_s_addresses() {
    let cluster = cluster();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let text = cluster.kubectl(&format!("apply --dry-run=client -o json -k {folder}")).unwrap();
    let objects: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut objects = objects["items"].as_array().into_iter().flatten();
    let daemon_set = objects.find(|object| object["kind"] == "DaemonSet").unwrap();
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    let host = &cluster.lab.node1.host;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        let named = |port: &&serde_json::Value| port["name"] == get["port"];
        let port = container["ports"].as_array().into_iter().flatten().find(named).unwrap();
        let port = u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap();
        for family in Family::BOTH {
            // As kubelets ask a pod in the host's network: at the node's address.
            let url = format!("http://{}{}", host.at(family, port), get["path"].as_str().unwrap());
            let status = host.inside(|| Ok(ureq::get(&url).call().map_err(std::io::Error::other)?.status())).unwrap();
            assert_eq!(status, 200, "{probe}: {url}");
        }
    }
}

#[test]
fn an_agent_without_rights_says_which_and_programs_nothing() {
    let cluster = cluster();
    cluster.apply(&labelled("guarded", 50, "guarded")).unwrap();
    // As the agents' role, but without EndpointSlices.
    let partly = "apiVersion: v1
kind: ServiceAccount
metadata: {name: partly, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: partly}
rules:
- {apiGroups: [''], resources: [services, nodes], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: partly}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: partly}
subjects: [{kind: ServiceAccount, name: partly, namespace: kube-system}]
";
    cluster.apply(partly).unwrap();
    let token = cluster.kubectl("create token -n kube-system partly").unwrap();
    let secrets = cluster.plane.secrets();
    secrets.write("partly.token", token.trim()).unwrap();
    let config = secrets.write_kubeconfig("partly", &proxy_testkit::cluster::url(0)).unwrap();
    let mut agent = cluster.agent(0, "-partly", Source::Kubeconfig(config), named("guarded")).unwrap();
    let refusal =
        "the API server refuses to list or watch EndpointSlices: endpointslices.discovery.k8s.io is forbidden";
    eventually(Duration::from_secs(150), || {
        ensure!(agent.log().contains(refusal), "it has not said so:\n{}", agent.log());
        Ok(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.log().matches(refusal).count(), 1, "{}", agent.log());
    assert_eq!(agent.look_json("frontends").unwrap().as_array().unwrap().len(), 0);
    let rest = "services, nodes]";
    cluster
        .apply(
            &partly
                .replace("apiGroups: ['']", "apiGroups: ['', discovery.k8s.io]")
                .replace(rest, "services, nodes, endpointslices]"),
        )
        .unwrap();
    agent.wait_until_ready().unwrap();
    wait_for(&agent, "default/guarded", &at(50, Family::V4).to_string(), 0).unwrap();
    assert!(agent.log().contains(&format!("no longer: {refusal}")), "{}", agent.log());
    agent.stop().unwrap();
    cluster.kubectl("delete service guarded").unwrap();
    cluster.kubectl("delete clusterrolebinding partly").unwrap();
    cluster.kubectl("delete clusterrole partly").unwrap();
}

#[test]
fn an_agent_in_a_pod_uses_its_service_account_and_a_new_token() {
    let cluster = cluster();
    cluster.apply(&labelled("inside", 51, "inside")).unwrap();
    let account = cluster.service_account_folder().unwrap();
    let good = fs::read_to_string(account.join("token")).unwrap();
    fs::write(account.join("token"), "of somebody else").unwrap();
    let [address, _] = addresses(0);
    let source = Source::Pod { account: account.clone(), server: SocketAddr::new(address, PORT) };
    let mut agent = cluster.agent(0, "-inside", source, named("inside")).unwrap();
    eventually(Duration::from_secs(150), || {
        ensure!(agent.log().contains("Unauthorized"), "it has not said so:\n{}", agent.log());
        Ok(())
    })
    .unwrap();
    // As kubelets do it long before the old one expires.
    fs::write(account.join("token"), good).unwrap();
    eventually(Duration::from_secs(120), || {
        ensure!(agent.log().contains(" ready: "), "it has not become ready:\n{}", agent.log());
        Ok(())
    })
    .unwrap();
    wait_for(&agent, "default/inside", &at(51, Family::V4).to_string(), 0).unwrap();
    agent.stop().unwrap();
    cluster.kubectl("delete service inside").unwrap();
}
