//! Many Services.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use proxy_testkit::agent::Agent;
use proxy_testkit::cluster::{Api, Cluster};
use proxy_testkit::lab::eventually;
use serde_json::{Value, json};

use crate::common::{Traffic, cluster, steady};

const COUNT: usize = 1000;
/// Endpoints of each.
const EACH: usize = 10;
/// Requests at once.
const WORKERS: usize = 4;
const SERVICES: &str = "/api/v1/namespaces/many/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/many/endpointslices";

fn service(number: usize) -> Value {
    json!({"metadata": {"name": format!("s{number}")}, "spec": {"ports": [{"name": "who", "port": 80}]}})
}

/// Ten endpoints, others for each generation.
fn slice(number: usize, generation: usize) -> Value {
    let address = |n: usize| {
        let at = number * EACH + n;
        format!("10.{}.{}.{}", 200 + generation, at / 250, at % 250 + 1)
    };
    let endpoints: Vec<_> = (0..EACH).map(|n| json!({"addresses": [address(n)], "nodeName": "node2"})).collect();
    json!({
        "metadata": {
            "name": format!("s{number}-1"), "labels": {"kubernetes.io/service-name": format!("s{number}")},
        },
        "addressType": "IPv4", "ports": [{"name": "who", "port": 9000}], "endpoints": endpoints,
    })
}

/// Does something for each of the Services, some at once.
fn for_each(cluster: &Cluster, work: impl Fn(&Api, usize) -> anyhow::Result<()> + Sync) {
    thread::scope(|scope| {
        let work = &work;
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let each = |api: &Api| (worker..COUNT).step_by(WORKERS).try_for_each(|number| work(api, number));
                cluster.with_api(each).unwrap();
            });
        }
    });
}

/// Waits until an agent's maps hold so many Services of ours, with so many backends that have this in their address.
fn wait_for(agent: &Agent, services: usize, backends: usize, of: &str) {
    let held = eventually(Duration::from_secs(90), || {
        let count = |what: &str, of: &str| -> anyhow::Result<usize> {
            let entries = agent.look_json(what)?;
            let is_ours = |entry: &&Value| {
                let text = entry.to_string();
                text.contains("\"many/") && text.contains(of)
            };
            Ok(entries.as_array().into_iter().flatten().filter(is_ours).count())
        };
        let found = (count("frontends", "")?, count("backends", of)?);
        ensure!(found == (services, backends), "{} holds {found:?} frontends and backends", agent.node());
        Ok(())
    });
    held.unwrap();
}

/// Resident memory in MiB and seconds of CPU so far, of a process.
fn use_of(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: utime and stime are the 12th and 13th field, in ticks of 10 ms.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    (kib / 1024.0, ticks / 100.0)
}

#[test]
fn a_thousand_services_come_change_and_go() {
    let mut cluster = cluster();
    let traffic = Traffic::start(&cluster.lab.node1.b, steady(&cluster));
    cluster.kubectl("create namespace many").unwrap();
    let pid = cluster.agents()[0].pid().unwrap();
    let (mut before, mut told) = (use_of(pid), Vec::new());
    let mut tell = |what: &str| {
        let now = use_of(pid);
        told.push(format!("{what}: {:.1} MiB, {:.2} s of CPU", now.0, now.1 - before.1));
        before = now;
    };
    tell("before");
    for_each(&cluster, |api, number| {
        api.create(SERVICES, &service(number))?;
        api.create(SLICES, &slice(number, 0)).map(drop)
    });
    cluster.agents().iter().for_each(|agent| wait_for(agent, COUNT, COUNT * EACH, "10.200."));
    tell("1,000 Services with 10 endpoints each have come");
    for_each(&cluster, |api, number| {
        api.merge(&format!("{SLICES}/s{number}-1"), &json!({"endpoints": slice(number, 1)["endpoints"]})).map(drop)
    });
    cluster.agents().iter().for_each(|agent| wait_for(agent, COUNT, COUNT * EACH, "10.201."));
    tell("all endpoints of all of them have changed");
    thread::sleep(Duration::from_secs(10));
    tell("ten seconds without a change");
    // What a start costs with all of them there.
    let agent = &mut cluster.agents_mut()[0];
    agent.stop().unwrap();
    agent.start().unwrap();
    agent.wait_until_ready().unwrap();
    let started = use_of(agent.pid().unwrap());
    told.push(format!("started anew: {:.1} MiB, {:.2} s of CPU until ready", started.0, started.1));
    for_each(&cluster, |api, number| {
        api.delete(&format!("{SERVICES}/s{number}"))?;
        api.delete(&format!("{SLICES}/s{number}-1")).map(drop)
    });
    cluster.agents().iter().for_each(|agent| wait_for(agent, 0, 0, ""));
    let ended = use_of(cluster.agents()[0].pid().unwrap());
    told.push(format!("all have gone: {:.1} MiB", ended.0));
    traffic.all_answered();
    println!("the agent of node1\n  {}", told.join("\n  "));
    cluster.kubectl("delete namespace many --wait=false").unwrap();
}
