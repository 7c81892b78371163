//! Devices that come and go.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use proxy_testkit::lab::{Family, Protocol, eventually};
use proxy_testkit::netns::NetNs;
use proxy_testkit::shell;

use crate::common::{TCP, standard, usual};

#[test]
fn a_pod_s_device_has_its_programs_when_the_pod_first_speaks_and_leaves_nothing() {
    let lab = standard();
    let service = usual("awaited", 82, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    let (node, agent) = (&lab.node1.host, &lab.agents()[0]);
    let mut took = Vec::new();
    for round in 0..5 {
        let pod = NetNs::create(&format!("pm{}-new{round}", lab.id())).unwrap();
        // As a CNI does it: the device first, then up, then its addresses and routes.
        let began = Instant::now();
        node.ns
            .ip(&format!(
                "link add vethnew mtu 1450 type veth peer name eth0 mtu 1450 netns {}
                 link set vethnew master cni0 up",
                pod.name()
            ))
            .unwrap();
        let there = Instant::now();
        let shown = shell::run(node.ns.command("ip").args(["-j", "link", "show", "vethnew"])).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let index = shown[0]["ifindex"].as_u64().unwrap();
        let links = ["in", "out"].map(|direction| agent.pins().join(format!("links/{index}-{direction}")));
        while !links.iter().all(|link| link.exists()) {
            assert!(there.elapsed() < Duration::from_secs(20), "no programs at {index}");
            std::thread::yield_now();
        }
        took.push((there - began, there.elapsed()));
        pod.ip("link set eth0 up
                addr add 10.244.1.77/24 dev eth0
                addr add fd00:10:244:1::77/64 dev eth0 nodad
                route add default via 10.244.1.1
                route add default via fd00:10:244:1::1")
            .unwrap();
        for family in Family::BOTH {
            let answer = pod.run(|| proxy_testkit::client::ask_tcp(service.at(family, TCP))).unwrap();
            assert_eq!(answer.unwrap().pod, "pod2a", "{family:?}");
        }
        node.ns.ip("link del vethnew").unwrap();
        eventually(Duration::from_secs(20), || {
            ensure!(!links.iter().any(|link| link.exists()), "its links are still there");
            let devices = agent.dump_map("device")?;
            let device: Vec<serde_json::Value> = serde_json::from_str(&devices)?;
            let key = |entry: &serde_json::Value| entry["formatted"]["key"].as_u64();
            ensure!(!device.iter().any(|entry| key(entry) == Some(index)), "it is still in the map of devices");
            Ok(())
        })
        .unwrap();
        drop(pod);
    }
    println!("a new device: made and up after, its programs attached then after: {took:?}");
    assert!(fs::read_dir(agent.pins().join("links")).unwrap().count() > 0);
    assert_eq!(lab.node1.a.ask(Protocol::Tcp, service.at(Family::V4, TCP)).unwrap().pod, "pod2a");
}
