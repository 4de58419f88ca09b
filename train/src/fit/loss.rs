//! The losses of a step: cross-entropy where the model writes, and a contrastive loss where it retrieves.
//!
//! The four known kinds of training are settings of the two weights: generation only (GIT: `retrieval` 0),
//! retrieval only (RIT: `language` 0), both in one pass (OneGen), and both in separate passes (GRIT), which
//! depends on how packs are made ([`Passes`](super::data::config::Passes)).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Tape, starts};
use super::elementwise::{dot, exp_of_differences};
use super::pack::{Pack, TokenPosition};
use super::parameters::Gradients;
use super::product::Element;

/// How many targets have their logits in memory at the same time.
const TARGETS: usize = 64;

/// Which contrastive loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contrast {
    /// InfoNCE (van den Oord et al. 2018) over cosines: every other passage of the step and of the queue
    /// is a negative
    #[default]
    InfoNce,
    /// BPR (Rendle et al. 2009), `-log σ(s⁺ - s⁻)` over each query's own negatives, as OneGen was published
    Bpr,
}

/// The weights and parameters of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossRule {
    /// λ_g, the weight of the cross-entropy
    pub language: f32,
    /// λ_r, the weight of the contrastive loss
    pub retrieval: f32,
    /// Which contrastive loss
    pub contrast: Contrast,
    /// Divides the cosines
    pub temperature: f32,
}

/// The losses and counts of a part of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Sum of the cross-entropies
    pub language: f64,
    /// Targets
    pub targets: usize,
    /// Targets that were the likeliest token
    pub right: usize,
    /// Sum of the contrastive losses
    pub retrieval: f64,
    /// Queries that had something to find
    pub queries: usize,
    /// Queries whose nearest passage was right
    pub found: usize,
}

impl Score {
    /// Adds another part.
    pub fn add(&mut self, other: &Self) {
        self.language += other.language;
        self.targets += other.targets;
        self.right += other.right;
        self.retrieval += other.retrieval;
        self.queries += other.queries;
        self.found += other.found;
    }
}

/// The positions that a loss uses, as tokens of the batch.
#[derive(Debug, Default)]
pub(super) struct LossPositions {
    /// The positions whose next token is trained, and that token
    pub(super) predict: Vec<(usize, u32)>,
    pub(super) queries: Vec<usize>,
    pub(super) passages: Vec<usize>,
}

impl LossPositions {
    pub(super) fn new(packs: &[Pack]) -> Self {
        let mut places = Self::default();
        for (pack, start) in packs.iter().zip(starts(packs)) {
            let ranges = pack.ranges();
            let token = |at: &TokenPosition| start + ranges[at.segment].start + at.offset;
            let predict = pack.predict.iter();
            places
                .predict
                .extend(predict.map(|target| (token(&target.at), target.id)));
            let queries = pack.queries.iter();
            places.queries.extend(queries.map(|query| token(&query.at)));
            let passages = pack.passages.iter();
            places
                .passages
                .extend(passages.map(|passage| token(&passage.at)));
        }
        places
    }
}

/// The cross-entropy of a part's targets, multiplied by `weight`. Adds the gradients of the states
/// before the final norm to `dstates`, and others to `gradients`.
pub(super) fn language<E: Element>(
    decoder: &Decoder<E>,
    tape: &Tape<E>,
    predict: &[(usize, u32)],
    weight: f32,
    dstates: &mut [f32],
    gradients: &mut Gradients,
) -> Score {
    let vocab = decoder.config().vocab_size;
    let mut score = Score {
        targets: predict.len(),
        ..Score::default()
    };
    for predict in predict.chunks(TARGETS) {
        let tokens: Vec<_> = predict.iter().map(|(token, _)| *token).collect();
        let finished = decoder.finish(tape, &tokens);
        let mut logits = decoder.logits(&finished);
        for ((_, target), row) in predict.iter().zip(logits.chunks_exact_mut(vocab)) {
            let target = *target as usize;
            let likeliest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            score.right += usize::from(row[target] >= likeliest);
            let sum = exp_of_differences(row);
            score.language -= f64::from((row[target] / sum).max(f32::MIN_POSITIVE).ln());
            row.iter_mut().for_each(|x| *x *= weight / sum);
            row[target] -= weight;
        }
        if weight != 0.0 {
            let dfinished = decoder.logits_backward(&finished, &logits, gradients);
            decoder.finish_backward(tape, &tokens, &dfinished, dstates, gradients);
        }
    }
    score
}

/// An embedded passage: its key, and its state scaled to length 1.
pub type EmbeddedPassage = (u32, Vec<f32>);

/// The passages that earlier steps embedded. They are further negatives at no cost, as long as the weights
/// change slowly (Wang et al. 2020).
#[derive(Clone, Debug, Default)]
pub struct Queue {
    passages: VecDeque<EmbeddedPassage>,
}

impl Queue {
    /// Adds a step's passages and keeps the last `most`.
    pub fn push(&mut self, passages: impl IntoIterator<Item = EmbeddedPassage>, most: usize) {
        for (key, state) in passages {
            // Each passage is kept only once, with its newest embedding.
            self.passages.retain(|(known, _)| *known != key);
            self.passages.push_back((key, state));
        }
        self.passages
            .drain(..self.passages.len().saturating_sub(most));
    }

    /// The passages, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &EmbeddedPassage> {
        self.passages.iter()
    }
}

/// An embedded query.
pub(super) struct EmbeddedQuery<'a> {
    /// Its state after the final norm
    pub(super) state: &'a [f32],
    pub(super) positives: &'a [u32],
    pub(super) negatives: &'a [u32],
}

