//! Means with confidence intervals.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How often the values are resampled.
const RESAMPLES: usize = 1000;

/// A mean, or another statistic of items, with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The statistic of all items.
    pub mean: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How many items there are.
    pub count: usize,
}

/// The mean of values with its interval, as [`resampled`] gives it; `None` without values.
pub fn bootstrap(values: &[f64], seed: u64) -> Option<Estimate> {
    resampled(values, seed, |values| {
        values.iter().copied().sum::<f64>() / values.len() as f64
    })
}

/// A statistic of items with its percentile bootstrap interval (Efron 1979): the 2.5th and 97.5th
/// percentile of the statistic over resamples of the same size, drawn with replacement. The same seed gives
/// the same interval. `None` without items. Items are treated as independent, which is not quite true for
/// questions about the same passage.
pub fn resampled<T: Copy>(
    items: &[T],
    seed: u64,
    statistic: impl Fn(&[T]) -> f64,
) -> Option<Estimate> {
    if items.is_empty() {
        return None;
    }
    let count = items.len();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut drawn = items.to_vec();
    let mut of_drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut draw = || items[rng.random_range(0..count)];
            drawn.iter_mut().for_each(|item| *item = draw());
            statistic(&drawn)
        })
        .collect();
    of_drawn.sort_by(f64::total_cmp);
    let percentile = |share: f64| of_drawn[(share * (RESAMPLES - 1) as f64).round() as usize];
    Some(Estimate {
        mean: statistic(items),
        low: percentile(0.025),
        high: percentile(0.975),
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_theory_says() {
        // 400 of 1,000: the normal approximation gives .4 ± 1.96 · sqrt(.4 · .6 / 1000) = .370 to .430.
        let values: Vec<f64> = (0..1000).map(|at| f64::from(u8::from(at < 400))).collect();
        let measured = bootstrap(&values, 1).expect("there are values");
        assert_eq!(measured.mean, 0.4);
        assert!((measured.low - 0.370).abs() < 0.006, "{measured:?}");
        assert!((measured.high - 0.430).abs() < 0.006, "{measured:?}");
        assert_eq!(bootstrap(&values, 1), Some(measured));
        assert_eq!(bootstrap(&[], 1), None);
    }
}
