//! Many measurements of one thing, and what to make of them.

/// Measurements, all in one unit.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, measured: f64) {
        self.0.push(measured);
    }

    /// The measurement that the given part of all are not above; 0 if there is none.
    fn quantile(&self, part: (usize, usize)) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * part.0 / part.1).copied().unwrap_or(0.0)
    }

    /// The 1st percentile: what it costs when nothing else disturbs. Not the minimum, which one odd reading of the
    /// clock could set.
    pub fn best(&self) -> f64 {
        self.quantile((1, 100))
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile((1, 2))
    }

    /// The 99th percentile; of less than a hundred, the largest but one or the largest.
    pub fn worst(&self) -> f64 {
        self.quantile((99, 100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_first_percentile_and_not_the_minimum() {
        let mut samples = Samples::default();
        (0..=200).rev().for_each(|number| samples.push(f64::from(number)));
        assert_eq!((samples.best(), samples.median()), (2.0, 100.0));
    }

    #[test]
    fn few_measurements_will_do() {
        let mut samples = Samples::default();
        assert_eq!(samples.best(), 0.0);
        samples.push(7.0);
        assert_eq!((samples.best(), samples.median()), (7.0, 7.0));
    }
}
