//! What the owner of the state hears, whatever the API server does.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod streams;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::mock::{Mock, NODES, SERVICE_CIDRS, SERVICES, SLICES};
use super::{ApiError, ApiOptions, ApiSource, Patience};
use crate::event::{Event, EventReceiver};
use crate::object::Object;

/// Long enough for a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn service(name: &str, version: u8) -> Value {
    let fields = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
    json!({
        "metadata": {"namespace": "default", "name": name, "managedFields": fields},
        "spec": {"clusterIP": format!("10.96.0.{version}"), "ports": [{"port": 80}]},
    })
}

fn slice(name: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.1"]}],
    })
}

fn node() -> Value {
    json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}})
}

/// A source at work, and what it tells.
struct Watched {
    events: EventReceiver,
    heard: Vec<String>,
    task: JoinHandle<()>,
}

impl Watched {
    async fn start(servers: &[&Mock]) -> Self {
        Self::with(
            servers,
            None,
            Patience {
                first_retry: Duration::from_millis(20),
                last_retry: Duration::from_millis(100),
                answer: LONG,
                quiet: LONG,
                short: Duration::from_millis(1),
            },
        )
        .await
    }

    async fn with(servers: &[&Mock], proxy_name: Option<&str>, patience: Patience) -> Self {
        let options = ApiOptions {
            servers: servers.iter().map(|mock| mock.url()).collect(),
            node_name: "n1".to_owned(),
            proxy_name: proxy_name.map(str::to_owned),
            kubeconfig: None,
        };
        let mut source = ApiSource::open(options).await.unwrap();
        source.patience = patience;
        let (sender, events) = mpsc::channel(64);
        Self { events, heard: Vec::new(), task: tokio::spawn(source.run(sender)) }
    }

    /// Listens until all of these were heard, in any order, and returns all that was heard meanwhile, sorted: the
    /// kinds are watched side by side.
    async fn hears(&mut self, awaited: &[&str]) -> Vec<String> {
        let listen = async {
            while !awaited.iter().all(|one| self.heard.iter().any(|heard| heard.starts_with(one))) {
                let news = self.events.recv().await.unwrap();
                self.heard.extend(news.iter().map(short));
            }
        };
        if timeout(LONG, listen).await.is_err() {
            unreachable!("heard only {:?} of {awaited:?}", self.heard);
        }
        let mut heard = std::mem::take(&mut self.heard);
        heard.sort();
        heard
    }

    /// The first full list of everything.
    async fn lists(&mut self) -> Vec<String> {
        self.hears(&["=Service ", "=EndpointSlice", "=Node", "=ServiceCIDR"]).await
    }

    /// Nothing more is told for a while.
    async fn is_silent(&mut self) {
        let news = timeout(Duration::from_millis(300), self.events.recv()).await;
        assert!(news.is_err(), "{news:?}");
    }
}

/// Events in short: `+` applied, `-` deleted, `=` listed with the number of objects, `!` a problem, `.` mended.
fn short(event: &Event) -> String {
    match event {
        Event::Apply(object) => match &**object {
            Object::Service(service) => format!("+{} {}", object.reference(), service.cluster_ips[0]),
            _ => format!("+{}", object.reference()),
        },
        Event::Delete(object) => format!("-{object}"),
        Event::Listed { kind, objects } => format!("={kind} {}", objects.len()),
        Event::Problem(problem) => format!("!{problem}"),
        Event::Mended(problem) => format!(".{problem}"),
    }
}

