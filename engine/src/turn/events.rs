//! What a caller gets back: a turn, and the events it streams.

use std::fmt;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::counters::ForwardedTokens;
use crate::decoding::linking::Mention;
use crate::decoding::logprobs::TokenLogprob;
use crate::decoding::visible_text::Text;
use crate::error::EngineError;
use crate::ids::ConversationId;
use crate::passages::PassageKvSource;
use crate::tokens::splice::Passage;
use crate::turn::timeline::Timeline;

/// What happens during a turn, in order. `Finished` or `Failed` comes last, exactly once.
#[derive(Debug, Clone)]
pub enum Event {
    /// More of the answer's text. The whole turn's text starts with no white space, unless a grammar
    /// wants it so.
    Text(Text),
    /// A passage was spliced in, or all that were found were too long.
    Retrieval(RetrievalReceipt),
    /// A mention was marked, in a turn that links.
    Mention(Mention),
    /// The turn is over and part of the conversation.
    Finished(TurnSummary),
    /// The turn is over and the conversation is as it was before it.
    Failed(EngineError),
}

/// One retrieval: where it happened, what it found, what it cost.
#[derive(Debug, Clone)]
pub struct RetrievalReceipt {
    /// Which retrieval of this turn, from 0.
    pub index: usize,
    /// Where `[RQ]` stood in the turn's sampled tokens, from 0.
    pub at_token: usize,
    /// How many characters of the turn's text came before it.
    pub char_offset: usize,
    /// What the retriever returned, best first, without those that were too long. The first was spliced; there
    /// is none where nothing was.
    pub passages: Vec<Passage>,
    /// How many of the best were left out because the context had no room for them and an answer.
    pub too_long: usize,
    /// Positions forwarded for this sequence between the sampling of `[RQ]` and the splice's first
    /// logits, beyond `[RQ]` itself and the splice. Measured; 0 unless memory pressure dropped the
    /// sequence's KV-cache meanwhile.
    pub query_tokens_reencoded: u64,
    /// Milliseconds from the query embedding to the retriever's answer, queueing included.
    pub search_ms: f64,
    /// How many tokens were spliced, markers included.
    pub splice_tokens: usize,
    /// How many of them were forwarded: all, or those behind a block whose keys and values were kept.
    pub splice_forwarded: usize,
    /// Where the passage's keys and values came from.
    pub passage_kv: PassageKvSource,
    /// Milliseconds from the retriever's answer to the splice's first logits.
    pub splice_ms: f64,
}

/// Why a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` was reached or the context is full.
    Length,
}

impl FinishReason {
    /// OpenAI's name: `stop` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What a turn used, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The whole context at the turn's start: the conversation so far and the new prompt.
    pub prompt_tokens: usize,
    /// How many of those were in the KV-cache already.
    pub cached_tokens: usize,
    /// Tokens sampled, `[RQ]` and the end-of-turn token included, passages not.
    pub completion_tokens: usize,
    /// Tokens spliced, markers included.
    pub passage_tokens: usize,
}

/// How a turn ended.
#[derive(Debug, Clone)]
pub struct TurnSummary {
    /// The conversation to continue.
    pub conversation: ConversationId,
    /// Why the turn ended.
    pub finish_reason: FinishReason,
    /// What it used.
    pub usage: Usage,
    /// Its retrievals, in order.
    pub retrievals: Vec<RetrievalReceipt>,
    /// Positions forwarded for it, by kind.
    pub forwarded: ForwardedTokens,
    /// How many tokens the conversation's log holds now.
    pub log_len: usize,
    /// Positions of `forwarded` that were drafts which the model did not choose; see [`crate::Request::drafting`].
    pub wrong_drafts: usize,
    /// How many bytes of its text a turn that links has linked: all but white space at the end, or fewer
    /// where the context was full. 0 for other turns.
    pub linked_bytes: usize,
    /// Seconds between acceptance and the beginning of the first step that forwarded for it.
    pub queue_seconds: f64,
}

/// A turn's outcome with its text put together.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The whole text.
    pub text: String,
    /// One for each of its tokens, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// How the turn ended.
    pub summary: TurnSummary,
}

/// An accepted request: a stream of [`Event`]s.
///
/// Dropping a turn before its end cancels it: within one step its memory comes back and the
/// conversation is as it was before the turn.
#[derive(Debug)]
pub struct Turn {
    conversation: ConversationId,
    events: UnboundedReceiver<Event>,
    timeline: Timeline,
    cancel: Cancel,
    ended: bool,
}

/// Asks the step thread to end the turn.
struct Cancel(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancel")
    }
}

impl Turn {
    /// `cancel` is called when the turn is dropped before its end.
    pub(crate) fn new(
        conversation: ConversationId,
        events: UnboundedReceiver<Event>,
        timeline: Timeline,
        cancel: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            conversation,
            events,
            timeline,
            cancel: Cancel(Box::new(cancel)),
            ended: false,
        }
    }

    /// The conversation that this turn belongs to.
    pub fn conversation(&self) -> &ConversationId {
        &self.conversation
    }

    /// When its phases began and ended, as far as it has come. It can be read after the turn too.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The next event, or `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        // The step thread ends every turn; a channel that closes without an end means it died.
        let event = self
            .events
            .recv()
            .await
            .unwrap_or(Event::Failed(EngineError::Stopped));
        self.ended = matches!(event, Event::Finished(_) | Event::Failed(_));
        Some(event)
    }

    /// Waits for the end and puts the text together.
    ///
    /// # Errors
    /// The turn's own failure.
    pub async fn collect(mut self) -> Result<Completion, EngineError> {
        let mut whole = Text::default();
        while let Some(event) = self.next().await {
            match event {
                Event::Text(more) => {
                    whole.text.push_str(&more.text);
                    whole.logprobs.extend(more.logprobs);
                }
                Event::Retrieval(_) | Event::Mention(_) => {}
                Event::Finished(summary) => {
                    let Text { text, logprobs } = whole;
                    return Ok(Completion {
                        text,
                        logprobs,
                        summary,
                    });
                }
                Event::Failed(error) => return Err(error),
            }
        }
        Err(EngineError::Stopped)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.ended {
            (self.cancel.0)();
        }
    }
}
