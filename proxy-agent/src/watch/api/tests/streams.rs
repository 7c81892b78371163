//! Lists that come as a watch, and waits that end early.

use std::sync::Arc;

use futures::FutureExt as _;
use prometheus_client::metrics::gauge::Gauge;

use super::super::link::Link;
use super::super::mock::Streams;
use super::super::reflector::Reflector;
use super::super::servers::{Failure, Servers};
use super::*;
use crate::object::Kind;

fn streaming(streams: Streams) -> Mock {
    let mock = filled();
    mock.world.lock().unwrap().streams = streams;
    mock
}

#[tokio::test]
async fn a_list_comes_as_a_stream_where_the_server_offers_it_and_the_stream_goes_on_as_a_watch() {
    let mock = streaming(Streams::Whole);
    let mut watched = Watched::start(&[&mock]).await;
    let heard = watched.lists().await;
    for expected in ["+Service default/web 10.96.0.1", "=Service 1", "=EndpointSlice 1", "=Node 1", "=ServiceCIDR 0"] {
        assert!(heard.iter().any(|heard| heard == expected), "{heard:?}");
    }
    mock.put(SERVICES, service("web", 2));
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.2"]);
    for path in [SERVICES, SLICES, NODES, SERVICE_CIDRS] {
        assert_eq!((mock.lists(path).len(), mock.watches(path).len()), (0, 0), "{path}");
        let request = &mock.streams(path)[0];
        assert!(request.contains("resourceVersionMatch=NotOlderThan"), "{request}");
        assert!(request.contains("allowWatchBookmarks=true"), "{request}");
    }
    // Where it broke off, it is taken up again like any watch.
    mock.break_off();
    let requests = watches(&mock, SERVICES, 1).await;
    assert!(requests[0].contains("resourceVersion=4"), "{requests:?}");
    mock.put(SERVICES, service("web", 3));
    assert_eq!(watched.hears(&["+Service"]).await, ["+Service default/web 10.96.0.3"]);
}

#[tokio::test]
async fn a_stream_after_an_expired_watch_forgets_what_is_gone() {
    let mut mock = streaming(Streams::Whole);
    mock.put(SERVICES, service("old", 9));
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    mock.stop();
    {
        let mut world = mock.world.lock().unwrap();
        (world.oldest, world.version) = (100, 100);
    }
    mock.delete(SERVICES, "old");
    mock.start_again();
    let heard = watched.hears(&["=Service 1"]).await;
    assert!(!heard.contains(&"+Service default/old 10.96.0.9".to_owned()), "{heard:?}");
    assert_eq!(mock.lists(SERVICES).len(), 0);
}

#[tokio::test]
async fn a_watch_that_is_forbidden_for_a_while_keeps_its_place() {
    let mock = streaming(Streams::Whole);
    let mut watched = Watched::start(&[&mock]).await;
    watched.lists().await;
    mock.world.lock().unwrap().refused.insert(SERVICES.to_owned(), (403, "not yet".to_owned()));
    mock.break_off();
    watched.hears(&["!the API server refuses to list or watch Services"]).await;
    mock.world.lock().unwrap().refused.clear();
    watched.hears(&["."]).await;
    let requests = mock.watches(SERVICES);
    assert!(requests.iter().all(|request| request.contains("resourceVersion=3")), "{requests:?}");
    assert_eq!((mock.streams(SERVICES).len(), mock.lists(SERVICES).len()), (1, 0), "{requests:?}");
}

#[tokio::test]
async fn a_stream_that_does_not_come_to_its_end_is_no_list() {
    for streams in [Streams::None, Streams::Cut] {
        let mock = streaming(streams);
        let mut watched = Watched::start(&[&mock]).await;
        let heard = watched.lists().await;
        assert_eq!(heard.iter().filter(|heard| heard.starts_with("=Service ")).count(), 1, "{heard:?}");
        assert!(!heard.iter().any(|heard| heard.starts_with('!')), "{heard:?}");
        assert_eq!((mock.streams(SERVICES).len(), mock.lists(SERVICES).len()), (1, 1), "{streams:?}");
        mock.put(SERVICES, service("web", 2));
        watched.hears(&["+Service default/web 10.96.0.2"]).await;
    }
}

#[tokio::test]
async fn a_wait_ends_once_when_another_kind_reaches_the_server_again() {
    let hour = Duration::from_secs(3600);
    let patience = Patience { first_retry: hour, last_retry: hour, ..Patience::default() };
    let options = ApiOptions { servers: vec!["http://127.0.0.1:1".to_owned()], ..ApiOptions::default() };
    let servers = Arc::new(Servers::open(&options).await.unwrap());
    let link = Arc::new(Link::new(String::new(), None, Gauge::default()));
    let (events, _receiver) = mpsc::channel(1);
    let mut waiting = Reflector::new(Kind::Node, &options, servers, link.clone(), patience, events);
    let is_back = || {
        link.failed(Kind::Service, &Failure::NoAnswer("gone".to_owned()));
        link.answered(Kind::Service);
    };
    assert!(waiting.wait().now_or_never().is_none(), "nothing has happened");
    link.answered(Kind::Service);
    assert!(waiting.wait().now_or_never().is_none(), "it was there all the time");
    is_back();
    assert!(waiting.wait().now_or_never().is_some());
    is_back();
    assert!(waiting.wait().now_or_never().is_none(), "woken once, nothing came of it");
    waiting.has_progressed();
    assert!(waiting.wait().now_or_never().is_some());
}
