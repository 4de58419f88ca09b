//! A sequence: one turn of a conversation, from its acceptance to its end.
//!
//! Its life: *waiting* for a place in the batch, *restoring* where the store has its KV-cache, *prefill* of
//! what the KV-cache lacks, *decode*
//! token by token. When `[RQ]` is sampled its forward yields the query embedding (*query*), the
//! sequence is parked (*retrieving*), and the passage that comes back is spliced in by another
//! *prefill*. It ends by being consumed: finished, failed or cancelled.

mod link;
mod next;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use crate::conversations::Conversation;
use crate::counters::ForwardedTokens;
use crate::decoding::constraint::Grammar;
use crate::decoding::sampling::Sampler;
use crate::decoding::visible_text::Text;
use crate::decoding::visible_text::VisibleText;
use crate::error::EngineError;
use crate::ids::{ConversationId, SequenceId};
use crate::tokens::Tokens;
use crate::tokens::splice::Passage;
use crate::tokens::token_log::SpanKind;
use crate::turn::events::{Event, FinishReason, RetrievalReceipt, TurnSummary, Usage};
use crate::turn::request::{Request, RetrievalParams};
use crate::turn::retrieval::{Retriever, SearchOutcome};
use crate::turn::timeline::{Timeline, TurnPhase};

use link::LinkState;

/// Limits and tables that all sequences share.
pub(crate) struct Rules {
    pub(crate) tokens: Arc<Tokens>,
    /// For each id whether sampling never yields it.
    pub(crate) never_sampled: Vec<bool>,
    /// Positions that a sequence may hold.
    pub(crate) context: usize,
}

/// The phase of a sequence's life. In each phase, the tokens in the log that are not in the
/// KV-cache are what it forwards next.
enum Phase {
    /// Accepted, without a place in the batch yet.
    Waiting,
    /// It has its place; the store is reading its KV-cache.
    Restoring,
    /// Several tokens lack their KV; after a retrieval they are the splice.
    Prefill { splice: Option<Splice> },
    /// The last sampled token lacks its KV.
    Decode,
    /// `[RQ]` lacks its KV; its hidden state is wanted.
    Query(Query),
    /// Parked until the retriever answers.
    Retrieving(Query),
}

/// What must be remembered of the moment when `[RQ]` was sampled.
struct Query {
    /// The logits that it was sampled from.
    logits: Vec<f32>,
    at_token: usize,
    char_offset: usize,
    /// Positions forwarded for the turn by then.
    forwarded: u64,
}

/// A passage whose tokens are being prefilled.
struct Splice {
    query: Query,
    found: Vec<Passage>,
    search_ms: f64,
    answered: Instant,
    tokens: usize,
}

/// What some of a sequence's pending tokens are forwarded for, as offsets into them.
#[derive(Debug, Default)]
pub(crate) struct WantedOffsets {
    /// Where the hidden state is wanted: at `[RQ]`.
    pub(crate) hidden: Vec<usize>,
    /// Where logits to sample from are wanted.
    pub(crate) logits: Vec<usize>,
}

/// What a sequence does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// It has tokens to forward, or is parked.
    GoOn,
    /// It is over.
    Finish(FinishReason),
    /// It cannot go on.
    Fail(EngineError),
}

/// One turn of a conversation.
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) name: ConversationId,
    /// Owned from the turn's start to its end.
    pub(crate) conversation: Conversation,
    /// The log's length before the turn.
    start: usize,
    phase: Phase,
    sampler: Sampler,
    grammar: Option<Grammar>,
    linking: Option<LinkState>,
    retrieval: RetrievalParams,
    retriever: Option<Arc<dyn Retriever>>,
    searches_left: usize,
    text: VisibleText,
    usage: Usage,
    forwarded: ForwardedTokens,
    receipts: Vec<RetrievalReceipt>,
    accepted: Instant,
    queue_seconds: Option<f64>,
    timeline: Timeline,
    events: UnboundedSender<Event>,
}

