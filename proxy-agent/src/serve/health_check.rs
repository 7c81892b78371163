//! `spec.healthCheckNodePort`: one server for each Service with externalTrafficPolicy Local, which tells load balancers
//! whether this node has endpoints of it.
//!
//! Answers are kube-proxy's to the byte (`pkg/proxy/healthcheck/service_health.go`). A port that cannot be opened is an
//! Event on its Service, and is tried again; kube-proxy tries again with its next sync only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::http;
use super::metrics::gauge;
use super::state::State;
use crate::events::{About, Notice, Recorder};
use crate::model::HealthCheck;
use crate::object::ObjectName;

/// What is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Where to listen; empty: on all addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// For which Services.
    pub services: BTreeMap<ObjectName, HealthCheck>,
}

/// The next try after a failure comes after this time at first, and after twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Follows `checks` until its sender is gone; then all ports are closed.
pub(super) async fn run(state: Arc<State>, mut checks: watch::Receiver<Checks>, recorder: Recorder) {
    let mut servers = HealthCheckServers::new(state, recorder);
    let mut delay = FIRST_RETRY;
    loop {
        let wanted = checks.borrow_and_update().clone();
        let is_done = servers.follow(&wanted).await;
        let retry = async { if is_done { std::future::pending().await } else { sleep(delay).await } };
        tokio::select! {
            changed = checks.changed() => match changed {
                Ok(()) => delay = FIRST_RETRY,
                Err(_) => break,
            },
            () = retry => delay = (delay * 2).min(LAST_RETRY),
        }
    }
    servers.follow(&Checks::default()).await;
}

/// The servers that are open.
struct HealthCheckServers {
    state: Arc<State>,
    recorder: Recorder,
    open: BTreeMap<ObjectName, Open>,
}

/// The servers of one Service.
struct Open {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    listeners: BTreeMap<IpAddr, Listening>,
}

/// One listening socket.
struct Listening {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Closes the socket. Once this has returned, another may have the port. Connections end with what they are
    /// being told.
    async fn close(self) {
        let _ended_already = self.end.send(());
        self.task.abort();
        let _aborted = self.task.await;
    }
}

impl HealthCheckServers {
    fn new(state: Arc<State>, recorder: Recorder) -> Self {
        Self { state, recorder, open: BTreeMap::new() }
    }

    /// Opens and closes. False if something has to be tried again.
    async fn follow(&mut self, checks: &Checks) -> bool {
        let any = BTreeSet::from([IpAddr::V6(Ipv6Addr::UNSPECIFIED)]);
        let addresses = if checks.addresses.is_empty() { &any } else { &checks.addresses };
        // First what goes, as its port may be another's from now on.
        let keeps = |service: &ObjectName, port| checks.services.get(service).is_some_and(|c| c.port.get() == port);
        let gone: Vec<Open> =
            self.open.extract_if(.., |service, open| !keeps(service, open.port)).map(|it| it.1).collect();
        let moved = self.open.values_mut().flat_map(|open| {
            open.listeners.extract_if(.., |address, _| !addresses.contains(address)).map(|it| it.1).collect::<Vec<_>>()
        });
        let closing: Vec<Listening> =
            moved.chain(gone.into_iter().flat_map(|open| open.listeners.into_values())).collect();
        for listening in closing {
            listening.close().await;
        }
        let mut is_done = true;
        for (service, check) in &checks.services {
            let open = self.open.entry(service.clone()).or_insert_with(|| Open {
                port: check.port.get(),
                local_endpoints: Arc::default(),
                listeners: BTreeMap::new(),
            });
            open.local_endpoints.store(check.local_endpoints, Ordering::Relaxed);
            for address in addresses.iter().filter(|address| !open.listeners.contains_key(*address)).collect::<Vec<_>>()
            {
                let router = router(service.clone(), open.local_endpoints.clone(), self.state.clone());
                match listen(*address, open.port, router).await {
                    Ok(listening) => {
                        tracing::debug!("health check of {service} at port {}", open.port);
                        open.listeners.insert(*address, listening);
                    }
                    Err(error) => {
                        is_done = false;
                        self.state.metrics().health_check_bind_failures.inc();
                        self.recorder.record(Notice::warning(
                            About::Service(service.clone()),
                            "FailedToStartServiceHealthcheck",
                            "Listen",
                            format!(
                                "node {} failed to start healthcheck \"{service}\" on port {}: {error}",
                                self.recorder.node_name(),
                                SocketAddr::new(*address, open.port)
                            ),
                        ));
                    }
                }
            }
        }
        let listeners = self.open.values().filter(|open| !open.listeners.is_empty()).count();
        self.state.metrics().health_check_listeners.set(gauge(listeners));
        is_done
    }
}

async fn listen(address: IpAddr, port: u16, router: Router) -> io::Result<Listening> {
    let listener = http::listen(SocketAddr::new(address, port)).await?;
    let (end, ended) = oneshot::channel::<()>();
    let ended = async {
        let _sender_gone = ended.await;
    };
    let task = tokio::spawn(async {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
            tracing::warn!("a health check node port has closed: {error}");
        }
    });
    Ok(Listening { end, task })
}

/// Any path and any method, as kube-proxy has it.
fn router(service: ObjectName, local_endpoints: Arc<AtomicUsize>, state: Arc<State>) -> Router {
    Router::new().fallback(move || {
        let answer = answer(&service, local_endpoints.load(Ordering::Relaxed), state.is_healthy());
        async { answer }
    })
}

fn answer(service: &ObjectName, local_endpoints: usize, is_healthy: bool) -> Response {
    let status = match local_endpoints {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ if is_healthy => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = http::json(status, body(service, local_endpoints, is_healthy));
    response.headers_mut().insert("x-load-balancing-endpoint-weight", http::number(local_endpoints));
    response
}

fn body(ObjectName { namespace, name }: &ObjectName, local_endpoints: usize, is_healthy: bool) -> String {
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
    )
}
