//! Flows that are idle for too long, and those that are not.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proxy_testkit::Lab;
use proxy_testkit::client;
use proxy_testkit::lab::{Family, Host, Protocol, eventually};
use proxy_testkit::manifest::Service;
use proxy_testkit::packets::{sctp, tcp};
use proxy_testkit::raw::RawSender;
use proxy_testkit::server::{ECHO, WHO};
use serde_json::Value;

use crate::common::{STREAM, TCP, UDP, alone};
use crate::flood::talk;
use crate::metrics;
use crate::restart::lab;
use crate::sockets::{connect_from, connect_udp_from, reset_on_drop};

/// Generous: what is over is removed every 15 seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds, as short as can be told from none.
const FLAGS: [&str; 5] = [
    "--conntrack-tcp-timeout-established=4s",
    "--conntrack-tcp-timeout-close-wait=3s",
    "--conntrack-udp-timeout=3s",
    "--conntrack-udp-timeout-stream=4s",
    "--flow-timeouts=tcp-syn=3s,tcp-opening=3s,tcp-closed=3s,reset=3s,sctp-opening=3s,sctp=4s",
];

/// Ports of the Service.
const SILENT_TCP: u16 = 81;
const SILENT_UDP: u16 = 54;
const NOWHERE: u16 = 82;
const SCTP: u16 = 83;
/// Ports of every node.
const ECHO_PORT: u16 = 30070;
const UDP_PORT: u16 = 30071;
const SYN_PORT: u16 = 30072;
/// What a server of the test itself listens on, which never closes and never answers.
const SILENT: u16 = 9_170;

/// A client that nobody has, to which an answer leads nowhere.
fn stranger(family: Family, port: u16) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(11, 1, 2, 3).into(),
        Family::V6 => Ipv6Addr::new(0xfd11, 1, 2, 3, 0, 0, 0, 4).into(),
    };
    SocketAddr::new(address, port)
}

/// A Service that is SCTP's alone, at the address of number 121.
fn sctp_manifest(pod: &Host) -> String {
    let service = Service::new("sctp", 121);
    let (v4, v6) = (service.ip(Family::V4), service.ip(Family::V6));
    let slice = |name: &str, family: Family| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: sctp-{name}, namespace: default, labels: \
             {{kubernetes.io/service-name: sctp}}}}\naddressType: {name}\nports: [{{port: {SCTP}, protocol: SCTP, name: \"\"}}]\n\
             endpoints: [{{addresses: [\"{}\"], conditions: {{ready: true}}, nodeName: node2}}]\n",
            pod.ip(family)
        )
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: sctp, namespace: default}}\nspec:\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  \
         ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n  ports: [{{port: {SCTP}, protocol: SCTP}}]\n{}{}",
        slice("IPv4", Family::V4),
        slice("IPv6", Family::V6)
    )
}

/// The flows that node1 knows, by their clients: what state each is in.
fn flows(lab: &Lab) -> anyhow::Result<BTreeMap<SocketAddr, String>> {
    let flows = lab.agents()[0].look_json("flows")?;
    let of = |flow: &Value| Some((flow["client"].as_str()?.parse().ok()?, flow["state"].as_str()?.to_owned()));
    Ok(flows.as_array().context("no list")?.iter().filter_map(of).collect())
}

/// What is kept so that a flow stays as it is: sockets that are not to be closed.
#[derive(Default)]
struct Kept {
    streams: Vec<TcpStream>,
    datagrams: Vec<UdpSocket>,
}