impl Sequence {
    /// Appends the prompt to the conversation's log, to be forwarded when there is a place.
    pub(crate) fn new(
        id: SequenceId,
        request: Request,
        mut conversation: Conversation,
        rules: &Rules,
        events: UnboundedSender<Event>,
    ) -> Self {
        let accepted = Instant::now();
        let timeline = Timeline::default();
        timeline.begin(TurnPhase::Queue, accepted);
        let start = conversation.log.len();
        conversation.log.extend(&request.prompt, SpanKind::Prompt);
        let log_len = conversation.log.len();
        let usage = Usage {
            prompt_tokens: log_len,
            ..Usage::default()
        };
        let limit = request.retrieval.max_retrievals;
        let limit = limit.unwrap_or(rules.tokens.onegen().max_retrievals);
        let may_retrieve = request.retriever.is_some() && request.retrieval.enabled;
        let text = VisibleText::new(
            rules.tokens.clone(),
            request.sampling.stop.clone(),
            request.trims_text && request.grammar.is_none(),
        );
        let sampler = Sampler::new(request.sampling, &conversation.log);
        Self {
            id,
            name: request.conversation,
            conversation,
            start,
            phase: Phase::Waiting,
            text,
            sampler,
            grammar: request.grammar,
            linking: request
                .linking
                .map(|linking| LinkState::new(linking, log_len)),
            searches_left: if may_retrieve { limit } else { 0 },
            retrieval: request.retrieval,
            retriever: request.retriever,
            usage,
            forwarded: ForwardedTokens::default(),
            receipts: Vec::new(),
            accepted,
            queue_seconds: None,
            timeline,
            events,
        }
    }

    /// Parks the sequence until the store has read its KV-cache.
    pub(crate) fn restore(&mut self) {
        self.timeline.begin(TurnPhase::Restore, Instant::now());
        self.phase = Phase::Restoring;
    }

    /// Lets the sequence go on from what its KV-cache holds.
    pub(crate) fn admit(&mut self) {
        self.usage.cached_tokens = self.conversation.cache.len();
        self.phase = Phase::Prefill { splice: None };
    }

    pub(crate) fn is_retrieving(&self) -> bool {
        matches!(self.phase, Phase::Retrieving(_))
    }

    /// The retriever that is asked for passages.
    pub(crate) fn retriever(&self) -> Option<Arc<dyn Retriever>> {
        self.retriever.clone()
    }

    /// Passages to ask for.
    pub(crate) fn k(&self) -> usize {
        self.retrieval.k
    }

    /// How many tokens wait for their forward; none while parked.
    pub(crate) fn pending(&self) -> usize {
        if matches!(self.phase, Phase::Retrieving(_) | Phase::Restoring) {
            return 0;
        }
        self.conversation.log.len() - self.conversation.cache.len()
    }

    /// What the first `part` pending tokens are forwarded for.
    pub(crate) fn wanted(&self, part: usize) -> WantedOffsets {
        if let Some(linking) = &self.linking {
            let cached = self.conversation.cache.len();
            return linking.wanted(cached, cached + part);
        }
        let mut wanted = WantedOffsets::default();
        // Nothing is wanted of a prefill that does not reach the log's end yet.
        if part == self.pending() {
            let end = part.saturating_sub(1);
            match self.phase {
                Phase::Query(_) => wanted.hidden.push(end),
                _ => wanted.logits.push(end),
            }
        }
        wanted
    }

    /// When its phases began.
    pub(crate) fn timeline(&self) -> Timeline {
        self.timeline.clone()
    }

    /// Notes that a step begins which forwards tokens of this sequence.
    pub(crate) fn on_step(&mut self, began: Instant) {
        if self.queue_seconds.is_none() {
            self.queue_seconds = Some((began - self.accepted).as_secs_f64());
            self.timeline.begin(TurnPhase::Prefill, began);
        }
    }

    /// Counts positions that the forward reports.
    pub(crate) fn count(&mut self, forwarded: ForwardedTokens) {
        self.forwarded += forwarded;
    }

    /// Samples from the logits at the log's end.
    pub(crate) fn on_logits(&mut self, logits: Vec<f32>, rules: &Rules) -> Next {
        let phase = std::mem::replace(&mut self.phase, Phase::Decode);
        if let Phase::Prefill { splice } = phase {
            let now = Instant::now();
            self.timeline.begin(TurnPhase::Decode, now);
            if let Some(splice) = splice {
                self.report(splice, now);
            }
        }
        self.sample(logits, true, rules)
    }

    /// Parks the sequence: its hidden state at `[RQ]` is on its way to the retriever, which is asked now.
    ///
    /// **Invariant:** that state comes from the forward that wrote `[RQ]` into the KV-cache, and no
    /// logits of that position are ever asked for.
    pub(crate) fn park(&mut self, asked: Instant) {
        self.timeline.begin(TurnPhase::Retrieval, asked);
        self.phase = match std::mem::replace(&mut self.phase, Phase::Decode) {
            Phase::Query(query) => Phase::Retrieving(query),
            other => other,
        };
    }

