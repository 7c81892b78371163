//! Traffic policies and source ranges.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use proxy_testkit::lab::{Family, Host, Protocol};
use proxy_testkit::manifest::Service;
use proxy_testkit::server::WHO;

use crate::common::standard;

const PORT: u16 = 30082;

fn is_served(from: &Host, to: SocketAddr, pods: &[&Host], seen: Option<IpAddr>) {
    let answers = from.ask_many(Protocol::Tcp, to, 12);
    for answer in answers.unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name)) {
        assert!(pods.iter().any(|pod| pod.name == answer.pod), "{} to {to}: {} answered", from.name, answer.pod);
        if let Some(seen) = seen {
            assert_eq!(answer.seen, seen, "{} to {to}", from.name);
        }
    }
}

fn is_dropped(from: &Host, to: SocketAddr) {
    let error = from.ask(Protocol::Tcp, to).unwrap_err();
    let is_silent = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
    assert!(is_silent, "{} to {to}: expected silence, not: {error}", from.name);
}

#[test]
fn external_local_serves_outside_clients_on_the_node_alone_and_pods_anywhere() {
    let lab = standard();
    let (here, there) = (&lab.node1, &lab.node2);
    let door = Service::new("local-door", 50).port(Protocol::Tcp, 80, WHO).node_port(PORT).external_local();
    let _published = lab.publish(&door.backends([&here.a])).unwrap();
    for family in Family::BOTH {
        is_served(&lab.client, here.host.at(family, PORT), &[&here.a], Some(lab.client.ip(family)));
        is_dropped(&lab.client, there.host.at(family, PORT));
        is_served(&there.b, there.host.at(family, PORT), &[&here.a], None);
        is_served(&here.b, here.host.at(family, PORT), &[&here.a], Some(here.b.ip(family)));
    }
}

#[test]
fn internal_local_serves_pods_on_their_own_node_alone() {
    let lab = standard();
    let (here, there) = (&lab.node1, &lab.node2);
    let inner = Service::new("local-inner", 51).port(Protocol::Tcp, 80, WHO).internal_local();
    let both = inner.clone().backends([&here.a, &there.a]);
    let published = lab.publish(&both).unwrap();
    for family in Family::BOTH {
        is_served(&here.b, both.at(family, 80), &[&here.a], Some(here.b.ip(family)));
        is_served(&there.b, both.at(family, 80), &[&there.a], Some(there.b.ip(family)));
    }
    lab.withdraw(published).unwrap();
    let one = inner.backends([&here.a]);
    let _published = lab.publish(&one).unwrap();
    for family in Family::BOTH {
        is_served(&here.b, one.at(family, 80), &[&here.a], None);
        is_dropped(&there.b, one.at(family, 80));
    }
}

#[test]
fn source_ranges_guard_a_load_balancers_address_and_nothing_else() {
    let lab = standard();
    let (friend, stranger) = (&lab.node1.b, &lab.node1.c);
    let addresses: [IpAddr; 2] = ["203.0.113.52".parse().unwrap(), "fd00:203:113::52".parse().unwrap()];
    let sources = Family::BOTH.map(|family| {
        let address = friend.ip(family);
        format!(" {address}/{}", if address.is_ipv4() { 32 } else { 128 })
    });
    let guarded = Service::new("guarded", 52).port(Protocol::Tcp, 80, WHO).load_balancer(addresses, &sources);
    let guarded = guarded.backends([&lab.node1.a, &lab.node2.a]);
    let _published = lab.publish(&guarded).unwrap();
    let pods = [&lab.node1.a, &lab.node2.a];
    for (family, address) in Family::BOTH.into_iter().zip(addresses) {
        is_served(friend, SocketAddr::new(address, 80), &pods, None);
        is_dropped(stranger, SocketAddr::new(address, 80));
        is_served(stranger, guarded.at(family, 80), &pods, Some(stranger.ip(family)));
    }
}
