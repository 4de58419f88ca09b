//! How likely the model found the tokens that were sampled, and the others.

use crate::decoding::sampling::likelier;
use crate::tokens::Tokens;

/// A sampled token that became text, and the likeliest tokens at its place.
///
/// Logprobs are the log-softmax of the model's own logits: before penalties, biases, temperature and
/// masks, so a token that could not be sampled may be among the likeliest.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token. Of one that a stop string cuts in two, its text and bytes before the cut.
    pub sampled: Logprob,
    /// The likeliest tokens, the likeliest first, as many as were asked for. The sampled one is
    /// among them only if it is one of them.
    pub top: Vec<Logprob>,
}

/// A token and its log probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// The token's id.
    pub id: u32,
    /// Its text, with replacement characters where it holds parts of one; a control token's
    /// spelling.
    pub text: String,
    /// The bytes that it adds to a text; a control token adds none.
    pub bytes: Option<Vec<u8>>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

impl TokenLogprob {
    /// What was sampled from `logits`, with the `top` likeliest tokens.
    pub(crate) fn new(logits: &[f32], sampled: u32, top: usize, tokens: &Tokens) -> Self {
        let log_sum = log_sum_exp(logits);
        let of = |(id, logit): (u32, f32)| Logprob::new(id, logit - log_sum, tokens);
        let logit = logits.get(sampled as usize).copied();
        Self {
            sampled: of((sampled, logit.unwrap_or(f32::NEG_INFINITY))),
            top: likeliest(logits, top).into_iter().map(of).collect(),
        }
    }
}

impl Logprob {
    fn new(id: u32, logprob: f32, tokens: &Tokens) -> Self {
        let bytes = tokens.bytes(id);
        Self {
            id,
            text: match bytes {
                Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                None => tokens.spelling(id).unwrap_or_default(),
            },
            bytes: bytes.map(<[u8]>::to_vec),
            logprob,
        }
    }

    /// Keeps the first `len` bytes.
    fn truncate(&mut self, len: usize) {
        if let Some(bytes) = &mut self.bytes {
            bytes.truncate(len);
            self.text = String::from_utf8_lossy(bytes).into_owned();
        }
    }
}

/// Takes the last `cut` bytes off a run of tokens, and the tokens that are left with none.
pub(crate) fn cut_end(tokens: &mut Vec<TokenLogprob>, mut cut: usize) {
    while cut > 0
        && let Some(last) = tokens.last_mut()
    {
        let len = last.sampled.bytes.as_ref().map_or(0, Vec::len);
        if len > cut {
            return last.sampled.truncate(len - cut);
        }
        cut -= len;
        tokens.pop();
    }
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    let highest = finite().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = finite().map(|l| f64::from(l - highest).exp()).sum();
    highest + sum.ln() as f32
}

fn likeliest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate().filter(|(_, l)| l.is_finite()) {
        let new = (id as u32, logit);
        let at = best.partition_point(|other| likelier(other, &new).is_lt());
        if at < count {
            best.insert(at, new);
            best.truncate(count);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_and_of_equal_ones_the_lower_id() {
        let logits = [1.0, 3.0, f32::NAN, 3.0, 2.0, f32::INFINITY];
        assert_eq!(likeliest(&logits, 3), [(1, 3.0), (3, 3.0), (4, 2.0)]);
        assert_eq!(likeliest(&logits, 0), []);
        assert_eq!(likeliest(&logits, 9).len(), 4);
    }

    #[test]
    fn probabilities_of_all_tokens_sum_to_one() {
        let logits = [100.0, 101.0, 99.5, f32::NEG_INFINITY];
        let log_sum = log_sum_exp(&logits);
        let sum: f32 = logits.iter().map(|logit| (logit - log_sum).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }

    #[test]
    fn a_cut_takes_bytes_off_the_end_and_tokens_without_any() {
        let token = |text: &str| TokenLogprob {
            sampled: Logprob {
                id: 0,
                text: text.to_owned(),
                bytes: Some(text.as_bytes().to_vec()),
                logprob: 0.0,
            },
            top: Vec::new(),
        };
        let mut tokens = vec![token("one"), token("two"), token("six")];
        cut_end(&mut tokens, 4);
        let left: Vec<_> = tokens.iter().map(|t| t.sampled.text.as_str()).collect();
        assert_eq!(left, ["one", "tw"]);
        cut_end(&mut tokens, 99);
        assert_eq!(tokens, []);
    }
}
