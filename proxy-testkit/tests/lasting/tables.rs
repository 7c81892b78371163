//! Tables of flows that make way for others of another size.

use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy_common::maps::LAYOUT;
use proxy_testkit::Lab;
use proxy_testkit::client;
use proxy_testkit::lab::{Family, eventually};

use crate::common::{STREAM, alone};
use crate::flood::talk;
use crate::metrics;
use crate::restart::{lab, one, random, sets, tell_incidents, traffic, two};
use crate::upgrade::{map, restart};

/// Takes the programs of both agents through these sizes, one after the other, under traffic.
#[test]
fn tables_of_flows_get_another_size_under_traffic() {
    let mut lab = alone(|| lab(&["--initial-entries", "512", "--initial-flows", "8192"]));
    let one = one(&lab);
    let _published = [&two([&lab.node1.b, &lab.node2.a]), &one].map(|service| lab.publish(service).unwrap());
    let binary = lab.agents()[0].binary().to_owned();
    for (number, (flags, sets_now)) in (2..).zip([
        (["--initial-flows", "300000"], 131_072),
        // Larger than what there is to begin with: it stays.
        (["--initial-flows", "8192"], 131_072),
        (["--max-flows", "16384"], 4_096),
    ]) {
        let is_other = map(&lab.agents()[0], "flow_v4").1 != sets_now;
        let running = traffic(&lab);
        for agent in lab.agents_mut() {
            let [frontend, flow] = ["frontend_v4", "flow_v4"].map(|name| map(agent, name));
            restart(agent, binary.clone(), &["--initial-entries", "512", flags[0], flags[1]]);
            let [frontend_now, flow_now] = ["frontend_v4", "flow_v4"].map(|name| map(agent, name));
            assert_eq!(frontend_now, frontend, "nothing else is made anew");
            assert_eq!((flow_now.1, flow_now.0 != flow.0), (sets_now, is_other), "{flags:?}");
            assert_eq!(sets(agent).len(), 1);
            let set = number - usize::from(number > 2);
            assert_eq!(sets(agent), [format!("v{LAYOUT}-{set}")], "{flags:?}");
        }
        tell_incidents(&lab);
        // New flows wait for the programs: on a machine with much else to do, longer than TCP for the answer to its first SYN.
        drop(running.end_with_patience(&format!("both agents restarted with {}", flags.join(" "))));
        for node in lab.nodes() {
            assert_eq!(metrics::value(&node.host, "pointsman_map_writes_total"), 0.0, "{}", node.host.name);
        }
    }
}

/// Connections fill a table, which grows under traffic, and none of them is lost.
#[test]
fn a_table_of_flows_that_fills_grows_by_itself() {
    const HELD: usize = 3_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(12_288).min(hard), hard).unwrap();
    let flags = ["--initial-entries", "512", "--initial-flows", "4096", "--max-flows", "8192"];
    let lab = alone(|| lab(&flags));
    let one = one(&lab);
    let _published = [&two([&lab.node1.b, &lab.node2.a]), &one].map(|service| lab.publish(service).unwrap());
    let agent = &lab.agents()[0];
    assert_eq!(map(agent, "flow_v4").1, 1_024);
    let running = traffic(&lab);
    let to = one.at(Family::V4, STREAM);
    let connect = || (0..HELD).map(|_| client::connect(to)).collect::<Result<Vec<_>, _>>();
    let mut held = lab.node1.a.inside(connect).unwrap();
    talk(&mut held);
    eventually(Duration::from_secs(30), || {
        let (_, now) = map(agent, "flow_v4");
        anyhow::ensure!(now == 2_048 && sets(agent).len() == 1, "{now} sets, {:?}", sets(agent));
        Ok(())
    })
    .unwrap();
    talk(&mut held);
    tell_incidents(&lab);
    // So many connections at once may be too many for their server's queue.
    drop(running.end_with_patience(&format!("a table made for 4096 flows grown while {HELD} connections filled it")));
    // At its ceiling it stays.
    let full = metrics::value(&lab.node1.host, "pointsman_flow_table_events_total{event=\"full\"}");
    assert_eq!(full, 0.0);
    talk(&mut held);
}

/// Agents that are to make tables of another size are killed anywhere.
#[test]
fn agents_killed_while_tables_of_flows_are_replaced_lose_nothing() {
    let mut lab = alone(Lab::standard);
    let one = one(&lab);
    let _published = [&two([&lab.node1.b, &lab.node2.a]), &one].map(|service| lab.publish(service).unwrap());
    let binary = lab.agents()[0].binary().to_owned();
    let sizes = [["--initial-flows", "500000"], ["--max-flows", "65536"]];
    let running = traffic(&lab);
    for agent in lab.agents_mut() {
        for round in 0..10 {
            agent.kill();
            let arguments = sizes[round % 2].map(str::to_owned).to_vec();
            agent.become_another(binary.clone(), arguments);
            agent.start().unwrap();
            // Most are about to replace the programs, or in the midst of it.
            thread::sleep(Duration::from_millis(1_200 + random(1_000)));
            agent.kill();
            agent.start().unwrap();
            agent.wait_until_ready().unwrap();
        }
        assert_eq!(sets(agent).len(), 1);
    }
    tell_incidents(&lab);
    drop(running.end_with_patience("20 agents killed that were to replace their tables of flows"));
}
