//! Many measurements of one thing, and what to make of them.

/// Measurements, all in one unit.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, measured: f64) {
        self.0.push(measured);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The 1st percentile: what it costs when nothing else disturbs. Not the minimum, which one odd reading of the
    /// clock could set.
    pub fn best(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len().saturating_sub(1) / 100).copied().unwrap_or(0.0)
    }

    /// The median.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    /// The 99th percentile, as far from the largest as [`best`](Self::best) is from the smallest.
    pub fn worst(&self) -> f64 {
        let sorted = self.sorted();
        sorted.iter().rev().nth(sorted.len().saturating_sub(1) / 100).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_first_percentile_and_not_the_minimum() {
        let mut samples = Samples::default();
        (0..=200).rev().for_each(|number| samples.push(f64::from(number)));
        assert_eq!((samples.best(), samples.median(), samples.worst()), (2.0, 100.0, 198.0));
    }

    #[test]
    fn few_measurements_will_do() {
        let mut samples = Samples::default();
        assert_eq!(samples.best(), 0.0);
        samples.push(7.0);
        assert_eq!((samples.best(), samples.median(), samples.worst()), (7.0, 7.0, 7.0));
        samples.push(9.0);
        samples.push(8.0);
        assert_eq!((samples.best(), samples.median(), samples.worst()), (7.0, 8.0, 9.0));
    }
}
