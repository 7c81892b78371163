//! Much at once.

use std::thread;

use proxy_testkit::client::Burst;
use proxy_testkit::lab::{Family, Protocol};
use proxy_testkit::server::WHO;

use crate::common::{STREAM, TCP, standard, usual};

const PORT: u16 = 30090;

#[test]
fn a_gigabyte_between_nodes_arrives_intact() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let big = usual("big", 60, [&lab.node2.a]);
    let _published = lab.publish(&big).unwrap();
    for (family, bytes) in [(Family::V4, 1 << 30), (Family::V6, 1 << 28)] {
        let taken = lab.node1.a.stream(big.at(family, STREAM), bytes).unwrap();
        println!("{family:?}: {} MiB there and back in {taken:?}", bytes >> 20);
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}

#[test]
fn ten_thousand_short_connections_from_four_clients_lose_none() {
    let lab = standard();
    let invalid = lab.invalid_packets().unwrap();
    let (one, two) = (&lab.node1, &lab.node2);
    let busy = usual("crowd", 61, []).port(Protocol::Tcp, 81, WHO).node_port(PORT);
    let busy = busy.backends([&one.a, &one.b, &two.a, &two.b]);
    let _published = lab.publish(&busy).unwrap();
    let clients = [
        (&one.c, busy.at(Family::V4, TCP)),
        (&two.c, busy.at(Family::V6, TCP)),
        (&lab.client, one.host.at(Family::V4, PORT)),
        (&one.b, two.host.at(Family::V6, PORT)),
    ];
    let bursts: Vec<Burst> = thread::scope(|scope| {
        let running: Vec<_> =
            clients.map(|(from, to)| scope.spawn(move || from.burst(to, 4, 2_500).unwrap())).into_iter().collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((from, to), burst) in clients.iter().zip(bursts) {
        println!("{} to {to}: {burst:?}", from.name);
        assert_eq!((burst.total(), &burst.failed), (2_500, &Default::default()), "{} to {to}", from.name);
        assert_eq!(burst.answered.len(), 4, "{} to {to}: {burst:?}", from.name);
    }
    assert_eq!(lab.invalid_packets().unwrap(), invalid, "conntrack called packets invalid");
}
