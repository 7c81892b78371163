//! What the servers read and the owner of the state writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use prometheus_client::registry::Registry;

use super::health::{Health, Report};
use super::metrics::Metrics;
use crate::model::Family;

/// Shared by the owner and all servers. No lock is held for longer than it takes to read or write a few numbers.
#[derive(Debug)]
pub struct State {
    health: Mutex<Health>,
    node_eligible: AtomicBool,
    metrics: Metrics,
    registry: Registry,
    configz: serde_json::Value,
}

impl State {
    /// At the start. `patience`: how long a change may wait. `more` registers what others measure.
    pub fn new(patience: Duration, configz: serde_json::Value, more: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        more(&mut registry);
        let health = Mutex::new(Health::new(patience, Timestamp::now()));
        Self { health, node_eligible: AtomicBool::new(false), metrics, registry, configz }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Each change is one step, so a panic elsewhere leaves nothing half done.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change for these families is to be brought into the kernel.
    pub fn queued(&self, families: &[Family]) {
        for family in families {
            self.health().queued(*family, Instant::now());
            self.metrics.queued(*family);
        }
    }

    /// These families are up to date in the kernel.
    pub fn updated(&self, families: &[Family]) {
        for family in families {
            self.health().updated(*family, Timestamp::now());
            self.metrics.updated(*family);
        }
    }

    /// Whether the node is to get clients from outside.
    pub fn set_node_eligible(&self, is_eligible: bool) {
        self.node_eligible.store(is_eligible, Ordering::Relaxed);
    }

    /// Whether no change has been waiting for too long.
    pub fn is_healthy(&self) -> bool {
        self.health().is_healthy(Instant::now())
    }

    /// What `/healthz` says.
    pub(super) fn healthz(&self) -> Report {
        let eligible = self.node_eligible.load(Ordering::Relaxed);
        self.health().report(Instant::now(), Timestamp::now(), Some(eligible))
    }

    /// What `/livez` says.
    pub(super) fn livez(&self) -> Report {
        self.health().report(Instant::now(), Timestamp::now(), None)
    }

    /// What is measured.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn configz(&self) -> &serde_json::Value {
        &self.configz
    }
}
