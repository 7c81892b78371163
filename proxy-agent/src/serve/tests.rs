//! Real servers on loopback, asked over TCP.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::*;
use crate::events;
use crate::model::{Family, HealthCheck};
use crate::object::ObjectName;

/// An answer.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn ask(address: SocketAddr, path: &str, accept: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Ok(Answer { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Tries until it comes out.
fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it has not come true in 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct World {
    state: Arc<State>,
    checks: watch::Sender<Checks>,
    notices: mpsc::Receiver<events::Notice>,
    healthz: SocketAddr,
    metrics: SocketAddr,
    _serving: Serving,
}

fn world(patience: Duration) -> World {
    let state = Arc::new(State::new(patience, serde_json::json!({"a": 1}), |_| {}));
    let (recorder, notices) = events::channel("n1");
    let (checks, wanted) = watch::channel(Checks::default());
    let (healthz, metrics) = (loopback(free_port()), loopback(free_port()));
    let addresses = Addresses { healthz: Some(healthz), metrics: Some(metrics), hard_fail: false };
    let serving = start(state.clone(), addresses, wanted, recorder).unwrap();
    eventually(|| ask(healthz, "/livez", "").ok());
    eventually(|| ask(metrics, "/proxyMode", "").ok());
    World { state, checks, notices, healthz, metrics, _serving: serving }
}

