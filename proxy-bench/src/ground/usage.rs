//! What a process uses.

use std::fs;

use anyhow::{Context as _, Result};

/// Memory and time of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory, MiB.
    pub resident: f64,
    /// The most that it ever was, MiB.
    pub peak: f64,
    /// CPU time so far, user's and the system's, seconds.
    pub cpu: f64,
}

impl Usage {
    /// Of the process with this id.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a status without memory")?;
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("memory that is no number")?;
            anyhow::Ok(kib / 1024.0)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process's times")?;
        // After the name, which may hold anything: utime and stime are the 12th and 13th field, in ticks of 10 ms.
        let (_, fields) = stat.rsplit_once(')').context("times without a name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        let cpu = ticks.sum::<Result<f64, _>>().context("times that are no numbers")? / 100.0;
        Ok(Self { resident: field("VmRSS:")?, peak: field("VmHWM:")?, cpu })
    }
}
