//! What stays when the agent goes, and what does not.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use proxy_testkit::Lab;
use proxy_testkit::agent::Agent;
use proxy_testkit::client;
use proxy_testkit::lab::{Family, Protocol, eventually};
use proxy_testkit::shell;

use crate::common::{STREAM, TCP, alone, standard, usual, who};

/// Everything that the control plane writes.
const MAPS: [&str; 7] = ["frontend_v4", "frontend_v6", "slot_v4", "slot_v6", "backend_v4", "backend_v6", "service"];

fn dumps(lab: &Lab) -> Vec<(String, String)> {
    let of = |agent: &Agent| MAPS.map(|map| (format!("{} of {}", map, agent.node()), agent.dump_map(map).unwrap()));
    lab.agents().iter().flat_map(of).collect()
}

#[test]
fn kill_9_and_a_restart_change_no_entry_and_stop_no_traffic() {
    let mut lab = standard();
    let first = usual("lasting", 90, [&lab.node1.b, &lab.node2.b]).node_port(30086);
    let second = usual("lasting-too", 91, [&lab.node2.a]);
    let _published = (lab.publish(&first).unwrap(), lab.publish(&second).unwrap());
    let before = dumps(&lab);
    for agent in lab.agents_mut() {
        agent.kill();
    }
    for family in Family::BOTH {
        for protocol in Protocol::BOTH {
            lab.node1.a.ask_many(protocol, first.at(family, who(protocol)), 10).unwrap();
            lab.node2.c.ask_many(protocol, second.at(family, who(protocol)), 10).unwrap();
        }
        lab.client.stream(lab.node1.host.at(family, 30086), 1 << 20).unwrap();
    }
    // A connection that begins without an agent sees it come back.
    let from = lab.node1.c.clone();
    let to = second.at(Family::V4, STREAM);
    let streaming = thread::spawn(move || from.stream(to, 256 << 20));
    for agent in lab.agents_mut() {
        agent.start().unwrap();
        agent.wait_until_ready().unwrap();
    }
    streaming.join().unwrap().unwrap();
    for ((map, old), (_, new)) in before.iter().zip(&dumps(&lab)) {
        assert!(old == new, "{map} has changed");
    }
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

/// The ids of the links that an agent has pinned.
fn pinned_links(agent: &Agent) -> Vec<u64> {
    let id_of = |path: PathBuf| -> u64 {
        let shown = shell::run(Command::new("bpftool").args(["-j", "link", "show", "pinned"]).arg(path)).unwrap();
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()["id"].as_u64().unwrap()
    };
    let links = agent.pin_of("frontend_v4").unwrap().with_file_name("links");
    fs::read_dir(links).unwrap().map(|entry| id_of(entry.unwrap().path())).collect()
}

fn is_alive(link: u64) -> bool {
    shell::run(Command::new("bpftool").args(["link", "show", "id", &link.to_string()])).is_ok()
}

#[test]
fn sigterm_keeps_the_kernel_forwarding_and_cleanup_leaves_nothing() {
    let mut lab = alone(Lab::standard);
    let service = usual("last", 96, [&lab.node2.a]);
    let _published = lab.publish(&service).unwrap();
    for agent in lab.agents_mut() {
        agent.stop().unwrap();
    }
    for family in Family::BOTH {
        assert_eq!(lab.node1.a.ask(Protocol::Tcp, service.at(family, TCP)).unwrap().pod, "pod2a");
    }
    let links: Vec<u64> = lab.agents().iter().flat_map(pinned_links).collect();
    assert!(links.len() >= 4 * 5, "in and out of an uplink, a tunnel and three pods on each node: {links:?}");
    assert!(links.iter().all(|&id| is_alive(id)));
    for agent in lab.agents() {
        agent.clean_up().unwrap();
        assert!(!agent.pins().exists(), "{} is still there", agent.pins().display());
    }
    assert!(!links.iter().any(|&id| is_alive(id)), "of the links {links:?}, some are still there");
    // The kernel lets go of a link a moment after its last pin has gone.
    eventually(Duration::from_secs(5), || {
        let knock = || client::knock(service.at(Family::V4, TCP), Duration::from_millis(300));
        anyhow::ensure!(lab.node1.a.inside(knock).is_err(), "the Service still answers");
        Ok(())
    })
    .unwrap();
    assert!(lab.node1.a.ask(Protocol::Tcp, lab.node2.a.at(Family::V4, proxy_testkit::server::WHO)).is_ok());
}
