//! A network of two nodes, six pods and clients outside, in memory: what the lab is, as far as packets can tell.
//!
//! Packets are routed by their destination. On each device that they pass they meet the packet core, as in the kernel:
//! what comes in at ingress, what leaves at egress. A node's CNI masquerades what its pods send out of the cluster,
//! after routing and before egress, as netfilter does. Whatever reaches a host by the packet core's doing is answered.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use anyhow::Result;
use proxy_common::datapath::Verdict;
use proxy_common::maps::DeviceRole;
use proxy_testkit::lab::Family;
use proxy_testkit::packets::{Hook, HostPacket};

use super::node::Node;
use super::socket::Led;
use super::wire::{self, Seen, look};
use crate::options;
use crate::places::{self, Host};
use crate::run::{Fate, Question};
use crate::scenario::Protocol;

/// What a node's conntrack remembers.
#[derive(Default)]
struct Conntrack {
    /// Connections, by source and destination of their first packet.
    known: HashSet<(SocketAddr, SocketAddr, Protocol)>,
    /// Of those that the CNI has masqueraded, the client behind an address and a peer.
    masqueraded: HashMap<(SocketAddr, SocketAddr, Protocol), SocketAddr>,
}

/// The network.
pub(super) struct Network {
    /// Both nodes.
    pub nodes: [Node; 2],
    conntrack: [Conntrack; 2],
    /// The client's port that was used last.
    port: u16,
}

/// Where a packet came to its end.
enum End {
    /// A host got it.
    At(Host, Vec<u8>),
    /// The packet core dropped it.
    Dropped,
    /// The packet core was never concerned, and nobody is there.
    Lost(String),
}

/// How a packet travels: whether the packet core has changed it anywhere.
struct Trip {
    via: Option<u8>,
    is_touched: bool,
    /// The packet core has turned it into an answer.
    is_answered: bool,
}

impl Network {
    pub(super) fn new(flags: &[String]) -> Result<Self> {
        let (options, pods) = options::read(flags)?;
        Ok(Self {
            nodes: [Node::new(1, options.clone(), pods.clone()), Node::new(2, options, pods)],
            conntrack: Default::default(),
            port: 33_000,
        })
    }

    /// A client asks once, from a new port, and an endpoint answers, if one is reached.
    pub(super) fn ask(&mut self, question: &Question) -> Result<Fate> {
        let Question { from, via, to, protocol } = question;
        self.port = if self.port == 60_000 { 33_000 } else { self.port + 1 };
        let client = SocketAddr::new(from.ip(Family::of(to.ip())), self.port);
        let mut trip = Trip { via: *via, is_touched: false, is_answered: false };
        // A node's own sockets are led to a backend themselves; all others' packets are.
        let asked = match from.node().filter(|_| from.is_node()) {
            Some(node) => match self.node(node).connect(*to, wire::number(*protocol)) {
                Led::To(led) => led,
                Led::Refused => return Ok(Fate::Refused),
                Led::Dropped => return Ok(Fate::Silent),
            },
            None => *to,
        };
        trip.is_touched = asked != *to;
        let request = wire::packet(*protocol, client, asked, true);
        let (server, request) = match self.send(from, request, &mut trip) {
            End::At(host, packet) => (host, packet),
            End::Dropped => return Ok(Fate::Silent),
            End::Lost(how) if trip.is_touched => return Ok(Fate::Odd(format!("translated, and then {how}"))),
            End::Lost(how) => return Ok(Fate::Untouched(how)),
        };
        let Some(seen) = look(&request) else { return Ok(Fate::Odd("a packet that is none".to_owned())) };
        if server == *from && seen.destination.ip() == client.ip() && trip.is_answered {
            let is_refusal = wire::refuses(&request, *protocol, client, *to);
            return Ok(if is_refusal { Fate::Refused } else { Fate::Odd(format!("{seen:?} came back")) });
        }
        if !trip.is_touched {
            return Ok(Fate::Untouched(format!("{} got it", server.name)));
        }
        // The answer goes back to whom the server saw.
        let mut back = Trip { via: Some(1), is_touched: false, is_answered: false };
        let reply = wire::packet(*protocol, seen.destination, seen.source, false);
        let (host, reply) = match self.send(&server, reply, &mut back) {
            End::At(host, packet) => (host, packet),
            End::Dropped => return Ok(Fate::Odd(format!("{}'s answer was dropped", server.name))),
            End::Lost(how) => return Ok(Fate::Odd(format!("{}'s answer was lost: {how}", server.name))),
        };
        let answer = look(&reply);
        let is_right = host == *from
            && answer.as_ref().is_some_and(|answer| answer.source == asked && answer.destination == client);
        if !is_right {
            return Ok(Fate::Odd(format!(
                "the answer came to {} from {:?}",
                host.name,
                answer.map(|seen| seen.source)
            )));
        }
        Ok(Fate::Served { by: server.name.to_owned(), seen: seen.source.ip() })
    }

