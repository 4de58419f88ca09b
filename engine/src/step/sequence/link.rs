//! A turn that links: it copies a text, and sends each mention that it marks with its embedding.

use std::ops::Range;
use std::time::Instant;

use super::turn_state::{Next, Rules, TurnState, WantedOffsets};
use crate::decoding::linking::{MarkedCopy, Mention};
use crate::error::EngineError;
use crate::model::SequenceOutput;
use crate::model::normalise::normalised;
use crate::tokens::token_log::SpanKind;
use crate::turn::events::{Event, FinishReason};
use crate::turn::timeline::TurnPhase;

/// Tokens of the text that are forwarded speculatively, before the model has said whether a mark comes between
/// them. Most are right, since the text is known, and a step over five positions takes little longer than a
/// step over one.
const LIKELY_TOKENS: usize = 4;

/// How far a linking turn is.
///
/// **Invariant:** the turn writes what it would write token by token: a speculative token stays only if the
/// logits before it choose it.
pub(super) struct Linking {
    copy: MarkedCopy,
    /// Tokens of the log that are certain; those after them are speculative.
    certain: usize,
    /// The position of an `[LK]` whose state has not been computed yet, and the mention before it.
    link: Option<(usize, Range<usize>)>,
    ended: Option<FinishReason>,
}

impl Linking {
    /// The state before the first token, behind a prompt of so many tokens.
    pub(super) fn new(copy: MarkedCopy, prompt_tokens: usize) -> Self {
        Self {
            ended: copy.is_done().then_some(FinishReason::Stop),
            copy,
            certain: prompt_tokens,
            link: None,
        }
    }

    /// How many bytes of the text are copied and linked.
    pub(super) fn written(&self) -> usize {
        self.copy.written()
    }

    /// Where states and logits are wanted among the log's tokens from `start` to `end`, as offsets from `start`.
    pub(super) fn wanted(&self, start: usize, end: usize) -> WantedOffsets {
        let link = self.link.iter().map(|(at, _)| *at);
        let next = match self.ended {
            None => self.certain - 1,
            Some(_) => end,
        };
        let offset = |at: usize| at - start;
        WantedOffsets {
            hidden: link
                .filter(|at| (start..end).contains(at))
                .map(offset)
                .collect(),
            logits: (next.max(start)..end).map(offset).collect(),
        }
    }

    /// Goes on with the output of a forward.
    pub(super) fn on_output(
        &mut self,
        turn: &mut TurnState,
        mut output: SequenceOutput,
        rules: &Rules,
    ) -> Next {
        if let Some(hidden) = output.hidden.pop()
            && let Some((_, Range { start, end })) = self.link.take()
        {
            let embedding = normalised(hidden);
            turn.emit(Event::Mention(Mention {
                start,
                end,
                embedding,
            }));
        }
        // The first logits end the prefill.
        if !output.logits.is_empty() && turn.usage.completion_tokens == 0 {
            turn.timeline.begin(TurnPhase::Decode, Instant::now());
        }
        for logits in output.logits {
            if self.ended.is_some() {
                break;
            }
            let position = self.certain - 1;
            let Some(id) = self.copy.choose(&logits) else {
                return Next::Fail(EngineError::Logits { position });
            };
            if turn.conversation.log.ids().get(self.certain) == Some(&id) {
                self.certain += 1;
                self.after_token(turn, id, rules);
                continue;
            }
            turn.conversation.truncate(self.certain);
            self.append(turn, id, SpanKind::Generated);
            self.after_token(turn, id, rules);
            break;
        }
        match (self.ended, &self.link) {
            (Some(reason), None) => Next::Finish(reason),
            _ => Next::GoOn,
        }
    }

    /// Appends a token that is certain.
    fn append(&mut self, turn: &mut TurnState, id: u32, kind: SpanKind) {
        turn.conversation.log.push(id, kind);
        self.certain += 1;
    }

    /// What follows from the last certain token: after a mention `[LK]` and `[_CONTINUE_]`, and tokens
    /// that are likely to come next.
    fn after_token(&mut self, turn: &mut TurnState, id: u32, rules: &Rules) {
        let mention = self.copy.advance(id);
        let is_mention = mention.is_some();
        if let Some(mention) = mention {
            self.link = Some((self.certain, mention));
            self.append(turn, self.copy.marks().link, SpanKind::Retrieval);
        }
        // The next token may be the end of a mention.
        let is_full = self.certain + self.copy.most_to_close() > rules.context;
        self.ended = if self.copy.is_done() {
            Some(FinishReason::Stop)
        } else {
            is_full.then_some(FinishReason::Length)
        };
        if self.ended.is_none() && is_mention {
            self.append(turn, self.copy.marks().go_on, SpanKind::Generated);
        }
        turn.usage.completion_tokens = self.certain - turn.usage.prompt_tokens;
        if self.ended.is_none() && turn.conversation.log.len() == self.certain {
            let most = LIKELY_TOKENS.min(rules.context - self.certain);
            let likely: Vec<_> = self.copy.likely(most).collect();
            turn.conversation.log.extend(&likely, SpanKind::Generated);
        }
    }
}
