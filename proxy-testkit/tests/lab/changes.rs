//! Endpoints and Services that come and go while traffic flows.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proxy_testkit::client::{self, Burst};
use proxy_testkit::lab::{Family, Host, Protocol, eventually};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::WHO;

use crate::common::{STREAM, TCP, UDP, standard, tally, usual, who};

#[test]
fn a_backend_that_is_added_is_used() {
    let lab = standard();
    let small = usual("growing", 50, [&lab.node1.a]);
    let published = lab.publish(&small).unwrap();
    let grown = usual("growing", 50, [&lab.node1.a, &lab.node2.a]);
    lab.change(&published, &grown).unwrap();
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            // One of two is missed by chance in 40 tries once in 5 * 10^11.
            let answers = lab.node1.b.ask_many(protocol, grown.at(family, who(protocol)), 40).unwrap();
            let reached = tally(answers.iter().map(|answer| answer.pod.as_str()));
            assert_eq!(reached.keys().copied().collect::<Vec<_>>(), ["pod1a", "pod2a"]);
        }
    }
}

#[test]
fn a_backend_that_is_removed_gets_nothing_new_and_keeps_what_it_has() {
    let lab = standard();
    let from = &lab.node1.c;
    for family in Family::BOTH {
        let leaving = usual("leaving", 51, [&lab.node2.b]);
        let published = lab.publish(&leaving).unwrap();
        let mut held = from.inside(|| client::connect(leaving.at(family, STREAM))).unwrap();
        let mut echo = |word: &[u8]| {
            held.write_all(word).unwrap();
            let mut back = vec![0u8; word.len()];
            held.read_exact(&mut back).unwrap();
            assert_eq!(back, word);
        };
        echo(b"before");
        let talking = from.inside(|| client::connect_udp(leaving.at(family, UDP))).unwrap();
        assert_eq!(client::ask_again(&talking).unwrap().pod, "pod2b");

        let left = usual("leaving", 51, [&lab.node1.b]);
        lab.change(&published, &left).unwrap();
        for protocol in Protocol::BOTH {
            let answers = from.ask_many(protocol, left.at(family, who(protocol)), 20).unwrap();
            assert!(answers.iter().all(|answer| answer.pod == "pod1b"), "{answers:?}");
        }
        echo(b"the established connection goes on");
        // The same UDP socket, so the same flow: its backend left the Service.
        assert_eq!(client::ask_again(&talking).unwrap().pod, "pod1b", "{family:?}: UDP went on to a removed backend");

        let nobody = usual("leaving", 51, []);
        lab.change(&published, &nobody).unwrap();
        echo(b"even when nobody is left");
        let refused = client::ask_again(&talking).unwrap_err();
        assert_eq!(client::describe(&refused), "ECONNREFUSED", "{family:?}: UDP");
    }
}

#[test]
fn a_service_that_is_removed_answers_no_more() {
    let lab = standard();
    let gone = usual("gone", 52, [&lab.node1.a]).node_port(30082);
    let published = lab.publish(&gone).unwrap();
    for family in Family::BOTH {
        assert!(lab.node1.b.ask(Protocol::Tcp, gone.at(family, TCP)).is_ok());
        assert!(lab.node2.b.ask(Protocol::Tcp, gone.at(family, TCP)).is_ok());
    }
    lab.withdraw(published).unwrap();
    for family in Family::BOTH {
        for from in [&lab.node1.b, &lab.node2.b] {
            let patience = Duration::from_millis(300);
            assert!(from.inside(|| client::knock(gone.at(family, TCP), patience)).is_err());
        }
        // The port is the node's own again: its kernel refuses.
        let error = lab.client.ask(Protocol::Tcp, lab.node1.host.at(family, 30082)).unwrap_err();
        assert_eq!(client::describe(&error), "ECONNREFUSED");
    }
}