    /// A host sends a packet.
    fn send(&mut self, from: &Host, packet: Vec<u8>, trip: &mut Trip) -> End {
        match from.node() {
            Some(node) if from.is_node() => self.route(node, packet, trip, false),
            Some(node) => self.receive(node, DeviceRole::Pod, from, packet, trip),
            None => self.segment(None, packet, trip),
        }
    }

    /// A packet comes in at a device of a node.
    fn receive(&mut self, node: u8, role: DeviceRole, from: &Host, packet: Vec<u8>, trip: &mut Trip) -> End {
        let mut packet = HostPacket::new(packet);
        match self.node(node).run(Hook::Ingress, role, &mut packet) {
            Verdict::Pass => {}
            Verdict::Opened | Verdict::Translated => trip.is_touched = true,
            // Nobody holds new flows in this world.
            Verdict::Drop(_) | Verdict::Again | Verdict::Kept => return End::Dropped,
            Verdict::AnswerNobody | Verdict::AnswerUnknownPort => {
                trip.is_touched = true;
                trip.is_answered = true;
                return match role {
                    DeviceRole::Pod => End::At(from.clone(), packet.bytes),
                    DeviceRole::Uplink => self.segment(Some(node), packet.bytes, trip),
                };
            }
        }
        let bytes = self.undo_masquerade(node, packet.bytes);
        self.route(node, bytes, trip, role == DeviceRole::Pod)
    }

    /// A node sends a packet on its way.
    fn route(&mut self, node: u8, packet: Vec<u8>, trip: &mut Trip, is_from_pod: bool) -> End {
        let Some(seen) = look(&packet) else { return End::Lost("it is no packet".to_owned()) };
        let to = seen.destination.ip();
        let own = places::hosts().find(|host| host.is_node() && host.node() == Some(node) && host.has(to));
        if let Some(host) = own {
            return End::At(host, packet);
        }
        let pod = places::hosts().find(|host| !host.is_node() && host.node().is_some() && host.has(to));
        match pod {
            Some(pod) if pod.node() == Some(node) => match self.leave(node, DeviceRole::Pod, packet, trip) {
                Some(bytes) => End::At(pod, bytes),
                None => End::Dropped,
            },
            Some(pod) => match self.leave(node, DeviceRole::Uplink, packet, trip) {
                Some(bytes) => self.receive(pod.node().unwrap_or(node), DeviceRole::Uplink, &pod, bytes, trip),
                None => End::Dropped,
            },
            None => {
                let packet = if is_from_pod { self.masquerade(node, packet, &seen) } else { packet };
                match self.leave(node, DeviceRole::Uplink, packet, trip) {
                    Some(bytes) => self.segment(Some(node), bytes, trip),
                    None => End::Dropped,
                }
            }
        }
    }

