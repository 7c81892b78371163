//! When what is waiting to be brought into the kernel happened: for kube-proxy's network programming latency.
//!
//! As in kube-proxy's `pkg/proxy/endpointschangetracker.go`: times from before the agent's start say nothing about it,
//! and with a slice that is deleted goes all that was remembered of its Service.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::model::Family;
use crate::object::{ObjectName, Trigger};

/// No more are remembered: where applying fails for long, the first ones say enough.
const MOST: usize = 10_000;

/// The times, and what they are of.
#[derive(Debug)]
pub(super) struct Triggers {
    start: Timestamp,
    waiting: Vec<(ObjectName, Family, Timestamp)>,
}

impl Triggers {
    pub(super) fn new(start: Timestamp) -> Self {
        Self { start, waiting: Vec::new() }
    }

    /// A slice of this Service is another one.
    pub(super) fn changed(&mut self, service: ObjectName, trigger: Trigger) {
        let Some(time) = trigger.time else { return };
        if time > self.start && self.waiting.len() < MOST {
            let family = if trigger.is_v6 { Family::V6 } else { Family::V4 };
            self.waiting.push((service, family, time));
        }
    }

    /// A slice of this Service is gone.
    pub(super) fn deleted(&mut self, service: &ObjectName) {
        self.waiting.retain(|(name, ..)| name != service);
    }

    /// These families are up to date: how long what was waiting for them took.
    pub(super) fn programmed(&mut self, families: &[Family], now: Timestamp) -> Vec<(Family, Duration)> {
        let took = |time: Timestamp| Duration::try_from(now.duration_since(time).max(SignedDuration::ZERO));
        let done = self.waiting.extract_if(.., |(_, family, _)| families.contains(family));
        done.map(|(_, family, time)| (family, took(time).unwrap_or_default())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap_or_default()
    }

    fn notice(triggers: &mut Triggers, service: &str, time: Option<i64>, is_v6: bool) {
        triggers.changed(ObjectName::new("default", service), Trigger { time: time.map(at), is_v6 });
    }

    #[test]
    fn times_wait_for_their_family() {
        let mut triggers = Triggers::new(at(0));
        notice(&mut triggers, "web", Some(10), false);
        notice(&mut triggers, "web", Some(12), true);
        notice(&mut triggers, "web", None, true);
        notice(&mut triggers, "web", Some(-5), false);
        assert_eq!(triggers.programmed(&[Family::V4], at(13)), [(Family::V4, Duration::from_secs(3))]);
        assert_eq!(triggers.programmed(&[Family::V4], at(14)), []);
        let both = [Family::V4, Family::V6];
        assert_eq!(triggers.programmed(&both, at(14)), [(Family::V6, Duration::from_secs(2))]);
        // A clock that differs from the control plane's gives no negative times.
        notice(&mut triggers, "web", Some(20), false);
        assert_eq!(triggers.programmed(&both, at(19)), [(Family::V4, Duration::ZERO)]);
    }

    #[test]
    fn what_is_deleted_is_forgotten() {
        let mut triggers = Triggers::new(at(0));
        notice(&mut triggers, "web", Some(10), false);
        notice(&mut triggers, "db", Some(11), false);
        triggers.deleted(&ObjectName::new("default", "web"));
        assert_eq!(triggers.programmed(&[Family::V4], at(12)), [(Family::V4, Duration::from_secs(1))]);
    }

    /// `TestLastChangeTriggerTime`. `web@10` is a slice with that time, `web-` one that goes.
    #[test]
    fn the_cases_of_kube_proxy() {
        for (case, changes, expected) in [
            ("a slice is made", "web@10", &["web@10"][..]),
            ("made, then changed", "web@10 web@11", &["web@10", "web@11"]),
            ("two are made, one is changed", "web@10 db@11 web@12", &["web@10", "db@11", "web@12"]),
            ("without the annotation", "web@", &[]),
            ("made before the start", "web@-1", &[]),
            ("made, then deleted", "web@10 web-", &[]),
            ("made, deleted, made again", "web@10 web- web@12", &["web@12"]),
            ("deleted", "web-", &[]),
        ] {
            let mut triggers = Triggers::new(at(0));
            for change in changes.split_whitespace() {
                match change.split_once('@') {
                    Some((service, time)) => notice(&mut triggers, service, time.parse().ok(), false),
                    None => triggers.deleted(&ObjectName::new("default", change.trim_end_matches('-'))),
                }
            }
            let waiting = triggers
                .waiting
                .iter()
                .map(|(service, _, time)| format!("{}@{}", service.name, time.as_second() - at(0).as_second()));
            assert_eq!(waiting.collect::<Vec<_>>(), expected, "{case}");
            triggers.programmed(&[Family::V4], at(20));
            assert_eq!(triggers.waiting, [], "{case}");
        }
    }
}
