//! When conversations begin.

use std::time::Duration;

use rand::Rng;
use rand_distr::{Distribution, Exp};

/// When conversations begin, at a rate in conversations a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Independently of each other, as those of many people do.
    Poisson(f64),
    /// At equal distances.
    Constant(f64),
}

impl Arrivals {
    /// The times before `duration`, ascending.
    pub fn times(self, duration: Duration, rng: &mut impl Rng) -> Vec<Duration> {
        let end = duration.as_secs_f64();
        let times: Box<dyn Iterator<Item = f64>> = match self {
            Self::Constant(rate) => Box::new((0u32..).map(move |number| f64::from(number) / rate)),
            Self::Poisson(rate) => match Exp::new(rate) {
                Ok(gaps) => Box::new(gaps.sample_iter(rng).scan(0.0, |at, gap| {
                    *at += gap;
                    Some(*at)
                })),
                // Only a rate that is not positive has no distribution, and it lets nothing arrive.
                Err(_) => Box::new(std::iter::empty()),
            },
        };
        let times = times.take_while(|at| *at < end);
        times.map(Duration::from_secs_f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn times(arrivals: Arrivals, seconds: u64) -> Vec<f64> {
        let mut rng = StdRng::seed_from_u64(1);
        let times = arrivals.times(Duration::from_secs(seconds), &mut rng);
        times.iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn constant_arrivals_are_equally_far_apart() {
        assert_eq!(times(Arrivals::Constant(2.0), 2), [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(times(Arrivals::Constant(10.0), 1).len(), 10);
    }

    #[test]
    fn gaps_between_poisson_arrivals_are_exponential() {
        let times = times(Arrivals::Poisson(50.0), 400);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.02).abs() < 0.0005, "{mean}");
        // An exponential distribution exceeds its mean with probability 1/e, and twice the mean with 1/e².
        for (times_mean, wanted) in [(1.0, 0.3679), (2.0, 0.1353)] {
            let longer = gaps.iter().filter(|&&gap| gap > times_mean * mean).count();
            let share = longer as f64 / gaps.len() as f64;
            assert!((share - wanted).abs() < 0.01, "{share}");
        }
    }
}
