//! Another agent takes over: another build, other sizes, another layout.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use proxy_common::maps::LAYOUT;
use proxy_testkit::Lab;
use proxy_testkit::agent::Agent;
use proxy_testkit::teardown;

use crate::common::alone;
use crate::metrics;
use crate::restart::{one, sets, traffic, two};

/// A map's number in the kernel, and how many entries it has room for.
pub fn map(agent: &Agent, name: &str) -> (u64, u64) {
    let path = agent.pin_of(name).unwrap();
    let mut show = std::process::Command::new("bpftool");
    let shown = proxy_testkit::shell::run(show.args(["-j", "map", "show", "pinned"]).arg(path)).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    (shown["id"].as_u64().unwrap(), shown["max_entries"].as_u64().unwrap())
}

pub fn restart(agent: &mut Agent, binary: PathBuf, arguments: &[&str]) {
    agent.stop().unwrap();
    agent.become_another(binary, arguments.iter().map(|&argument| argument.to_owned()).collect());
    agent.start().unwrap();
    agent.wait_until_ready().unwrap();
}

#[test]
fn another_build_larger_maps_and_another_layout_take_over_under_traffic() {
    let mut lab = alone(Lab::standard);
    let one = one(&lab);
    let _published = [&two([&lab.node1.b, &lab.node2.a]), &one].map(|service| lab.publish(service).unwrap());
    let usual = lab.agents()[0].binary().to_owned();
    let nodes = [lab.node1.host.clone(), lab.node2.host.clone()];

    // Another file, with other bytes at its end: to the kernel and the agent it is another build of the same layout.
    let copy = std::env::temp_dir().join(format!("pointsman-agent-{}", lab.id()));
    let (_, _removed) = teardown::step(|| {
        let mut bytes = fs::read(&usual)?;
        bytes.extend(b"another build");
        fs::write(&copy, bytes)?;
        fs::set_permissions(&copy, fs::metadata(&usual)?.permissions())?;
        let file = copy.clone();
        Ok(((), move || drop(fs::remove_file(file))))
    })
    .unwrap();
    let running = traffic(&lab);
    for agent in lab.agents_mut() {
        let before = sets(agent);
        restart(agent, copy.clone(), &[]);
        assert_eq!(sets(agent), before, "the same layout and sizes: the same maps");
    }
    running.end("both agents replaced by another build");
    for node in &nodes {
        assert_eq!(metrics::value(node, "pointsman_map_writes_total"), 0.0, "{}", node.name);
    }

    let running = traffic(&lab);
    for agent in lab.agents_mut() {
        let [frontend, slot, flow] = ["frontend_v4", "slot_v4", "flow_v4"].map(|name| map(agent, name));
        restart(agent, usual.clone(), &["--initial-entries", "150000", "--max-affinities", "100000"]);
        let [frontend_now, slot_now, flow_now] = ["frontend_v4", "slot_v4", "flow_v4"].map(|name| map(agent, name));
        assert_eq!(frontend_now.1, 150_000);
        assert!(frontend.1 < 150_000 && frontend.0 != frontend_now.0);
        assert_eq!(slot_now, slot, "large enough already: shared");
        assert_eq!(flow_now, flow, "flows go on in the same table");
        assert_eq!(sets(agent), [format!("v{LAYOUT}-2")]);
    }
    running.end("both agents restarted with larger maps");
    for node in &nodes {
        assert_eq!(metrics::value(node, "pointsman_map_writes_total"), 0.0, "{}: copied, not written", node.name);
    }

    let running = traffic(&lab);
    for agent in lab.agents_mut() {
        let [frontend, slot, flow] = ["frontend_v4", "slot_v4", "flow_v4"].map(|name| map(agent, name));
        agent.stop().unwrap();
        // As an agent of layout 4 would have left it. Only what that one knew to be the same is kept.
        let (set, current) = (agent.pins().join(format!("v{LAYOUT}-2")), agent.pins().join("current"));
        let former = "v4-2";
        fs::rename(set, agent.pins().join(former)).unwrap();
        fs::remove_file(&current).unwrap();
        symlink(former, &current).unwrap();
        agent.start().unwrap();
        agent.wait_until_ready().unwrap();
        let [frontend_now, slot_now, flow_now] = ["frontend_v4", "slot_v4", "flow_v4"].map(|name| map(agent, name));
        assert!(frontend_now.0 != frontend.0 && slot_now.0 != slot.0, "made anew and filled");
        assert_eq!(flow_now, flow, "flows go on in the same table");
        assert_eq!(sets(agent), [format!("v{LAYOUT}-3")]);
    }
    running.end("both agents replaced by one of another layout");
}
