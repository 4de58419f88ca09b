//! What may follow in the copy of a text.

use std::sync::Arc;

use super::{LinkTokens, Mark};
use crate::error::TokensError;
use crate::tokens::Tokens;

/// The copy of a text with marks around mentions, token by token.
///
/// **Invariant:** what was written, without its marks, is the beginning of the text, and marks stand at
/// characters' borders, around more than white space, and never within one another. A character that no
/// token of the model spells is passed over.
#[derive(Clone)]
pub(crate) struct MarkedCopy {
    tokens: Arc<Tokens>,
    /// The text after a space, since most models write their first word with one; empty for no text.
    goal: String,
    /// Bytes of white space that the text had before it.
    trimmed: usize,
    /// The tokenizer's own cut of the text: each token's first byte in the goal, and its id. Empty if
    /// its bytes are others, as those of a tokenizer that composes accents.
    cut: Vec<(usize, u32)>,
    /// All that the tokens so far can mean. More than one only at the start, and where the text itself
    /// begins to spell a mark that is text.
    places: Vec<Place>,
}

/// Bytes of the goal before the text.
const SPACE: usize = 1;

/// How far the copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Bytes of the goal that are written.
    at: usize,
    /// Where the mention began that is open.
    mention: Option<usize>,
    /// Bytes that are written of the next mark.
    mark: usize,
}

/// What a token was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Text, or a part of a mark.
    More,
    /// The end of a mark behind a mention with these bytes of the text.
    Mention {
        /// The first byte.
        start: usize,
        /// The one after the last.
        end: usize,
    },
}

impl MarkedCopy {
    /// The copy of `text` without its outer white space, before its first token.
    pub(crate) fn new(text: &str, tokens: Arc<Tokens>) -> Result<Self, TokensError> {
        tokens.check_linking()?;
        let core = text.trim_end();
        let trimmed = core.len() - core.trim_start().len();
        let core = &core[trimmed..];
        let goal = match core {
            "" => String::new(),
            core => format!(" {core}"),
        };
        let cut = own_cut(core, &goal, &tokens)?;
        let start = |at| Place {
            at,
            mention: None,
            mark: 0,
        };
        let places = match core {
            "" => vec![start(0)],
            _ => vec![start(0), start(SPACE)],
        };
        let mut copy = Self {
            tokens,
            goal,
            trimmed,
            cut,
            places,
        };
        copy.pass_over();
        Ok(copy)
    }

    /// Whether the whole text is written, and no mention is open.
    pub(crate) fn is_done(&self) -> bool {
        let done = |place: &Place| (place.at, place.mention) == (self.goal.len(), None);
        self.places.iter().any(done)
    }

    /// How many bytes of the text are written, those of an open mention not included.
    pub(crate) fn written(&self) -> usize {
        let certain = self
            .places
            .iter()
            .map(|place| place.mention.unwrap_or(place.at));
        let at = match self.is_done() {
            true => self.goal.len(),
            false => certain.min().unwrap_or(0),
        };
        self.in_text(at)
    }

    /// Tokens that it may take to close a mention, with `[LK]` and `[_CONTINUE_]`.
    pub(crate) fn most_to_close(&self) -> usize {
        self.marks()
            .map_or(0, |marks| marks.close.most_tokens() + 2)
    }

    /// The tokens that may follow.
    pub(crate) fn allowed(&self) -> Vec<u32> {
        let Some(marks) = self.marks() else {
            return Vec::new();
        };
        let mut allowed = Vec::new();
        let by_bytes = marks.by_bytes(&self.tokens);
        self.spell(&self.places, by_bytes, 0, &mut allowed);
        for place in &self.places {
            if let Some(Mark::Token(id)) = self.mark_at(place) {
                allowed.push(*id);
            }
        }
        allowed
    }

    /// Takes a token that was allowed.
    pub(crate) fn advance(&mut self, id: u32) -> Written {
        let mut places = Vec::new();
        let mut closed = None;
        for place in &self.places {
            if self.mark_at(place) == Some(&Mark::Token(id)) {
                match place.mention {
                    None => places.push(place.opened()),
                    Some(_) => closed = Some(*place),
                }
            }
        }
        let mut spelt = self.places.clone();
        for &byte in self.tokens.bytes(id).unwrap_or_default() {
            spelt = self.after(&spelt, byte);
        }
        if self.tokens.is_text(id) {
            closed = closed.or(spelt.iter().find(|place| self.is_closed(place)).copied());
            places.extend(spelt);
        }
        let written = closed.and_then(|place| self.mention(place));
        if let (Some(place), Some(_)) = (closed, written) {
            places = vec![Place {
                mention: None,
                mark: 0,
                ..place
            }];
        }
        self.places = places;
        self.pass_over();
        written.unwrap_or(Written::More)
    }

