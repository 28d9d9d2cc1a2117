//! Medians and percentiles.

use std::time::Duration;

/// Measurements, sorted.
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The times in milliseconds.
    pub(crate) fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        let times = times.into_iter();
        Self::new(times.map(|time| time.as_secs_f64() * 1e3).collect())
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The percentile of `share`, from 0 to 1. NaN without measurements.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        // The share is at most 1, so the index is one of the vector's.
        let index = (last as f64 * share).round() as usize;
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_extremes_are_found() {
        let samples = Samples::new(vec![5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!(samples.median(), 3.0);
        assert_eq!((samples.at(0.0), samples.at(1.0)), (1.0, 5.0));
        assert!(Samples::new(Vec::new()).median().is_nan());
    }
}
