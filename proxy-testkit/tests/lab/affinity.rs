//! Session affinity.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::lab::{Family, Host, Protocol, eventually};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::WHO;

use crate::common::standard;

const PORT: u16 = 30083;
/// So many clients of four pods meet one alone by chance once in 4^11 times.
const CLIENTS: usize = 12;

/// The pods that answer.
fn answering(from: &Host, to: SocketAddr) -> BTreeSet<String> {
    from.ask_many(Protocol::Tcp, to, CLIENTS).unwrap().into_iter().map(|answer| answer.pod).collect()
}

/// Who answers once it is as it should be: agents take a change up in their own time, and of this one nothing tells that
/// they have.
fn becomes(from: &Host, to: SocketAddr, what: &str, is_so: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
    let patience = Duration::from_secs(20);
    let attempt = || {
        let pods = answering(from, to);
        ensure!(is_so(&pods), "{} to {to}, {what}: {pods:?}", from.name);
        Ok(pods)
    };
    eventually(patience, attempt).unwrap()
}

#[test]
fn a_client_stays_with_its_pod_while_that_serves_and_affinity_is_on() {
    let lab = standard();
    let pods = [&lab.node1.a, &lab.node1.c, &lab.node2.a, &lab.node2.c];
    let service = || Service::new("sticky", 60).port(Protocol::Tcp, 80, WHO).node_port(PORT);
    let sticky = || service().affinity(600);
    let published = lab.publish(&sticky().backends(pods)).unwrap();
    let ways = |family| {
        let vip = sticky().at(family, 80);
        let door = lab.node1.host.at(family, PORT);
        [(&lab.node1.b, vip), (&lab.node2.b, vip), (&lab.client, door)]
    };
    for family in Family::BOTH {
        for (from, to) in ways(family) {
            let first = answering(from, to);
            assert_eq!(first.len(), 1, "{} to {to}: {first:?}", from.name);
            assert_eq!(answering(from, to), first, "{} to {to}, again", from.name);
        }
    }
    lab.change(&published, &service().backends(pods)).unwrap();
    for family in Family::BOTH {
        for (from, to) in ways(family) {
            becomes(from, to, "switched off", |pods| pods.len() > 1);
        }
    }
    lab.change(&published, &sticky().backends(pods)).unwrap();
    let (from, to) = (&lab.node1.b, sticky().at(Family::V4, 80));
    let first = becomes(from, to, "switched on again", |pods| pods.len() == 1);
    let left = pods.into_iter().filter(|pod| !first.contains(&pod.name));
    lab.change(&published, &sticky().backends(left)).unwrap();
    let next = answering(from, to);
    assert!(next.len() == 1 && next != first, "{first:?} has gone, {next:?} answered");
}