/// Waits until the server has seen so many watches of a path.
async fn watches(mock: &Mock, path: &str, count: usize) -> Vec<String> {
    let waiting = async {
        loop {
            let seen = mock.watches(path);
            if seen.len() >= count {
                return seen;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap()
}

/// A server with one object of each kind.
fn filled() -> Mock {
    let mock = Mock::start();
    mock.put(SERVICES, service("web", 1));
    mock.put(SLICES, slice("web-1"));
    mock.put(NODES, node());
    mock
}

#[tokio::test]
async fn everything_is_listed_then_watched() {
    let mock = filled();
    let mut watched = Watched::start(&[&mock]).await;
    assert_eq!(
        watched.lists().await,
        [
            "+EndpointSlice default/web-1",
            "+Node n1",
            "+Service default/web 10.96.0.1",
            "=EndpointSlice 1",
            "=Node 1",
            "=Service 1",
            "=ServiceCIDR 0",
        ]
    );
    for path in [SERVICES, SLICES, NODES] {
        let watches = watches(&mock, path, 1).await;
        assert!(watches[0].contains("resourceVersion=3") && watches[0].contains("allowWatchBookmarks=true"));
    }
    mock.put(SERVICES, service("web", 2));
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.2"]);
    mock.put(SLICES, slice("web-2"));
    assert_eq!(watched.hears(&["+End"]).await, ["+EndpointSlice default/web-2"]);
    mock.delete(SERVICES, "web");
    assert_eq!(watched.hears(&["-Service"]).await, ["-Service default/web"]);
    watched.is_silent().await;
}

#[tokio::test]
async fn what_is_not_for_a_proxy_is_not_asked_for() {
    let none = "%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";
    let mine = "service.kubernetes.io%2Fservice-proxy-name%3Dmine%2C%21service.kubernetes.io%2Fheadless";
    // The cluster's own proxy has to know which addresses others serve.
    for (proxy_name, of_services, of_slices) in [(None, None, none), (Some("mine"), Some(mine), mine)] {
        let mock = filled();
        let mut watched = Watched::with(&[&mock], proxy_name, Patience::default()).await;
        watched.lists().await;
        for (path, label) in [(SERVICES, of_services), (SLICES, Some(of_slices))] {
            let all = [mock.lists(path), watches(&mock, path, 1).await].concat();
            let is_right = |request: &String| match label {
                Some(label) => request.contains(&format!("labelSelector={label}")),
                None => !request.contains("labelSelector"),
            };
            assert!(all.iter().all(is_right), "{all:?}");
        }
        assert!(mock.lists(SERVICES)[0].contains("fieldSelector=spec.clusterIP%21%3DNone"));
        assert!(mock.lists(NODES)[0].contains("fieldSelector=metadata.name%3Dn1"));
        assert!(!mock.lists(NODES)[0].contains("labelSelector"));
    }
}

#[tokio::test]
async fn ranges_of_cluster_ips_are_listed_and_need_not_be_known_to_the_server() {
    let mock = filled();
    mock.put(SERVICE_CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    let mut watched = Watched::start(&[&mock]).await;
    let heard = watched.lists().await;
    assert!(heard.contains(&"+ServiceCIDR kubernetes".to_owned()), "{heard:?}");
    assert!(heard.contains(&"=ServiceCIDR 1".to_owned()), "{heard:?}");

    let older = filled();
    older.world.lock().unwrap().refused.insert(SERVICE_CIDRS.to_owned(), (404, "not found".to_owned()));
    let mut watched = Watched::start(&[&older]).await;
    let heard = watched.lists().await;
    assert!(heard.contains(&"=ServiceCIDR 0".to_owned()), "{heard:?}");
    assert!(!heard.iter().any(|heard| heard.starts_with('!')), "{heard:?}");
}

#[tokio::test]
async fn a_list_in_pages_is_one_list() {
    let mock = filled();
    for (name, version) in [("a", 2), ("b", 3), ("c", 4), ("d", 5)] {
        mock.put(SERVICES, service(name, version));
    }
    mock.world.lock().unwrap().page = Some(2);
    let mut watched = Watched::start(&[&mock]).await;
    let heard = watched.lists().await;
    assert!(heard.contains(&"=Service 5".to_owned()) && heard.contains(&"+Service default/d 10.96.0.5".to_owned()));
    assert_eq!(mock.lists(SERVICES).len(), 3);
}

#[tokio::test]
async fn a_broken_watch_goes_on_from_the_last_bookmark() {
    let mock = filled();
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    watches(&mock, SERVICES, 1).await;
    mock.bookmark(SERVICES, 41);
    sleep(Duration::from_millis(50)).await;
    mock.break_off();
    let requests = watches(&mock, SERVICES, 2).await;
    assert!(requests[1].contains("resourceVersion=41"), "{requests:?}");
    mock.put(SERVICES, service("web", 2));
    // Nothing was listed again, and nobody was alarmed.
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.2"]);
    assert_eq!(mock.lists(SERVICES).len(), 1);
}

#[tokio::test]
async fn an_expired_watch_lists_anew_and_forgets_what_is_gone() {
    for expires_by_status in [false, true] {
        let mut mock = filled();
        mock.put(SERVICES, service("old", 9));
        let mut watched = Watched::start(&[&mock]).await;
        watched.lists().await;
        for path in [SERVICES, SLICES, NODES] {
            watches(&mock, path, 1).await;
        }
        mock.stop();
        {
            let mut world = mock.world.lock().unwrap();
            world.oldest = 100;
            world.version = 100;
            world.expires_by_status = expires_by_status;
        }
        mock.delete(SERVICES, "old");
        mock.start_again();
        let heard = watched.lists().await;
        assert!(heard.contains(&"=Service 1".to_owned()), "{heard:?}");
        mock.put(SERVICES, service("web", 2));
        watched.hears(&["+Service default/web 10.96.0.2"]).await;
    }
}

#[tokio::test]
async fn that_the_server_is_lost_is_said_once_and_that_it_is_back_once() {
    let mut mock = filled();
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    for path in [SERVICES, SLICES, NODES] {
        watches(&mock, path, 1).await;
    }
    for _ in 0..2 {
        mock.stop();
        let lost = watched.hears(&["!"]).await;
        assert_eq!(lost.len(), 1, "{lost:?}");
        let lost = lost.concat();
        let said = lost.trim_start_matches('!');
        // Which of its connections is the first to be asked, and what becomes of it, is chance.
        let reset_or_refused = ["Connection reset by peer (os error 104)", "Connection refused (os error 111)"];
        let expected = reset_or_refused.map(|error| {
            let url = mock.url();
            format!("cannot reach the API server ({url}): {error}; the kernel keeps what it has, trying again")
        });
        assert!(expected.iter().any(|expected| expected == said), "{said}");
        watched.is_silent().await;
        mock.start_again();
        assert_eq!(watched.hears(&["."]).await, [format!(".{said}")]);
        watched.is_silent().await;
    }
    mock.put(SERVICES, service("web", 2));
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.2"]);
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_waited_for() {
    let mut mock = filled();
    mock.stop();
    let mut watched = Watched::start(&[&mock]).await;
    watched.hears(&["!cannot reach the API server"]).await;
    watched.is_silent().await;
    mock.start_again();
    let heard = watched.hears(&["=Service 1", "=EndpointSlice 1", "=Node 1", "."]).await;
    assert!(!heard.iter().any(|heard| heard.starts_with('!')), "{heard:?}");
}

#[tokio::test]
async fn another_server_takes_over() {
    let (mut one, mut two) = (filled(), filled());
    one.stop();
    let mut watched = Watched::start(&[&one, &two]).await;
    let heard = watched.lists().await;
    assert!(!heard.iter().any(|heard| heard.starts_with('!')), "{heard:?}");
    for path in [SERVICES, SLICES, NODES] {
        watches(&two, path, 1).await;
    }
    one.start_again();
    two.stop();
    for path in [SERVICES, SLICES, NODES] {
        watches(&one, path, 1).await;
    }
    one.put(SERVICES, service("web", 2));
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.2"]);
}

#[tokio::test]
async fn a_server_that_is_out_of_order_counts_as_lost() {
    let mock = filled();
    mock.world.lock().unwrap().refused.insert(SERVICES.to_owned(), (503, "shutting down".to_owned()));
    let mut watched = Watched::start(&[&mock]).await;
    let heard = watched.hears(&["!", "=EndpointSlice", "=Node", "=ServiceCIDR"]).await;
    assert!(heard[0].contains("503 shutting down"), "{heard:?}");
    mock.world.lock().unwrap().refused.clear();
    watched.hears(&[".", "=Service"]).await;
}

#[tokio::test]
async fn a_refusal_names_what_is_refused_and_the_rest_goes_on() {
    let mock = filled();
    let message = "nodes is forbidden: User \"x\" cannot list resource \"nodes\"";
    mock.world.lock().unwrap().refused.insert(NODES.to_owned(), (403, message.to_owned()));
    let mut watched = Watched::start(&[&mock]).await;
    let said = format!("the API server refuses to list or watch Nodes: {message}; trying again");
    let heard = watched.hears(&["!", "=EndpointSlice", "=Service ", "=ServiceCIDR"]).await;
    assert_eq!(heard.iter().filter(|heard| heard.starts_with('!')).collect::<Vec<_>>(), [&format!("!{said}")]);
    watched.is_silent().await;
    mock.world.lock().unwrap().refused.clear();
    assert_eq!(watched.hears(&[".", "=Node"]).await, ["+Node n1".to_owned(), format!(".{said}"), "=Node 1".to_owned()]);
}

#[tokio::test]
async fn an_odd_object_harms_no_other_and_keeps_what_was_known_of_it() {
    let mock = filled();
    let mut wrong_type = service("typed", 5);
    wrong_type["spec"]["ports"] = json!("80");
    mock.put(SERVICES, wrong_type);
    let mut wrong_value = service("valued", 6);
    wrong_value["spec"]["ports"][0]["port"] = json!(70000);
    mock.put(SERVICES, wrong_value);
    let mut watched = Watched::start(&[&mock]).await;
    let typed = "Service default/typed: spec.ports: invalid type: string \"80\", expected a sequence; what was known of \
                 it stays";
    let valued = "Service default/valued: spec.ports[0].port: 70000 is not a port: expected 1 to 65535; what was known \
                  of it stays";
    let heard = watched.lists().await;
    for expected in [&format!("!{typed}"), &format!("!{valued}"), "=Service 3", "+Service default/web 10.96.0.1"] {
        assert!(heard.iter().any(|heard| heard == expected), "{expected} is not in {heard:#?}");
    }
    watches(&mock, SERVICES, 1).await;
    mock.put(SERVICES, service("typed", 5));
    assert_eq!(watched.hears(&["."]).await, ["+Service default/typed 10.96.0.5".to_owned(), format!(".{typed}")]);
    mock.delete(SERVICES, "valued");
    assert_eq!(watched.hears(&["-"]).await, ["-Service default/valued".to_owned(), format!(".{valued}")]);
    // Once broken again, it is said again, and it is not deleted.
    let mut wrong_address = service("web", 1);
    wrong_address["spec"]["clusterIP"] = json!("10.96.0.x");
    mock.put(SERVICES, wrong_address);
    let web = "Service default/web: spec.clusterIP: '10.96.0.x' is not an IP address; what was known of it stays";
    assert_eq!(watched.hears(&["!"]).await, [format!("!{web}")]);
    watched.is_silent().await;
}

#[tokio::test]
async fn a_watch_that_sends_rubbish_is_begun_anew() {
    let mock = filled();
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    watches(&mock, SERVICES, 1).await;
    mock.line(SERVICES, "{\"type\": ");
    assert_eq!(watched.hears(&["=Service"]).await, ["+Service default/web 10.96.0.1", "=Service 1"]);
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_left() {
    let mock = filled();
    let patience =
        Patience { first_retry: Duration::from_millis(20), quiet: Duration::from_millis(100), ..Patience::default() };
    let mut watched = Watched::with(&[&mock], None, patience).await;
    watched.lists().await;
    watches(&mock, SERVICES, 3).await;
    assert_eq!(mock.lists(SERVICES).len(), 1);
    watched.is_silent().await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let mock = filled();
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    drop(watched.events);
    timeout(LONG, watched.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_source_is_refused_in_one_line() {
    let open = async |options| ApiSource::open(options).await.map(drop);
    let message = |error: ApiError| crate::output::chain(&error).to_string();
    let nowhere = open(ApiOptions::default()).await.unwrap_err();
    assert_eq!(
        message(nowhere),
        "no source of Services: give --kubeconfig FILE, --api-servers URL,… or --manifests DIR, or run in a pod with a \
         service account"
    );
    for text in ["10.0.0.1:6443", "ftp://a", "https://", "not an address"] {
        let wrong = open(ApiOptions { servers: vec![text.to_owned()], ..ApiOptions::default() }).await.unwrap_err();
        assert_eq!(
            message(wrong),
            format!("--api-servers: '{text}' is not an address of an API server: expected https://HOST:PORT")
        );
    }
    let missing = ApiOptions { kubeconfig: Some("/nowhere/config".into()), ..ApiOptions::default() };
    let missing = message(open(missing).await.unwrap_err());
    assert!(missing.starts_with("cannot use the kubeconfig /nowhere/config: "), "{missing}");
}

#[tokio::test]
async fn a_kubeconfig_says_where_and_who() {
    let mock = filled();
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: '{}'}}\n\
         users:\n- name: u\n  user: {{token: secret}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n",
        mock.url()
    );
    std::fs::write(file.path(), text).unwrap();
    let options =
        ApiOptions { kubeconfig: Some(file.path().to_owned()), node_name: "n1".to_owned(), ..ApiOptions::default() };
    let source = ApiSource::open(options).await.unwrap();
    assert_eq!(source.addresses(), mock.url());
    let (sender, events) = mpsc::channel(64);
    let task = tokio::spawn(source.run(sender));
    let mut watched = Watched { events, heard: Vec::new(), task };
    assert_eq!(watched.lists().await.len(), 7);
}
