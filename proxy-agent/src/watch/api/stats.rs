//! What is measured of requests, with the names of client-go (`component-base/metrics/prometheus/restclient`).

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels<const N: usize> = [(&'static str, String); N];

/// Counted at each request.
#[derive(Clone, Debug)]
pub(super) struct Stats {
    requests: Family<Labels<3>, Counter>,
    durations: Family<Labels<2>, Histogram, fn() -> Histogram>,
    /// 1 while the API server answers.
    pub up: Gauge,
}

impl Default for Stats {
    fn default() -> Self {
        let histogram: fn() -> Histogram =
            || Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0]);
        let durations = Family::new_with_constructor(histogram);
        Self { requests: Family::default(), durations, up: Gauge::default() }
    }
}

impl Stats {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Number of HTTP requests, partitioned by status code, method, and host";
        registry.register("rest_client_requests", help, self.requests.clone());
        let help = "Request latency in seconds. Broken down by verb, and host";
        registry.register("rest_client_request_duration_seconds", help, self.durations.clone());
        registry.register("pointsman_api_up", "Whether the API server answers", self.up.clone());
    }

    /// A request was answered with a code, or was not.
    pub(super) fn answered(&self, host: &str, method: &str, code: Option<u16>, took: Duration) {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        let (host, method) = (host.to_owned(), method.to_owned());
        let labels = [("code", code), ("host", host.clone()), ("method", method.clone())];
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&[("host", host), ("verb", method)]).observe(took.as_secs_f64());
    }
}
