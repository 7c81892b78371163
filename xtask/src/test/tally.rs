//! How many tests did what, and the table at the end.

use std::fmt;
use std::time::Duration;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Tally {
    /// A check, which is one test.
    pub fn of_check(is_success: bool) -> Self {
        Self { passed: u32::from(is_success), failed: u32::from(!is_success), skipped: 0 }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }

    /// With a failure more, for what went wrong without a test to blame.
    pub fn and_a_failure(self) -> Self {
        self.plus(Self::of_check(false))
    }

    /// In words, as in the last line of all.
    pub fn words(self) -> String {
        let Self { passed, failed, skipped } = self;
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Whether any test came to an end.
    pub fn has_run(self) -> bool {
        self.passed + self.failed > 0
    }
}

/// The suites that were run.
#[derive(Default)]
pub struct Summary {
    suites: Vec<(&'static str, Tally, Duration)>,
}

impl Summary {
    pub fn add(&mut self, suite: &'static str, tally: Tally, took: Duration) {
        self.suites.push((suite, tally, took));
    }

    pub fn is_success(&self) -> bool {
        let Tally { passed, failed, .. } = self.total();
        passed > 0 && failed == 0
    }

    fn total(&self) -> Tally {
        self.suites.iter().fold(Tally::default(), |total, (_, tally, _)| total.plus(*tally))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "suite     passed  failed  skipped      time")?;
        for (suite, Tally { passed, failed, skipped }, took) in &self.suites {
            let seconds = took.as_secs_f64();
            writeln!(f, "{suite:<9} {passed:>6}  {failed:>6}  {skipped:>7}  {seconds:>6.1} s")?;
        }
        write!(f, "\n{}", self.total().words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_plain() {
        let mut summary = Summary::default();
        summary.add("format", Tally::of_check(true), Duration::from_millis(640));
        summary.add("unit", Tally { passed: 120, failed: 0, skipped: 2 }, Duration::from_secs(9));
        let text = summary.to_string();
        assert!(text.contains("\nunit         120       0        2     9.0 s\n"), "{text}");
        assert_eq!(text.lines().last(), Some("121 passed, 0 failed, 2 skipped"));
        assert!(summary.is_success());
        summary.add("lab", Tally::default().and_a_failure(), Duration::ZERO);
        assert!(!summary.is_success());
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!Summary::default().is_success());
    }
}
