//! One forward: turns a batch of sequences into rows and spans, and returns the states and logits
//! that were wanted.

use super::decoder::WantedRows;
use super::passage_kv::PassageBlock;
use super::span::{Landing, Span, SpanCache};
use super::{Model, SequenceInput, SequenceOutput};
use crate::counters::ForwardedTokens;
use crate::error::ForwardError;
use crate::tokens::passage_block::Run;

/// The layout of a batch: which rows belong to which sequence, and what its caches hold afterwards.
#[derive(Default)]
struct Layout {
    ids: Vec<u32>,
    spans: Vec<Span>,
    /// Caches so far: each sequence's own, with its passages behind it.
    caches: usize,
    wanted: WantedRows,
    /// The last row of each passage block that is completed.
    ends: Vec<u32>,
}

impl Model {
    /// Forwards new tokens of several sequences at once: the linear layers see all of them as one
    /// matrix, attention sees each sequence with its own KV-cache. Nothing is padded.
    ///
    /// With block attention a passage block among the ids, or a part of one, sees only itself. It is
    /// forwarded as a text of its own beside the others, and lands in the sequence's cache once it is
    /// complete. The tokens after it see it in the same forward.
    ///
    /// Returns one output for each input, in order. Every id is forwarded, written into its
    /// sequence's cache and counted, even if no state or logits of it are wanted.
    ///
    /// # Errors
    /// An input is empty, does not fit its positions or holds an unknown id, a passage block begins within
    /// another or ends without a beginning, or the tensor library failed. No cache has grown then.
    pub fn forward(
        &self,
        batch: &mut [SequenceInput<'_>],
    ) -> Result<Vec<SequenceOutput>, ForwardError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let runs = batch
            .iter()
            .map(|input| self.check(input))
            .collect::<Result<Vec<_>, _>>()?;
        let mut layout = Layout::default();
        let forwarded = self.lay_out(batch, &runs, &mut layout).and_then(|()| {
            // The passages' states come after those that were asked for.
            let asked = layout.wanted.hidden.len();
            layout.wanted.hidden.append(&mut layout.ends);
            let caches = batch.iter_mut().flat_map(|input| input.cache.stores());
            let Layout {
                ids, spans, wanted, ..
            } = &layout;
            let (mut hidden, logits) =
                self.decoder.forward(ids, spans, caches.collect(), wanted)?;
            let ends = hidden.split_off(asked);
            Ok((hidden, ends, logits))
        });
        let (hidden, ends, logits) = match forwarded {
            Ok(rows) => rows,
            Err(error) => {
                batch.iter_mut().for_each(|input| input.cache.forget_new());
                return Err(error);
            }
        };
        let (mut hidden, mut logits) = (hidden.into_iter(), logits.into_iter());
        let mut ends = ends.into_iter();
        let each = batch.iter_mut().zip(&runs).map(|(input, runs)| {
            // **Invariant:** a cache grows by exactly the positions that are counted here.
            let complete = input.cache.grow_by(runs);
            SequenceOutput {
                hidden: hidden.by_ref().take(input.hidden_at.len()).collect(),
                logits: logits.by_ref().take(input.logits_at.len()).collect(),
                passages: complete
                    .into_iter()
                    .zip(ends.by_ref())
                    .map(|(kv, state)| PassageBlock::new(kv, state))
                    .collect(),
                forwarded: ForwardedTokens::from_kinds(input.kinds),
            }
        });
        Ok(each.collect())
    }

    /// Assigns rows and spans to each run of each input, and makes room in the caches that they are
    /// written to.
    fn lay_out(
        &self,
        batch: &mut [SequenceInput<'_>],
        runs: &[Vec<Run>],
        layout: &mut Layout,
    ) -> Result<(), ForwardError> {
        for (input, runs) in batch.iter_mut().zip(runs) {
            let first = layout.ids.len();
            let row = |at: &usize| (first + at) as u32;
            layout.wanted.hidden.extend(input.hidden_at.iter().map(row));
            layout.wanted.logits.extend(input.logits_at.iter().map(row));
            layout.ids.extend_from_slice(input.ids);
            let own = layout.caches;
            // The position where the next run lands, its passage cache, and its first row.
            let (mut at, mut passage, mut start) = (input.cache.landed(), own, first);
            for run in runs {
                let span = match *run {
                    Run::Text(len) => {
                        let span = Span {
                            start,
                            len,
                            cache: own,
                            past: at,
                            of: SpanCache::Text,
                        };
                        at += len;
                        span
                    }
                    Run::Passage { len, complete } => {
                        let begun = passage == own && input.cache.open_len() > 0;
                        let past = if begun { input.cache.open_len() } else { 0 };
                        let new = (!begun).then(|| self.new_cache());
                        input.cache.open(new, past + len)?;
                        passage += 1;
                        let lands = complete.then_some(Landing { cache: own, at });
                        if complete {
                            at += past + len;
                            layout.ends.push((start + len - 1) as u32);
                        }
                        Span {
                            start,
                            len,
                            cache: passage,
                            past,
                            of: SpanCache::Passage { lands },
                        }
                    }
                };
                start += span.len;
                layout.spans.push(span);
            }
            input.cache.reserve(at)?;
            if let Some(Run::Passage {
                complete: false, ..
            }) = runs.last()
            {
                // The incomplete block has memory of its own, so unused memory of the cache is
                // given back to the budget.
                input.cache.give_back(at)?;
            }
            layout.caches += input.cache.stores().count();
        }
        Ok(())
    }

    /// Checks an input and returns its runs.
    fn check(&self, input: &SequenceInput<'_>) -> Result<Vec<Run>, ForwardError> {
        let count = input.ids.len();
        if input.kinds.len() != count {
            return Err(ForwardError::Input(format!(
                "{count} ids with {} kinds",
                input.kinds.len()
            )));
        }
        self.check_ids(input.ids, input.cache.len())?;
        let mut wanted = input.hidden_at.iter().chain(input.logits_at);
        if let Some(at) = wanted.find(|&&at| at >= count) {
            return Err(ForwardError::Input(format!(
                "offset {at} wanted of {count} ids"
            )));
        }
        if !input.cache.fits(&self.config) {
            return Err(ForwardError::Input("the KV-cache of another model".into()));
        }
        match self.tokens.block_marks() {
            None => Ok(vec![Run::Text(count)]),
            Some(marks) => marks
                .runs(input.cache.open_len() > 0, input.ids)
                .map_err(ForwardError::Input),
        }
    }

    /// Checks ids that follow `past` positions.
    pub(super) fn check_ids(&self, ids: &[u32], past: usize) -> Result<(), ForwardError> {
        if ids.is_empty() {
            return Err(ForwardError::Input("no ids".into()));
        }
        self.check_positions(past + ids.len())?;
        let vocabulary = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => Err(ForwardError::Input(format!(
                "the id {id} with a vocabulary of {vocabulary}"
            ))),
        }
    }

    pub(super) fn check_positions(&self, needed: usize) -> Result<(), ForwardError> {
        let available = self.max_positions();
        if needed <= available {
            Ok(())
        } else {
            Err(ForwardError::ContextLength { needed, available })
        }
    }
}