/// Flows in every state, each of a client of its own; what state that is to be.
fn begin_all(lab: &Lab, family: Family, service: &Service, kept: &mut Kept) -> BTreeMap<SocketAddr, &'static str> {
    let (n1, n2, client) = (&lab.node1, &lab.node2, &lab.client);
    let pod = &n1.c;
    let mut wanted = BTreeMap::new();
    let mut own = 61_100;
    let mut at = |host: &Host, state| {
        own += 1;
        wanted.insert(host.at(family, own), state);
        host.at(family, own)
    };
    let silent = n2.b.inside(|| TcpListener::bind(n2.b.at(family, SILENT))).unwrap();
    kept.datagrams.push(n2.b.inside(|| UdpSocket::bind(n2.b.at(family, SILENT))).unwrap());
    let tcp_to = |from: &Host, own, to| from.inside(|| connect_from(own, to)).unwrap();
    let udp_to = |from: &Host, own, to| from.inside(|| connect_udp_from(own, to)).unwrap();

    // Established, and then nothing: from a pod, and from outside, masqueraded.
    for (from, to) in [(pod, service.at(family, STREAM)), (client, n1.host.at(family, ECHO_PORT))] {
        let own = at(from, "established");
        kept.streams.push(tcp_to(from, own, to));
    }
    talk(&mut kept.streams);
    // One side has closed.
    let half = tcp_to(pod, at(pod, "closing"), service.at(family, SILENT_TCP));
    half.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = silent.accept().unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    kept.streams.extend([server]);
    half.set_nonblocking(true).unwrap();
    kept.streams.push(half);
    // Both have.
    let mut closed = tcp_to(pod, at(pod, "closed"), service.at(family, TCP));
    let mut text = String::new();
    closed.read_to_string(&mut text).unwrap();
    drop(closed);
    // One has ended it.
    let mut ended = tcp_to(pod, at(pod, "reset"), service.at(family, STREAM));
    ended.write_all(b"a word").and_then(|()| ended.read_exact(&mut [0; 6])).unwrap();
    reset_on_drop(&ended).unwrap();
    drop(ended);
    // UDP without an answer, and with one: from a pod, and from outside, masqueraded.
    let unanswered = udp_to(pod, at(pod, "unanswered"), service.at(family, SILENT_UDP));
    unanswered.send(b"is anybody there?").unwrap();
    kept.datagrams.push(unanswered);
    for (from, to) in [(pod, service.at(family, UDP)), (client, n1.host.at(family, UDP_PORT))] {
        let answered = udp_to(from, at(from, "answered"), to);
        client::ask_again(&answered).unwrap();
        kept.datagrams.push(answered);
    }
    // SYNs: nobody answers; somebody does, and the client never hears of it.
    let syn = at(pod, "opening");
    let to = Service::new("nowhere", 122).at(family, NOWHERE);
    pod.inside(|| RawSender::new(family)?.send(&tcp(syn, to, "S", b""), to)).unwrap();
    let (unheard, to) = (stranger(family, 61_190), n1.host.at(family, SYN_PORT));
    client.inside(|| RawSender::new(family)?.send(&tcp(unheard, to, "S", b""), to)).unwrap();
    // SCTP: an INIT, and another that the backend answers, after which there is data.
    let to = Service::new("sctp", 121).at(family, SCTP);
    let send = |host: &Host, packet: &[u8], to| host.inside(|| RawSender::new(family)?.send(packet, to)).unwrap();
    let init = at(pod, "unanswered");
    send(pod, &sctp(init, to, "S"), to);
    let association = at(pod, "answered");
    send(pod, &sctp(association, to, "S"), to);
    send(&n2.b, &sctp(n2.b.at(family, SCTP), association, "SA"), association);
    eventually(PATIENCE, || {
        let state = flows(lab)?.get(&association).cloned();
        ensure!(state.as_deref() == Some("answered"), "{state:?}: the backend's answer has not come");
        Ok(())
    })
    .unwrap();
    send(pod, &sctp(association, to, "PA"), to);
    wanted.insert(unheard, "opening");
    wanted
}

