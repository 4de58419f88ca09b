//! A sequence: one turn of a conversation, from its acceptance to its end.
//!
//! Its life: *waiting* for a place in the batch, *restoring* where the store has its KV-cache, *prefill* of
//! what the KV-cache lacks, and then its task's own steps (`write/`, `link.rs`). It ends by being consumed:
//! finished, failed or cancelled.

mod link;
mod turn_state;
mod write;

use std::fmt;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use crate::conversations::Conversation;
use crate::counters::ForwardedTokens;
use crate::error::EngineError;
use crate::ids::{ConversationId, SequenceId};
use crate::model::SequenceOutput;
use crate::passages::PassageKvSource;
use crate::tokens::token_log::SpanKind;
use crate::turn::events::{Event, FinishReason, TurnSummary, Usage};
use crate::turn::request::Task;
use crate::turn::retrieval::{RetrievalWorkers, SearchOutcome};
use crate::turn::timeline::{Timeline, TurnPhase};

use link::Linking;
use write::Writing;

pub(crate) use turn_state::{Next, Rules, TurnState, WantedOffsets};
use write::ComputedSplice;

/// One turn of a conversation.
///
/// In each phase of its life, the tokens in the log that are not in the KV-cache are what it forwards next.
pub(crate) struct Sequence {
    pub(crate) name: ConversationId,
    pub(crate) turn: TurnState,
    work: Work,
    /// The log's length before the turn.
    start: usize,
    /// Whether the conversation was there before the turn.
    existed: bool,
    /// Whether it stays after the turn.
    kept: bool,
    /// Whether the store is reading its KV-cache.
    restoring: bool,
    accepted: Instant,
    queue_seconds: Option<f64>,
}

/// How far a turn is with its task.
enum Work {
    /// Boxed for its size.
    Write(Box<Writing>),
    Link(Linking),
}

impl Sequence {
    /// Appends the prompt to the conversation's log, to be forwarded when there is a place. `existed` says
    /// whether the conversation was there before.
    pub(crate) fn new(
        id: SequenceId,
        task: Task,
        mut conversation: Conversation,
        existed: bool,
        rules: &Rules,
        events: UnboundedSender<Event>,
    ) -> Self {
        let accepted = Instant::now();
        let timeline = Timeline::default();
        timeline.begin(TurnPhase::Queue, accepted);
        let start = conversation.log.len();
        conversation.log.extend(task.prompt(), SpanKind::Prompt);
        let usage = Usage {
            prompt_tokens: conversation.log.len(),
            ..Usage::default()
        };
        let name = task.conversation().clone();
        let kept = task.is_kept();
        let work = match task {
            Task::Write(request) => Work::Write(Box::new(Writing::new(
                *request,
                &mut conversation.log,
                rules,
            ))),
            Task::Link(request) => Work::Link(Linking::new(request.copy, conversation.log.len())),
        };
        let turn = TurnState {
            id,
            conversation,
            usage,
            forwarded: ForwardedTokens::default(),
            timeline,
            events,
        };
        Self {
            name,
            turn,
            work,
            start,
            existed,
            kept,
            restoring: false,
            accepted,
            queue_seconds: None,
        }
    }

    /// Parks the sequence until the store has read its KV-cache.
    pub(crate) fn restore(&mut self) {
        self.turn.timeline.begin(TurnPhase::Restore, Instant::now());
        self.restoring = true;
    }

    /// Lets the sequence go on from what its KV-cache holds.
    pub(crate) fn admit(&mut self) {
        self.turn.usage.cached_tokens = self.turn.conversation.cache.len();
        self.restoring = false;
    }

    /// Whether it is parked until the retriever answers.
    pub(crate) fn is_retrieving(&self) -> bool {
        match &self.work {
            Work::Write(writing) => writing.is_retrieving(),
            Work::Link(_) => false,
        }
    }

    /// How many tokens wait for their forward; none while parked.
    pub(crate) fn pending(&self) -> usize {
        if self.restoring || self.is_retrieving() {
            return 0;
        }
        let Conversation { log, cache, .. } = &self.turn.conversation;
        log.len() - cache.len()
    }

    /// What the first `part` pending tokens are forwarded for.
    pub(crate) fn wanted(&self, part: usize) -> WantedOffsets {
        let start = self.turn.conversation.cache.len();
        match &self.work {
            Work::Link(linking) => linking.wanted(start, start + part),
            Work::Write(writing) => writing.wanted(start, start + part),
        }
    }

    /// How many of its pending tokens are drafts.
    pub(crate) fn drafted(&self) -> usize {
        match &self.work {
            Work::Link(_) => 0,
            Work::Write(writing) => writing.drafted(&self.turn.conversation.log),
        }
    }

    /// When its phases began.
    pub(crate) fn timeline(&self) -> Timeline {
        self.turn.timeline.clone()
    }

    /// Notes that a step begins which forwards tokens of this sequence.
    pub(crate) fn on_step(&mut self, began: Instant) {
        if self.queue_seconds.is_none() {
            self.queue_seconds = Some((began - self.accepted).as_secs_f64());
            self.turn.timeline.begin(TurnPhase::Prefill, began);
        }
    }

    /// Counts positions that the forward reports.
    pub(crate) fn count(&mut self, forwarded: ForwardedTokens) {
        self.turn.forwarded += forwarded;
    }

