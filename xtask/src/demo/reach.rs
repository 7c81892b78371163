//! Who reaches whom, and as whom.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use proxy_testkit::lab::{Family, Protocol};
use proxy_testkit::manifest::{Published, Service};
use proxy_testkit::server::{HTTP, WHO};
use proxy_testkit::{Host, Lab};

use super::story::{bar, chapter, fact, say, verify};

/// HTTP requests that show the spread. One of three pods is missed by chance once in 10^10 demos.
const ASKED: usize = 60;
const NODE_PORT: u16 = 30080;

/// One address, three pods.
pub fn a_cluster_ip_spreads(lab: &Lab) -> Result<(Service, Published)> {
    let backends = [&lab.node1.a, &lab.node1.b, &lab.node2.a];
    let service = Service::new("web", 10).port(Protocol::Tcp, 80, HTTP).node_port(NODE_PORT).backends(backends);
    let published = lab.publish(&service)?;
    let (from, to) = (&lab.node1.c, service.at(Family::V4, 80));
    chapter(
        "One address, three pods",
        &format!(
            "The Service `web` is {to}. Behind it are pod1a, pod1b and, on the other node, pod2a.\n{} fetches http://{to}/ {ASKED} times. Who answers?",
            from.name
        ),
    );
    spread(from, to, &["pod1a", "pod1b", "pod2a"])?;
    fact(&format!("Each request was answered, and each pod saw who asked: {}.", from.v4));
    Ok((service, published))
}

/// The same once more.
pub fn again_in_ipv6(lab: &Lab, web: &Service) -> Result<()> {
    let (from, to) = (&lab.node2.c, web.at(Family::V6, 80));
    chapter("The same in IPv6", &format!("Now {} on node2 fetches http://{to}/ {ASKED} times.", from.name));
    spread(from, to, &["pod1a", "pod1b", "pod2a"])?;
    fact(&format!("And each pod saw {}.", from.v6));
    Ok(())
}

fn spread(from: &Host, to: std::net::SocketAddr, expected: &[&str]) -> Result<()> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for number in 1..=ASKED {
        let answer = from.get(to).with_context(|| format!("request {number} of {} failed", from.name))?;
        verify(from.has(answer.seen), || format!("{} saw {} and not {}", answer.pod, answer.seen, from.name))?;
        *counts.entry(answer.pod).or_default() += 1;
    }
    counts.iter().for_each(|(pod, &count)| bar(pod, count, ASKED));
    verify(counts.keys().eq(expected.iter()), || format!("expected answers of {expected:?}, got {counts:?}"))
}

/// A NodePort, and whom the pods take for the client.
pub fn from_outside(lab: &Lab, web: &Service) -> Result<()> {
    let (client, node) = (&lab.client, &lab.node1);
    chapter(
        "From outside, through a node's port",
        &format!(
            "`web` is also open at port {NODE_PORT} of every node. The client outside is {} and {}; it asks node1\nuntil every pod has answered once.",
            client.v4, client.v6
        ),
    );
    for family in Family::BOTH {
        let to = node.host.at(family, NODE_PORT);
        let mut seen = BTreeMap::new();
        for _ in 0..100 {
            let answer = client.get(to).with_context(|| format!("the client could not reach {to}"))?;
            seen.insert(answer.pod, answer.seen);
            if seen.len() == web.backend_count() {
                break;
            }
        }
        verify(seen.len() == web.backend_count(), || format!("only {:?} answered at {to}", seen.keys()))?;
        say!("    asked at {to}:");
        for (pod, address) in seen {
            let is_local = node.pods().iter().any(|host| host.name == pod);
            let as_expected = if is_local { client.has(address) } else { node.owns(address) };
            verify(as_expected, || format!("{pod} saw {address}"))?;
            let whom = if is_local { "the client itself" } else { "node1, so that the answer comes back that way" };
            say!("      {pod} saw {address}: {whom}");
        }
    }
    let answer = client.get(lab.node2.host.at(Family::V4, NODE_PORT)).context("the client could not reach node2")?;
    fact(&format!("Pods of the node that was asked see the client. Node2 serves, too: {} answered there.", answer.pod));
    Ok(())
}

/// UDP, and a pod that calls itself.
pub fn over_udp(lab: &Lab) -> Result<()> {
    let pod = &lab.node2.b;
    let service = Service::new("echo", 11).port(Protocol::Udp, 53, WHO).backends([pod]);
    let _published = lab.publish(&service)?;
    chapter(
        "UDP, and a pod that calls itself",
        &format!(
            "The Service `echo` is UDP port 53 of {} and {}. Only pod2b serves it.",
            service.ip(Family::V4),
            service.ip(Family::V6)
        ),
    );
    for family in Family::BOTH {
        let to = service.at(family, 53);
        let answer = lab.node1.a.ask(Protocol::Udp, to).with_context(|| format!("no answer from {to}"))?;
        verify(lab.node1.a.has(answer.seen), || format!("pod2b saw {} and not pod1a", answer.seen))?;
        say!("    pod1a asks {to}: {} answers and saw {}", answer.pod, answer.seen);
        let answer = pod.ask(Protocol::Udp, to).context("pod2b does not reach itself")?;
        verify(lab.node2.owns(answer.seen), || format!("pod2b saw {} and not its node", answer.seen))?;
        say!("    pod2b asks {to}: {} answers and saw {}, its node", answer.pod, answer.seen);
    }
    fact("A pod would refuse an answer from its own address, so it meets itself in the guise of its node.");
    Ok(())
}
