//! What all figures are compared with: one hot look-up in an LRU hash map.
//!
//! It takes some ten nanoseconds, so an error of one or two would show in every ratio. It is measured again beside each
//! case, and the run's baseline is the median of what these measurements say.

use super::SUITE;
use crate::report::{Figure, rounded};
use crate::samples::Samples;

/// Its name among the cases.
pub const BASELINE: &str = "lru-hot";

/// The measurements of a run.
#[derive(Debug, Default)]
pub struct Baseline {
    best: Samples,
    median: Samples,
}

impl Baseline {
    /// Adds what was measured beside one case, and what of it is not the look-up.
    pub fn push(&mut self, baseline: &Samples, nothing: &Samples) {
        self.best.push(baseline.best() - nothing.best());
        self.median.push(baseline.median() - nothing.median());
    }

    /// The baseline's own figure.
    pub fn figure(&self) -> Figure {
        Figure {
            suite: SUITE,
            case: BASELINE,
            subject: "floor",
            family: None,
            protocol: None,
            value: rounded(self.best.median(), 1),
            unit: "ns",
            median: Some(rounded(self.median.median(), 1)),
            baseline: None,
            ratio: None,
        }
    }

    /// Compares a time with the baseline.
    pub fn compare(&self, figure: &mut Figure) {
        if figure.unit == "ns" {
            figure.baseline = Some(BASELINE);
            figure.ratio = Some(rounded(figure.value / self.best.median(), 2));
        }
    }
}
