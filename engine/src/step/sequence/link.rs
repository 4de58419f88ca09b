//! A turn that links: it copies a text, and sends each mention that it marks with its embedding.

use std::ops::Range;
use std::time::Instant;

use super::{Next, Phase, Rules, Sequence, WantedOffsets};
use crate::decoding::linking::{Linking, MarkedCopy, Mention};
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

/// How far a linking turn is. It is in [`super::Phase::Prefill`] or [`super::Phase::Decode`] like any other.
///
/// **Invariant:** the turn writes what it would write token by token: a speculative token stays only if the
/// logits before it choose it.
pub(super) struct LinkState {
    copy: MarkedCopy,
    /// Tokens of the log that are certain; those after them are speculative.
    certain: usize,
    /// The position of an `[LK]` whose state has not been computed yet, and the mention before it.
    link: Option<(usize, Range<usize>)>,
    ended: Option<FinishReason>,
}

impl LinkState {
    pub(super) fn new(linking: Linking, prompt_tokens: usize) -> Self {
        Self {
            ended: linking.copy.is_done().then_some(FinishReason::Stop),
            copy: linking.copy,
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
}

impl Sequence {
    /// Whether the turn links, so that nothing of it is kept.
    pub(crate) fn is_linking(&self) -> bool {
        self.linking.is_some()
    }

    /// Goes on with the output of a forward.
    pub(crate) fn on_copied(&mut self, output: SequenceOutput, rules: &Rules) -> Next {
        let Some(mut state) = self.linking.take() else {
            return Next::GoOn;
        };
        let next = self.copy_on(&mut state, output, rules);
        self.linking = Some(state);
        next
    }

    fn copy_on(
        &mut self,
        state: &mut LinkState,
        mut output: SequenceOutput,
        rules: &Rules,
    ) -> Next {
        if let Some(hidden) = output.hidden.pop()
            && let Some((_, Range { start, end })) = state.link.take()
        {
            let embedding = normalised(hidden);
            self.emit(Event::Mention(Mention {
                start,
                end,
                embedding,
            }));
        }
        if !output.logits.is_empty() && matches!(self.phase, Phase::Prefill { .. }) {
            self.phase = Phase::Decode;
            self.timeline.begin(TurnPhase::Decode, Instant::now());
        }
        for logits in output.logits {
            if state.ended.is_some() {
                break;
            }
            let position = state.certain - 1;
            let Some(id) = state.copy.choose(&logits) else {
                return Next::Fail(EngineError::Logits { position });
            };
            if self.conversation.log.ids().get(state.certain) == Some(&id) {
                state.certain += 1;
                self.wrote(state, id, rules);
                continue;
            }
            self.conversation.truncate(state.certain);
            self.write(state, id, SpanKind::Generated);
            self.wrote(state, id, rules);
            break;
        }
        match (state.ended, &state.link) {
            (Some(reason), None) => Next::Finish(reason),
            _ => Next::GoOn,
        }
    }

    /// Appends a token that is certain.
    fn write(&mut self, state: &mut LinkState, id: u32, kind: SpanKind) {
        self.conversation.log.push(id, kind);
        state.certain += 1;
    }

    /// What follows from the last certain token: after a mention `[LK]` and `[_CONTINUE_]`, and tokens
    /// that are likely to come next.
    fn wrote(&mut self, state: &mut LinkState, id: u32, rules: &Rules) {
        let mention = state.copy.advance(id);
        let is_mention = mention.is_some();
        if let Some(mention) = mention {
            state.link = Some((state.certain, mention));
            self.write(state, state.copy.marks().link, SpanKind::Retrieval);
        }
        // The next token may be the end of a mention.
        let is_full = state.certain + state.copy.most_to_close() > rules.context;
        state.ended = if state.copy.is_done() {
            Some(FinishReason::Stop)
        } else {
            is_full.then_some(FinishReason::Length)
        };
        if state.ended.is_none() && is_mention {
            self.write(state, state.copy.marks().go_on, SpanKind::Generated);
        }
        self.usage.completion_tokens = state.certain - self.usage.prompt_tokens;
        if state.ended.is_none() && self.conversation.log.len() == state.certain {
            let most = LIKELY_TOKENS.min(rules.context - state.certain);
            let likely: Vec<_> = state.copy.likely(most).collect();
            self.conversation.log.extend(&likely, SpanKind::Generated);
        }
    }
}