#[test]
fn no_connection_is_lost_while_endpoints_change() {
    let lab = standard();
    let (one, two) = (&lab.node1, &lab.node2);
    let all = [&one.a, &one.b, &two.a];
    let service = usual("busy", 53, all);
    let published = lab.publish(&service).unwrap();
    let stop = AtomicBool::new(false);
    let bursts: Vec<(String, Burst)> = thread::scope(|scope| {
        let (stop, service) = (&stop, &service);
        let clients: Vec<_> = [(&one.c, Family::V4), (&two.c, Family::V6)]
            .into_iter()
            .map(|(from, family)| {
                scope.spawn(move || (from.name.clone(), ask_until(stop, from, service.at(family, TCP))))
            })
            .collect();
        for _ in 0..10 {
            for backends in [vec![&one.a], vec![&one.b, &two.a], all.to_vec()] {
                lab.change(&published, &usual("busy", 53, backends)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (name, burst) in bursts {
        println!("{name}: {burst:?} over 30 changes");
        assert!(burst.failed.is_empty() && burst.total() > 0, "{name}: {burst:?}");
    }
}

fn ask_until(stop: &AtomicBool, from: &Host, to: SocketAddr) -> Burst {
    let work = || {
        let mut burst = Burst::default();
        while !stop.load(Ordering::Relaxed) {
            burst.count(&client::ask_tcp(to));
        }
        burst
    };
    from.ns.run(work).unwrap()
}

#[test]
fn a_malformed_manifest_is_named_and_changes_nothing() {
    let lab = standard();
    let service = usual("steady", 94, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    lab.manifests()
        .write("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: broken\n  - what: is this\n")
        .unwrap();
    for agent in lab.agents() {
        eventually(Duration::from_secs(10), || {
            let log = agent.log();
            let told = log
                .lines()
                .any(|line| line.contains("broken.yaml") && (line.contains(":5") || line.contains("line 5")));
            anyhow::ensure!(told, "no error that names the file and line 5");
            Ok(())
        })
        .unwrap();
    }
    for family in Family::BOTH {
        assert_eq!(lab.node1.a.ask(Protocol::Tcp, service.at(family, TCP)).unwrap().pod, "pod2a");
    }
    // Everything else goes on.
    let after = usual("after-broken", 95, [&lab.node1.b]);
    let _after = lab.publish(&after).unwrap();
    assert_eq!(lab.node2.a.ask(Protocol::Tcp, after.at(Family::V4, TCP)).unwrap().pod, "pod1b");
    // The same for a file that was right: what it said stays in force.
    lab.manifests().write("steady.yaml", "kind: Service\nspec: [\n").unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(lab.node1.a.ask(Protocol::Tcp, service.at(Family::V4, TCP)).unwrap().pod, "pod2a");
    lab.manifests().remove("broken.yaml").unwrap();
}

/// One UDP socket, so one flow, through all that may become of its Service.
#[test]
fn a_udp_socket_is_led_to_who_serves_whatever_became_of_its_service() {
    const OTHER: u16 = 9_152;
    let mut lab = standard();
    let pod = lab.node2.c.clone();
    // The pod's other port, which tells by another name.
    let other = Host { name: "pod2c-other".to_owned(), ..pod.clone() };
    lab.serve(&other, Protocol::Udp, OTHER).unwrap();
    let service = |target, backends: &[&Host]| {
        Service::new("led", 53).port(Protocol::Udp, UDP, target).node_port(30083).backends(backends.iter().copied())
    };
    for family in Family::BOTH {
        let first = service(WHO, &[&lab.node2.b]);
        let published = lab.publish(&first).unwrap();
        let inside = lab.node1.c.inside(|| client::connect_udp(first.at(family, UDP))).unwrap();
        let node_port = lab.node1.host.at(family, 30083);
        let outside = lab.client.inside(|| client::connect_udp(node_port)).unwrap();
        let ask = |what: &str, expected: &str| {
            for socket in [&inside, &outside] {
                let answer = client::ask_again(socket).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answer.pod, expected, "{family:?}: {what}");
            }
        };
        ask("at first", "pod2b");

        lab.withdraw(published).unwrap();
        let again = service(WHO, &[&lab.node1.b]);
        let published = lab.publish(&again).unwrap();
        ask("the Service was deleted and made again with another pod", "pod1b");

        lab.change(&published, &service(WHO, &[&pod])).unwrap();
        ask("another pod", "pod2c");
        lab.change(&published, &service(OTHER, &[&pod])).unwrap();
        ask("the target port of the same pod has changed", "pod2c-other");

        lab.change(&published, &service(WHO, &[])).unwrap();
        for socket in [&inside, &outside] {
            let refused = client::ask_again(socket).unwrap_err();
            assert_eq!(client::describe(&refused), "ECONNREFUSED", "{family:?}: nobody is ready");
        }
        lab.change(&published, &service(WHO, &[&lab.node1.a])).unwrap();
        ask("the first one is ready", "pod1a");
        lab.withdraw(published).unwrap();
    }
}
