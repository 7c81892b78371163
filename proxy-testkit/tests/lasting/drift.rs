//! What somebody else detaches, removes or changes is put back.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::Lab;
use proxy_testkit::agent::Agent;
use proxy_testkit::lab::{Family, Protocol, eventually};
use proxy_testkit::shell;

use crate::common::{TCP, alone, usual, who};
use crate::metrics;
use crate::restart::lab;

const PATIENCE: Duration = Duration::from_secs(30);

/// Has agents look every second.
const OFTEN: [&str; 2] = ["--iptables-sync-period", "1s"];

fn repaired(lab: &Lab, what: &str) -> f64 {
    metrics::value(&lab.node1.host, &format!("pointsman_repairs_total{{what=\"{what}\"}}"))
}

/// Waits until one more, at least, was counted than before.
fn wait_for_repair(lab: &Lab, what: &str, before: f64) {
    eventually(PATIENCE, || {
        let now = repaired(lab, what);
        ensure!(now > before, "{now} repairs of {what}");
        Ok(())
    })
    .unwrap();
}

fn bpftool(arguments: &[&str]) -> String {
    shell::run(Command::new("bpftool").args(arguments)).unwrap()
}

/// The keys and values of a map, as bpftool takes them.
fn entries(agent: &Agent, map: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let dump: serde_json::Value = serde_json::from_str(&agent.dump_map(map).unwrap()).unwrap();
    let bytes = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|byte| byte.as_str().unwrap().to_owned()).collect()
    };
    dump.as_array().unwrap().iter().map(|entry| (bytes(&entry["key"]), bytes(&entry["value"]))).collect()
}

fn change(agent: &Agent, map: &str, action: &str, key: &[String], value: &[String]) {
    let pin = agent.pin_of(map).unwrap();
    let mut arguments = vec!["map", action, "pinned", pin.to_str().unwrap(), "key"];
    arguments.extend(key.iter().map(String::as_str));
    if !value.is_empty() {
        arguments.push("value");
        arguments.extend(value.iter().map(String::as_str));
    }
    bpftool(&arguments);
}

#[test]
fn links_and_entries_come_back_and_are_counted() {
    let lab = alone(|| lab(&OFTEN));
    let service = usual("tampered", 80, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    let agent = &lab.agents()[0];
    let works = || {
        eventually(PATIENCE, || {
            for family in Family::BOTH {
                for protocol in Protocol::BOTH {
                    let answer = lab.node1.a.ask(protocol, service.at(family, who(protocol)))?;
                    ensure!(answer.pod == "pod2a", "{answer:?}");
                }
            }
            Ok(())
        })
        .unwrap();
    };
    for what in ["device", "socket", "entry"] {
        assert_eq!(repaired(&lab, what), 0.0, "{what}: nothing was touched yet");
    }

    let index = shell::run(lab.node1.host.ns.command("cat").arg("/sys/class/net/veth10/ifindex"));
    // sysfs shows the namespace that it was mounted in: ask for the number there.
    let index = index.ok().and_then(|text| text.trim().parse::<u32>().ok());
    let index = index.unwrap_or_else(|| ifindex(&lab, "veth10"));
    for direction in ["in", "out"] {
        let link = agent.pins().join(format!("links/{index}-{direction}"));
        bpftool(&["link", "detach", "pinned", link.to_str().unwrap()]);
        let before = repaired(&lab, "device");
        wait_for_repair(&lab, "device", before);
        works();
        // And one whose pin is removed, which ends the link, too.
        std::fs::remove_file(&link).unwrap();
        wait_for_repair(&lab, "device", before + 1.0);
        works();
    }
    if lab.node1.host.cgroup.is_some() {
        let link = agent.pins().join("links/sock_connect4");
        bpftool(&["link", "detach", "pinned", link.to_str().unwrap()]);
        wait_for_repair(&lab, "socket", 0.0);
        assert_eq!(lab.node1.host.ask(Protocol::Tcp, service.at(Family::V4, TCP)).unwrap().pod, "pod2a");
    }

    for map in ["frontend_v4", "frontend_v6", "range_v4", "device"] {
        let before = agent.dump_map(map).unwrap();
        for (key, _) in entries(agent, map) {
            change(agent, map, "delete", &key, &[]);
        }
        wait_for_repair(&lab, "entry", repaired(&lab, "entry") - 0.5);
        eventually(PATIENCE, || {
            let mut now = entries(agent, map);
            now.sort();
            ensure!(!now.is_empty() && agent.dump_map(map)?.len() == before.len(), "{map} is not what it was");
            Ok(())
        })
        .unwrap();
        works();
    }
    for map in ["slot_v4", "backend_v4", "service"] {
        let found = entries(agent, map);
        let (key, value) = found.iter().rfind(|(_, value)| value.iter().any(|byte| byte != "0x00")).unwrap();
        let zero = vec!["0x00".to_owned(); value.len()];
        let before = repaired(&lab, "entry");
        change(agent, map, "update", key, &zero);
        wait_for_repair(&lab, "entry", before);
        works();
    }
}

fn ifindex(lab: &Lab, device: &str) -> u32 {
    let shown = shell::run(lab.node1.host.ns.command("ip").args(["-j", "link", "show", device])).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).unwrap()
}

#[test]
fn a_filter_and_a_qdisc_that_are_removed_come_back() {
    let lab = alone(|| lab(&[&OFTEN[..], &["--attach", "clsact"]].concat()));
    let service = usual("tampered", 81, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    let tc = |arguments: &[&str]| shell::run(lab.node1.host.ns.command("tc").args(arguments)).unwrap();
    let works = || {
        for family in Family::BOTH {
            assert_eq!(lab.node1.a.ask(Protocol::Tcp, service.at(family, TCP)).unwrap().pod, "pod2a");
        }
    };
    works();
    for removed in [
        &["filter", "del", "dev", "veth10", "ingress"][..],
        &["filter", "del", "dev", "veth10", "egress"],
        &["qdisc", "del", "dev", "veth10", "clsact"],
    ] {
        let before = repaired(&lab, "device");
        tc(removed);
        wait_for_repair(&lab, "device", before);
        works();
    }
    // What is there is left alone: once all is repaired, nothing more is counted.
    let before = repaired(&lab, "device");
    assert_eq!(before, 3.0);
}