    /// Goes on with what a forward of its pending tokens gave.
    pub(crate) fn on_output(
        &mut self,
        output: SequenceOutput,
        rules: &Rules,
        workers: &RetrievalWorkers,
    ) -> Next {
        match &mut self.work {
            Work::Write(writing) => writing.on_output(&mut self.turn, output, rules, workers),
            Work::Link(linking) => linking.on_output(&mut self.turn, output, rules),
        }
    }

    /// Goes on with what the retriever found; `None` where the turn is not parked.
    pub(crate) fn on_search_outcome(
        &mut self,
        outcome: SearchOutcome,
        rules: &Rules,
    ) -> Option<Next> {
        match &mut self.work {
            Work::Write(writing) => writing.on_search_outcome(&mut self.turn, outcome, rules),
            Work::Link(_) => None,
        }
    }

    /// Notes that a kept block of `len` tokens was spliced at the end of the KV-cache. Returns whether it is the passage
    /// that the turn has retrieved.
    pub(crate) fn on_kept_block(&mut self, len: usize, source: PassageKvSource) -> bool {
        let Conversation { log, cache, .. } = &self.turn.conversation;
        let from_end = log.len() - (cache.len() - len);
        match &mut self.work {
            Work::Write(writing) => writing.on_kept_block(from_end, source),
            Work::Link(_) => false,
        }
    }

    /// The passage that the turn has retrieved, once its block is computed.
    pub(crate) fn computed_splice(&self) -> Option<ComputedSplice> {
        match &self.work {
            Work::Write(writing) => writing.computed_splice(&self.turn.conversation),
            Work::Link(_) => None,
        }
    }

    /// Ends the turn as part of its conversation. The last event is to be sent once the conversation is
    /// stored, if it is to be kept.
    pub(crate) fn finish(self, reason: FinishReason) -> FinishedSequence {
        let TurnState {
            conversation,
            usage,
            forwarded,
            timeline,
            events,
            ..
        } = self.turn;
        timeline.end(Instant::now());
        let log_len = conversation.log.len();
        let (retrievals, wrong_drafts, linked_bytes) = match self.work {
            Work::Write(writing) => {
                let (receipts, wrong_drafts) = writing.into_receipts();
                (receipts, wrong_drafts, 0)
            }
            Work::Link(linking) => (Vec::new(), 0, linking.written()),
        };
        let summary = TurnSummary {
            conversation: self.name.clone(),
            finish_reason: reason,
            usage,
            retrievals,
            forwarded,
            log_len,
            wrong_drafts,
            linked_bytes,
            queue_seconds: self.queue_seconds.unwrap_or_default(),
        };
        FinishedSequence {
            name: self.name,
            kept: self.kept.then_some(conversation),
            last_event: LastEvent {
                start: self.existed.then_some(self.start),
                summary,
                events,
            },
        }
    }

    /// Ends the turn as if it had never been. The conversation, cut back to what it was before the turn, is
    /// handed to `put_back`, or `None` if it was not there or empty before.
    pub(crate) fn abandon(
        self,
        error: Option<EngineError>,
        put_back: impl FnOnce(ConversationId, Option<Conversation>),
    ) {
        let TurnState {
            mut conversation,
            timeline,
            events,
            ..
        } = self.turn;
        timeline.end(Instant::now());
        conversation.truncate(self.start);
        let was_there = self.existed && self.start > 0;
        put_back(self.name, was_there.then_some(conversation));
        if let Some(error) = error {
            let _ = events.send(Event::Failed(error));
        }
    }
}

/// What is left of a sequence that has come to its end.
pub(crate) struct FinishedSequence {
    pub(crate) name: ConversationId,
    /// `None` where the turn leaves no conversation behind.
    pub(crate) kept: Option<Conversation>,
    pub(crate) last_event: LastEvent,
}

/// A turn's last event, not sent yet.
pub(crate) struct LastEvent {
    /// The log's length before the turn; `None` if the conversation was not there.
    start: Option<usize>,
    summary: TurnSummary,
    events: UnboundedSender<Event>,
}

impl LastEvent {
    pub(crate) fn send(self) {
        // Sending fails only if the client went away.
        let _ = self.events.send(Event::Finished(self.summary));
    }

    /// The turn failed after all: its end could not be stored.
    pub(crate) fn not_stored(self, reason: String) -> UnstoredTurn {
        UnstoredTurn {
            last_event: self,
            reason,
        }
    }
}

/// A turn whose end could not be stored. Its conversation is to be cut back to what it was before.
pub(crate) struct UnstoredTurn {
    last_event: LastEvent,
    reason: String,
}

impl fmt::Debug for UnstoredTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnstoredTurn")
            .field("conversation", self.name())
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl UnstoredTurn {
    pub(crate) fn name(&self) -> &ConversationId {
        &self.last_event.summary.conversation
    }

    /// The log's length before the turn; `None` if the conversation was not there.
    pub(crate) fn start(&self) -> Option<usize> {
        self.last_event.start
    }

    /// The log's length when the turn had ended.
    pub(crate) fn end(&self) -> usize {
        self.last_event.summary.log_len
    }

    /// Tells the client.
    pub(crate) fn fail(self) {
        let error = EngineError::NotStored(self.reason);
        // Sending fails only if the client went away.
        let _ = self.last_event.events.send(Event::Failed(error));
    }
}
