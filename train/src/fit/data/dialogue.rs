//! Lays out dialogues, in the form in which the server will write them, as segments of a pack.

use anyhow::{Context, Result, ensure};
use onegen_engine::{ChatMessage, Passage, PassageAttention, Role, Tokens};

use super::config::Passes;
use crate::fit::pack::{Pack, PassageToken, Query, Target, TokenPosition, VisibleSegment};

/// One turn of a dialogue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// What the user says
    pub user: String,
    /// What the model reads before it answers
    pub reading: Option<Reading>,
    /// What it answers
    pub answer: String,
    /// Whether the model is trained to write this turn, or only finds it in its history
    pub learnt: bool,
}

/// A passage that a turn reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Which of the pack's passages is spliced
    pub shown: usize,
    /// Keys of the passages that `[RQ]` should find; empty if the question is not specific enough
    pub positives: Vec<u32>,
    /// Keys of passages that it should not find, for losses that need a query's own negatives
    pub negatives: Vec<u32>,
}

/// A dialogue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dialogue {
    /// A system message
    pub system: Option<String>,
    /// Its turns
    pub turns: Vec<Turn>,
}

/// A passage to lay out.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its number in the training data
    pub key: u32,
    /// Its title
    pub title: &'a str,
    /// Its text
    pub text: &'a str,
}

/// A pack that is being laid out.
pub struct Layout<'a> {
    tokens: &'a Tokens,
    end: u32,
    pack: Pack,
    passages: Vec<LaidPassage>,
    passes: Passes,
}

/// A passage of a pack.
struct LaidPassage {
    /// The ids between `[RQ]` and the answer, without the closing token
    ids: Vec<u32>,
    close: u32,
    /// The segment with those ids, if blocks are shared
    segment: Option<usize>,
}

impl<'a> Layout<'a> {
    /// A pack with these passages. The model's `onegen.json` defines what they attend to.
    ///
    /// # Errors
    /// The tokenizer failed, or no token ends a turn.
    pub fn new(tokens: &'a Tokens, passages: &[Text<'_>]) -> Result<Self> {
        let shared = tokens.onegen().passage_attention == PassageAttention::Block;
        let end = tokens.end_of_turn().context("no token ends a turn")?;
        let mut pack = Pack::default();
        let mut laid = Vec::with_capacity(passages.len());
        for passage in passages {
            let splice = tokens.splice(&Passage {
                id: String::new(),
                title: passage.title.to_owned(),
                text: passage.text.to_owned(),
                url: None,
                score: 0.0,
            })?;
            let close = splice.close;
            let mut ids = splice.ids();
            ids.pop();
            // A block is embedded with the same tokens that are read.
            let embedded = if shared {
                ids.clone()
            } else {
                tokens.passage_ids(passage.title, passage.text)?
            };
            let offset = embedded.len() - 1;
            let segment = pack.push(embedded, 0, vec![]);
            pack.passages.push(PassageToken {
                at: TokenPosition { segment, offset },
                key: passage.key,
            });
            laid.push(LaidPassage {
                ids,
                close,
                segment: shared.then_some(segment),
            });
        }
        Ok(Self {
            tokens,
            end,
            pack,
            passages: laid,
            passes: Passes::One,
        })
    }

    /// The same, with queries as parts of the dialogues or as texts of their own.
    #[must_use]
    pub fn in_passes(self, passes: Passes) -> Self {
        Self { passes, ..self }
    }

    /// Adds a dialogue.
    ///
    /// # Errors
    /// The template refuses the dialogue, or a turn reads a passage that is not in the pack.
    pub fn dialogue(&mut self, dialogue: &Dialogue) -> Result<()> {
        let mut messages: Vec<ChatMessage> = (dialogue.system.iter())
            .map(|system| ChatMessage::new(Role::System, system.clone()))
            .collect();
        let mut branch = Branch::default();
        for turn in &dialogue.turns {
            let last_assistant = messages.len().checked_sub(1).filter(|_| branch.began);
            messages.push(ChatMessage::new(Role::User, turn.user.clone()));
            let ids = match last_assistant {
                Some(last) => self.tokens.encode_turn(&messages, last, Some(self.end))?,
                None => self.tokens.encode_chat(&messages)?,
            };
            branch.began = true;
            branch.ids.extend(ids);
            if let Some(reading) = &turn.reading {
                self.read(&mut branch, reading, turn.learnt)?;
            }
            for id in self.tokens.encode_plain(&turn.answer)? {
                branch.write(id, turn.learnt);
            }
            branch.write(self.end, turn.learnt);
            messages.push(ChatMessage::new(Role::Assistant, turn.answer.clone()));
        }
        // Nothing is predicted after a dialogue's last token.
        branch.ids.pop();
        self.close(&mut branch);
        Ok(())
    }

    fn read(&mut self, branch: &mut Branch, reading: &Reading, learnt: bool) -> Result<()> {
        match self.passes {
            Passes::One => {
                branch.write(self.tokens.query_id(), learnt);
                let offset = branch.ids.len() - 1;
                branch.queries.push((offset, reading.clone()));
            }
            Passes::Two => self.ask_apart(branch, reading),
        }
        ensure!(
            reading.shown < self.passages.len(),
            "a turn reads passage {} of {}",
            reading.shown,
            self.passages.len()
        );
        let passage = &self.passages[reading.shown];
        let (len, close) = (passage.ids.len(), passage.close);
        match passage.segment {
            None => branch.ids.extend(passage.ids.clone()),
            Some(segment) => {
                self.close(branch);
                let position = branch.position;
                branch.sees.push(VisibleSegment { segment, position });
                branch.position += len;
            }
        }
        branch.ids.push(close);
        Ok(())
    }

    /// Adds `[RQ]` after the tokens of a branch, in a segment that the branch itself does not see. The tokens
    /// before it have the same states as in a pass of their own.
    fn ask_apart(&mut self, branch: &mut Branch, reading: &Reading) {
        self.close(branch);
        if reading.positives.is_empty() {
            return;
        }
        let ids = vec![self.tokens.query_id()];
        let segment = self.pack.push(ids, branch.position, branch.sees.clone());
        self.pack.queries.push(Query {
            at: TokenPosition { segment, offset: 0 },
            positives: reading.positives.clone(),
            negatives: reading.negatives.clone(),
        });
    }

    /// Makes a segment from the open tokens of a branch.
    fn close(&mut self, branch: &mut Branch) {
        let ids = std::mem::take(&mut branch.ids);
        if ids.is_empty() {
            return;
        }
        let position = branch.position;
        branch.position += ids.len();
        let segment = self.pack.push(ids, position, branch.sees.clone());
        branch.sees.push(VisibleSegment { segment, position });
        for (offset, id) in branch.predict.drain(..) {
            let at = TokenPosition { segment, offset };
            self.pack.predict.push(Target { at, id });
        }
        for (offset, reading) in branch.queries.drain(..) {
            if !reading.positives.is_empty() {
                self.pack.queries.push(Query {
                    at: TokenPosition { segment, offset },
                    positives: reading.positives,
                    negatives: reading.negatives,
                });
            }
        }
    }

    /// The pack.
    pub fn finish(self) -> Pack {
        debug_assert!(self.pack.check().is_ok());
        self.pack
    }
}

