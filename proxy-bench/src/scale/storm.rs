//! Many changes a second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Bench;
use super::change::LAG;
use crate::ground::agent_metrics::Metrics;
use crate::ground::objects::{ballast_endpoints, slice_name, slices};
use crate::ground::proxy::Proxy;
use crate::ground::until_answered;

/// A prime beside which no number of Services is likely to be a multiple: changes go through all of them, out of order.
const STRIDE: usize = 7_919;
/// Each thread does as many in a row, then looks at the clock.
const WORKERS: usize = 6;

impl Bench {
    /// Changes the endpoints of one Service after another, at a rate, as far as the API server keeps up.
    pub(super) fn storm(&mut self, proxy: &Proxy) -> Result<()> {
        let effort = self.effort;
        let before = self.usage(proxy)?;
        let node = self.ground.node(self.subject)?.clone_hosts();
        let lag_before = if let Proxy::Ours(_) = proxy { Some(Metrics::read(&node.0)?) } else { None };
        let (next, began) = (AtomicUsize::new(0), Instant::now());
        self.ground
            .for_each(0..WORKERS, |api, _| {
                while began.elapsed() < effort.storm {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = Duration::from_secs_f64(number as f64 / effort.rate);
                    thread::sleep(due.saturating_sub(began.elapsed()));
                    let service = (number * STRIDE) % effort.services;
                    let generation = 1 + number / effort.services % 14;
                    let fields = json!({"endpoints": ballast_endpoints(service, effort.endpoints, generation)});
                    api.merge(&format!("{}/{}", slices(), slice_name(&format!("ballast-{service:05}"))), &fields)?;
                }
                Ok(())
            })
            .context("changing many endpoints")?;
        let took = began.elapsed().as_secs_f64();
        let done = next.load(Ordering::Relaxed) as f64;
        let used = self.usage(proxy)?;
        self.figure("storm-rate", done / took, "changes/s");
        self.figure("storm-cpu", (used.cpu - before.cpu) / took, "CPUs");
        self.figure("storm-cpu-per-change", (used.cpu - before.cpu) / done * 1e3, "ms of CPU");
        // How far behind it is: a change made now, until it is served.
        self.flip()?;
        let flipped = Instant::now();
        let served = until_answered(&node.1, self.probe(), Some(self.endpoint()), Duration::from_secs(300))?;
        if served.is_some() {
            self.figure("storm-behind", flipped.elapsed().as_secs_f64(), "s");
        } else {
            self.figure("storm-behind", flipped.elapsed().as_secs_f64(), "s, not served within");
        }
        self.settle(proxy)?;
        self.figure("storm-resident", self.usage(proxy)?.resident, "MiB");
        if let Some(before) = lag_before {
            let now = Metrics::read(&node.0)?;
            for (case, part) in [("storm-event-to-kernel-p50", 0.5), ("storm-event-to-kernel-p99", 0.99)] {
                let lag = now.quantile_since(&before, LAG, part).context("the agent measured no change")?;
                self.figure(case, lag * 1e3, "ms");
            }
        }
        Ok(())
    }
}
