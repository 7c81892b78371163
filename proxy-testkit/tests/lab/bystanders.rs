//! What is not for a frontend passes as if there were no proxy.

use std::time::Duration;

use proxy_testkit::client;
use proxy_testkit::lab::{Family, Protocol};
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{standard, usual};

#[test]
fn traffic_of_others_is_untouched() {
    let lab = standard();
    let _published = lab.publish(&usual("bystander", 40, [&lab.node1.a, &lab.node2.a])).unwrap();
    let pods: Vec<_> = lab.nodes().into_iter().flat_map(|node| node.pods()).collect();
    for family in Family::BOTH {
        for from in &pods {
            for to in &pods {
                for protocol in Protocol::BOTH {
                    let answer = from.ask(protocol, to.at(family, WHO)).unwrap();
                    assert_eq!((&answer.pod, answer.seen), (&to.name, from.ip(family)), "{protocol:?}");
                }
            }
            from.ping(lab.client.ip(family)).unwrap();
            from.ping(lab.node1.host.ip(family)).unwrap();
            from.ping(lab.node2.b.ip(family)).unwrap();
        }
        lab.client.ping(lab.node1.a.ip(family)).unwrap();
        lab.node1.a.stream(lab.node2.a.at(family, ECHO), 4 << 20).unwrap();
        // From the node itself, as its kubelet probes pods.
        assert_eq!(lab.node1.host.ask(Protocol::Tcp, lab.node1.a.at(family, WHO)).unwrap().pod, "pod1a");
        assert_eq!(lab.node2.host.ask(Protocol::Tcp, lab.node1.a.at(family, WHO)).unwrap().pod, "pod1a");
    }
}

#[test]
fn headless_services_and_external_names_are_left_alone() {
    let lab = standard();
    let headless = usual("headless", 41, [&lab.node1.b]).headless();
    let alias = usual("alias", 42, [&lab.node1.b]).external_name("example.com");
    let _headless = lab.publish(&headless).unwrap();
    let _alias = lab.publish(&alias).unwrap();
    // A Service that comes after both shows that the agents have read them.
    let _last = lab.publish(&usual("follower", 43, [&lab.node1.b])).unwrap();
    for agent in lab.agents() {
        let frontends = agent.look("frontends").unwrap();
        assert!(!frontends.contains("headless") && !frontends.contains("alias"), "{frontends}");
    }
    for family in Family::BOTH {
        for service in [&headless, &alias] {
            let patience = Duration::from_millis(300);
            let result = lab.node1.a.inside(|| client::knock(service.at(family, 80), patience));
            assert!(result.is_err(), "somebody serves {}", service.name);
        }
    }
}
