//! What the image is made of: version, commit, date.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::workspace;

/// The version of every crate of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The state of the source.
pub struct Source {
    /// The commit, with `-dirty` if files differ from it; `None` outside a clone.
    pub revision: Option<String>,
    /// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the commit's date, else now; as RFC 3339 has it.
    pub created: String,
}

impl Source {
    /// Looks at the clone.
    pub fn look() -> Result<Self> {
        let commit = git(&["rev-parse", "HEAD"]);
        let revision = commit.map(|commit| {
            let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
            if is_clean { commit } else { commit + "-dirty" }
        });
        let given = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
        let seconds = given.or_else(|| git(&["log", "-1", "--format=%ct"]));
        let date = seconds.map(|text| date(&text)).transpose()?.unwrap_or_else(SystemTime::now);
        Ok(Self { revision, created: humantime::format_rfc3339_seconds(date).to_string() })
    }

    /// For a line of output.
    pub fn words(&self) -> String {
        let revision = self.revision.as_deref().unwrap_or("of no commit");
        format!("version {VERSION}, {revision}, {}", self.created)
    }
}

/// The time so many seconds after 1970.
fn date(seconds: &str) -> Result<SystemTime> {
    let seconds: u32 =
        seconds.parse().with_context(|| format!("SOURCE_DATE_EPOCH={seconds} is no number of seconds"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into()))
}

/// What git says of the workspace; `None` where there is no git or no clone.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(workspace::root()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_number_of_seconds() {
        let text = |seconds| date(seconds).map(|date| humantime::format_rfc3339_seconds(date).to_string());
        assert_eq!(text("1700000000").expect("a number"), "2023-11-14T22:13:20Z");
        let error = text("yesterday").expect_err("no number").to_string();
        assert_eq!(error, "SOURCE_DATE_EPOCH=yesterday is no number of seconds");
    }
}
