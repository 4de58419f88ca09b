//! What comes next in a writing turn: one more token, or its end.

use std::sync::Arc;

use super::{Phase, Query, Writing};
use crate::decoding::constraint::Grammar;
use crate::decoding::logprobs::TokenLogprob;
use crate::decoding::visible_text::{Shown, Text};
use crate::error::EngineError;
use crate::step::sequence::turn_state::{Next, Rules, TurnState};
use crate::tokens::token_log::SpanKind;
use crate::turn::events::{Event, FinishReason, Usage};
use crate::turn::retrieval::Retriever;

impl Writing {
    pub(super) fn max_tokens(&self) -> usize {
        self.sampler.params().max_tokens.unwrap_or(usize::MAX)
    }

    /// What answers a search, if one is allowed here and now.
    ///
    /// **Invariant:** a constrained text is one text: nothing is retrieved once it has begun, and
    /// neither `[RQ]` nor a passage advances the grammar. One retrieval comes before it: with nothing
    /// written in between, another would ask the same again.
    pub(super) fn may_search(&self, usage: &Usage) -> Option<&Arc<dyn Retriever>> {
        // A last token cannot be [RQ]: there would be none left to answer with.
        let tokens_left = self.max_tokens() - usage.completion_tokens;
        let is_constrained_text = self
            .grammar
            .as_ref()
            .is_some_and(|text| text.has_begun() || !self.receipts.is_empty());
        let may_search = self.searches_left > 0 && tokens_left > 1 && !is_constrained_text;
        self.retriever.as_ref().filter(|_| may_search)
    }

    /// Samples the next token. `[RQ]` is masked unless a search is allowed here and now.
    pub(super) fn sample(
        &mut self,
        turn: &mut TurnState,
        logits: Vec<f32>,
        may_search: bool,
        rules: &Rules,
    ) -> Next {
        let query_id = rules.tokens.query_id();
        let max_tokens = self.max_tokens();
        let retriever = self.may_search(&turn.usage).filter(|_| may_search).cloned();
        if let Some(retriever) = &retriever
            && self.retrieval.forced
            && turn.usage.completion_tokens == 0
        {
            return self.query(turn, retriever.clone(), logits, query_id);
        }
        let allowed = match self.grammar.as_mut().map(Grammar::allowed).transpose() {
            Ok(allowed) => allowed,
            Err(reason) => return Next::Fail(EngineError::Constraint(reason)),
        };
        let stop_ids = self.sampler.params().stop_token_ids.clone();
        let ends = |id: u32| rules.tokens.is_eos(id) || stop_ids.contains(&id);
        let too_early = turn.usage.completion_tokens < self.sampler.params().min_tokens;
        let may_end = allowed.as_ref().map_or(!too_early, |a| a.end(too_early));
        let masked = |id: u32| {
            let fits = match id {
                id if id == query_id => retriever.is_some(),
                id if rules.tokens.is_eos(id) => may_end,
                id if too_early && ends(id) => false,
                id => allowed.as_ref().is_none_or(|allowed| allowed.text(id)),
            };
            !fits || rules.never_sampled.get(id as usize) != Some(&false)
        };
        let Some(id) = self.sampler.sample(&logits, masked) else {
            return Next::Fail(self.nothing_to_sample(&logits));
        };
        if let Some(retriever) = retriever.filter(|_| id == query_id) {
            return self.query(turn, retriever, logits, query_id);
        }
        turn.usage.completion_tokens += 1;
        self.append(turn, id);
        self.sampler.generated(id);
        if ends(id) {
            return self.end(turn, FinishReason::Stop);
        }
        match self.grammar.as_mut().map(|grammar| grammar.advance(id)) {
            Some(Err(reason)) => return Next::Fail(EngineError::Constraint(reason)),
            Some(Ok(true)) => self.text.trim_start(),
            Some(Ok(false)) | None => {}
        }
        let top = self.sampler.params().logprobs;
        let logprob = top.map(|top| TokenLogprob::new(&logits, id, top, &rules.tokens));
        match self.text.push(id, logprob) {
            Ok(Shown::More(text)) => emit_text(turn, text),
            Ok(Shown::Stopped(text)) => {
                emit_text(turn, text);
                return Next::Finish(FinishReason::Stop);
            }
            Err(error) => return Next::Fail(EngineError::Tokens(error.to_string())),
        }
        let full = self.certain >= rules.context;
        if full || turn.usage.completion_tokens >= max_tokens {
            return self.end(turn, FinishReason::Length);
        }
        self.phase = Phase::Decode;
        Next::GoOn
    }

    /// Writes `[RQ]`, which was sampled from these logits or forced.
    fn query(
        &mut self,
        turn: &mut TurnState,
        retriever: Arc<dyn Retriever>,
        logits: Vec<f32>,
        query_id: u32,
    ) -> Next {
        let is_drafted =
            turn.conversation.log.kinds().get(self.certain) == Some(&SpanKind::Retrieval);
        if !is_drafted {
            self.cut_drafts(turn);
            turn.conversation.log.push(query_id, SpanKind::Retrieval);
        }
        self.certain += 1;
        let is_forwarded = turn.conversation.cache.len() == self.certain;
        let query = Query {
            logits,
            at_token: turn.usage.completion_tokens,
            char_offset: self.text.chars(),
            forwarded: turn.forwarded.total() - u64::from(is_forwarded),
        };
        self.phase = Phase::Query { query, retriever };
        turn.usage.completion_tokens += 1;
        self.searches_left -= 1;
        Next::GoOn
    }

    /// The reason why no token can be sampled: the constraint forbids all, or damaged weights gave no finite logit.
    fn nothing_to_sample(&self, logits: &[f32]) -> EngineError {
        if self.grammar.is_some() && logits.iter().any(|logit| logit.is_finite()) {
            return EngineError::Constraint("no token that may follow can be sampled".into());
        }
        EngineError::Logits {
            position: self.certain.saturating_sub(1),
        }
    }

    /// Gives out the text that was held back, and ends.
    pub(super) fn end(&mut self, turn: &TurnState, reason: FinishReason) -> Next {
        match self.text.finish() {
            Ok(text) => {
                emit_text(turn, text);
                Next::Finish(reason)
            }
            Err(error) => Next::Fail(EngineError::Tokens(error.to_string())),
        }
    }
}

fn emit_text(turn: &TurnState, text: Text) {
    if !text.text.is_empty() || !text.logprobs.is_empty() {
        turn.emit(Event::Text(text));
    }
}
