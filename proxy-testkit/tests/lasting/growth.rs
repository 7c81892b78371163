//! Maps that fill.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::client;
use proxy_testkit::lab::{Family, Protocol, eventually};
use proxy_testkit::manifest::{Published, Service};
use proxy_testkit::server::WHO;

use crate::common::{TCP, UDP, alone, usual};
use crate::metrics;
use crate::restart::{lab, one, sets, traffic, two};
use crate::sockets::connect_udp_from;

#[test]
fn maps_that_fill_grow_by_themselves_and_traffic_goes_on() {
    let lab = alone(|| lab(&["--initial-entries", "16"]));
    let _published = [&two([&lab.node1.b, &lab.node2.a]), &one(&lab)].map(|service| lab.publish(service).unwrap());
    let node = &lab.node1.host;
    let capacity = |map| metrics::capacity(node, map);
    assert_eq!(capacity("frontend_v4"), 16.0);
    let running = traffic(&lab);
    // Written together, or as fast as that goes: the maps grow to what is needed, in one step or a few.
    let services: Vec<Service> =
        (0..30).map(|number| usual(&format!("many-{number}"), 100 + number, lab.node2.pods())).collect();
    let published: Vec<Published> = services.iter().map(|it| lab.manifests().publish(it).unwrap()).collect();
    for agent in lab.agents() {
        services.iter().for_each(|service| agent.wait_for(service).unwrap());
    }
    running.end("maps of 16 entries grown to what 32 Services need");
    // 30 Services with 4 ports each, and those before.
    assert_eq!(capacity("frontend_v4"), 128.0);
    assert!(capacity("slot_v4") >= 512.0 && capacity("backend_v4") >= 512.0 && capacity("service") >= 256.0);
    assert_eq!(metrics::value(node, "pointsman_service_ports_without_room"), 0.0);
    for agent in lab.agents() {
        assert_eq!(sets(agent).len(), 1, "the smaller ones are gone");
    }
    for family in Family::BOTH {
        for service in &services {
            let answer = lab.node1.a.ask(Protocol::Tcp, service.at(family, TCP)).unwrap();
            assert!(answer.pod.starts_with("pod2"), "{answer:?}");
        }
    }
    drop(published);
}

/// Both nodes have a table of 251 slots for two backends, where there was room for 64: they choose the same for a client.
#[test]
fn a_map_grows_for_tables_by_which_nodes_agree() {
    const PORT: u16 = 30069;
    let lab = alone(|| lab(&["--initial-entries", "64"]));
    let (n1, n2) = (&lab.node1, &lab.node2);
    let _published = [&two([&n1.b, &n2.a]), &one(&lab)].map(|service| lab.publish(service).unwrap());
    let before = metrics::capacity(&n1.host, "slot_v4");
    let running = traffic(&lab);
    let agreed = Service::new("agreed", 119)
        .port(Protocol::Udp, UDP, WHO)
        .node_port(PORT)
        .port(Protocol::Tcp, TCP, WHO)
        .node_port(PORT)
        .backends([&n1.a, &n2.b]);
    let _agreed = lab.publish(&agreed).unwrap();
    for (node, agent) in lab.nodes().into_iter().zip(lab.agents()) {
        for map in ["slot_v4", "slot_v6"] {
            eventually(Duration::from_secs(20), || {
                let now = metrics::capacity(&node.host, map);
                ensure!(now > before && now >= 1_024.0, "{map} of {} has {now} entries, had {before}", node.host.name);
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(sets(agent).len(), 1, "the smaller ones are gone");
        assert_eq!(metrics::value(&node.host, "pointsman_service_ports_without_room"), 0.0);
        assert!(!agent.log().contains("has no room for a table"), "{}", agent.log());
    }
    running.end("maps of 64 slots grown to what tables need");
    for family in Family::BOTH {
        let mut chosen = BTreeSet::new();
        for own_port in 61_500..61_540 {
            let [one, other] = lab.nodes().map(|node| {
                let from = lab.client.at(family, own_port);
                let ask = || client::ask_again(&connect_udp_from(from, node.host.at(family, PORT))?);
                lab.client.inside(ask).unwrap().pod
            });
            assert_eq!(one, other, "{family:?}: port {own_port} by either node");
            chosen.insert(one);
        }
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), ["pod1a", "pod2b"], "{family:?}: both have their share");
    }
}

#[test]
fn at_the_ceiling_a_service_keeps_its_former_state_and_the_agent_says_so() {
    let lab = alone(|| lab(&["--initial-entries", "16", "--max-frontends", "32"]));
    let node = &lab.node1.host;
    let former = Service::new("former", 99).port(Protocol::Tcp, TCP, WHO).backends([&lab.node1.b]);
    let published = lab.publish(&former).unwrap();
    let fill: Vec<_> = (0..31)
        .map(|number| Service::new(&format!("fill-{number}"), 100 + number).port(Protocol::Tcp, TCP, WHO))
        .map(|service| lab.publish(&service.backends([&lab.node1.c])).unwrap())
        .collect();
    assert_eq!(metrics::value(node, "pointsman_map_entries{map=\"frontend_v4\"}"), 32.0);
    assert_eq!(metrics::capacity(node, "frontend_v4"), 32.0);

    // With a port of every node, and another backend: for the former there is no room.
    let larger = Service::new("former", 99).port(Protocol::Tcp, TCP, WHO).node_port(30085).backends([&lab.node2.a]);
    lab.manifests().change(&published, &larger).unwrap();
    // What is published after it, and fits, is served: so the change has been seen.
    let mut fill = fill;
    lab.withdraw(fill.pop().unwrap()).unwrap();
    let after = Service::new("after", 98).port(Protocol::Tcp, TCP, WHO).backends([&lab.node2.b]);
    let after_published = lab.publish(&after).unwrap();
    let told = |series: &str| metrics::value(node, series);
    eventually(Duration::from_secs(20), || {
        ensure!(told("pointsman_service_ports_without_room") > 0.0, "nothing is without room");
        Ok(())
    })
    .unwrap();
    for family in Family::BOTH {
        assert_eq!(lab.node1.a.ask(Protocol::Tcp, former.at(family, TCP)).unwrap().pod, "pod1b");
        assert_eq!(lab.node1.a.ask(Protocol::Tcp, after.at(family, TCP)).unwrap().pod, "pod2b");
    }
    let log = lab.agents()[0].log();
    let says = |line: &&str| line.contains("default/former") && line.contains("frontend_v4") && line.contains("full");
    assert!(log.lines().any(|line| says(&line)), "{log}");
    // The node serves all others: load balancers are to go on sending clients here.
    let (head, _) = metrics::get(node, 10256, "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    // Room for it: its new state comes by itself.
    lab.withdraw(after_published).unwrap();
    lab.withdraw(fill.pop().unwrap()).unwrap();
    lab.agents().iter().for_each(|agent| agent.wait_for(&larger).unwrap());
    for family in Family::BOTH {
        assert_eq!(lab.node1.a.ask(Protocol::Tcp, larger.at(family, TCP)).unwrap().pod, "pod2a");
        assert_eq!(lab.client.ask(Protocol::Tcp, node.at(family, 30085)).unwrap().pod, "pod2a");
    }
    eventually(Duration::from_secs(20), || {
        ensure!(told("pointsman_service_ports_without_room") == 0.0, "something is without room");
        Ok(())
    })
    .unwrap();
}
