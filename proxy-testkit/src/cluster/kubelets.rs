//! What kubelets do, as far as Services can tell: a Pod that is bound to a node of the lab becomes a network namespace with
//! servers in it, its status says so, and one that is deleted goes.
//!
//! Every Pod runs the same servers, whatever its image says. Pods in the node's own network are left alone: nobody runs
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::Api;
use super::control_plane::ControlPlane;
use crate::lab::{Cni, Host, Node, Pod};
use crate::netns::NsHandle;

/// How often is looked for what is due.
const TICK: Duration = Duration::from_millis(100);
/// How long a Pod that is deleted goes on serving, unless it is given less.
const GRACE: Duration = Duration::from_secs(2);
/// Last parts of addresses that Pods get; below are the lab's own pods.
const NUMBERS: std::ops::RangeInclusive<u8> = 20..=250;

/// The kubelets of all nodes, on one thread.
#[derive(Debug)]
pub(super) struct Kubelets {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelets {
    /// Begins to work for these nodes.
    pub(super) fn start(plane: &ControlPlane, nodes: [&Node; 2]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes = nodes.map(|node| (node.host.clone(), node.cni().clone())).into();
        let work = Work { nodes, pods: BTreeMap::new(), api: plane.api(), stop: Arc::clone(&stop) };
        let ns = plane.ns().clone();
        let thread = thread::Builder::new().name("kubelets".into()).spawn(move || {
            if let Err(error) = work.run(&ns) {
                eprintln!("the lab's kubelets cannot work: {error:#}");
            }
        });
        Ok(Self { stop, thread: Some(thread.context("cannot start a thread")?) })
    }
}

impl Drop for Kubelets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says that Pods have changed, until nobody listens. Ends with the API server's proxy.
fn watch(api: &Api, stop: &AtomicBool, changed: &Sender<()>) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(lines) = api.watch("/api/v1/pods?watch=true") {
            for line in lines.lines() {
                if line.is_err() || changed.send(()).is_err() {
                    break;
                }
            }
        }
        // The API server may be away: a test has stopped it.
        thread::sleep(TICK);
        if changed.send(()).is_err() {
            return;
        }
    }
}

struct Work {
    nodes: Vec<(Host, Cni)>,
    /// By the Pod's uid.
    pods: BTreeMap<String, Running>,
    api: Api,
    stop: Arc<AtomicBool>,
}

/// A Pod that runs.
struct Running {
    node: usize,
    number: u8,
    /// Where the API has it.
    path: String,
    /// When it has to go.
    ends: Option<Instant>,
    pod: Pod,
}

impl Work {
    /// Works until it is told to stop.
    fn run(mut self, ns: &NsHandle) -> Result<()> {
        ns.enter().with_context(|| format!("cannot enter {}", ns.name()))?;
        let (sender, changed) = mpsc::channel();
        let (api, stop) = (self.api.clone(), Arc::clone(&self.stop));
        thread::Builder::new().name("pods".into()).spawn(move || watch(&api, &stop, &sender))?;
        let mut is_due = true;
        while !self.stop.load(Ordering::Relaxed) {
            match changed.recv_timeout(TICK) {
                Ok(()) => is_due = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
            }
            while changed.try_recv().is_ok() {}
            if is_due && self.look().is_ok() {
                is_due = false;
            }
            // What fails is tried again with the next look.
            is_due |= self.end_what_is_due().is_err();
        }
        Ok(())
    }

    /// Compares what runs with what is wanted.
    fn look(&mut self) -> Result<()> {
        let list = self.api.get("/api/v1/pods?resourceVersion=0")?;
        let pods = list["items"].as_array().context("a list without items")?;
        let alive: BTreeSet<_> = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
        let gone: Vec<_> = self.pods.keys().filter(|uid| !alive.contains(uid.as_str())).cloned().collect();
        gone.iter().for_each(|uid| self.remove(uid));
        pods.iter().try_for_each(|pod| self.take(pod))
    }

    /// Does what a Pod asks for.
    fn take(&mut self, pod: &Value) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let node = self.nodes.iter().position(|(host, _)| pod["spec"]["nodeName"] == host.name);
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let Some(node) = node.filter(|_| !is_over && pod["spec"]["hostNetwork"] != true) else { return Ok(()) };
        let metadata = &pod["metadata"];
        let (uid, name, namespace) = (text(&metadata["uid"]), text(&metadata["name"]), text(&metadata["namespace"]));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        if !metadata["deletionTimestamp"].is_null() {
            let given = metadata["deletionGracePeriodSeconds"].as_u64().map(Duration::from_secs);
            match self.pods.get_mut(&uid) {
                Some(running) => {
                    running.ends.get_or_insert(Instant::now() + given.map_or(GRACE, |given| GRACE.min(given)));
                }
                None => self.delete(&path)?,
            }
            return Ok(());
        }
        if !self.pods.contains_key(&uid) {
            let label = if namespace == "default" { name } else { format!("{namespace}.{name}") };
            let running = self.make(node, &label, path)?;
            self.pods.insert(uid.clone(), running);
        }
        let is_told = !pod["status"]["podIP"].is_null();
        if let (Some(running), Some((host, _)), false) = (self.pods.get(&uid), self.nodes.get(node), is_told) {
            self.api.merge(&format!("{}/status", running.path), &status(pod, &running.pod.host, host))?;
        }
        Ok(())
    }

    fn make(&self, node: usize, label: &str, path: String) -> Result<Running> {
        let (host, cni) = self.nodes.get(node).context("no such node")?;
        let is_free = |number: &u8| !self.pods.values().any(|pod| (pod.node, pod.number) == (node, *number));
        let number = NUMBERS.into_iter().find(is_free).context("the node has no address left")?;
        let pod = cni.add(&host.ns, label, number).inspect_err(|error| eprintln!("pod {label}: {error:#}"))?;
        Ok(Running { node, number, path, ends: None, pod })
    }

    fn end_what_is_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let is_due = |pod: &Running| pod.ends.is_some_and(|ends| ends <= now);
        let due: Vec<_> = self.pods.iter().filter(|(_, pod)| is_due(pod)).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            let path = self.pods.get(&uid).map(|pod| pod.path.clone()).unwrap_or_default();
            self.remove(&uid);
            self.delete(&path)?;
        }
        Ok(())
    }

    /// Deletes a Pod for good: what kubelets do last.
    fn delete(&self, path: &str) -> Result<()> {
        self.api.delete(&format!("{path}?gracePeriodSeconds=0")).map(drop)
    }

    fn remove(&mut self, uid: &str) {
        if let Some(running) = self.pods.remove(uid)
            && let Some((host, cni)) = self.nodes.get(running.node)
            && let Err(error) = cni.cut_off(&host.ns, running.number)
        {
            eprintln!("{error:#}");
        }
    }
}

/// The status of a Pod that runs and is ready.
fn status(pod: &Value, host: &Host, node: &Host) -> Value {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let containers: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "",
                "ready": true, "started": true, "restartCount": 0, "state": {"running": {}},
            })
        })
        .collect();
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions: Vec<_> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
    json!({"status": {
        "phase": "Running",
        "hostIP": node.v4,
        "podIP": host.v4,
        "podIPs": [{"ip": host.v4}, {"ip": host.v6}],
        "conditions": conditions,
        "containerStatuses": containers,
    }})
}
