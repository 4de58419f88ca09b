//! What comes next in a sequence: one more token, or its end.

use crate::decoding::constraint::Grammar;
use crate::decoding::logprobs::TokenLogprob;
use crate::decoding::visible_text::Shown;
use crate::error::EngineError;
use crate::tokens::token_log::SpanKind;
use crate::turn::events::FinishReason;

use super::{Next, Phase, Query, Rules, Sequence};

impl Sequence {
    /// Samples the next token. `[RQ]` is masked unless a search is allowed here and now.
    ///
    /// **Invariant:** a constrained text is one text: nothing is retrieved once it has begun, and
    /// neither `[RQ]` nor a passage advances the grammar. One retrieval comes before it: with nothing
    /// written in between, another would ask the same again.
    pub(super) fn sample(&mut self, logits: Vec<f32>, may_search: bool, rules: &Rules) -> Next {
        let query_id = rules.tokens.query_id();
        let max_tokens = self.sampler.params().max_tokens.unwrap_or(usize::MAX);
        // A last token cannot be [RQ]: there would be none left to answer with.
        let tokens_left = max_tokens - self.usage.completion_tokens;
        let writes = self.grammar.as_ref();
        let writes = writes.is_some_and(|text| text.has_begun() || !self.receipts.is_empty());
        let may_search = may_search && self.searches_left > 0 && tokens_left > 1 && !writes;
        if may_search && self.retrieval.forced && self.usage.completion_tokens == 0 {
            return self.query(logits, query_id);
        }
        let allowed = match self.grammar.as_mut().map(Grammar::allowed).transpose() {
            Ok(allowed) => allowed,
            Err(reason) => return Next::Fail(EngineError::Constraint(reason)),
        };
        let stop_ids = self.sampler.params().stop_token_ids.clone();
        let ends = |id: u32| rules.tokens.is_eos(id) || stop_ids.contains(&id);
        let too_early = self.usage.completion_tokens < self.sampler.params().min_tokens;
        let may_end = allowed.as_ref().map_or(!too_early, |a| a.end(too_early));
        let masked = |id: u32| {
            let fits = match id {
                id if id == query_id => may_search,
                id if rules.tokens.is_eos(id) => may_end,
                id if too_early && ends(id) => false,
                id => allowed.as_ref().is_none_or(|allowed| allowed.text(id)),
            };
            !fits || rules.never_sampled.get(id as usize) != Some(&false)
        };
        let Some(id) = self.sampler.sample(&logits, masked) else {
            return Next::Fail(self.nothing_to_sample(&logits));
        };
        if id == query_id {
            return self.query(logits, query_id);
        }
        self.usage.completion_tokens += 1;
        self.conversation.log.push(id, SpanKind::Generated);
        self.sampler.generated(id);
        if ends(id) {
            return self.end(FinishReason::Stop);
        }
        match self.grammar.as_mut().map(|grammar| grammar.advance(id)) {
            Some(Err(reason)) => return Next::Fail(EngineError::Constraint(reason)),
            Some(Ok(true)) => self.text.trim_start(),
            Some(Ok(false)) | None => {}
        }
        let top = self.sampler.params().logprobs;
        let logprob = top.map(|top| TokenLogprob::new(&logits, id, top, &rules.tokens));
        match self.text.push(id, logprob) {
            Ok(Shown::More(text)) => self.emit_text(text),
            Ok(Shown::Stopped(text)) => {
                self.emit_text(text);
                return Next::Finish(FinishReason::Stop);
            }
            Err(error) => return Next::Fail(EngineError::Tokens(error.to_string())),
        }
        let full = self.conversation.log.len() >= rules.context;
        if full || self.usage.completion_tokens >= max_tokens {
            return self.end(FinishReason::Length);
        }
        self.phase = Phase::Decode;
        Next::GoOn
    }

    /// Writes `[RQ]`, which was sampled from these logits or forced.
    fn query(&mut self, logits: Vec<f32>, query_id: u32) -> Next {
        self.phase = Phase::Query(Query {
            logits,
            at_token: self.usage.completion_tokens,
            char_offset: self.text.chars(),
            forwarded: self.forwarded.total(),
        });
        self.usage.completion_tokens += 1;
        self.searches_left -= 1;
        self.conversation.log.push(query_id, SpanKind::Retrieval);
        Next::GoOn
    }

    /// The reason why no token can be sampled: the constraint forbids all, or damaged weights gave no finite logit.
    fn nothing_to_sample(&self, logits: &[f32]) -> EngineError {
        if self.grammar.is_some() && logits.iter().any(|logit| logit.is_finite()) {
            return EngineError::Constraint("no token that may follow can be sampled".into());
        }
        EngineError::Logits {
            position: self.conversation.log.len().saturating_sub(1),
        }
    }

    /// Gives out the text that was held back, and ends.
    pub(super) fn end(&mut self, reason: FinishReason) -> Next {
        match self.text.finish() {
            Ok(text) => {
                self.emit_text(text);
                Next::Finish(reason)
            }
            Err(error) => Next::Fail(EngineError::Tokens(error.to_string())),
        }
    }
}
