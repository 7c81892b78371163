//! An API server for tests: real HTTP on loopback, with a thread and a runtime of its own, so that stopping it
//! closes every connection as a killed process does.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::channel::mpsc;
use serde_json::{Value, json};
use tokio::sync::oneshot;

pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

const INITIAL: &str = "sendInitialEvents=true";

type Watcher = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

/// What becomes of a request for a streaming list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Streams {
    /// Refused, as by a server without the feature WatchList.
    #[default]
    None,
    /// Every object comes, and the mark behind the last.
    Whole,
    /// Every object comes, and the connection breaks off before the mark.
    Cut,
}

/// What the server holds and saw. It outlives a stop, as etcd does.
#[derive(Default)]
pub(super) struct World {
    /// Objects by path and name.
    pub objects: BTreeMap<(String, String), Value>,
    pub version: u64,
    /// Items in a page.
    pub page: Option<usize>,
    /// How streaming lists are answered.
    pub streams: Streams,
    /// Path and query of each request.
    pub requests: Vec<String>,
    /// Answers in place of the usual ones, by path.
    pub refused: BTreeMap<String, (u16, String)>,
    /// Watches from an older version than this are told that it is gone.
    pub oldest: u64,
    /// Where an expired watch is told of it: as its first event, or as the status of the answer.
    pub expires_by_status: bool,
    /// Version, path and line of every change, for watches that begin at an older version.
    history: Vec<(u64, String, Bytes)>,
    watchers: Vec<(String, Watcher)>,
}

pub(super) struct Mock {
    pub world: Arc<Mutex<World>>,
    pub address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Mock {
    pub(super) fn start() -> Self {
        let mut mock = Self { world: Arc::default(), address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        mock.start_again();
        mock
    }

    /// At the same address.
    pub(super) fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(answer).with_state(self.world.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        self.running = Some((stop, thread));
    }

    pub(super) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.send(()).unwrap();
            thread.join().unwrap();
        }
        self.world.lock().unwrap().watchers.clear();
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or changes an object, and tells the watchers.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        object["metadata"]["resourceVersion"] = json!(world.version.to_string());
        let name = object["metadata"]["name"].to_string();
        let known = world.objects.insert((path.to_owned(), name), object.clone());
        world.tell(path, if known.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(super) fn delete(&self, path: &str, name: &str) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        let mut object = world.objects.remove(&(path.to_owned(), json!(name).to_string())).unwrap();
        object["metadata"]["resourceVersion"] = json!(world.version.to_string());
        world.tell(path, "DELETED", &object);
    }

    pub(super) fn bookmark(&self, path: &str, version: u64) {
        let object = json!({"metadata": {"resourceVersion": version.to_string()}});
        self.world.lock().unwrap().tell(path, "BOOKMARK", &object);
    }

    /// Sends any line to the watchers of a path.
    pub(super) fn line(&self, path: &str, line: &str) {
        self.world.lock().unwrap().send(path, line);
    }

    /// Breaks the connections of all watchers in the middle of the answer.
    pub(super) fn break_off(&self) {
        for (_, watcher) in self.world.lock().unwrap().watchers.drain(..) {
            let _gone = watcher.unbounded_send(Err(std::io::Error::other("broken off")));
        }
    }

    /// The requests for watches of a path so far, from some place in time.
    pub(super) fn watches(&self, path: &str) -> Vec<String> {
        let is_watch = |request: &String| request.contains("watch=true") && !request.contains(INITIAL);
        self.requests(path).into_iter().filter(is_watch).collect()
    }

    /// The requests for streaming lists of a path so far.
    pub(super) fn streams(&self, path: &str) -> Vec<String> {
        self.requests(path).into_iter().filter(|request| request.contains(INITIAL)).collect()
    }

    /// The requests for lists of a path so far.
    pub(super) fn lists(&self, path: &str) -> Vec<String> {
        self.requests(path).into_iter().filter(|request| !request.contains("watch=true")).collect()
    }

    fn requests(&self, path: &str) -> Vec<String> {
        let world = self.world.lock().unwrap();
        world.requests.iter().filter(|request| request.starts_with(path)).cloned().collect()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.stop();
    }
}

impl World {
    fn tell(&mut self, path: &str, what: &str, object: &Value) {
        let line = json!({"type": what, "object": object}).to_string();
        if what != "BOOKMARK" {
            self.history.push((self.version, path.to_owned(), Bytes::from(format!("{line}\n"))));
        }
        self.send(path, &line);
    }

    fn send(&mut self, path: &str, line: &str) {
        let line = Bytes::from(format!("{line}\n"));
        self.watchers.retain(|(watched, watcher)| watched != path || watcher.unbounded_send(Ok(line.clone())).is_ok());
    }

    fn stream(&mut self, path: &str, streams: Streams) -> Response {
        let (watcher, lines) = mpsc::unbounded();
        let send = |line: Value| watcher.unbounded_send(Ok(Bytes::from(format!("{line}\n")))).unwrap();
        for (_, object) in self.objects.iter().filter(|((of, _), _)| of == path) {
            send(json!({"type": "ADDED", "object": object}));
        }
        if streams == Streams::Whole {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
            send(json!({"type": "BOOKMARK", "object": {"metadata": metadata}}));
            self.watchers.push((path.to_owned(), watcher));
        }
        Body::from_stream(lines).into_response()
    }

    fn list(&self, path: &str, from: usize) -> Response {
        let items: Vec<&Value> =
            self.objects.iter().filter(|((of, _), _)| of == path).map(|(_, object)| object).collect();
        let to = self.page.map_or(items.len(), |page| items.len().min(from + page));
        let next = if to < items.len() { json!(to.to_string()) } else { Value::Null };
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        json!({"kind": "List", "metadata": metadata, "items": items[from..to]}).to_string().into_response()
    }
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": ""})
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request) -> Response {
    let mut world = world.lock().unwrap();
    let path = request.uri().path().to_owned();
    world.requests.push(request.uri().to_string());
    let query: BTreeMap<&str, &str> =
        request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
    let refuse = |code: u16, message: &str| {
        (StatusCode::from_u16(code).unwrap(), status(code, message).to_string()).into_response()
    };
    if let Some((code, message)) = world.refused.get(&path) {
        return refuse(*code, message);
    }
    if query.get("watch") != Some(&"true") {
        return world.list(&path, query.get("continue").map_or(0, |from| from.parse().unwrap()));
    }
    if query.get("sendInitialEvents") == Some(&"true") {
        return match world.streams {
            Streams::None => refuse(422, "sendInitialEvents: Forbidden: not enabled"),
            streams => world.stream(&path, streams),
        };
    }
    let from: u64 = query["resourceVersion"].parse().unwrap();
    let is_expired = from < world.oldest;
    if is_expired && world.expires_by_status {
        return refuse(410, "too old resource version");
    }
    let (watcher, lines) = mpsc::unbounded();
    if is_expired {
        let gone = json!({"type": "ERROR", "object": status(410, "too old resource version")});
        watcher.unbounded_send(Ok(Bytes::from(format!("{gone}\n")))).unwrap();
    } else {
        for (_, _, line) in world.history.iter().filter(|(version, of, _)| *version > from && *of == path) {
            watcher.unbounded_send(Ok(line.clone())).unwrap();
        }
        world.watchers.push((path, watcher));
    }
    Body::from_stream(lines).into_response()
}