/// The gradients of the contrastive loss.
pub(super) struct ContrastiveGradients {
    pub(super) score: Score,
    /// The gradient of each query's state
    pub(super) queries: Vec<Vec<f32>>,
    /// The gradient of each passage's state, those of the queue left out
    pub(super) passages: Vec<Vec<f32>>,
}

/// The contrastive loss over all queries of a step, multiplied by `weight`. `passages` are keys and
/// states after the final norm.
pub(super) fn contrastive(
    queries: &[EmbeddedQuery<'_>],
    passages: &[(u32, &[f32])],
    queue: &Queue,
    rule: &LossRule,
    weight: f32,
) -> ContrastiveGradients {
    let units: Vec<(Vec<f32>, f32)> = passages.iter().map(|(_, state)| unit(state)).collect();
    let in_step = |key: u32| passages.iter().any(|(known, _)| *known == key);
    let mut all: Vec<(u32, &[f32])> = (passages.iter().zip(&units))
        .map(|((key, _), (unit, _))| (*key, unit.as_slice()))
        .collect();
    // Passages of this step are left out of the queue, because their new embeddings are used.
    let queued = queue.iter().filter(|(key, _)| !in_step(*key));
    all.extend(queued.map(|(key, unit)| (*key, unit.as_slice())));

    let mut score = Score::default();
    let width = passages.first().map_or(0, |(_, state)| state.len());
    let mut dunits = vec![vec![0.0; width]; passages.len()];
    let mut dqueries = Vec::with_capacity(queries.len());
    for query in queries {
        let (unit, length) = unit(query.state);
        let mut dunit = vec![0.0; unit.len()];
        let right = query.positives.first();
        let right = right.and_then(|key| all.iter().position(|(known, _)| known == key));
        if let Some(right) = right {
            score.queries += 1;
            let scores: Vec<f32> = all.iter().map(|(_, passage)| dot(&unit, passage)).collect();
            let counts = |at: usize| at == right || !query.positives.contains(&all[at].0);
            let best = (0..all.len())
                .filter(|at| counts(*at))
                .max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            score.found += usize::from(best == Some(right));
            let (loss, dscores) = match rule.contrast {
                Contrast::InfoNce => info_nce(&scores, right, counts, rule.temperature),
                Contrast::Bpr => {
                    let own = |at: usize| query.negatives.contains(&all[at].0);
                    bpr(&scores, right, own)
                }
            };
            score.retrieval += f64::from(loss);
            for (at, d) in dscores.into_iter().enumerate() {
                let d = d * weight;
                if d == 0.0 {
                    continue;
                }
                add_scaled(&mut dunit, all[at].1, d);
                if let Some(dpassage) = dunits.get_mut(at) {
                    add_scaled(dpassage, &unit, d);
                }
            }
        }
        dqueries.push(unit_backward(&unit, length, &dunit));
    }
    let dpassages = units.iter().zip(&dunits);
    let dpassages = dpassages.map(|((unit, length), d)| unit_backward(unit, *length, d));
    ContrastiveGradients {
        score,
        queries: dqueries,
        passages: dpassages.collect(),
    }
}

/// The loss `-log softmax(scores / temperature)[right]` over the passages that count, and its
/// gradient.
fn info_nce(
    scores: &[f32],
    right: usize,
    counts: impl Fn(usize) -> bool,
    temperature: f32,
) -> (f32, Vec<f32>) {
    let mut shares: Vec<f32> = (scores.iter().enumerate())
        .map(|(at, score)| {
            if counts(at) {
                score / temperature
            } else {
                f32::NEG_INFINITY
            }
        })
        .collect();
    let sum = exp_of_differences(&mut shares);
    // Our `exp` has a positive lower bound, so the shares of passages that do not count are set to
    // zero.
    for (at, share) in shares.iter_mut().enumerate() {
        *share = if counts(at) { *share / sum } else { 0.0 };
    }
    let loss = -shares[right].max(f32::MIN_POSITIVE).ln();
    shares[right] -= 1.0;
    shares.iter_mut().for_each(|d| *d /= temperature);
    (loss, shares)
}

/// The mean of `-log σ(s⁺ - s⁻)` over a query's own negatives, and its gradient.
fn bpr(scores: &[f32], right: usize, own: impl Fn(usize) -> bool) -> (f32, Vec<f32>) {
    let negatives: Vec<usize> = (0..scores.len())
        .filter(|at| *at != right && own(*at))
        .collect();
    let mut d = vec![0.0; scores.len()];
    let mut loss = 0.0;
    for at in &negatives {
        let apart = scores[right] - scores[*at];
        let share = 1.0 / negatives.len() as f32;
        loss += share * (1.0 + (-apart).exp()).ln();
        let slope = share / (1.0 + apart.exp());
        d[right] -= slope;
        d[*at] += slope;
    }
    (loss, d)
}

/// A vector scaled to length 1, and its length. A zero vector stays zero.
pub(super) fn unit(state: &[f32]) -> (Vec<f32>, f32) {
    let length = dot(state, state).sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    (state.iter().map(|x| x * scale).collect(), length)
}

/// The gradient of a vector, given that of its unit vector.
fn unit_backward(unit: &[f32], length: f32, dunit: &[f32]) -> Vec<f32> {
    if length == 0.0 {
        return vec![0.0; unit.len()];
    }
    let along = dot(unit, dunit);
    let pairs = unit.iter().zip(dunit);
    pairs.map(|(unit, d)| (d - unit * along) / length).collect()
}

fn add_scaled(to: &mut [f32], what: &[f32], scale: f32) {
    to.iter_mut().zip(what).for_each(|(to, x)| *to += scale * x);
}
