//! Ranges of ClusterIPs that others have addresses in.

use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::agent::{AgentOptions, Source};
use proxy_testkit::lab::eventually;
use proxy_testkit::shell;

use crate::common::cluster;

/// As long as an agent may take to read the routes again, twice.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_route_into_the_range_is_a_warning_and_an_event_and_strict_agents_do_not_start() {
    let cluster = cluster();
    let node = &cluster.lab.node1.host;
    let route = |verb: &str| {
        let mut command = node.ns.command("ip");
        let words = format!("route {verb} 10.96.77.0/24 via {}", cluster.lab.node2.host.v4);
        shell::run(command.args(words.split_whitespace())).unwrap();
    };
    let said = "the range of ClusterIPs 10.96.0.0/16 overlaps with the route to 10.96.77.0/24";
    let strict = |name: &str| {
        let arguments = vec!["--service-proxy-name=strict".to_owned(), "--strict".to_owned()];
        let source = Source::Kubeconfig(cluster.agent_kubeconfig(0).unwrap());
        cluster.agent(0, name, source, AgentOptions { arguments, ..AgentOptions::default() }).unwrap()
    };
    let mut before = strict("-before");
    before.wait_until_ready().unwrap();

    let from = cluster.agents()[0].log().len();
    route("add");
    eventually(PATIENCE, || {
        let agent = &cluster.agents()[0];
        ensure!(agent.log()[from..].contains(&format!("WARN {said}")), "it has not said so");
        Ok(())
    })
    .unwrap();
    eventually(PATIENCE, || {
        let events = cluster.kubectl("get events -A --field-selector reason=ServiceRangeOverlap -o json")?;
        let events: serde_json::Value = serde_json::from_str(&events)?;
        let is_told = |event: &serde_json::Value| {
            event["involvedObject"]["kind"] == "Node"
                && event["involvedObject"]["name"] == "node1"
                && event["type"] == "Warning"
                && event["message"].as_str().is_some_and(|message| message.starts_with(said))
        };
        ensure!(events["items"].as_array().into_iter().flatten().any(is_told), "no such Event: {events}");
        Ok(())
    })
    .unwrap();

    // One that runs already goes on.
    assert!(before.pid().is_some(), "{}", before.log());
    before.stop().unwrap();
    let after = strict("-after");
    eventually(PATIENCE, || {
        ensure!(after.pid().is_none(), "it has not ended");
        Ok(())
    })
    .unwrap();
    let log = after.log();
    assert!(log.contains(said) && log.contains("without --strict"), "{log}");
    assert!(after.look("frontends").is_err() || !after.look("frontends").unwrap().contains("ClusterIP"), "{log}");

    route("del");
    eventually(PATIENCE, || {
        let agent = &cluster.agents()[0];
        ensure!(agent.log()[from..].contains(&format!("no longer: {said}")), "it has not said so");
        Ok(())
    })
    .unwrap();
}
