//! What is measured, and under which names (docs/metrics.md).
//!
//! kube-proxy's names, help, labels and buckets are those of `pkg/proxy/metrics/metrics.go`, 1.37. What the kernel
//! counts is read from the maps when somebody asks (`maps.rs`); all else is counted where it happens.

mod maps;
mod process;
pub(super) mod text;

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as MetricFamily;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::{Metric, Registry};
use proxy_common::flows::FlowUse;

use crate::model::{Family, NoLocal};

pub use maps::PinnedMaps;

/// One label and its value.
type Label = [(&'static str, &'static str); 1];
type Counters = MetricFamily<Label, Counter>;
type Gauges = MetricFamily<Label, Gauge>;
type Moments = MetricFamily<Label, Gauge<f64, AtomicU64>>;
type Histograms = MetricFamily<Label, Histogram, fn() -> Histogram>;

/// What is counted where it happens.
#[derive(Debug)]
pub struct Metrics {
    sync: Histograms,
    full_sync: Histograms,
    partial_sync: Histograms,
    last_sync: Moments,
    last_queued: Moments,
    service_changes: Counter,
    service_changes_pending: Gauge,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    no_local_endpoints: MetricFamily<[(&'static str, &'static str); 2], Gauge>,
    programming: Histograms,
    healthz: Counters,
    livez: Counters,
    map_entries: Gauges,
    flow_entries: MetricFamily<[(&'static str, &'static str); 2], Gauge>,
    flows_expired: Counters,
    devices: Gauges,
    events: Counters,
    repairs: Counters,
    /// Service ports in the maps.
    pub service_ports: Gauge,
    /// Service ports that a full map keeps in their former state, or out.
    pub service_ports_without_room: Gauge,
    /// Things wrong with objects.
    pub problems: Gauge,
    /// From the first change of a round to its being in the kernel.
    pub sync_lag: Histogram,
    /// Syncs that failed and are tried again.
    pub sync_failures: Counter,
    /// Map entries written or removed.
    pub map_writes: Counter,
    /// Devices that should have the programs but cannot be attached to.
    pub devices_failing: Gauge,
    /// Devices that have the XDP program.
    pub xdp_devices: Gauge,
    /// Health check node ports that are open.
    pub health_check_listeners: Gauge,
    /// Tries to open one that failed.
    pub health_check_bind_failures: Counter,
}

/// kube-proxy's buckets of a sync: 1 ms to 16 s.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// kube-proxy's buckets of the network programming latency: quarters, then seconds, up to 5 minutes.
fn programming_histogram() -> Histogram {
    let buckets = linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7));
    Histogram::new(buckets)
}

