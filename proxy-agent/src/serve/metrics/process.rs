//! `process_*`, with the names that Prometheus' client libraries agree on, read from /proc.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of a second in /proc (USER_HZ, the same on every Linux).
const TICKS: f64 = 100.0;

/// This process.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
            }
            None => Ok(()),
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = kibibytes(&status, "VmRSS:");
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident)?;
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", kibibytes(&status, "VmSize:"))?;
        let open = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
        gauge("process_open_fds", "Number of open file descriptors.", open)?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_max_fds", "Maximum number of open file descriptors.", max_files(&limits))?;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let started = boot_time().zip(field(&stat, 22)).map(|(boot, ticks)| boot + ticks / TICKS);
        gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", started)?;
        if let Some((user, system)) = field(&stat, 14).zip(field(&stat, 15)) {
            let help = "Total user and system CPU time spent in seconds.";
            let counter = ConstCounter::new((user + system) / TICKS);
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// A line of /proc/self/status, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

/// A field of /proc/self/stat by its number in proc_pid_stat(5). The second one may have spaces and brackets in it.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn max_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2_097_152.0));
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 3 0 12345 1 2";
        assert_eq!((field(stat, 14), field(stat, 15), field(stat, 22)), (Some(150.0), Some(50.0), Some(12_345.0)));
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files\n";
        assert_eq!(max_files(limits), Some(1024.0));
        assert!(boot_time().is_some());
    }
}
