//! Backends that leave a Service: what goes on to them, and what does not.

use std::net::TcpStream;

use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::{ECHO, WHO};

use crate::common::{STREAM, TCP, UDP, standard};
use crate::flood::talk;
use crate::sockets::{connect_from, connect_udp_from, reset_on_drop};

/// Ports of every node.
const WHO_PORT: u16 = 30061;
const ECHO_PORT: u16 = 30062;
/// The client's port of the connection that is closed and opened again.
const OWN_PORT: u16 = 61_000;

fn leaving(number: u8) -> Service {
    Service::new("leaving", number)
        .port(Protocol::Tcp, TCP, WHO)
        .node_port(WHO_PORT)
        .port(Protocol::Tcp, STREAM, ECHO)
        .node_port(ECHO_PORT)
}

#[test]
fn established_tcp_goes_on_to_endpoints_that_left_until_it_closes_and_nothing_new_goes_there() {
    let lab = standard();
    let (n1, n2) = (&lab.node1, &lab.node2);
    for family in Family::BOTH {
        let service = leaving(112).backends([&n2.b]);
        let published = lab.publish(&service).unwrap();
        // By ClusterIP of both nodes, one from a port of its own; by NodePort from outside, masqueraded and not.
        let own = n1.c.at(family, OWN_PORT);
        let again = || n1.c.inside(|| connect_from(own, service.at(family, STREAM)));
        let hold = |from: &Host, to| from.inside(|| client::connect(to)).unwrap();
        let mut held = vec![
            again().unwrap(),
            hold(&n1.a, service.at(family, STREAM)),
            hold(&n2.a, service.at(family, STREAM)),
            hold(&lab.client, n1.host.at(family, ECHO_PORT)),
            hold(&lab.client, n2.host.at(family, ECHO_PORT)),
        ];
        let goes_on = |held: &mut [TcpStream], what: &str| {
            println!("{family:?}: connections held while {what}");
            talk(held);
        };
        let nothing_new_goes_there = |to: &str| {
            for (from, target) in [
                (&n1.c, service.at(family, TCP)),
                (&n2.a, service.at(family, TCP)),
                (&lab.client, n1.host.at(family, WHO_PORT)),
                (&lab.client, n2.host.at(family, WHO_PORT)),
            ] {
                let answers = from.ask_many(Protocol::Tcp, target, 20).unwrap();
                assert!(answers.iter().all(|answer| answer.pod == to), "{} to {target}: {answers:?}", from.name);
            }
        };
        goes_on(&mut held, "all is well");

        lab.change(&published, &leaving(112).backends([&n1.b]).terminating([&n2.b])).unwrap();
        goes_on(&mut held, "their endpoint terminates");
        nothing_new_goes_there("pod1b");
        lab.change(&published, &leaving(112).backends([&n1.b])).unwrap();
        goes_on(&mut held, "their endpoint is gone");
        nothing_new_goes_there("pod1b");
        lab.change(&published, &leaving(112)).unwrap();
        goes_on(&mut held, "there is no endpoint");
        let refused = n1.c.ask(Protocol::Tcp, service.at(family, TCP)).unwrap_err();
        assert_eq!(client::describe(&refused), "ECONNREFUSED", "{family:?}: nobody serves");
        lab.withdraw(published).unwrap();
        goes_on(&mut held, "there is no Service");
        let published = lab.publish(&leaving(112).backends([&n1.b])).unwrap();
        goes_on(&mut held, "the Service has been made again with another endpoint");
        nothing_new_goes_there("pod1b");

        // The same client port once more, as soon as its connection has been closed: a new connection, to who serves now.
        let closed = held.swap_remove(0);
        reset_on_drop(&closed).unwrap();
        drop(closed);
        let mut anew = [again().unwrap()];
        talk(&mut anew);
        let flows = lab.agents()[0].look_json("flows").unwrap();
        // Not by name: flows of Services that are gone may be listed under that of one which has their number now.
        let frontend = service.at(family, STREAM).to_string();
        let is_it = |flow: &&serde_json::Value| flow["client"] == own.to_string() && flow["frontend"] == frontend;
        let backends: Vec<_> =
            flows.as_array().unwrap().iter().filter(is_it).map(|flow| flow["backend"].clone()).collect();
        assert_eq!(backends, [n1.b.at(family, ECHO).to_string()], "{flows}");
        reset_on_drop(&anew[0]).unwrap();
        goes_on(&mut held, "another connection was closed");
        lab.withdraw(published).unwrap();
    }
}

/// One pod behind two Services, and one client port that talks to both.
#[test]
fn a_flow_follows_its_own_service_whatever_another_does_with_the_same_backend() {
    let lab = standard();
    let (n1, n2) = (&lab.node1, &lab.node2);
    let service = |name, number| Service::new(name, number).port(Protocol::Udp, UDP, WHO);
    for family in Family::BOTH {
        let (one, other) = (service("own", 113), service("anothers", 114));
        let published = [&one, &other].map(|it| lab.publish(&it.clone().backends([&n2.b])).unwrap());
        let connect = |to| n1.c.inside(|| connect_udp_from(n1.c.at(family, OWN_PORT), to)).unwrap();
        let sockets = [&one, &other].map(|service| connect(service.at(family, UDP)));
        let answered_by = |what: &str, pods: [&str; 2]| {
            for (socket, pod) in sockets.iter().zip(pods) {
                let answer = client::ask_again(socket).unwrap_or_else(|error| panic!("{family:?}, {what}: {error}"));
                assert_eq!(answer.pod, pod, "{family:?}, {what}: {}", socket.peer_addr().unwrap());
            }
        };
        answered_by("one pod serves both", ["pod2b", "pod2b"]);
        lab.change(&published[0], &one.clone().backends([&n1.b])).unwrap();
        answered_by("it has left one", ["pod1b", "pod2b"]);
        lab.change(&published[0], &one.clone().backends([&n2.b])).unwrap();
        answered_by("it has come back", ["pod2b", "pod2b"]);
        lab.change(&published[1], &other.clone().unready([&n2.b])).unwrap();
        assert_eq!(client::ask_again(&sockets[0]).unwrap().pod, "pod2b", "it is unready for the other");
        let refused = client::ask_again(&sockets[1]).unwrap_err();
        assert_eq!(client::describe(&refused), "ECONNREFUSED", "{family:?}: nobody is ready");
        lab.change(&published[1], &other.clone().backends([&n2.a])).unwrap();
        answered_by("the other has its first ready endpoint", ["pod2b", "pod2a"]);
        for published in published {
            lab.withdraw(published).unwrap();
        }
    }
}