fn by_family(family: Family) -> Label {
    [("ip_family", family_name(family))]
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Makes and registers all. Counters' names get `_total` when they are written.
    pub(super) fn register(registry: &mut Registry) -> Self {
        registry.register_collector(Box::new(process::Process));
        let build: MetricFamily<Label, Gauge> = MetricFamily::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("pointsman_build_info", "Always 1", build);
        let metrics = Self::kube_proxys(registry);
        // Series that are there from the start make rates right from the first time on.
        for family in FAMILIES {
            let label = by_family(family);
            metrics.last_queued.get_or_create(&label).set(now());
            drop(metrics.flows_expired.get_or_create(&label));
            for histograms in [&metrics.sync, &metrics.full_sync, &metrics.partial_sync, &metrics.programming] {
                drop(histograms.get_or_create(&label));
            }
        }
        for what in ["device", "socket", "entry"] {
            metrics.repaired(what, 0);
        }
        metrics.set_no_local(&NoLocal::default());
        for code in ["200", "503"] {
            drop(metrics.healthz.get_or_create(&[("code", code)]));
            drop(metrics.livez.get_or_create(&[("code", code)]));
        }
        metrics
    }

    fn kube_proxys(registry: &mut Registry) -> Self {
        let mut histograms = |name: &str, help: &str, make: fn() -> Histogram| {
            let name = format!("kubeproxy_{name}");
            register(registry, &name, help, Histograms::new_with_constructor(make))
        };
        let sync = histograms("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", sync_histogram);
        let full_sync = histograms(
            "sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            sync_histogram,
        );
        let partial_sync = histograms(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            sync_histogram,
        );
        let programming = histograms(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            programming_histogram,
        );
        let k = |name: &str| format!("kubeproxy_{name}");
        let p = |name: &str| format!("pointsman_{name}");
        let r = registry;
        Self {
            sync,
            full_sync,
            partial_sync,
            programming,
            last_sync: register(
                r,
                &k("sync_proxy_rules_last_timestamp_seconds"),
                "The last time proxy rules were successfully synced",
                Moments::default(),
            ),
            last_queued: register(
                r,
                &k("sync_proxy_rules_last_queued_timestamp_seconds"),
                "The last time a sync of proxy rules was queued",
                Moments::default(),
            ),
            service_changes: register(
                r,
                &k("sync_proxy_rules_service_changes"),
                "Cumulative proxy rules Service changes",
                Counter::default(),
            ),
            service_changes_pending: register(
                r,
                &k("sync_proxy_rules_service_changes_pending"),
                "Pending proxy rules Service changes",
                Gauge::default(),
            ),
            endpoint_changes: register(
                r,
                &k("sync_proxy_rules_endpoint_changes"),
                "Cumulative proxy rules Endpoint changes",
                Counter::default(),
            ),
            endpoint_changes_pending: register(
                r,
                &k("sync_proxy_rules_endpoint_changes_pending"),
                "Pending proxy rules Endpoint changes",
                Gauge::default(),
            ),
            no_local_endpoints: register(
                r,
                &k("sync_proxy_rules_no_local_endpoints_total"),
                "Number of services with a Local traffic policy and no endpoints",
                MetricFamily::default(),
            ),
            healthz: register(r, &k("proxy_healthz"), "Cumulative proxy healthz HTTP status", Counters::default()),
            livez: register(r, &k("proxy_livez"), "Cumulative proxy livez HTTP status", Counters::default()),
            map_entries: register(r, &p("map_entries"), "Entries of a map that are in use", Gauges::default()),
            flow_entries: register(
                r,
                &p("flow_entries"),
                "Entries of the tables of flows, by what they are",
                MetricFamily::default(),
            ),
            flows_expired: register(
                r,
                &p("flows_expired"),
                "Flows that were over and have been removed",
                Counters::default(),
            ),
            devices: register(r, &p("devices"), "Devices that have the programs", Gauges::default()),
            events: register(r, &p("events"), "Events for the API server", Counters::default()),
            repairs: register(
                r,
                &p("repairs"),
                "What somebody else had detached, removed or changed and that was put back",
                Counters::default(),
            ),
            service_ports: register(r, &p("service_ports"), "Service ports in the maps", Gauge::default()),
            service_ports_without_room: register(
                r,
                &p("service_ports_without_room"),
                "Service ports that a full map keeps in their former state or out",
                Gauge::default(),
            ),
            problems: register(r, &p("problems"), "Things wrong with objects", Gauge::default()),
            sync_lag: register(
                r,
                &p("sync_lag_seconds"),
                "From the first change that the agent learnt of to its being in the kernel",
                // 0.1 ms to 64 s, fine enough to tell milliseconds apart.
                Histogram::new(exponential_buckets(0.000_1, 1.5, 34)),
            ),
            sync_failures: register(
                r,
                &p("sync_failures"),
                "Syncs that failed and were tried again",
                Counter::default(),
            ),
            map_writes: register(r, &p("map_writes"), "Map entries written or removed", Counter::default()),
            devices_failing: register(
                r,
                &p("devices_failing"),
                "Devices that should have the programs but cannot be attached to",
                Gauge::default(),
            ),
            xdp_devices: register(r, &p("xdp_devices"), "Devices that have the XDP program", Gauge::default()),
            health_check_listeners: register(
                r,
                &p("health_check_listeners"),
                "Health check node ports that are open",
                Gauge::default(),
            ),
            health_check_bind_failures: register(
                r,
                &p("health_check_bind_failures"),
                "Tries to open a health check node port that failed",
                Counter::default(),
            ),
        }
    }

    /// A sync was asked for.
    pub(super) fn queued(&self, family: Family) {
        self.last_queued.get_or_create(&by_family(family)).set(now());
    }

    /// A sync has succeeded.
    pub(super) fn updated(&self, family: Family) {
        self.last_sync.get_or_create(&by_family(family)).set(now());
    }

    /// A sync took so long; `is_full` if the maps were read anew for it.
    pub fn synced(&self, took: Duration, is_full: bool) {
        for label in FAMILIES.map(by_family) {
            let part = if is_full { &self.full_sync } else { &self.partial_sync };
            part.get_or_create(&label).observe(took.as_secs_f64());
            self.sync.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    /// A Service is another one.
    pub fn service_changed(&self) {
        self.service_changes.inc();
        self.service_changes_pending.inc();
    }

    /// An EndpointSlice is another one.
    pub fn endpoints_changed(&self) {
        self.endpoint_changes.inc();
        self.endpoint_changes_pending.inc();
    }

    /// All changes have been taken in.
    pub fn nothing_pending(&self) {
        self.service_changes_pending.set(0);
        self.endpoint_changes_pending.set(0);
    }

    /// What changed so long ago is now in the kernel.
    pub fn programmed(&self, family: Family, after: Duration) {
        self.programming.get_or_create(&by_family(family)).observe(after.as_secs_f64());
    }

    /// How many Service ports have endpoints, but under a Local policy none here.
    pub fn set_no_local(&self, counts: &NoLocal) {
        for (family, [internal, external]) in FAMILIES.into_iter().zip(counts.by_family) {
            for (policy, count) in [("internal", internal), ("external", external)] {
                let labels = [("traffic_policy", policy), ("ip_family", family_name(family))];
                self.no_local_endpoints.get_or_create(&labels).set(gauge(count));
            }
        }
    }

    /// `/healthz` was answered.
    pub(super) fn answered_healthz(&self, code: u16) {
        self.healthz.get_or_create(&[("code", code_name(code))]).inc();
    }

    /// `/livez` was answered.
    pub(super) fn answered_livez(&self, code: u16) {
        self.livez.get_or_create(&[("code", code_name(code))]).inc();
    }

    /// So many entries of a map are in use.
    pub fn set_entries(&self, map: &'static str, count: usize) {
        self.map_entries.get_or_create(&[("map", map)]).set(gauge(count));
    }

    /// A table of flows has been looked through.
    pub fn set_flows(&self, family: Family, map: &'static str, used: &FlowUse) {
        self.flows_expired.get_or_create(&by_family(family)).inc_by(u64::from(used.removed));
        let states = [
            ("established", used.established),
            ("half-open", used.half_open),
            ("closed", used.closed),
            ("alias", used.aliases),
        ];
        for (state, count) in states {
            self.flow_entries.get_or_create(&[("map", map), ("state", state)]).set(i64::from(count));
        }
        let entries = states.iter().map(|&(_, count)| count as usize).sum();
        self.set_entries(map, entries);
    }

    /// So many devices of a role have the programs.
    pub fn set_devices(&self, role: &'static str, count: usize) {
        self.devices.get_or_create(&[("role", role)]).set(gauge(count));
    }

    /// The programs of a `device`, the hooks at a `socket` or an `entry` of a map were put back.
    pub fn repaired(&self, what: &'static str, count: usize) {
        self.repairs.get_or_create(&[("what", what)]).inc_by(count as u64);
    }

    /// An Event has been `sent`, has `failed`, or was `dropped`.
    pub fn event(&self, result: &'static str) {
        self.events.get_or_create(&[("result", result)]).inc();
    }
}

/// A count as gauges have it.
pub fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn code_name(code: u16) -> &'static str {
    if code == 200 { "200" } else { "503" }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