    /// Splices the best passage, or takes `[RQ]` back when there is none.
    pub(crate) fn on_search_outcome(&mut self, found: SearchOutcome, rules: &Rules) -> Next {
        let query = match std::mem::replace(&mut self.phase, Phase::Decode) {
            Phase::Retrieving(query) => query,
            other => {
                self.phase = other;
                return Next::GoOn;
            }
        };
        let passages = match found.passages {
            Ok(passages) => passages,
            Err(error) => return Next::Fail(EngineError::Retrieval(error.message)),
        };
        let Some(best) = passages.first() else {
            self.timeline.begin(TurnPhase::Decode, found.answered);
            self.take_back_query();
            return self.sample(query.logits, false, rules);
        };
        let splice = match rules.tokens.splice(best) {
            Ok(splice) => splice,
            Err(error) => return Next::Fail(EngineError::Tokens(error.to_string())),
        };
        // The splice and one token after it must fit.
        if self.conversation.log.len() + splice.len() >= rules.context {
            self.take_back_query();
            return self.end(FinishReason::Length);
        }
        self.timeline.begin(TurnPhase::Splice, found.answered);
        // **Invariant:** what follows `[RQ]` is appended as ids to the same log and KV-cache.
        self.conversation
            .log
            .extend(&splice.ids(), SpanKind::Passage);
        self.usage.passage_tokens += splice.len();
        self.phase = Phase::Prefill {
            splice: Some(Splice {
                query,
                found: passages,
                search_ms: found.search_time.as_secs_f64() * 1e3,
                answered: found.answered,
                tokens: splice.len(),
            }),
        };
        Next::GoOn
    }

    /// Undoes the sampling of `[RQ]`, which is the log's last token and the cache's.
    fn take_back_query(&mut self) {
        let before = self.conversation.log.len() - 1;
        self.conversation.truncate(before);
        self.usage.completion_tokens -= 1;
    }

    /// Sends the receipt of a splice whose first logits have been computed.
    fn report(&mut self, splice: Splice, now: Instant) {
        let since_query = self.forwarded.total() - splice.query.forwarded;
        let receipt = RetrievalReceipt {
            index: self.receipts.len(),
            at_token: splice.query.at_token,
            char_offset: splice.query.char_offset,
            passages: splice.found,
            query_tokens_reencoded: since_query.saturating_sub(1 + splice.tokens as u64),
            search_ms: splice.search_ms,
            splice_tokens: splice.tokens,
            splice_ms: (now - splice.answered).as_secs_f64() * 1e3,
        };
        self.receipts.push(receipt.clone());
        self.emit(Event::Retrieval(receipt));
    }

    fn emit_text(&self, text: Text) {
        if !text.text.is_empty() {
            self.emit(Event::Text(text));
        }
    }

    fn emit(&self, event: Event) {
        // A client that went away is cancelled by its turn's drop.
        let _ = self.events.send(event);
    }

    /// Ends the turn as part of its conversation. Gives the conversation back, and the last event, which is to
    /// be sent once the conversation is stored.
    pub(crate) fn finish(
        mut self,
        reason: FinishReason,
    ) -> (ConversationId, Conversation, LastEvent) {
        self.timeline.end(Instant::now());
        let summary = TurnSummary {
            conversation: self.name.clone(),
            finish_reason: reason,
            usage: self.usage,
            retrievals: std::mem::take(&mut self.receipts),
            forwarded: self.forwarded,
            log_len: self.conversation.log.len(),
            linked_bytes: self.linking.as_ref().map_or(0, LinkState::written),
            queue_seconds: self.queue_seconds.unwrap_or_default(),
        };
        let last_event = LastEvent {
            summary,
            events: self.events,
        };
        (self.name, self.conversation, last_event)
    }

    /// Ends the turn as if it had never been. The conversation, cut back to what it was before the turn, is
    /// handed to `put_back`, or `None` if this was its first turn.
    pub(crate) fn abandon(
        mut self,
        error: Option<EngineError>,
        put_back: impl FnOnce(ConversationId, Option<Conversation>),
    ) {
        self.timeline.end(Instant::now());
        self.conversation.truncate(self.start);
        let kept = (self.start > 0).then_some(self.conversation);
        put_back(self.name, kept);
        if let Some(error) = error {
            let _ = self.events.send(Event::Failed(error));
        }
    }
}

/// A turn's last event, not sent yet.
pub(crate) struct LastEvent {
    summary: TurnSummary,
    events: UnboundedSender<Event>,
}

impl LastEvent {
    pub(crate) fn send(self) {
        // Sending fails only if the client went away.
        let _ = self.events.send(Event::Finished(self.summary));
    }
}
