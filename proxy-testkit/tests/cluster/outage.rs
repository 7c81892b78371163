//! API servers that stop, start and forget.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::agent::{Agent, AgentOptions, Source};
use proxy_testkit::cluster::{Cluster, url, wait_for};
use proxy_testkit::lab::{Family, Protocol, eventually};
use proxy_testkit::shell;

use crate::common::{Traffic, at, cluster, pods, service, steady};

/// kubectl apply by way of the second API server.
fn apply_by_second(cluster: &Cluster, manifest: &str) {
    let mut command = cluster.plane.kubectl_command().unwrap();
    let server = format!("--server={}", url(1));
    command.args([&server, "apply", "--server-side", "--force-conflicts", "-f", "-"]);
    shell::run_with_input(&mut command, manifest).unwrap();
}

/// A Service without pods, which agents list as soon as they know it.
fn bare(name: &str, number: u8) -> (String, SocketAddr) {
    (service(name, number), at(number, Family::V4))
}

/// How often a log says something.
fn said(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

fn wait_until_said(agent: &Agent, from: usize, what: &str) {
    eventually(Duration::from_secs(60), || {
        ensure!(said(&agent.log()[from..], what) > 0, "{} has not said '{what}'", agent.node());
        Ok(())
    })
    .unwrap();
}

const LOST: &str = "WARN cannot reach the API server";
const BACK: &str = "INFO no longer: cannot reach the API server";

#[test]
fn an_api_server_stops_and_starts_and_forgets() {
    let mut cluster = cluster();
    let traffic = Traffic::start(&cluster.lab.node1.b, steady(&cluster));
    let (early, early_at) = bare("early", 40);
    cluster.apply(&early).unwrap();
    cluster.wait_for("default/early", &early_at.to_string(), 0).unwrap();
    cluster.plane.start_server(1).unwrap();
    cluster.plane.wait_for_server(1).unwrap();

    let logs: Vec<_> = cluster.agents().iter().map(|agent| agent.log().len()).collect();
    cluster.plane.kill_server(0);
    // Both know only the first.
    for (agent, &from) in cluster.agents().iter().zip(&logs) {
        wait_until_said(agent, from, LOST);
    }
    // Meanwhile one comes, another goes. The first server, once it is back, knows nothing of the way there: the watches
    // of the agents have expired.
    let (late, late_at) = bare("late", 41);
    apply_by_second(&cluster, &late);
    let server = format!("--server={}", url(1));
    shell::run(cluster.plane.kubectl_command().unwrap().args([&server, "delete", "service", "early"])).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    cluster.plane.start_server(0).unwrap();
    cluster.plane.wait_for_server(0).unwrap();
    cluster.wait_for("default/late", &late_at.to_string(), 0).unwrap();
    cluster.wait_until_gone("early").unwrap();
    for (agent, &from) in cluster.agents().iter().zip(&logs) {
        wait_until_said(agent, from, BACK);
        let log = agent.log();
        assert_eq!((said(&log[from..], LOST), said(&log[from..], BACK)), (1, 1), "{}", &log[from..]);
    }
    traffic.all_answered();
    cluster.plane.stop_server(1);
    cluster.kubectl("delete service late").unwrap();
}

#[test]
fn an_agent_starts_while_the_api_server_is_down() {
    let mut cluster = cluster();
    let steady_at = steady(&cluster);
    let traffic = Traffic::start(&cluster.lab.node1.b, steady_at);
    let before = cluster.agents()[0].dump_map("frontend_v4").unwrap();
    cluster.agents_mut()[0].stop().unwrap();
    cluster.plane.stop_server(0);
    let from = cluster.agents()[0].log().len();
    cluster.agents_mut()[0].start().unwrap();
    wait_until_said(&cluster.agents()[0], from, LOST);
    // Time enough to do something wrong.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.agents()[0].dump_map("frontend_v4").unwrap(), before);
    cluster.plane.start_server(0).unwrap();
    cluster.plane.wait_for_server(0).unwrap();
    cluster.agents_mut()[0].wait_until_ready().unwrap();
    let (late, late_at) = bare("later", 42);
    cluster.apply(&late).unwrap();
    cluster.wait_for("default/later", &late_at.to_string(), 0).unwrap();
    let log = cluster.agents()[0].log();
    assert_eq!((said(&log[from..], LOST), said(&log[from..], BACK)), (1, 1), "{}", &log[from..]);
    traffic.all_answered();
    cluster.kubectl("delete service later").unwrap();
}

#[test]
fn lists_come_as_a_stream_and_a_watch_whose_past_is_compacted_away_lists_anew() {
    let mut cluster = cluster();
    cluster.plane.start_server(1).unwrap();
    cluster.plane.wait_for_server(1).unwrap();
    let labelled = |name: &str, number| {
        let label = "labels: {service.kubernetes.io/service-proxy-name: compact}}";
        service(name, number).replace(&format!("name: {name}}}"), &format!("name: {name}, {label}"))
    };
    cluster.apply(&labelled("early", 46)).unwrap();
    // Beside node1's agent, for Services of its own, by the second server alone.
    let options = AgentOptions {
        arguments: ["--service-proxy-name=compact", "--v=4", "--api-servers", &url(1)].map(str::to_owned).into(),
        ..AgentOptions::default()
    };
    let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
    let mut agent = cluster.agent(0, "-compact", source, options).unwrap();
    agent.wait_until_ready().unwrap();
    wait_for(&agent, "default/early", &at(46, Family::V4).to_string(), 0).unwrap();
    for kind in ["Service", "EndpointSlice", "Node", "ServiceCIDR"] {
        wait_until_said(&agent, 0, &format!("{kind}s came as a stream"));
    }
    assert_eq!(said(&agent.log(), "listing"), 0, "{}", agent.log());

    // At this level of the log a line also says where in the program it comes from.
    let lost = "cannot reach the API server";
    let from = agent.log().len();
    cluster.plane.kill_server(1);
    wait_until_said(&agent, from, lost);
    cluster.apply(&labelled("late", 47)).unwrap();
    cluster.kubectl("delete service early").unwrap();
    cluster.plane.compact().unwrap();
    // With a cache the server itself would not know the past, compacted or not.
    cluster.plane.start_server_with(1, &["--watch-cache=false"]).unwrap();
    cluster.plane.wait_for_server(1).unwrap();
    wait_for(&agent, "default/late", &at(47, Family::V4).to_string(), 0).unwrap();
    agent.wait_until_gone("early").unwrap();
    let log = agent.log();
    // As the first line of the watch, or as the answer's status.
    let gone = ["the watch of Services ended: 410", "watching Services: Expired"];
    assert!(gone.iter().any(|gone| said(&log[from..], gone) > 0), "{}", &log[from..]);
    assert_eq!(said(&log[from..], lost), 2, "once that it is lost, once that it is back: {}", &log[from..]);
    agent.stop().unwrap();
    cluster.plane.stop_server(1);
    cluster.kubectl("delete service late").unwrap();
}

#[test]
fn after_a_reboot_a_node_serves_what_was_known_until_the_api_server_answers() {
    let mut cluster = cluster();
    cluster.plane.start_server(1).unwrap();
    cluster.plane.wait_for_server(1).unwrap();
    let label = "labels: {service.kubernetes.io/service-proxy-name: kept}}";
    let kept = service("kept", 48).replace("name: kept}", &format!("name: kept, {label}"));
    cluster.apply(&(kept + &pods("kept", 2))).unwrap();
    // Beside node1's agent, for Services of its own, by the second server alone.
    let file = format!("--state-file={}", cluster.folder().join("kept.json").display());
    let options = AgentOptions {
        arguments: ["--service-proxy-name=kept", &file, "--api-servers", &url(1)].map(str::to_owned).into(),
        ..AgentOptions::default()
    };
    let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
    let mut agent = cluster.agent(0, "-kept", source, options).unwrap();
    agent.wait_until_ready().unwrap();
    wait_for(&agent, "default/kept", &at(48, Family::V4).to_string(), 2).unwrap();
    agent.stop().unwrap();
    // What a reboot takes away.
    agent.clean_up().unwrap();
    cluster.plane.kill_server(1);

    let from = agent.log().len();
    agent.start().unwrap();
    wait_until_said(&agent, from, "going on with what was known at");
    agent.wait_until_ready().unwrap();
    for family in Family::BOTH {
        let answers = cluster.lab.node1.a.ask_many(Protocol::Tcp, at(48, family), 30).unwrap();
        let pods: BTreeSet<_> = answers.iter().map(|answer| answer.pod.as_str()).collect();
        assert_eq!(pods, ["kept-0", "kept-1"].into());
    }
    // Once it is there, the API server counts.
    cluster.kubectl("delete pod kept-1").unwrap();
    cluster.plane.start_server(1).unwrap();
    cluster.plane.wait_for_server(1).unwrap();
    wait_for(&agent, "default/kept", &at(48, Family::V4).to_string(), 1).unwrap();
    agent.stop().unwrap();
    cluster.plane.stop_server(1);
    cluster.kubectl("delete service kept").unwrap();
    cluster.kubectl("delete pod kept-0").unwrap();
}

#[test]
fn an_agent_with_two_api_servers_goes_over_to_the_other() {
    let mut cluster = cluster();
    cluster.plane.start_server(1).unwrap();
    cluster.plane.wait_for_server(1).unwrap();
    // Beside node1's agent, for Services of its own.
    let options = AgentOptions {
        arguments: ["--service-proxy-name=both", "--api-servers"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("{},{}", url(0), url(1))])
            .collect(),
        ..AgentOptions::default()
    };
    let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
    let mut agent = cluster.agent(0, "-both", source, options).unwrap();
    agent.wait_until_ready().unwrap();
    cluster.plane.kill_server(0);
    let labelled = service("moved", 43)
        .replace("name: moved}", "name: moved, labels: {service.kubernetes.io/service-proxy-name: both}}");
    apply_by_second(&cluster, &labelled);
    wait_for(&agent, "default/moved", &at(43, Family::V4).to_string(), 0).unwrap();
    assert_eq!(said(&agent.log(), LOST), 0, "{}", agent.log());
    agent.stop().unwrap();
    cluster.plane.start_server(0).unwrap();
    cluster.plane.wait_for_server(0).unwrap();
    cluster.plane.stop_server(1);
    cluster.kubectl("delete service moved").unwrap();
}

