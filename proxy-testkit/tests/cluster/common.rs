//! What scenarios share: the cluster, turns, and traffic that flows meanwhile.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use proxy_testkit::Host;
use proxy_testkit::agent::{Agent, AgentOptions};
use proxy_testkit::client::{self, Burst};
use proxy_testkit::cluster::Cluster;
use proxy_testkit::lab::Family;

static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();

/// A test's turn. Prints the end of the agents' logs where the test fails.
pub struct Turn(MutexGuard<'static, Cluster>);

/// The cluster, shared.
pub fn cluster() -> Turn {
    let start = || Mutex::new(Cluster::start(Some(AgentOptions::default())).unwrap());
    Turn(CLUSTER.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner))
}

impl Deref for Turn {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.agents().iter().for_each(tell_end_of_log);
        }
    }
}

fn tell_end_of_log(agent: &Agent) {
    let log = agent.log();
    let lines: Vec<_> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(25)..].iter().map(|line| line.get(..300).unwrap_or(line));
    eprintln!("the end of {}'s log:\n{}", agent.node(), end.collect::<Vec<_>>().join("\n"));
}

/// A Service with ClusterIPs `10.96.0.<number>` and its like, for the pods labelled `app=<name>`.
pub fn service(name: &str, number: u8) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  clusterIP: {}
  clusterIPs: [{}, \"{}\"]
  ipFamilyPolicy: RequireDualStack
  ports: [{{name: who, port: 80, targetPort: 9000}}]
---
",
        ip(number, Family::V4),
        ip(number, Family::V4),
        ip(number, Family::V6)
    )
}

/// The address of [`service`].
pub fn ip(number: u8, family: Family) -> std::net::IpAddr {
    let (v4, v6) = proxy_testkit::lab::plan::service(number);
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

/// The address and port of [`service`].
pub fn at(number: u8, family: Family) -> SocketAddr {
    SocketAddr::new(ip(number, family), 80)
}

/// Pods labelled `app=<app>`, bound to nodes by name: `<app>-0` and so on, on node1 and node2 by turns.
pub fn pods(app: &str, count: usize) -> String {
    (0..count)
        .map(|number| {
            format!(
                "apiVersion: v1
kind: Pod
metadata: {{name: {app}-{number}, labels: {{app: {app}}}}}
spec: {{nodeName: node{}, containers: [{{name: main, image: any}}]}}
---
",
                number % 2 + 1
            )
        })
        .collect()
}

/// A slice by hand, with more fields of it as YAML.
pub fn slice(name: &str, service: &str, rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}
{rest}
---
"
    )
}

/// Somebody who asks again and again until told to stop.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Burst>,
}

impl Traffic {
    /// Begins to ask from a host over TCP, each time by a new connection.
    pub fn start(from: &Host, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (is_over, from) = (Arc::clone(&stop), from.clone());
        let work = move || {
            let mut burst = Burst::default();
            while !is_over.load(Ordering::Relaxed) {
                burst.count(&client::ask_tcp(to));
                // Others have work to do on this machine, too.
                thread::sleep(std::time::Duration::from_millis(1));
            }
            Ok(burst)
        };
        Self { stop, thread: thread::spawn(move || from.inside(work).unwrap()) }
    }

    /// Ends it. Every connection must have been answered.
    pub fn all_answered(self) {
        self.stop.store(true, Ordering::Relaxed);
        let burst = self.thread.join().unwrap();
        println!("meanwhile: {burst:?}");
        assert!(burst.failed.is_empty() && burst.total() > 0, "{burst:?}");
    }
}

/// A Service `steady` with one pod on each node, for traffic that nothing may disturb, at number 200.
pub fn steady(cluster: &Cluster) -> SocketAddr {
    let to = at(200, Family::V4);
    cluster.apply(&(service("steady", 200) + &pods("steady", 2))).unwrap();
    cluster.wait_for("default/steady", &to.to_string(), 2).unwrap();
    to
}
