//! Sending Events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::limit::{Limit, Verdict};
use super::{About, Notice, Severity};
use crate::serve::State;
use crate::watch::api::Poster;

/// The name under which Events are reported (`reportingController`).
const CONTROLLER: &str = "pointsman";
/// An Event is given up after so many tries.
const TRIES: u32 = 5;
/// The second try comes after this time, each further one after twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Where Events go.
#[derive(Debug)]
pub struct Sender {
    poster: Option<Poster>,
    node_name: String,
    state: Arc<State>,
}

impl Sender {
    /// To the API server, or where there is none to the log alone.
    pub fn new(poster: Option<Poster>, node_name: String, state: Arc<State>) -> Self {
        Self { poster, node_name, state }
    }

    /// Sends what is recorded until all recorders are gone.
    pub async fn run(self, mut notices: mpsc::Receiver<Notice>) {
        let mut limit = Limit::new(Instant::now());
        while let Some(notice) = notices.recv().await {
            match limit.judge(&notice, Instant::now()) {
                Verdict::Repeated => {}
                Verdict::TooMany => self.state.metrics().event("dropped"),
                Verdict::Send => {
                    log(&notice);
                    self.send(&notice).await;
                }
            }
        }
    }

    async fn send(&self, notice: &Notice) {
        let Some(poster) = &self.poster else { return };
        let (path, event) = event(notice, &self.node_name, Timestamp::now());
        let mut delay = FIRST_RETRY;
        for attempt in 1..=TRIES {
            match poster.post(&path, event.to_string().into_bytes()).await {
                Ok(()) => return self.state.metrics().event("sent"),
                Err(error) if error.is_final || attempt == TRIES => {
                    tracing::warn!("the Event {} could not be sent: {}", notice.reason, error.message);
                    return self.state.metrics().event("failed");
                }
                Err(error) => tracing::debug!("sending the Event {}: {}; trying again", notice.reason, error.message),
            }
            sleep(delay).await;
            delay *= 2;
        }
    }
}

fn log(notice: &Notice) {
    let Notice { about, severity, reason, action: _, note } = notice;
    let about = match about {
        About::Service(name) => format!("Service {name}"),
        About::Node(name) => format!("Node {name}"),
    };
    match severity {
        Severity::Normal => tracing::debug!("{about}: {reason}: {note}"),
        Severity::Warning => tracing::warn!("{about}: {reason}: {note}"),
    }
}

/// Where to post an Event, and the Event.
fn event(notice: &Notice, node_name: &str, now: Timestamp) -> (String, Value) {
    let (namespace, regarding) = match &notice.about {
        About::Service(name) => (
            &*name.namespace,
            json!({"apiVersion": "v1", "kind": "Service", "namespace": name.namespace, "name": name.name}),
        ),
        // Events about what has no namespace are in this one.
        About::Node(name) => ("default", json!({"apiVersion": "v1", "kind": "Node", "name": name})),
    };
    let about = regarding.get("name").and_then(Value::as_str).unwrap_or_default();
    // Names of Events are made so by client-go: unique, and in the order of time.
    let name = format!("{about}.{:x}", now.as_nanosecond());
    let kind = match notice.severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    // The API allows notes of 1 kB.
    let note: String = notice
        .note
        .chars()
        .scan(0, |size, c| {
            *size += c.len_utf8();
            (*size <= 1024).then_some(c)
        })
        .collect();
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": name},
        "eventTime": format!("{now:.6}"),
        "reportingController": CONTROLLER,
        "reportingInstance": format!("{CONTROLLER}-{node_name}"),
        "type": kind,
        "reason": notice.reason,
        "action": notice.action,
        "note": note,
        "regarding": regarding,
    });
    (format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"), event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectName;

    #[test]
    fn an_event_has_what_the_api_asks_for() {
        let service = About::Service(ObjectName::new("shop", "web"));
        let notice = Notice::warning(service, "FailedToStartServiceHealthcheck", "Listen", "x".repeat(2_000));
        let (path, event) = event(&notice, "n1", Timestamp::default());
        assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/shop/events");
        let parsed: k8s_openapi::api::events::v1::Event = serde_json::from_value(event.clone()).unwrap_or_default();
        assert_eq!(parsed.reason.as_deref(), Some("FailedToStartServiceHealthcheck"));
        assert_eq!((parsed.action.as_deref(), parsed.type_.as_deref()), (Some("Listen"), Some("Warning")));
        assert_eq!(parsed.reporting_instance.as_deref(), Some("pointsman-n1"));
        assert_eq!(parsed.note.map(|note| note.len()), Some(1_024));
        let regarding = parsed.regarding.unwrap_or_default();
        assert_eq!((regarding.kind.as_deref(), regarding.name.as_deref()), (Some("Service"), Some("web")));
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");

        let (path, _) = super::event(&Notice { about: About::Node("n1".into()), ..notice }, "n1", Timestamp::default());
        assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/default/events");
    }
}