#[test]
fn idle_flows_end_after_their_time_outs_and_those_that_talk_do_not() {
    let lab = alone(|| lab(&FLAGS));
    let (n1, n2) = (&lab.node1, &lab.node2);
    let service = Service::new("timed", 120)
        .port(Protocol::Tcp, TCP, WHO)
        .node_port(SYN_PORT)
        .port(Protocol::Tcp, STREAM, ECHO)
        .node_port(ECHO_PORT)
        .port(Protocol::Udp, UDP, WHO)
        .node_port(UDP_PORT)
        .port(Protocol::Tcp, SILENT_TCP, SILENT)
        .port(Protocol::Udp, SILENT_UDP, SILENT)
        .backends([&n2.b]);
    let _published = lab.publish(&service).unwrap();
    // An endpoint that nobody has.
    let nobody = Host {
        v4: Ipv4Addr::new(10, 244, 2, 99),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0x99),
        ..n2.c.clone()
    };
    let nowhere = Service::new("nowhere", 122).port(Protocol::Tcp, NOWHERE, WHO).backends([&nobody]);
    let _nowhere = lab.publish(&nowhere).unwrap();
    lab.manifests().write("sctp.yaml", &sctp_manifest(&n2.b)).unwrap();
    eventually(PATIENCE, || {
        let frontends = lab.agents()[0].look("frontends")?;
        let there =
            Family::BOTH.map(|family| frontends.contains(&Service::new("sctp", 121).at(family, SCTP).to_string()));
        ensure!(there == [true; 2], "{frontends}");
        Ok(())
    })
    .unwrap();
    let entries = |map: &str, state: &str| {
        metrics::value(&n1.host, &format!("pointsman_flow_entries{{map=\"{map}\",state=\"{state}\"}}"))
    };
    for (family, map) in Family::BOTH.into_iter().zip(["flow_v4", "flow_v6"]) {
        // One by ClusterIP and one by NodePort, masqueraded, which are never silent for long; the same by UDP.
        let mut live = Vec::new();
        let mut live_datagrams = Vec::new();
        for (from, stream, who) in [
            (&n1.a, service.at(family, STREAM), service.at(family, UDP)),
            (&lab.client, n1.host.at(family, ECHO_PORT), n1.host.at(family, UDP_PORT)),
        ] {
            live.push(from.inside(|| client::connect(stream)).unwrap());
            live_datagrams.push(from.inside(|| client::connect_udp(who)).unwrap());
        }
        let mut go_on = || {
            talk(&mut live);
            live_datagrams.iter().for_each(|socket| drop(client::ask_again(socket).unwrap()));
        };
        let mut kept = Kept::default();
        let mut seen: BTreeMap<SocketAddr, String> = BTreeMap::new();
        let wanted = begin_all(&lab, family, &service, &mut kept);
        let began = Instant::now();
        // Each is there in its state; then all of them are gone, and meanwhile the others go on.
        eventually(PATIENCE, || {
            go_on();
            let flows = flows(&lab)?;
            seen.extend(flows.iter().filter(|(client, _)| wanted.contains_key(client)).map(|(a, b)| (*a, b.clone())));
            let left: Vec<_> = wanted.iter().filter(|(client, _)| flows.contains_key(client)).collect();
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(())
        })
        .unwrap();
        println!("{family:?}: {} idle flows are gone after {:?}: {seen:?}", seen.len(), began.elapsed());
        let states: BTreeMap<SocketAddr, &str> = seen.iter().map(|(client, state)| (*client, state.as_str())).collect();
        assert_eq!(states, wanted, "{family:?}");
        // Those that talked are there, with the alias of the masquerade of each; nothing else is.
        let flows = flows(&lab).unwrap();
        let of_family = |client: &&SocketAddr| Family::of(client.ip()) == family;
        assert_eq!(flows.keys().filter(of_family).count(), 4, "{flows:?}");
        eventually(PATIENCE, || {
            go_on();
            let found = ["established", "half-open", "closed", "alias"].map(|state| entries(map, state));
            ensure!(found == [4.0, 0.0, 0.0, 2.0], "{found:?}");
            Ok(())
        })
        .unwrap();
        live.iter().for_each(|stream| reset_on_drop(stream).unwrap());
        drop((live, live_datagrams));
        eventually(PATIENCE, || {
            let found = ["established", "half-open", "closed", "alias"].map(|state| entries(map, state));
            ensure!(found == [0.0; 4], "{found:?}");
            Ok(())
        })
        .unwrap();
    }
}
