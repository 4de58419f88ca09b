//! How the next token is chosen.

use std::cmp::Ordering;
use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::error::SubmitError;

/// How the next token is chosen, and when a turn ends. OpenAI's names, and vLLM's for the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the likeliest token, ties going to the lowest id. In 0..=2, default 0.
    pub temperature: f32,
    /// Keep the likeliest tokens whose probabilities reach this sum. In 0..=1, default 1.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens. `None` keeps all.
    pub top_k: Option<usize>,
    /// Drop tokens less likely than this share of the likeliest one. In 0..=1, default 0.
    pub min_p: f32,
    /// The same seed, parameters and context give the same tokens. `None` draws one.
    pub seed: Option<u64>,
    /// How many tokens may be sampled, at least 1. `None` ends where the context ends.
    pub max_tokens: Option<usize>,
    /// Texts that end the turn. The first that appears is cut off, and what follows it.
    pub stop: Vec<String>,
    /// Added to the logits of these ids, each in -100..=100. A masked id stays masked.
    pub logit_bias: HashMap<u32, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            seed: None,
            max_tokens: None,
            stop: Vec::new(),
            logit_bias: HashMap::new(),
        }
    }
}

impl SamplingParams {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`SubmitError::OutOfRange`] names the first field that is outside.
    pub fn validate(&self) -> Result<(), SubmitError> {
        let check = |field, value: f32, low: f32, high: f32, range| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(SubmitError::OutOfRange {
                field,
                value: value.to_string(),
                range,
            })
        };
        check("temperature", self.temperature, 0.0, 2.0, "between 0 and 2")?;
        check("top_p", self.top_p, 0.0, 1.0, "between 0 and 1")?;
        check("min_p", self.min_p, 0.0, 1.0, "between 0 and 1")?;
        for &bias in self.logit_bias.values() {
            check("logit_bias", bias, -100.0, 100.0, "between -100 and 100")?;
        }
        let at_least_one = |field, value: Option<usize>| match value {
            Some(0) => Err(SubmitError::OutOfRange {
                field,
                value: "0".into(),
                range: "at least 1",
            }),
            _ => Ok(()),
        };
        at_least_one("top_k", self.top_k)?;
        at_least_one("max_tokens", self.max_tokens)?;
        if self.stop.iter().any(String::is_empty) {
            return Err(SubmitError::OutOfRange {
                field: "stop",
                value: "an empty text".into(),
                range: "texts of at least one character",
            });
        }
        Ok(())
    }
}

/// Chooses the tokens of one turn.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: StdRng,
}

impl Sampler {
    pub(crate) fn new(params: SamplingParams) -> Self {
        let seed = params.seed.unwrap_or_else(rand::random);
        Self {
            params,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The next token among the ids that `masked` does not hold back; None when no such id has a
    /// finite logit.
    pub(crate) fn sample(&mut self, logits: &[f32], masked: impl Fn(u32) -> bool) -> Option<u32> {
        let bias = &self.params.logit_bias;
        let candidates = logits.iter().enumerate().filter_map(|(id, &logit)| {
            let id = id as u32;
            let logit = logit + bias.get(&id).copied().unwrap_or(0.0);
            (!masked(id) && logit.is_finite()).then_some((id, logit))
        });
        if self.params.temperature == 0.0 {
            return candidates.min_by(likelier).map(|(id, _)| id);
        }
        let mut candidates: Vec<_> = candidates.collect();
        candidates.sort_unstable_by(likelier);
        candidates.truncate(self.params.top_k.unwrap_or(usize::MAX));
        let (_, highest) = *candidates.first()?;
        // Shares of the likeliest token's probability, which is what min_p is stated in.
        let mut shares: Vec<f32> = candidates
            .iter()
            .map(|(_, logit)| ((logit - highest) / self.params.temperature).exp())
            .take_while(|&share| share >= self.params.min_p)
            .collect();
        let total: f32 = shares.iter().sum();
        let mut reached = 0.0;
        let nucleus = shares.iter().take_while(|&&share| {
            let wanted = reached < self.params.top_p * total;
            reached += share;
            wanted
        });
        let kept = nucleus.count().max(1);
        shares.truncate(kept);
        let mut left = self.rng.random::<f32>() * shares.iter().sum::<f32>();
        let chosen = shares.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        // Rounding may leave a little over: the last one then.
        candidates
            .get(chosen.unwrap_or(kept - 1))
            .map(|(id, _)| *id)
    }
}

/// The likelier first; of equally likely ones the lower id.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplingParams)) -> Sampler {
        let mut params = SamplingParams {
            seed: Some(5),
            ..SamplingParams::default()
        };
        change(&mut params);
        Sampler::new(params)
    }

    fn draws(sampler: &mut Sampler, logits: &[f32], count: usize) -> Vec<u32> {
        (0..count)
            .filter_map(|_| sampler.sample(logits, |_| false))
            .collect()
    }

    #[test]
    fn equally_likely_tokens_give_the_lowest_id() {
        let drawn = sampler(|_| ()).sample(&[1.0, 3.0, 3.0, 3.0], |id| id == 1);
        assert_eq!(drawn, Some(2));
    }

    #[test]
    fn a_masked_token_stays_masked_whatever_its_bias() {
        let mut biased = sampler(|p| p.logit_bias = [(0, 100.0), (2, 1.5)].into());
        assert_eq!(biased.sample(&[1.0, 2.0, 1.0], |id| id == 0), Some(2));
    }

    #[test]
    fn logits_without_a_finite_number_give_no_token() {
        let logits = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(sampler(|_| ()).sample(&logits, |_| false), None);
        let mut warm = sampler(|p| p.temperature = 1.0);
        assert_eq!(warm.sample(&logits, |_| false), None);
        assert_eq!(warm.sample(&[1.0], |_| true), None);
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let mut warm = sampler(|p| p.temperature = 1.0);
        let drawn = draws(&mut warm, &logits, 8000);
        for (id, share) in [(0, 0.125), (1, 0.25), (2, 0.625)] {
            let count = drawn.iter().filter(|&&d| d == id).count() as f32;
            assert!((count / 8000.0 - share).abs() < 0.02, "{id}: {count}");
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_the_likeliest_only() {
        // Probabilities .5, .25, .125, .125.
        let logits = [4f32.ln(), 2f32.ln(), 0.0, 0.0];
        let kept = |change: fn(&mut SamplingParams)| {
            let mut warm = sampler(|p| {
                p.temperature = 1.0;
                change(p);
            });
            let mut drawn = draws(&mut warm, &logits, 500);
            drawn.sort_unstable();
            drawn.dedup();
            drawn
        };
        assert_eq!(kept(|_| ()), [0, 1, 2, 3]);
        assert_eq!(kept(|p| p.top_k = Some(3)), [0, 1, 2]);
        assert_eq!(kept(|p| p.top_p = 0.6), [0, 1]);
        assert_eq!(kept(|p| p.top_p = 0.0), [0]);
        assert_eq!(kept(|p| p.min_p = 0.4), [0, 1]);
    }
}
