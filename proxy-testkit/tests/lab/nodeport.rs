//! NodePorts: from outside and from pods.

use proxy_testkit::lab::{Family, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::{ECHO, WHO};

use crate::common::standard;

const PORT: u16 = 30080;
const STREAM_PORT: u16 = 30007;

fn service(name: &str, number: u8, backend: &proxy_testkit::Host) -> Service {
    Service::new(name, number)
        .port(Protocol::Tcp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Udp, 80, WHO)
        .node_port(PORT)
        .port(Protocol::Tcp, 7, ECHO)
        .node_port(STREAM_PORT)
        .backends([backend])
}

#[test]
fn outside_reaches_a_local_pod_as_itself_and_a_remote_one_as_the_node() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let (one, two) = (&lab.node1, &lab.node2);
    for (entry, pod, local) in [(one, &one.a, true), (one, &two.a, false), (two, &two.a, true), (two, &one.a, false)] {
        let door = service("door", 20, pod);
        let published = lab.publish(&door).unwrap();
        for family in Family::BOTH {
            let way = format!("client to {} to {}, {family:?}", entry.host.name, pod.name);
            for protocol in Protocol::BOTH {
                let answers = lab.client.ask_many(protocol, entry.host.at(family, PORT), 5);
                let answers = answers.unwrap_or_else(|error| panic!("{way}, {protocol:?}: {error}"));
                for answer in answers {
                    assert_eq!(answer.pod, pod.name, "{way}");
                    match local {
                        true => assert_eq!(answer.seen, lab.client.ip(family), "{way}, {protocol:?}"),
                        false => assert!(entry.owns(answer.seen), "{way}, {protocol:?}: seen {}", answer.seen),
                    }
                }
            }
            let streamed = lab.client.stream(entry.host.at(family, STREAM_PORT), 4 << 20);
            streamed.unwrap_or_else(|error| panic!("{way}: {error}"));
        }
        lab.withdraw(published).unwrap();
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn a_pod_reaches_the_node_port_of_its_own_node_and_of_the_other() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    for from_node in lab.nodes() {
        let from = &from_node.b;
        for entry in lab.nodes() {
            for to_node in lab.nodes() {
                let door = service("inner-door", 21, &to_node.a);
                let published = lab.publish(&door).unwrap();
                for family in Family::BOTH {
                    for protocol in Protocol::BOTH {
                        let way = format!(
                            "{} to {} to {}, {family:?}, {protocol:?}",
                            from.name, entry.host.name, to_node.a.name
                        );
                        let answers = from.ask_many(protocol, entry.host.at(family, PORT), 3);
                        let answers = answers.unwrap_or_else(|error| panic!("{way}: {error}"));
                        for answer in answers {
                            assert_eq!(answer.pod, to_node.a.name, "{way}");
                            // Its own node may tell who it is or not; beyond, the CNI hid it already.
                            let fair = answer.seen == from.ip(family) && entry.number() == from_node.number()
                                || from_node.owns(answer.seen)
                                || entry.owns(answer.seen);
                            assert!(fair, "{way}: seen {}", answer.seen);
                        }
                    }
                }
                lab.withdraw(published).unwrap();
            }
        }
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn a_node_port_s_number_means_nothing_at_other_addresses() {
    let mut lab = standard();
    let (pod, client) = (lab.node1.c.clone(), lab.client.clone());
    for protocol in Protocol::BOTH {
        lab.serve(&pod, protocol, PORT).unwrap();
        lab.serve(&client, protocol, PORT).unwrap();
    }
    let door = service("other-door", 22, &lab.node2.a);
    let _published = lab.publish(&door).unwrap();
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            let answer = client.ask(protocol, pod.at(family, PORT)).unwrap();
            assert_eq!((answer.pod, answer.seen), (pod.name.clone(), client.ip(family)), "a pod's own port");
            let answer = lab.node2.b.ask(protocol, pod.at(family, PORT)).unwrap();
            assert_eq!((answer.pod, answer.seen), (pod.name.clone(), lab.node2.b.ip(family)), "a pod's own port");
            let answer = lab.node1.a.ask(protocol, client.at(family, PORT)).unwrap();
            assert_eq!(answer.pod, client.name, "a port of a machine outside");
        }
    }
}
