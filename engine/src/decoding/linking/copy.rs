//! What may follow in the copy of a text.

use std::ops::Range;
use std::sync::Arc;

use super::words::{TextIds, Words};
use crate::error::TokensError;
use crate::tokens::Tokens;
use crate::tokens::marks::{LinkTokens, Mark};

/// The copy of a text with marks around mentions, token by token.
///
/// **Invariant:** what was written, without its marks, is the beginning of the text, and marks stand at
/// characters' borders, around more than white space, and never within one another. A character that no
/// token of the model spells is passed over.
#[derive(Clone)]
pub(crate) struct MarkedCopy {
    tokens: Arc<Tokens>,
    marks: Arc<LinkTokens>,
    text_ids: Arc<TextIds>,
    /// The text after a space, since most models write their first word with one; empty for no text.
    goal: String,
    /// Bytes of white space that the text had before it.
    trimmed: usize,
    /// The tokenizer's own cut of the text: each token's first byte in the goal, and its id. Empty if
    /// its bytes are others, as those of a tokenizer that composes accents.
    cut: Vec<(usize, u32)>,
    /// All that the tokens so far can mean. More than one only at the start, and where the text itself
    /// begins to spell a mark that is text.
    pub(super) readings: Vec<Progress>,
}

/// Bytes of the goal before the text.
const SPACE: usize = 1;

/// How far the copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the goal that are written.
    pub(super) at: usize,
    /// The start of the open mention.
    pub(super) mention: Option<usize>,
    /// The start of the mention that has just ended.
    pub(super) closed: Option<usize>,
    /// Bytes that are written of the next mark.
    pub(super) mark: usize,
}

impl MarkedCopy {
    /// The copy of `text` without its outer white space, before its first token.
    pub(crate) fn new(text: &str, tokens: Arc<Tokens>) -> Result<Self, TokensError> {
        let marks = tokens.linking()?.clone();
        let core = text.trim_end();
        let trimmed = core.len() - core.trim_start().len();
        let core = &core[trimmed..];
        let goal = match core {
            "" => String::new(),
            core => format!(" {core}"),
        };
        let cut = own_cut(core, &goal, &tokens)?;
        let readings = match core {
            "" => vec![Progress::at(0)],
            _ => vec![Progress::at(0), Progress::at(SPACE)],
        };
        let mut copy = Self {
            marks,
            text_ids: TextIds::of(&tokens),
            tokens,
            goal,
            trimmed,
            cut,
            readings,
        };
        copy.pass_over();
        Ok(copy)
    }

    /// Whether the whole text is written, and no mention is open.
    pub(crate) fn is_done(&self) -> bool {
        let done = |reading: &Progress| (reading.at, reading.mention) == (self.goal.len(), None);
        self.readings.iter().any(done)
    }

    /// How many bytes of the text are written, those of an open mention not included.
    pub(crate) fn written(&self) -> usize {
        let before_mention = |reading: &Progress| reading.mention.unwrap_or(reading.at);
        let certain = self.readings.iter().map(before_mention).min();
        self.in_text(if self.is_done() {
            self.goal.len()
        } else {
            certain.unwrap_or(0)
        })
    }

    /// What is put around mentions.
    pub(crate) fn marks(&self) -> &LinkTokens {
        &self.marks
    }

    /// Tokens that it may take to close a mention, with `[LK]` and `[_CONTINUE_]`.
    pub(crate) fn most_to_close(&self) -> usize {
        self.marks.close.most_tokens() + 2
    }

    /// Takes a token that was chosen. Gives the mention, in bytes of the text, whose closing mark it
    /// completes.
    pub(crate) fn advance(&mut self, id: u32) -> Option<Range<usize>> {
        let mut readings = if self.tokens.is_text(id) {
            self.readings.clone()
        } else {
            Vec::new()
        };
        for &byte in self.tokens.bytes(id).unwrap_or_default() {
            let steps = readings.iter().flat_map(|reading| self.steps(reading));
            readings = steps
                .filter(|step| step.0 == byte)
                .map(|step| step.1)
                .collect();
        }
        let is_mark = |reading: &&Progress| self.mark_at(reading) == Some(&Mark::Token(id));
        readings.extend(
            self.readings
                .iter()
                .filter(is_mark)
                .map(|reading| reading.marked()),
        );
        // If a mark is text, one reading may end a mention where another goes on. The mention counts as ended.
        let closed = readings
            .iter()
            .find_map(|reading| Some((reading.closed?, reading.at)));
        if let Some((_, at)) = closed {
            readings = vec![Progress::at(at)];
        }
        self.readings = readings;
        self.pass_over();
        closed.map(|(start, end)| self.mention(start, end))
    }

