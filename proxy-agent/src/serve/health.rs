//! Whether the kernel keeps up with the news.
//!
//! The rule is kube-proxy's (`pkg/proxy/healthcheck/proxy_health.go`): a family is healthy unless a change has been
//! waiting for it longer than is allowed; time without changes is no trouble. Pure: the clock is the caller's.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::model::Family;

/// What is known of each family.
#[derive(Clone, Debug)]
pub struct Health {
    patience: Duration,
    v4: FamilyHealth,
    v6: FamilyHealth,
}

#[derive(Clone, Copy, Debug)]
struct FamilyHealth {
    updated: Timestamp,
    /// Since when the oldest change waits.
    waiting_since: Option<Instant>,
}

/// What `/healthz` and `/livez` say, with kube-proxy's names and in its order (`ProxyHealth`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When a family was last brought up to date; the present, where all is well.
    pub last_updated: String,
    /// The present.
    pub current_time: String,
    /// Whether the node is to get clients from outside; `/livez` does not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    /// Whether both families are healthy.
    pub healthy: bool,
    /// Each family.
    pub status: Status,
}

/// The families of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// IPv4.
    #[serde(rename = "IPv4")]
    pub v4: FamilyReport,
    /// IPv6.
    #[serde(rename = "IPv6")]
    pub v6: FamilyReport,
}

/// One family of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyReport {
    /// When it was last brought up to date.
    pub last_updated: String,
    /// No change has been waiting for too long.
    pub healthy: bool,
}

impl Health {
    /// Both families, up to date at the start. A change may wait for `patience`: twice kube-proxy's syncPeriod.
    pub fn new(patience: Duration, now: Timestamp) -> Self {
        let family = FamilyHealth { updated: now, waiting_since: None };
        Self { patience, v4: family, v6: family }
    }

    fn family(&mut self, family: Family) -> &mut FamilyHealth {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// A change for this family has come. It waits since the first one that is not in the kernel.
    pub fn queued(&mut self, family: Family, now: Instant) {
        self.family(family).waiting_since.get_or_insert(now);
    }

    /// All changes of this family are in the kernel.
    pub fn updated(&mut self, family: Family, now: Timestamp) {
        *self.family(family) = FamilyHealth { updated: now, waiting_since: None };
    }

    /// Whether both families are healthy.
    pub fn is_healthy(&self, now: Instant) -> bool {
        [&self.v4, &self.v6].into_iter().all(|family| family.is_healthy(self.patience, now))
    }

    /// What is to be said, with the word on the node where it is asked for.
    pub fn report(&self, now: Instant, wall: Timestamp, node_eligible: Option<bool>) -> Report {
        let family = |family: &FamilyHealth| FamilyReport {
            last_updated: family.updated.to_string(),
            healthy: family.is_healthy(self.patience, now),
        };
        let healthy = self.is_healthy(now);
        // kube-proxy once said here when its loop had last run, and still lets it look so while all is well.
        let all_is_well = healthy && node_eligible != Some(false);
        let last_updated = if all_is_well { wall } else { self.v4.updated.max(self.v6.updated) };
        Report {
            last_updated: last_updated.to_string(),
            current_time: wall.to_string(),
            node_eligible,
            healthy,
            status: Status { v4: family(&self.v4), v6: family(&self.v6) },
        }
    }
}

impl FamilyHealth {
    fn is_healthy(&self, patience: Duration, now: Instant) -> bool {
        self.waiting_since.is_none_or(|since| now.saturating_duration_since(since) < patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap_or_default()
    }

    #[test]
    fn a_family_is_unhealthy_while_a_change_waits_too_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(PATIENCE, wall(0));
        assert!(health.is_healthy(at(1_000)), "nothing waits");
        health.queued(Family::V6, at(1_000));
        assert!(health.is_healthy(at(1_059)));
        // A later change does not make the first one younger.
        health.queued(Family::V6, at(1_050));
        assert!(!health.is_healthy(at(1_060)));
        let report = health.report(at(1_060), wall(1_060), Some(true));
        assert_eq!((report.healthy, report.status.v4.healthy, report.status.v6.healthy), (false, true, false));
        // The other family's success is no help.
        health.updated(Family::V4, wall(1_061));
        assert!(!health.is_healthy(at(1_061)));
        assert_eq!(health.report(at(1_062), wall(1_062), None).last_updated, wall(1_061).to_string());
        health.updated(Family::V6, wall(1_063));
        assert!(health.is_healthy(at(10_000)));
    }

    #[test]
    fn the_report_looks_as_kube_proxys() {
        let now = Instant::now();
        let mut health = Health::new(PATIENCE, wall(0));
        health.updated(Family::V4, wall(7));
        let text = |eligible| serde_json::to_string(&health.report(now, wall(9), eligible)).unwrap_or_default();
        assert_eq!(
            text(Some(true)),
            r#"{"lastUpdated":"2023-11-14T22:13:29Z","currentTime":"2023-11-14T22:13:29Z","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:27Z","healthy":true},"IPv6":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":true}}}"#
        );
        // The node is about to go, though the proxy is well.
        assert_eq!(
            text(Some(false)),
            r#"{"lastUpdated":"2023-11-14T22:13:27Z","currentTime":"2023-11-14T22:13:29Z","nodeEligible":false,"healthy":true,"status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:27Z","healthy":true},"IPv6":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":true}}}"#
        );
        assert!(!text(None).contains("nodeEligible"));
    }
}