    /// The next tokens of the tokenizer's own cut, at most `most`; none within a token of it.
    pub(crate) fn likely(&self, most: usize) -> impl Iterator<Item = u32> + '_ {
        let at = match self.places[..] {
            [Place { at, mark: 0, .. }] => self.cut.binary_search_by_key(&at, |(start, _)| *start),
            _ => Err(0),
        };
        let rest = at.map_or(&[][..], |at| &self.cut[at..]);
        rest.iter().take(most).map(|(_, id)| *id)
    }

    fn marks(&self) -> Option<&LinkTokens> {
        self.tokens.linking()
    }

    /// The mark that may begin here.
    fn mark_at(&self, place: &Place) -> Option<&Mark> {
        let marks = self.marks()?;
        if place.mark > 0 || !self.goal.is_char_boundary(place.at) {
            return None;
        }
        let holds_more_than_space = |text: &str| !text.trim().is_empty();
        match place.mention {
            None => holds_more_than_space(&self.goal[place.at..]).then_some(&marks.open),
            Some(start) => {
                holds_more_than_space(&self.goal[start..place.at]).then_some(&marks.close)
            }
        }
    }

    /// The text of the mark that is being written.
    fn mark_text(&self, place: &Place) -> &[u8] {
        self.marks().map_or(&[], |marks| match place.mention {
            None => marks.open.text(),
            Some(_) => marks.close.text(),
        })
    }

    /// Whether a closing mark that is text is complete.
    fn is_closed(&self, place: &Place) -> bool {
        place.mention.is_some() && place.mark > 0 && place.mark == self.mark_text(place).len()
    }

    /// Where each of the places leads with one more byte.
    fn after(&self, places: &[Place], byte: u8) -> Vec<Place> {
        let mut after = Vec::new();
        for place in places {
            if place.mark == 0 && self.goal.as_bytes().get(place.at) == Some(&byte) {
                after.push(Place {
                    at: place.at + 1,
                    ..*place
                });
            }
            let begins = place.mark > 0 || self.mark_at(place).is_some();
            let mark = self.mark_text(place);
            if begins && mark.get(place.mark) == Some(&byte) {
                let more = Place {
                    mark: place.mark + 1,
                    ..*place
                };
                let opens = more.mark == mark.len() && place.mention.is_none();
                after.push(if opens { more.opened() } else { more });
            }
        }
        after
    }

    /// Collects the ids of `by_bytes` that can be written from `places` on. All of them agree with what
    /// led there in their first `depth` bytes.
    fn spell(&self, places: &[Place], by_bytes: &[u32], depth: usize, found: &mut Vec<u32>) {
        let length = |id: &u32| self.tokens.bytes(*id).map_or(0, <[u8]>::len);
        let whole = by_bytes.partition_point(|id| length(id) == depth);
        if depth > 0 && !places.is_empty() {
            found.extend(&by_bytes[..whole]);
        }
        let longer = &by_bytes[whole..];
        if longer.is_empty() {
            return;
        }
        for byte in self.next_bytes(places) {
            let order = |id: &u32| self.tokens.bytes(*id).map(|bytes| bytes[depth]);
            let from = longer.partition_point(|id| order(id) < Some(byte));
            let to = longer.partition_point(|id| order(id) <= Some(byte));
            if from < to {
                let after = self.after(places, byte);
                self.spell(&after, &longer[from..to], depth + 1, found);
            }
        }
    }

    /// The bytes that may follow, each once.
    fn next_bytes(&self, places: &[Place]) -> Vec<u8> {
        let each = places.iter().flat_map(|place| {
            let text = self.goal.as_bytes().get(place.at);
            let text = text.filter(|_| place.mark == 0);
            let begins = place.mark > 0 || self.mark_at(place).is_some();
            let mark = self.mark_text(place).get(place.mark);
            text.into_iter().chain(mark.filter(|_| begins)).copied()
        });
        let mut bytes: Vec<_> = each.collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes
    }

    /// Passes over characters that no token spells.
    fn pass_over(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        for place in &mut places {
            while place.mark == 0 && place.at < self.goal.len() && !self.is_spelt(place.at) {
                let next = place.at + 1..;
                place.at = next
                    .into_iter()
                    .find(|&at| self.goal.is_char_boundary(at))
                    .unwrap_or(self.goal.len());
            }
        }
        self.places = places;
    }

    /// Whether a token can go on with the goal from this byte on.
    fn is_spelt(&self, at: usize) -> bool {
        let Some(marks) = self.marks() else {
            return false;
        };
        let mut fitting = marks.by_bytes(&self.tokens);
        for (depth, byte) in self.goal.as_bytes()[at..].iter().enumerate() {
            let order = |id: &u32| self.tokens.bytes(*id).and_then(|bytes| bytes.get(depth));
            let from = fitting.partition_point(|id| order(id) < Some(byte));
            let to = fitting.partition_point(|id| order(id) <= Some(byte));
            fitting = &fitting[from..to];
            match fitting.first().and_then(|id| self.tokens.bytes(*id)) {
                None => return false,
                Some(bytes) if bytes.len() == depth + 1 => return true,
                Some(_) => {}
            }
        }
        false
    }

    /// A mention that ends here, without white space around it.
    fn mention(&self, place: Place) -> Option<Written> {
        let (start, end) = (place.mention?, place.at);
        let text = &self.goal[start..end];
        let before = text.len() - text.trim_start().len();
        Some(Written::Mention {
            start: self.in_text(start + before),
            end: self.in_text(start + text.trim_end().len()),
        })
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

impl Place {
    /// The same with a mention that begins here.
    fn opened(self) -> Self {
        Self {
            mention: Some(self.at),
            mark: 0,
            ..self
        }
    }
}
