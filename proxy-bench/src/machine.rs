//! What a figure was measured on.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine and the moment.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many of its threads this machine has.
    pub cores: usize,
    /// Whether it is a virtual machine.
    pub is_virtual: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The day, in UTC.
    pub date: String,
    /// The load average of the last minute: what else was going on as the bench began.
    pub load: String,
}

impl Machine {
    /// Looks at this one.
    pub fn look() -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.split_once(':').map(|(_, value)| value.trim())
        };
        let load = std::fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
        let names = nix::sys::utsname::uname().context("asking for the kernel's release")?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        Ok(Self {
            cpu: field("model name").unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().context("counting the CPUs")?.get(),
            is_virtual: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: names.release().to_string_lossy().into_owned(),
            date: date(seconds / 86_400),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

/// A day, counted from 1970-01-01, in the Gregorian calendar.
fn date(day: u64) -> String {
    // Years that begin in March end with the odd month; 400 of them have 146,097 days.
    let day = day + 719_468;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + day / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_780), "2026-11-23");
        assert_eq!(date(20_819), "2027-01-01");
    }
}
