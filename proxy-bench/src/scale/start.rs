//! Starts: with nothing in the kernel, and with everything there.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use proxy_testkit::shell;

use super::Bench;
use crate::ground::agent_metrics::Metrics;
use crate::ground::proxy::{LIMIT, Proxy};
use crate::ground::until_answered;

/// What is counted in `proxy-agent`'s metrics once it has compared the maps with the objects.
const FULL_SYNCS: &str = "kubeproxy_sync_full_proxy_rules_duration_seconds_count";
/// Far more than a restart takes.
const PATIENCE: Duration = Duration::from_secs(300);

impl Bench {
    /// Starts the proxy and waits until the last Service answers. `None` if that takes too long.
    pub(super) fn start_cold(&mut self) -> Result<Option<Proxy>> {
        let proxy = Proxy::start(&self.ground, self.subject, &self.effort.sizes())?.context("nothing to start")?;
        let from = self.ground.node(self.subject)?.a.clone();
        let Some(took) = until_answered(&from, self.probe(), None, LIMIT)? else {
            proxy.pid()?;
            self.figure("cold-start", LIMIT.as_secs_f64(), "s, not served within");
            return Ok(None);
        };
        let at_once = self.usage(&proxy)?;
        self.figure("cold-start", took.as_secs_f64(), "s");
        self.figure("cold-start-cpu", at_once.cpu, "s of CPU");
        self.settle(&proxy)?;
        let settled = self.usage(&proxy)?;
        self.figure("resident", settled.resident, "MiB");
        self.figure("resident-peak", settled.peak, "MiB");
        if let Proxy::Ours(agent) = &proxy {
            self.figure("kernel-maps", map_memory(agent.pins())?, "MiB");
        }
        Ok(Some(proxy))
    }

    /// Waits until the proxy has little left to do.
    pub(super) fn settle(&self, proxy: &Proxy) -> Result<()> {
        let began = Instant::now();
        let mut before = self.usage(proxy)?.cpu;
        while began.elapsed() < LIMIT {
            thread::sleep(Duration::from_secs(2));
            let now = self.usage(proxy)?.cpu;
            if now - before < 0.05 {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Restarts it with all in the kernel: once with a change made meanwhile, once, for us, with none.
    pub(super) fn restart(&mut self, proxy: &mut Proxy) -> Result<()> {
        proxy.stop()?;
        self.flip()?;
        let from = self.ground.node(self.subject)?.a.clone();
        let began = Instant::now();
        proxy.start_again()?;
        let served = until_answered(&from, self.probe(), Some(self.endpoint()), PATIENCE)?;
        let took = served.map(|_| began.elapsed());
        match took {
            Some(took) => self.figure("restart", took.as_secs_f64(), "s"),
            None => self.figure("restart", PATIENCE.as_secs_f64(), "s, not served within"),
        }
        let used = self.usage(proxy)?;
        self.figure("restart-cpu", used.cpu, "s of CPU");
        if let Proxy::Ours(_) = proxy {
            self.settle(proxy)?;
            proxy.stop()?;
            let began = Instant::now();
            proxy.start_again()?;
            let node = self.ground.node(self.subject)?.host.clone();
            let metrics = loop {
                match Metrics::read(&node) {
                    Ok(metrics) if metrics.sum(FULL_SYNCS) > 0.0 => break metrics,
                    other if began.elapsed() > PATIENCE => break other.context("the agent does not come up again")?,
                    _ => thread::sleep(Duration::from_millis(5)),
                }
            };
            self.figure("restart-unchanged", began.elapsed().as_secs_f64(), "s");
            self.figure("restart-unchanged-writes", metrics.sum("pointsman_map_writes_total"), "map entries");
        }
        Ok(())
    }
}

/// What the maps pinned below a folder take of the kernel's memory, MiB.
fn map_memory(pins: &std::path::Path) -> Result<f64> {
    let mut bytes = 0.0;
    let mut folders = vec![pins.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // Programs and links are pinned there, too.
            let shown = shell::run(Command::new("bpftool").args(["-j", "map", "show", "pinned"]).arg(&path));
            let map: serde_json::Value =
                shown.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            bytes += map["bytes_memlock"].as_f64().unwrap_or_default();
        }
    }
    Ok(bytes / 1024.0 / 1024.0)
}