#[test]
fn healthz_speaks_of_the_node_and_livez_of_the_proxy() {
    let world = world(Duration::ZERO);
    let (healthz, livez) =
        (|| ask(world.healthz, "/healthz", "").unwrap(), || ask(world.healthz, "/livez", "").unwrap());

    world.state.set_node_eligible(true);
    let well = healthz();
    assert_eq!(well.status, 200);
    assert_eq!(well.headers["content-type"], "application/json");
    assert_eq!(well.headers["x-content-type-options"], "nosniff");
    let fields = |answer: &Answer| answer.json().as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let names = |names: &str| names.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(fields(&well), names("lastUpdated currentTime nodeEligible healthy status"));
    assert_eq!(well.json()["lastUpdated"], well.json()["currentTime"]);
    assert_eq!((&well.json()["nodeEligible"], &well.json()["healthy"]), (&true.into(), &true.into()));
    assert_eq!(fields(&livez()), names("lastUpdated currentTime healthy status"));

    world.state.set_node_eligible(false);
    assert_eq!((healthz().status, livez().status), (503, 200));
    assert_eq!(healthz().json()["healthy"], true);

    world.state.set_node_eligible(true);
    world.state.queued(&[Family::V6]);
    assert_eq!((healthz().status, livez().status), (503, 503));
    let status = livez().json()["status"].clone();
    assert_eq!((&status["IPv4"]["healthy"], &status["IPv6"]["healthy"]), (&true.into(), &false.into()));
    world.state.updated(&[Family::V6]);
    assert_eq!((healthz().status, livez().status), (200, 200));

    let metrics = ask(world.metrics, "/metrics", "").unwrap().body;
    assert!(metrics.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 3\n"), "{metrics}");
    assert!(metrics.contains("kubeproxy_proxy_healthz_total{code=\"200\"} 2\n"), "{metrics}");
}

#[test]
fn the_status_server_answers_as_kube_proxys() {
    let world = world(Duration::from_secs(60));
    let mode = ask(world.metrics, "/proxyMode", "").unwrap();
    assert_eq!((mode.status, mode.body.as_str()), (200, "ebpf"));
    assert_eq!(mode.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(ask(world.metrics, "/healthz", "").unwrap().body, "ok");
    assert_eq!(ask(world.metrics, "/configz", "").unwrap().json(), serde_json::json!({"a": 1}));
    assert_eq!(ask(world.metrics, "/nothing", "").unwrap().status, 404);
    assert_eq!(ask(world.healthz, "/metrics", "").unwrap().status, 404);

    world.state.metrics().synced(Duration::from_millis(3), false);
    world.state.metrics().programmed(Family::V6, Duration::from_millis(300));
    let older = ask(world.metrics, "/metrics", "text/plain").unwrap();
    assert!(older.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    for line in [
        "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\",ip_family=\"IPv4\"} 0",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv6\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\",ip_family=\"IPv6\"} 1",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\",ip_family=\"IPv6\"} 1",
        "# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter",
        "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(older.body.lines().any(|found| found == line), "{line} is not in\n{}", older.body);
    }
    let newer = ask(world.metrics, "/metrics", "application/openmetrics-text; version=1.0.0").unwrap();
    assert!(newer.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(newer.body.ends_with("# EOF\n"));
}

#[test]
fn the_address_of_all_is_that_of_both_families() {
    for any in ["0.0.0.0", "[::]"] {
        let state = Arc::new(State::new(Duration::from_secs(60), Value::Null, |_| {}));
        let (recorder, _notices) = events::channel("n1");
        let (_checks, wanted) = watch::channel(Checks::default());
        let port = free_port();
        let healthz = Some(format!("{any}:{port}").parse().unwrap());
        let _serving = start(state, Addresses { healthz, metrics: None, hard_fail: false }, wanted, recorder).unwrap();
        for to in [loopback(port), SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)] {
            assert_eq!(eventually(|| ask(to, "/livez", "").ok()).status, 200, "{any}, asked at {to}");
        }
    }
}

fn check(port: u16, local_endpoints: usize) -> HealthCheck {
    HealthCheck { port: NonZeroU16::new(port).unwrap(), local_endpoints }
}

#[test]
fn health_check_node_ports_follow_their_services() {
    let world = world(Duration::from_secs(60));
    let (web, db) = (ObjectName::new("default", "web"), ObjectName::new("shop", "db"));
    let (first, second) = (free_port(), free_port());
    let serve = |services: &[(&ObjectName, HealthCheck)]| {
        let addresses = BTreeSet::from([loopback(1).ip()]);
        let services = services.iter().map(|(name, check)| ((*name).clone(), *check)).collect();
        world.checks.send(Checks { addresses, services }).unwrap();
    };
    serve(&[(&web, check(first, 2))]);
    let well = eventually(|| ask(loopback(first), "/any/path", "").ok());
    assert_eq!(well.status, 200);
    assert_eq!(well.headers["content-type"], "application/json");
    assert_eq!(well.headers["x-content-type-options"], "nosniff");
    assert_eq!(well.headers["x-load-balancing-endpoint-weight"], "2");
    assert_eq!(
        well.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
         \"serviceProxyHealthy\": true\n}"
    );

    serve(&[(&web, check(first, 0))]);
    let none = eventually(|| ask(loopback(first), "/", "").ok().filter(|answer| answer.status == 503));
    assert_eq!(none.headers["x-load-balancing-endpoint-weight"], "0");
    assert_eq!(none.json()["localEndpoints"], 0);

    // The port goes over to another Service, and the first one gets another port.
    serve(&[(&web, check(second, 1)), (&db, check(first, 1))]);
    eventually(|| ask(loopback(first), "/", "").ok().filter(|answer| answer.json()["service"]["name"] == "db"));
    eventually(|| ask(loopback(second), "/", "").ok().filter(|answer| answer.json()["service"]["name"] == "web"));

    serve(&[]);
    for port in [first, second] {
        eventually(|| ask(loopback(port), "/", "").err());
        eventually(|| TcpListener::bind(loopback(port)).ok());
    }
}

#[test]
fn a_port_that_is_taken_is_an_event_and_tried_again() {
    let mut world = world(Duration::from_secs(60));
    let taken = TcpListener::bind(loopback(0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let web = ObjectName::new("default", "web");
    let addresses = BTreeSet::from([loopback(1).ip()]);
    world.checks.send(Checks { addresses, services: BTreeMap::from([(web.clone(), check(port, 1))]) }).unwrap();
    let notice = eventually(|| world.notices.try_recv().ok());
    assert_eq!(notice.about, events::About::Service(web));
    assert_eq!((notice.reason, notice.action), ("FailedToStartServiceHealthcheck", "Listen"));
    assert!(notice.note.starts_with("node n1 failed to start healthcheck \"default/web\" on port "), "{}", notice.note);
    drop(taken);
    eventually(|| ask(loopback(port), "/", "").ok().filter(|answer| answer.status == 200));
    let metrics = ask(world.metrics, "/metrics", "").unwrap().body;
    assert!(metrics.contains("pointsman_health_check_listeners 1\n"), "{metrics}");
}

#[test]
fn an_address_that_is_taken_is_an_error_where_that_is_wanted() {
    let taken = TcpListener::bind(loopback(0)).unwrap();
    let address = taken.local_addr().unwrap();
    let state = Arc::new(State::new(Duration::from_secs(60), Value::Null, |_| {}));
    let (recorder, _notices) = events::channel("n1");
    let (_checks, wanted) = watch::channel(Checks::default());
    let addresses = Addresses { healthz: Some(address), metrics: None, hard_fail: true };
    let mut serving = start(state, addresses, wanted, recorder).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(serving.failed());
    assert!(error.to_string().starts_with(&format!("cannot serve healthz on {address}: ")), "{error}");
}