    fn leave(&mut self, node: u8, role: DeviceRole, packet: Vec<u8>, trip: &mut Trip) -> Option<Vec<u8>> {
        let mut packet = HostPacket::new(packet);
        match self.node(node).run(Hook::Egress, role, &mut packet) {
            Verdict::Pass => {}
            Verdict::Drop(_) | Verdict::Again | Verdict::Kept => return None,
            Verdict::Opened | Verdict::Translated | Verdict::AnswerNobody | Verdict::AnswerUnknownPort => {
                trip.is_touched = true
            }
        }
        Some(packet.bytes)
    }

    /// The segment that nodes and clients outside share.
    fn segment(&mut self, from: Option<u8>, packet: Vec<u8>, trip: &mut Trip) -> End {
        let Some(seen) = look(&packet) else { return End::Lost("it is no packet".to_owned()) };
        let to = seen.destination.ip();
        let Some(host) = places::hosts().find(|host| host.has(to)) else {
            // A client outside sends what is for no machine to the node that it was told of; nodes to their gateway.
            return match trip.via.filter(|_| from.is_none()) {
                Some(node) => self.arrive(node, packet, trip),
                None => End::Lost("nobody has that address".to_owned()),
            };
        };
        match host.node() {
            Some(node) if Some(node) != from => self.arrive(node, packet, trip),
            Some(_) => End::Lost("it went in a circle".to_owned()),
            None => End::At(host, packet),
        }
    }

    fn arrive(&mut self, node: u8, packet: Vec<u8>, trip: &mut Trip) -> End {
        let Ok(host) = places::host(&format!("node{node}")) else { return End::Lost(format!("no node {node}")) };
        self.receive(node, DeviceRole::Uplink, &host, packet, trip)
    }

    /// The first packet that a pod sends to a machine outside, and those that follow it, leave with its node's address.
    fn masquerade(&mut self, node: u8, packet: Vec<u8>, seen: &Seen) -> Vec<u8> {
        let is_pod = |host: &Host| !host.is_node() && host.node() == Some(node) && host.has(seen.source.ip());
        let (true, Ok(own), Some(protocol)) =
            (places::hosts().any(|host| is_pod(&host)), places::host(&format!("node{node}")), seen.protocol)
        else {
            return packet;
        };
        let Some(conntrack) = self.conntrack.get_mut(usize::from(node) - 1) else { return packet };
        if conntrack.known.contains(&(seen.destination, seen.source, protocol)) {
            return packet;
        }
        let source = SocketAddr::new(own.ip(Family::of(seen.source.ip())), seen.source.port());
        conntrack.masqueraded.insert((source, seen.destination, protocol), seen.source);
        wire::with_addresses(packet, source, seen.destination)
    }

    /// A packet that comes in is one of a connection from here on; an answer to one that was masqueraded goes to its pod.
    fn undo_masquerade(&mut self, node: u8, packet: Vec<u8>) -> Vec<u8> {
        let Some(seen) = look(&packet) else { return packet };
        let Some(conntrack) = self.conntrack.get_mut(usize::from(node) - 1) else { return packet };
        let Some(protocol) = seen.protocol else {
            // An ICMP error is for whoever sent the packet that it quotes.
            let client = wire::quoted(&packet)
                .and_then(|quoted| conntrack.masqueraded.get(&(quoted.source, quoted.destination, quoted.protocol?)));
            return match client {
                Some(client) => wire::with_quoted_source(packet, seen.source, *client),
                None => packet,
            };
        };
        if let Some(client) = conntrack.masqueraded.get(&(seen.destination, seen.source, protocol)) {
            return wire::with_addresses(packet, seen.source, *client);
        }
        if !conntrack.known.contains(&(seen.destination, seen.source, protocol)) {
            conntrack.known.insert((seen.source, seen.destination, protocol));
        }
        packet
    }

    fn node(&mut self, number: u8) -> &mut Node {
        let [one, two] = &mut self.nodes;
        if number == 1 { one } else { two }
    }
}
