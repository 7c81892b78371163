//! What the agent serves over HTTP, asked for as monitoring and load balancers do.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proxy_testkit::agent::AgentOptions;
use proxy_testkit::lab::{Family, Host, Options, Protocol, eventually};
use proxy_testkit::{Lab, shell};
use serde_json::Value;

use crate::common::{TCP, alone, standard, usual};

const PATIENCE: Duration = Duration::from_secs(20);

/// Status, head and body of an answer.
fn get(from: &Host, to: SocketAddr, path: &str) -> io::Result<(u16, String, String)> {
    from.inside(|| {
        let mut stream = proxy_testkit::client::connect(to)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(text.clone()))?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.ok_or_else(|| io::Error::other(head.to_owned()))?, head.to_owned(), body.to_owned()))
    })
}

/// What an agent tells of its node.
pub(crate) fn metrics(node: &Host) -> String {
    let (status, _, body) = get(node, "127.0.0.1:10249".parse().unwrap(), "/metrics").unwrap();
    assert_eq!(status, 200);
    body
}

/// The sum of the samples of a metric whose labels hold all of these.
pub(crate) fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let is_wanted = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|it| line.contains(it))
    };
    metrics.lines().filter(is_wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn metrics_count_what_was_sent() {
    let lab = standard();
    let service = usual("measured", 96, [&lab.node1.b, &lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    let node = &lab.node1.host;
    for (family, name) in Family::BOTH.into_iter().zip(["ip_family=\"IPv4\"", "ip_family=\"IPv6\""]) {
        let of = ["service_name=\"measured\"", "port=\"80\"", "protocol=\"TCP\"", name];
        let count = |text: &str, metric: &str, more: &[&str]| sum(text, metric, &[&of[..], more].concat());
        let before = metrics(node);
        lab.node1.a.ask_many(Protocol::Tcp, service.at(family, TCP), 25).unwrap();
        let after = metrics(node);
        let grown = |metric: &str, more: &[&str]| count(&after, metric, more) - count(&before, metric, more);
        assert_eq!(grown("pointsman_service_flows_total", &[]), 25.0, "{after}");
        // A handshake, a question and an end have four packets of the client at least.
        let (packets, replies) = (["direction=\"request\""], ["direction=\"reply\""]);
        assert!(grown("pointsman_service_packets_total", &packets) >= 100.0, "{after}");
        assert!(grown("pointsman_service_bytes_total", &packets) >= 4_000.0, "{after}");
        assert!(grown("pointsman_service_packets_total", &replies) >= 75.0, "{after}");
        assert_eq!(grown("pointsman_service_refused_packets_total", &[]), 0.0, "{after}");
        let counters = lab.agents()[0].look_json("counters").unwrap();
        let number = |name: &str| u8::from(name.contains('6')) * 2 + 4;
        let row = counters["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == "measured" && row["port"] == 80 && row["family"] == number(name));
        assert_eq!(row.unwrap()["flows"].as_f64().unwrap(), count(&after, "pointsman_service_flows_total", &[]));
    }
    let all = metrics(node);
    for (metric, labels) in [
        ("kubeproxy_sync_proxy_rules_duration_seconds_count", "ip_family=\"IPv4\""),
        ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "ip_family=\"IPv6\""),
        ("kubeproxy_sync_proxy_rules_service_changes_total", ""),
        ("pointsman_map_capacity", "map=\"frontend_v4\""),
        ("pointsman_map_entries", "map=\"frontend_v4\""),
        ("pointsman_map_writes_total", ""),
        ("pointsman_devices", "role=\"pod\""),
        ("pointsman_devices", "role=\"uplink\""),
        ("pointsman_service_ports", ""),
        ("pointsman_sync_lag_seconds_count", ""),
        ("process_resident_memory_bytes", ""),
        ("process_start_time_seconds", ""),
    ] {
        assert!(sum(&all, metric, &[labels]) > 0.0, "{metric} {labels}\n{all}");
    }
    for (metric, labels) in
        [("pointsman_devices_failing", ""), ("kubeproxy_sync_proxy_rules_service_changes_pending", "")]
    {
        assert_eq!(sum(&all, metric, &[labels]), 0.0, "{metric}");
    }
}

fn health_checked(lab: &Lab, is_ready: bool) -> String {
    let pod = &lab.node1.a;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: checked, namespace: default}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 31999
  clusterIPs: [10.96.0.97]
  ports: [{{port: 80, protocol: TCP, nodePort: 30097}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: checked-1, namespace: default, labels: {{kubernetes.io/service-name: checked}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP, name: \"\"}}]
endpoints: [{{addresses: [{}], nodeName: {}, conditions: {{ready: {is_ready}}}}}]
",
        pod.ip(Family::V4),
        lab.node1.host.name,
    )
}

/// Waits for a status, and checks the body and the header against it.
fn check(lab: &Lab, node: &Host, expected: u16, endpoints: usize) -> Result<()> {
    eventually(PATIENCE, || {
        let (status, head, body) = get(&lab.client, node.at(Family::V4, 31999), "/")?;
        ensure!(status == expected, "{}: {status}\n{body}", node.name);
        let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
        ensure!(head.to_lowercase().contains(&weight), "{head}");
        let body: Value = serde_json::from_str(&body)?;
        ensure!(body["localEndpoints"] == endpoints && body["service"]["name"] == "checked", "{body}");
        ensure!(body["serviceProxyHealthy"] == true, "{body}");
        Ok(())
    })
    .with_context(|| format!("{} should say {expected}", node.name))
}

#[test]
fn a_load_balancer_is_told_where_local_endpoints_are() {
    let lab = standard();
    lab.manifests().write("checked.yaml", &health_checked(&lab, true)).unwrap();
    check(&lab, &lab.node1.host, 200, 1).unwrap();
    check(&lab, &lab.node2.host, 503, 0).unwrap();
    lab.manifests().write("checked.yaml", &health_checked(&lab, false)).unwrap();
    check(&lab, &lab.node1.host, 503, 0).unwrap();
    lab.manifests().remove("checked.yaml").unwrap();
    eventually(PATIENCE, || {
        let answer = get(&lab.client, lab.node1.host.at(Family::V4, 31999), "/");
        let kind = answer.as_ref().err().map(io::Error::kind);
        ensure!(kind == Some(io::ErrorKind::ConnectionRefused), "{answer:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_node_that_the_autoscaler_takes_away_gets_no_new_clients() {
    let lab = standard();
    let health = |path: &str| get(&lab.client, lab.node2.host.at(Family::V4, 10256), path).unwrap();
    let (status, head, body) = health("/healthz");
    assert_eq!(status, 200, "{body}");
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let file = format!("{}.yaml", lab.node2.host.name);
    let node = std::fs::read_to_string(lab.manifests().folder().join(&file)).unwrap();
    let taint = "spec:\n  taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\n";
    lab.manifests().write(&file, &node.replace("spec:\n", taint)).unwrap();
    let become_status = |expected: u16| {
        eventually(PATIENCE, || {
            let (status, _, body) = health("/healthz");
            ensure!(status == expected, "{status} {body}");
            Ok(())
        })
    };
    let told = become_status(503);
    let (livez, _, _) = health("/livez");
    lab.manifests().write(&file, &node).unwrap();
    told.unwrap();
    assert_eq!(livez, 200);
    become_status(200).unwrap();
}

#[test]
fn changes_that_cannot_be_applied_show_in_health_and_metrics_and_are_tried_again() {
    // Twice as long until healthz says so.
    let agents = AgentOptions { arguments: vec!["--iptables-sync-period=1s".into()], ..AgentOptions::default() };
    let mut lab = alone(|| Lab::new(Options { agents: Some(agents), ..Options::default() }));
    let (node, other) = (lab.node1.host.clone(), lab.node2.host.clone());
    let service = usual("stuck", 98, [&lab.node2.a]);
    let health = |host: &Host, expected: u16| {
        eventually(PATIENCE, || {
            for path in ["/healthz", "/livez"] {
                let (status, _, body) = get(&lab.client, host.at(Family::V4, 10256), path)?;
                ensure!(status == expected, "{} {path}: {status} {body}", host.name);
            }
            Ok(())
        })
    };
    health(&node, 200).unwrap();
    // No process can write to it from now on.
    let map = lab.agents()[0].pin_of("frontend_v4").unwrap();
    shell::run(Command::new("bpftool").args(["map", "freeze", "pinned"]).arg(map)).unwrap();
    let _published = lab.manifests().publish(&service).unwrap();
    health(&node, 503).unwrap();
    health(&other, 200).unwrap();
    let failures = || sum(&metrics(&node), "pointsman_sync_failures_total", &[]);
    let first = failures();
    assert!(first >= 1.0, "{first}");
    eventually(PATIENCE, || {
        ensure!(failures() > first, "it is not tried again");
        Ok(())
    })
    .unwrap();
    let log = lab.agents()[0].log();
    assert!(log.contains("frontend_v4") && log.contains("trying again"), "{log}");
    // With maps that can be written all is well.
    lab.agents_mut()[0].stop().unwrap();
    lab.agents()[0].clean_up().unwrap();
    lab.agents_mut()[0].start().unwrap();
    lab.agents_mut()[0].wait_until_ready().unwrap();
    assert_eq!(get(&lab.client, node.at(Family::V4, 10256), "/healthz").unwrap().0, 200);
    assert_eq!(node.ask(Protocol::Tcp, service.at(Family::V4, TCP)).unwrap().pod, "pod2a");
}