/// A dialogue that is being laid out.
#[derive(Default)]
struct Branch {
    began: bool,
    /// The tokens of the segment that is open
    ids: Vec<u32>,
    position: usize,
    sees: Vec<VisibleSegment>,
    /// Offsets in the open segment, each with the token to be written after it
    predict: Vec<(usize, u32)>,
    queries: Vec<(usize, Reading)>,
}

impl Branch {
    fn write(&mut self, id: u32, learnt: bool) {
        if learnt && !self.ids.is_empty() {
            self.predict.push((self.ids.len() - 1, id));
        }
        self.ids.push(id);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use onegen_engine::ModelFiles;

    use super::*;

    #[test]
    fn in_two_passes_a_query_sees_the_dialogue_and_the_dialogue_no_query() -> Result<()> {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/almanac");
        let tokens = ModelFiles::open(&model)?.own_tokens()?;
        let passage = Text {
            key: 3,
            title: "Peru",
            text: "Its capital is Lima.",
        };
        let turn = Turn {
            user: "What is the capital of Peru?".into(),
            reading: Some(Reading {
                shown: 0,
                positives: vec![3],
                negatives: vec![],
            }),
            answer: " Lima".into(),
            learnt: true,
        };
        let dialogue = Dialogue {
            system: None,
            turns: vec![turn.clone(), turn],
        };
        let pack = |passes| -> Result<Pack> {
            let mut layout = Layout::new(&tokens, &[passage])?.in_passes(passes);
            layout.dialogue(&dialogue)?;
            let pack = layout.finish();
            pack.check()?;
            Ok(pack)
        };
        let (one, two) = (pack(Passes::One)?, pack(Passes::Two)?);
        let query = tokens.query_id();
        for pack in [&one, &two] {
            assert_eq!(pack.queries.len(), 2);
            for Query { at, .. } in &pack.queries {
                assert_eq!(pack.segments[at.segment].ids[at.offset], query);
            }
        }
        let written = |pack: &Pack| {
            pack.predict
                .iter()
                .filter(|target| target.id == query)
                .count()
        };
        assert_eq!((written(&one), written(&two)), (2, 0));
        assert_eq!(two.predict.len() + 2, one.predict.len());
        for at in two.queries.iter().map(|asked| asked.at.segment) {
            let segment = &two.segments[at];
            assert_eq!(segment.ids, [query]);
            let before = segment
                .sees
                .iter()
                .map(|seen| two.segments[seen.segment].ids.len());
            assert_eq!(segment.position, before.sum::<usize>());
            let seen = two.segments.iter().flat_map(|segment| &segment.sees);
            assert!(seen.into_iter().all(|seen| seen.segment != at));
        }
        Ok(())
    }
}
