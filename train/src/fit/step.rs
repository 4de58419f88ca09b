//! One step: each thread computes forward and backward passes of its share of a batch; the contrastive
//! loss sees the whole batch.

use anyhow::{Result, anyhow};

use super::decoder::Decoder;
use super::loss::{self, EmbeddedPassage, EmbeddedQuery, LossPositions, LossRule, Queue, Score};
use super::pack::Pack;
use super::parameters::Gradients;
use super::product::Element;

/// The results of a step besides the gradients.
pub struct StepOutcome {
    /// The losses
    pub score: Score,
    /// Tokens that were forwarded
    pub tokens: usize,
    /// The step's passages, for the queue
    pub passages: Vec<EmbeddedPassage>,
}

/// Distributes packs to threads so that all have about equally many tokens: packs are assigned from the
/// longest to the shortest, each to the thread with the fewest tokens.
pub fn shares(mut packs: Vec<Pack>, threads: usize) -> Vec<Vec<Pack>> {
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.tokens()));
    let mut shares = vec![Vec::new(); threads.max(1)];
    let mut tokens = vec![0; threads.max(1)];
    for pack in packs {
        let least = (0..tokens.len()).min_by_key(|at| tokens[*at]).unwrap_or(0);
        tokens[least] += pack.tokens();
        shares[least].push(pack);
    }
    shares
}

/// Computes forward and backward passes of `shares`, one for each thread, and adds the gradients to
/// `gradients`, which has one entry for each thread.
///
/// # Errors
/// A thread panicked.
pub fn step<E: Element>(
    decoder: &Decoder<E>,
    shares: &[Vec<Pack>],
    queue: &Queue,
    rule: &LossRule,
    gradients: &mut [Gradients],
) -> Result<StepOutcome> {
    let places: Vec<LossPositions> = shares
        .iter()
        .map(|packs| LossPositions::new(packs))
        .collect();
    let targets: usize = places.iter().map(|places| places.predict.len()).sum();
    let language_weight = rule.language / targets.max(1) as f32;
    let hidden = decoder.config().hidden_size;

    let forward = |(packs, places, gradients): (&Vec<Pack>, &LossPositions, &mut Gradients)| {
        let tape = decoder.forward(packs);
        let tokens: usize = packs.iter().map(Pack::tokens).sum();
        let mut dstates = vec![0.0; tokens * hidden];
        let score = loss::language(
            decoder,
            &tape,
            &places.predict,
            language_weight,
            &mut dstates,
            gradients,
        );
        let queries = decoder.finish(&tape, &places.queries);
        let passages = decoder.finish(&tape, &places.passages);
        (tape, dstates, score, queries, passages)
    };
    let jobs = shares.iter().zip(&places).zip(gradients.iter_mut());
    let jobs = jobs.map(|((packs, places), gradients)| (packs, places, gradients));
    let halves = on_threads(jobs, forward)?;

    let passage_states = halves.iter().flat_map(|half| half.4.chunks_exact(hidden));
    let packs = || shares.iter().flatten();
    let keys = packs().flat_map(|pack| pack.passages.iter().map(|passage| passage.key));
    let passages: Vec<(u32, &[f32])> = keys.zip(passage_states).collect();
    let query_states = halves.iter().flat_map(|half| half.3.chunks_exact(hidden));
    let queries = packs().flat_map(|pack| &pack.queries).zip(query_states);
    let asked: Vec<EmbeddedQuery<'_>> = queries
        .map(|(query, state)| EmbeddedQuery {
            state,
            positives: &query.positives,
            negatives: &query.negatives,
        })
        .collect();
    let retrieval_weight = rule.retrieval / asked.len().max(1) as f32;
    let contrasted = loss::contrastive(&asked, &passages, queue, rule, retrieval_weight);
    let embedded = passages.iter();
    let embedded = embedded.map(|(key, state)| (*key, loss::unit(state).0));
    let mut outcome = StepOutcome {
        score: contrasted.score,
        tokens: packs().map(Pack::tokens).sum(),
        passages: embedded.collect(),
    };

    let mut dqueries = contrasted.queries.into_iter();
    let mut dpassages = contrasted.passages.into_iter();
    let mut jobs = Vec::with_capacity(shares.len());
    for (((tape, dstates, score, ..), (packs, places)), gradients) in (halves.into_iter())
        .zip(shares.iter().zip(&places))
        .zip(gradients.iter_mut())
    {
        outcome.score.add(&score);
        let dqueries: Vec<f32> = dqueries
            .by_ref()
            .take(places.queries.len())
            .flatten()
            .collect();
        let dpassages = dpassages.by_ref().take(places.passages.len()).flatten();
        let d = (dqueries, dpassages.collect::<Vec<f32>>());
        jobs.push((packs, places, tape, dstates, d, gradients));
    }
    on_threads(jobs, |(packs, places, tape, mut dstates, d, gradients)| {
        if rule.retrieval != 0.0 {
            decoder.finish_backward(&tape, &places.queries, &d.0, &mut dstates, gradients);
            decoder.finish_backward(&tape, &places.passages, &d.1, &mut dstates, gradients);
        }
        decoder.backward(packs, tape, dstates, gradients);
    })?;
    Ok(outcome)
}

/// Adds all threads' gradients to the first and returns it.
///
/// # Errors
/// `gradients` is empty.
pub fn sum(gradients: &mut [Gradients]) -> Result<&mut Gradients> {
    let (first, others) = gradients
        .split_first_mut()
        .ok_or_else(|| anyhow!("there are no gradients"))?;
    others.iter().for_each(|other| first.add(other));
    Ok(first)
}

/// Runs each job on a thread of its own and returns their results in order.
pub(super) fn on_threads<J: Send, R: Send>(
    jobs: impl IntoIterator<Item = J>,
    run: impl Fn(J) -> R + Sync,
) -> Result<Vec<R>> {
    let run = &run;
    std::thread::scope(|scope| {
        let handles: Vec<_> = jobs
            .into_iter()
            .map(|job| scope.spawn(move || run(job)))
            .collect();
        let joined = handles.into_iter().map(|handle| {
            let panicked = |_| anyhow!("a training thread panicked");
            handle.join().map_err(panicked)
        });
        joined.collect()
    })
}
