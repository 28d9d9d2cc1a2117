//! A line through noisy samples.

use crate::sample::Samples;

/// A value that changes with time at a constant rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// The value at time 0.
    pub(super) start: f64,
    /// How much the value grows in one unit of time.
    pub(super) slope: f64,
}

impl Line {
    /// The line through `points`, each a time and a value. `None` if no two of them differ in time.
    ///
    /// It is the estimator of Theil and Sen: the slope is the median of the slopes of all pairs of points, and the
    /// start is the median of what each point leaves for it. Up to 29 % of the points may be outliers (H. Theil, "A
    /// Rank-Invariant Method of Linear and Polynomial Regression Analysis", 1950; P. K. Sen, "Estimates of the
    /// Regression Coefficient Based on Kendall's Tau", Journal of the American Statistical Association 63, 1968).
    ///
    /// It holds 8 bytes for each pair, so the caller bounds the number of points.
    pub(super) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (index, earlier) in points.iter().enumerate() {
            for later in &points[index + 1..] {
                let time = later.0 - earlier.0;
                if time != 0.0 {
                    slopes.push((later.1 - earlier.1) / time);
                }
            }
        }
        if slopes.is_empty() {
            return None;
        }
        let slope = Samples::new(slopes).median();
        let starts = points.iter().map(|(time, value)| value - slope * time);
        let start = Samples::new(starts.collect()).median();
        Some(Self { start, slope })
    }

    /// The value at a time.
    pub(super) fn at(&self, time: f64) -> f64 {
        self.start + self.slope * time
    }
}

#[cfg(test)]
mod tests {
    use headroom_measure::Random;

    use super::*;

    /// The line through `value` at the times 0, 1, 2 and so on.
    fn fit(count: u32, value: impl FnMut(f64) -> f64) -> Line {
        let times = (0..count).map(f64::from);
        let points: Vec<_> = times.clone().zip(times.map(value)).collect();
        Line::through(&points).unwrap()
    }

    #[test]
    fn a_straight_line_is_found_exactly() {
        let line = fit(100, |time| 7.0 - 2.0 * time);
        assert_eq!((line.start, line.slope), (7.0, -2.0));
        assert_eq!(line.at(10.0), -13.0);
    }

    #[test]
    fn the_times_need_not_be_evenly_spaced_or_in_order() {
        let points = [(9.0, 28.0), (0.0, 1.0), (4.0, 13.0), (4.5, 14.5)];
        let line = Line::through(&points).unwrap();
        assert_eq!((line.start, line.slope), (1.0, 3.0));
    }

    #[test]
    fn outliers_change_nothing() {
        // Every fifth point.
        let line = fit(100, |time| match time % 5.0 == 4.0 {
            true => 1e9,
            false => 3.0 * time,
        });
        assert!((line.slope - 3.0).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn growth_is_found_in_noise_that_is_much_larger_than_one_step() {
        let mut random = Random::new(1);
        let line = fit(400, |time| 0.05 * time + 4.0 * random.fraction());
        assert!((line.slope - 0.05).abs() < 0.005, "{line:?}");
    }

    #[test]
    fn what_rises_and_falls_again_has_no_slope() {
        let line = fit(200, |time| time % 10.0);
        assert_eq!(line.slope, 0.0);
        let mut random = Random::new(2);
        let line = fit(400, |_| random.fraction());
        assert!(line.slope.abs() < 1e-3, "{line:?}");
    }

    #[test]
    fn a_step_near_the_beginning_has_no_slope() {
        let line = fit(100, |time| match time < 20.0 {
            true => 0.0,
            false => 50.0,
        });
        assert_eq!(line.slope, 0.0);
    }

    #[test]
    fn fewer_than_two_times_have_no_line() {
        assert_eq!(Line::through(&[]), None);
        assert_eq!(Line::through(&[(1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
