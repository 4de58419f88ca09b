//! How the next token is chosen.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::error::SubmitError;
use crate::tokens::token_log::{SpanKind, TokenLog};

/// How many of the likeliest tokens may be reported for each visible token: OpenAI's limit.
const MAX_TOP_LOGPROBS: usize = 20;
/// How many ids may end a turn, and how many texts. Each is compared at every token, on the thread that all turns
/// share.
const MAX_STOPS: usize = 64;
/// How long a text that ends a turn may be, in bytes.
const MAX_STOP_BYTES: usize = 1024;

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
    /// Divides the positive logits, and multiplies the negative ones, of every token that the
    /// conversation holds, passages aside. Above 0, default 1.
    pub repetition_penalty: f32,
    /// Taken off the logits of every token that this turn has generated. In -2..=2, default 0.
    pub presence_penalty: f32,
    /// Taken off the logits once for each time that this turn has generated the token. In -2..=2,
    /// default 0.
    pub frequency_penalty: f32,
    /// The same seed, parameters and context give the same tokens. `None` draws one.
    pub seed: Option<u64>,
    /// How many tokens may be sampled, at least 1. `None` ends where the context ends.
    pub max_tokens: Option<usize>,
    /// How many tokens must be sampled before one may end the turn. Default 0.
    pub min_tokens: usize,
    /// Ids that end the turn as the model's own end-of-turn token does, at most 64.
    pub stop_token_ids: Vec<u32>,
    /// Texts that end the turn, at most 64 of at most 1,024 bytes. The first that appears is cut off, and what follows it.
    pub stop: Vec<String>,
    /// Added to the logits of these ids, each in -100..=100. A masked id stays masked.
    pub logit_bias: HashMap<u32, f32>,
    /// How many of the likeliest tokens are reported beside each visible token, with their log probabilities,
    /// in 0..=20. `None`, the default, reports none, not even for the visible tokens.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            max_tokens: None,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            stop: Vec::new(),
            logit_bias: HashMap::new(),
            logprobs: None,
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
        let above_zero = f32::MIN_POSITIVE;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            above_zero,
            f32::MAX,
            "above 0",
        )?;
        for (field, penalty) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            check(field, penalty, -2.0, 2.0, "between -2 and 2")?;
        }
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
        if self.max_tokens.is_some_and(|most| self.min_tokens > most) {
            return Err(SubmitError::OutOfRange {
                field: "min_tokens",
                value: self.min_tokens.to_string(),
                range: "at most max_tokens",
            });
        }
        if let Some(top) = self.logprobs.filter(|&top| top > MAX_TOP_LOGPROBS) {
            return Err(SubmitError::OutOfRange {
                field: "top_logprobs",
                value: top.to_string(),
                range: "between 0 and 20",
            });
        }
        for (field, count) in [
            ("stop_token_ids", self.stop_token_ids.len()),
            ("stop", self.stop.len()),
        ] {
            if count > MAX_STOPS {
                return Err(SubmitError::OutOfRange {
                    field,
                    value: format!("a list of {count}"),
                    range: "a list of at most 64",
                });
            }
        }
        if let Some(long) = self.stop.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
            return Err(SubmitError::OutOfRange {
                field: "stop",
                value: format!("a text of {} bytes", long.len()),
                range: "texts of at most 1024 bytes",
            });
        }
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
    /// What the conversation held before; empty where nothing is asked of it.
    before: HashSet<u32>,
    /// What this turn has generated, and how often.
    generated: HashMap<u32, u32>,
}

impl Sampler {
    /// A sampler for a turn whose prompt ends `log`.
    pub(crate) fn new(params: SamplingParams, log: &TokenLog) -> Self {
        let seed = params.seed.unwrap_or_else(rand::random);
        let of_log = log.ids().iter().zip(log.kinds());
        let before = of_log
            .filter(|(_, kind)| params.repetition_penalty != 1.0 && **kind != SpanKind::Passage)
            .map(|(id, _)| *id)
            .collect();
        Self {
            params,
            rng: StdRng::seed_from_u64(seed),
            before,
            generated: HashMap::new(),
        }
    }

    /// Remembers a token that was generated.
    pub(crate) fn generated(&mut self, id: u32) {
        *self.generated.entry(id).or_default() += 1;
    }

    pub(crate) fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The next token among the ids that `masked` does not hold back; None when no such id has a
    /// finite logit.
    pub(crate) fn sample(&mut self, logits: &[f32], masked: impl Fn(u32) -> bool) -> Option<u32> {
        let logits = self.adjusted(logits);
        let candidates = logits.iter().enumerate().filter_map(|(id, &logit)| {
            let id = id as u32;
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

    /// The logits after penalties and biases.
    fn adjusted<'a>(&self, logits: &'a [f32]) -> Cow<'a, [f32]> {
        let params = &self.params;
        let penalised = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0;
        if !penalised && params.logit_bias.is_empty() {
            return Cow::Borrowed(logits);
        }
        let mut logits = logits.to_vec();
        let mut change = |id: u32, change: &dyn Fn(f32) -> f32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = change(*logit);
            }
        };
        let repeated = |logit: f32| {
            if logit > 0.0 {
                logit / params.repetition_penalty
            } else {
                logit * params.repetition_penalty
            }
        };
        for (&id, &times) in &self.generated {
            let penalty = params.presence_penalty + params.frequency_penalty * times as f32;
            change(id, &|logit| repeated(logit) - penalty);
        }
        for &id in self
            .before
            .iter()
            .filter(|id| !self.generated.contains_key(id))
        {
            change(id, &repeated);
        }
        for (&id, bias) in &params.logit_bias {
            change(id, &|logit| logit + bias);
        }
        Cow::Owned(logits)
    }
}

/// The likelier first; of equally likely ones the lower id.
pub(crate) fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
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
        Sampler::new(params, &TokenLog::default())
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
    fn penalties_hold_back_what_was_there_and_what_was_generated() {
        let mut log = TokenLog::default();
        log.extend(&[0, 1], SpanKind::Prompt);
        log.extend(&[2], SpanKind::Passage);
        let sampler = |change: fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            let mut sampler = Sampler::new(params, &log);
            sampler.generated(3);
            sampler.generated(3);
            sampler.adjusted(&[2.0, -2.0, 2.0, 2.0]).into_owned()
        };
        assert_eq!(
            sampler(|p| p.repetition_penalty = 2.0),
            [1.0, -4.0, 2.0, 1.0]
        );
        assert_eq!(sampler(|p| p.presence_penalty = 0.5), [2.0, -2.0, 2.0, 1.5]);
        assert_eq!(
            sampler(|p| p.frequency_penalty = 0.5),
            [2.0, -2.0, 2.0, 1.0]
        );
        assert_eq!(sampler(|_| ()), [2.0, -2.0, 2.0, 2.0]);
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
