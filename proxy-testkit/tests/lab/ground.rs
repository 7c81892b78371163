//! The lab's own ground, without agents: what tests rely on when they blame the proxy.

use proxy_testkit::Lab;
use proxy_testkit::lab::{Family, Options, Overlay, Protocol};
use proxy_testkit::server::{ECHO, WHO};

use crate::common::alone;

#[test]
fn every_pod_reaches_every_other_as_itself() {
    for overlay in [Overlay::Vxlan, Overlay::Routes] {
        let lab = alone(|| Lab::new(Options { overlay, agents: None, ..Options::default() }));
        let pods: Vec<_> = lab.nodes().into_iter().flat_map(|node| node.pods()).collect();
        for family in Family::BOTH {
            for from in &pods {
                for to in &pods {
                    for protocol in Protocol::BOTH {
                        let answer = from.ask(protocol, to.at(family, WHO)).unwrap();
                        assert_eq!((&answer.pod, answer.seen), (&to.name, from.ip(family)), "{overlay:?} {protocol:?}");
                    }
                }
                from.ping(lab.client.ip(family)).unwrap();
            }
        }
        assert_eq!(lab.invalid_packets().unwrap(), 0);
    }
}

#[test]
fn pods_leave_the_cluster_as_their_node_and_the_client_reaches_pods_as_itself() {
    let mut lab = alone(|| Lab::new(Options { agents: None, ..Options::default() }));
    let client = lab.client.clone();
    lab.serve(&client, Protocol::Tcp, WHO).unwrap();
    for family in Family::BOTH {
        for node in lab.nodes() {
            let answer = node.a.ask(Protocol::Tcp, client.at(family, WHO)).unwrap();
            assert_eq!(answer.seen, node.host.ip(family));
            let answer = client.ask(Protocol::Tcp, node.a.at(family, WHO)).unwrap();
            assert_eq!(answer.seen, client.ip(family));
        }
    }
    assert_eq!(lab.invalid_packets().unwrap(), 0);
}

#[test]
fn a_stream_between_nodes_arrives_intact() {
    let lab = alone(|| Lab::new(Options { agents: None, ..Options::default() }));
    for family in Family::BOTH {
        let taken = lab.node1.a.stream(lab.node2.a.at(family, ECHO), 64 << 20).unwrap();
        println!("{family:?}: 64 MiB there and back in {taken:?}");
    }
}
