//! One endpoint changed, until its traffic goes elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Bench, PROBE};
use crate::ground::agent_metrics::Metrics;
use crate::ground::ask_soon;
use crate::ground::objects::{endpoints_of, slice_name, slices};
use crate::ground::proxy::{LIMIT, Proxy};
use crate::samples::Samples;

/// From the moment a change is there to the next one, for us and for kube-proxy, which by default syncs once a second at
/// most: it has its second, so that only the sync itself is measured.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(1_300)];
/// `proxy-agent`'s histogram of the time from news of a change to its being in the kernel.
pub(super) const LAG: &str = "pointsman_sync_lag_seconds";

/// Who answered last, and since when.
type Seen = Mutex<Option<(String, Instant)>>;

impl Bench {
    /// Gives the Service the other endpoint.
    pub(super) fn flip(&mut self) -> Result<()> {
        self.is_at_b = !self.is_at_b;
        let backend = &self.ground.backend;
        let endpoints = endpoints_of(&[if self.is_at_b { &backend.b } else { &backend.a }]);
        let path = format!("{}/{}", slices(), slice_name(PROBE));
        self.ground.with_api(|api| api.merge(&path, &json!({"endpoints": endpoints})).map(drop))
    }

    /// Changes the endpoint again and again.
    pub(super) fn change_often(&mut self, proxy: &Proxy) -> Result<()> {
        let ours = matches!(proxy, Proxy::Ours(_));
        let (tries, pause) = if ours { (self.effort.tries[0], PAUSE[0]) } else { (self.effort.tries[1], PAUSE[1]) };
        let node = self.ground.node(self.subject)?;
        let before = if ours { Some(Metrics::read(&node.host)?) } else { None };
        let (seen, is_over): (Seen, _) = (Mutex::new(None), AtomicBool::new(false));
        let (probe, from) = (self.probe(), &node.a);
        let mut samples = Samples::default();
        let is_at_b = thread::scope(|scope| -> Result<bool> {
            scope.spawn(|| {
                from.inside(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        if let Ok(name) = ask_soon(probe) {
                            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                            if seen.as_ref().is_none_or(|(last, _)| *last != name) {
                                *seen = Some((name, Instant::now()));
                            }
                        }
                        thread::sleep(Duration::from_micros(300));
                    }
                    Ok(())
                })
            });
            let changed = self.ground.with_api(|api| {
                let mut is_at_b = self.is_at_b;
                let backend = &self.ground.backend;
                let path = format!("{}/{}", slices(), slice_name(PROBE));
                for _ in 0..tries {
                    is_at_b = !is_at_b;
                    let host = if is_at_b { &backend.b } else { &backend.a };
                    let fields = json!({"endpoints": endpoints_of(&[host])});
                    let began = Instant::now();
                    api.merge(&path, &fields)?;
                    let at = wait_for(&seen, &host.name)?;
                    samples.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
                    thread::sleep(pause);
                }
                Ok(is_at_b)
            });
            is_over.store(true, Ordering::Relaxed);
            changed
        })
        .context("changing an endpoint")?;
        self.is_at_b = is_at_b;
        self.figure_with("change-to-traffic-p50", samples.median(), "ms", Some(samples.median()));
        self.figure_with("change-to-traffic-p99", samples.worst(), "ms", Some(samples.median()));
        if let Some(before) = before {
            let now = Metrics::read(&self.ground.node(self.subject)?.host)?;
            for (case, part) in [("event-to-kernel-p50", 0.5), ("event-to-kernel-p99", 0.99)] {
                let lag = now.quantile_since(&before, LAG, part).context("the agent measured no change")?;
                self.figure(case, lag * 1e3, "ms");
            }
        }
        Ok(())
    }
}

/// Waits until this one answers, and tells since when it does.
fn wait_for(seen: &Seen, name: &str) -> Result<Instant> {
    let began = Instant::now();
    loop {
        let last = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some((last, at)) if last == name => return Ok(at),
            _ => ensure!(began.elapsed() < LIMIT, "{name} does not answer within {LIMIT:?}"),
        }
        thread::sleep(Duration::from_micros(500));
    }
}