    /// The next tokens of the tokenizer's own cut, at most `most`; none within a token of it.
    pub(crate) fn likely(&self, most: usize) -> impl Iterator<Item = u32> + '_ {
        let at = match self.readings[..] {
            [Progress { at, mark: 0, .. }] => {
                self.cut.binary_search_by_key(&at, |(start, _)| *start)
            }
            _ => Err(0),
        };
        let rest = at.map_or(&[][..], |at| &self.cut[at..]);
        rest.iter().take(most).map(|(_, id)| *id)
    }

    /// All tokens that texts are written with.
    pub(super) fn words(&self) -> Words<'_> {
        self.text_ids.words(&self.tokens)
    }

    /// The mark that may begin here.
    pub(super) fn mark_at(&self, reading: &Progress) -> Option<&Mark> {
        if reading.mark > 0 || !self.goal.is_char_boundary(reading.at) {
            return None;
        }
        let (mark, around) = match reading.mention {
            None => (&self.marks.open, &self.goal[reading.at..]),
            Some(start) => (&self.marks.close, &self.goal[start..reading.at]),
        };
        let is_more_than_space = !around.trim().is_empty();
        is_more_than_space.then_some(mark)
    }

    /// The bytes that may follow, and where they lead.
    pub(super) fn steps(&self, reading: &Progress) -> impl Iterator<Item = (u8, Progress)> {
        let text = self.goal.as_bytes().get(reading.at);
        let text = text.filter(|_| reading.mark == 0);
        let text = text.map(|byte| {
            (
                *byte,
                Progress {
                    at: reading.at + 1,
                    ..*reading
                },
            )
        });
        let begins = reading.mark > 0 || self.mark_at(reading).is_some();
        let mark = match reading.mention {
            _ if !begins => &[],
            None => self.marks.open.text(),
            Some(_) => self.marks.close.text(),
        };
        let mark = mark.get(reading.mark).map(|byte| {
            let more = reading.mark + 1;
            if more == mark.len() {
                (*byte, reading.marked())
            } else {
                (
                    *byte,
                    Progress {
                        mark: more,
                        ..*reading
                    },
                )
            }
        });
        text.into_iter().chain(mark)
    }

    /// Passes over characters that no token spells.
    fn pass_over(&mut self) {
        let mut readings = std::mem::take(&mut self.readings);
        for reading in &mut readings {
            while reading.mark == 0 && reading.at < self.goal.len() && !self.is_spelt(reading.at) {
                let next = reading.at + 1..;
                reading.at = next
                    .into_iter()
                    .find(|&at| self.goal.is_char_boundary(at))
                    .unwrap_or(self.goal.len());
            }
        }
        self.readings = readings;
    }

    /// Whether a token can go on with the goal from this byte on.
    fn is_spelt(&self, at: usize) -> bool {
        let mut words = self.words();
        for byte in &self.goal.as_bytes()[at..] {
            words = words.then(*byte);
            if words.is_empty() || !words.whole().is_empty() {
                break;
            }
        }
        !words.whole().is_empty()
    }

    /// A mention between these bytes of the goal, without white space around it.
    fn mention(&self, start: usize, end: usize) -> Range<usize> {
        let text = &self.goal[start..end];
        let before = text.len() - text.trim_start().len();
        self.in_text(start + before)..self.in_text(start + text.trim_end().len())
    }

    /// Where a byte of the goal stands in the text.
    fn in_text(&self, at: usize) -> usize {
        self.trimmed + at.saturating_sub(SPACE)
    }
}

/// The tokens that the tokenizer makes of `core`, each with its first byte in `goal`.
fn own_cut(core: &str, goal: &str, tokens: &Tokens) -> Result<Vec<(usize, u32)>, TokensError> {
    let ids = tokens.encode_plain(core)?;
    let bytes = |id: &u32| tokens.bytes(*id).unwrap_or_default();
    let spelt: Vec<u8> = ids.iter().flat_map(bytes).copied().collect();
    let Some(before) = goal.len().checked_sub(spelt.len()) else {
        return Ok(Vec::new());
    };
    if before > SPACE || goal.as_bytes()[before..] != spelt {
        return Ok(Vec::new());
    }
    let mut at = before;
    let mut cut = Vec::with_capacity(ids.len());
    for id in ids {
        cut.push((at, id));
        at += bytes(&id).len();
    }
    Ok(cut)
}

impl Progress {
    /// Outside of mentions.
    fn at(at: usize) -> Self {
        Self {
            at,
            mention: None,
            closed: None,
            mark: 0,
        }
    }

    /// The same after the mark that may stand here.
    fn marked(self) -> Self {
        Self {
            mention: self.mention.is_none().then_some(self.at),
            closed: self.mention,
            mark: 0,
            ..self
        }
    }
}