#[test]
fn two_agents_share_a_node_by_the_proxy_s_name() {
    let cluster = cluster();
    let other = "service.kubernetes.io/service-proxy-name: other";
    let options = AgentOptions { arguments: vec!["--service-proxy-name=other".into()], ..AgentOptions::default() };
    let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
    let mut second = cluster.agent(0, "-other", source, options).unwrap();
    second.wait_until_ready().unwrap();
    let ours = service("ours", 44);
    let theirs = service("theirs", 45).replace("name: theirs}", &format!("name: theirs, labels: {{{other}}}}}"));
    cluster.apply(&(ours + &theirs + &pods("ours", 1) + &pods("theirs", 1))).unwrap();
    cluster.wait_for("default/ours", &at(44, Family::V4).to_string(), 1).unwrap();
    wait_for(&second, "default/theirs", &at(45, Family::V4).to_string(), 1).unwrap();
    let (first, from) = (&cluster.agents()[0], &cluster.lab.node1.a);
    for family in Family::BOTH {
        for (number, pod) in [(44, "ours-0"), (45, "theirs-0")] {
            let answers = from.ask_many(Protocol::Tcp, at(number, family), 10).unwrap();
            assert!(answers.iter().all(|answer| answer.pod == pod), "{answers:?}");
        }
    }
    assert!(!first.look("frontends").unwrap().contains("default/theirs"));
    assert!(!second.look("frontends").unwrap().contains("default/ours"));
    // The label goes, and with it the Service from one to the other.
    cluster.kubectl("label service theirs service.kubernetes.io/service-proxy-name-").unwrap();
    // The controller copies a Service's labels to its slices.
    cluster.wait_for("default/theirs", &at(45, Family::V4).to_string(), 1).unwrap();
    second.wait_until_gone("theirs").unwrap();
    second.stop().unwrap();
    cluster.kubectl("delete service ours theirs").unwrap();
    cluster.kubectl("delete pods ours-0 theirs-0").unwrap();
}
