//! Data in the format that OneGen published: records with a retrieval token for each thing to find, and
//! documents with a passage token after every sentence.
//!
//! Each token has one role. Tokens that the model writes are trained by cross-entropy. Retrieval tokens are
//! trained by the contrastive loss. All other tokens are context: the user's text, passages with their marks,
//! and the token after a retrieval token, because the server writes it.

mod lines;
mod text;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use onegen_engine::{ChatMessage, PassageAttention, Role, Tokens};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::config::{Framing, Passes};
use super::records::read_numbered;
use super::spellings::Spellings;
use crate::fit::pack::{Pack, PassageToken, TokenPosition};
use lines::{DocumentLine, RecordLine, References};
use text::{Anchor, RecordText};

/// How the published data are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PublishedOptions {
    pub(super) repeat: usize,
    /// Negatives of each retrieval token
    pub(super) negatives: usize,
    /// Retrieval tokens of a record that are trained at once
    pub(super) anchors: usize,
    /// The most tokens of a record or document; the rest is cut off
    pub(super) longest: usize,
    pub(super) framing: Framing,
    pub(super) passes: Passes,
}

/// Records and documents.
pub(super) struct PublishedSet {
    options: PublishedOptions,
    spellings: Spellings,
    records: Vec<Record>,
    documents: Vec<Document>,
    /// One more than the key of the last sentence
    end_key: u32,
}

struct Record {
    messages: Vec<ChatMessage>,
    retrievals: Vec<Retrieval>,
}

/// The sentences that a retrieval token should find, and those that it should not.
struct Retrieval {
    positives: Vec<Sentence>,
    negatives: Vec<Sentence>,
}

/// A sentence of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sentence {
    document: usize,
    number: usize,
}

struct Document {
    instruction: String,
    text: String,
    /// The key of its first sentence
    first_key: u32,
    sentences: usize,
}

impl PublishedSet {
    /// Reads records and documents; the sentences' keys begin with `first_key`.
    ///
    /// # Errors
    /// A file cannot be read, or a line is invalid: it is not a record, or the number of its entries differs
    /// from that of its retrieval tokens. The error names file and line.
    pub(super) fn load(
        records: &Path,
        documents: &Path,
        options: PublishedOptions,
        first_key: u32,
        tokens: &Tokens,
    ) -> Result<Self> {
        ensure!(
            tokens.onegen().passage_attention == PassageAttention::Full,
            "{} spells out what is read, so its passages attend to everything before them: train with \
             passage_attention = \"full\", or bring the data into the form of questions and passages",
            records.display()
        );
        let spellings = Spellings::new(tokens)?;
        let mut set = Self {
            options,
            spellings,
            records: Vec::new(),
            documents: Vec::new(),
            end_key: first_key,
        };
        let mut places = HashMap::new();
        for (number, line) in read_numbered::<DocumentLine>(documents)? {
            let place = || format!("{}, line {number}", documents.display());
            let (uid, document) = set.document(line).with_context(place)?;
            if places.insert(uid.clone(), set.documents.len()).is_some() {
                bail!("{}: the uid {uid:?} was there before", place());
            }
            set.documents.push(document);
        }
        let (mut named, mut missing) = (0, 0);
        for (number, line) in read_numbered::<RecordLine>(records)? {
            let place = || format!("{}, line {number}", records.display());
            let record = set.record(line, &places, &mut named, &mut missing);
            set.records.push(record.with_context(place)?);
        }
        if missing > 0 {
            eprintln!(
                "{}: {missing} of {named} references name no sentence of {} and are passed over",
                records.display(),
                documents.display()
            );
        }
        ensure!(
            named == 0 || missing < named,
            "no reference in {} names a document of {}",
            records.display(),
            documents.display()
        );
        Ok(set)
    }

    fn document(&mut self, line: DocumentLine) -> Result<(String, Document)> {
        let uid = line.uid.into_text();
        ensure!(
            !uid.contains('-'),
            "the uid {uid:?} holds a hyphen, which stands between a uid and the number of a sentence"
        );
        let [user, assistant] = &line.messages[..] else {
            bail!(
                "a document has a user's and an assistant's message, this one has {} messages",
                line.messages.len()
            );
        };
        ensure!(
            user.role == Role::User && assistant.role == Role::Assistant,
            "a document's messages are a user's and an assistant's, in this order"
        );
        let sentences = self.spellings.count_passages(&assistant.content);
        ensure!(
            sentences > 0,
            "the assistant's message holds no {}, which stands behind each sentence",
            self.spellings.passage_spellings()
        );
        let document = Document {
            instruction: user.content.clone(),
            text: assistant.content.clone(),
            first_key: self.end_key,
            sentences,
        };
        self.end_key += sentences as u32;
        Ok((uid, document))
    }

    fn record(
        &self,
        line: RecordLine,
        places: &HashMap<String, usize>,
        named: &mut usize,
        missing: &mut usize,
    ) -> Result<Record> {
        let mut record = Record {
            messages: Vec::new(),
            retrievals: Vec::new(),
        };
        let mut resolve = |references: Option<References>| -> Result<Vec<Sentence>> {
            let references = references.map_or_else(Vec::new, References::into_texts);
            let mut sentences = Vec::new();
            for reference in references {
                *named += 1;
                match self.sentence(&reference, places)? {
                    Some(sentence) => sentences.push(sentence),
                    None => *missing += 1,
                }
            }
            Ok(sentences)
        };
        for message in line.messages {
            let count = match message.role {
                Role::Assistant => self.spellings.count_queries(&message.content),
                Role::System | Role::User => 0,
            };
            for (key, entries) in [
                ("positive", message.positive.len()),
                ("negative", message.negative.len()),
            ] {
                ensure!(
                    entries == count,
                    "a message holds {count} retrieval tokens ({}), but {entries} entries of `{key}`",
                    self.spellings.query_spellings()
                );
            }
            for (positive, negative) in message.positive.into_iter().zip(message.negative) {
                record.retrievals.push(Retrieval {
                    positives: resolve(positive)?,
                    negatives: resolve(negative)?,
                });
            }
            record
                .messages
                .push(ChatMessage::new(message.role, message.content));
        }
        let last = record.messages.last().map(|message| message.role);
        ensure!(
            last == Some(Role::Assistant),
            "the last message is not the assistant's: nothing would be learnt of it"
        );
        Ok(record)
    }

    /// The sentence that a reference names; `None` if there is no such document or sentence.
    fn sentence(
        &self,
        reference: &str,
        places: &HashMap<String, usize>,
    ) -> Result<Option<Sentence>> {
        let (uid, number) = match reference.split_once('-') {
            // A document's name alone means its first sentence, which is usually its only one.
            None => (reference, 0),
            Some((uid, number)) => {
                let number = number.parse::<usize>();
                let number = number.with_context(|| {
                    format!("{reference:?} is neither a uid nor a uid, a hyphen and a number")
                })?;
                (uid, number)
            }
        };
        let found = places.get(uid).map(|document| Sentence {
            document: *document,
            number,
        });
        Ok(found.filter(|sentence| number < self.documents[sentence.document].sentences))
    }

    /// One more than the key of the last sentence.
    pub(super) fn end_key(&self) -> u32 {
        self.end_key
    }

    /// How many documents and records there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.documents.len(), self.records.len())
    }

    /// A run for each record.
    pub(super) fn runs(&self) -> Vec<Vec<usize>> {
        let all = (0..self.options.repeat).flat_map(|_| 0..self.records.len());
        all.map(|record| vec![record]).collect()
    }

    /// The pack of a record: the documents that it may find, and the record itself. `None` if nothing
    /// of it fits.
    pub(super) fn pack(
        &self,
        member: usize,
        tokens: &Tokens,
        rng: &mut StdRng,
    ) -> Result<Option<Pack>> {
        let record = &self.records[member];
        let mut text = self.encode(record, tokens)?;
        text.cut(self.options.longest);
        let mut pack = Pack::default();
        let mut laid = HashMap::new();
        let findable = |at: &usize| {
            let retrieval = record.retrievals.get(*at);
            retrieval.is_some_and(|retrieval| !retrieval.positives.is_empty())
        };
        let mut anchors: Vec<usize> = (0..text.retrievals.len()).filter(findable).collect();
        anchors.shuffle(rng);
        anchors.truncate(self.options.anchors);
        anchors.sort_unstable();
        let mut chosen = Vec::new();
        for anchor in anchors {
            let retrieval = &record.retrievals[anchor];
            // One of the right sentences is drawn as the target; the others do not count as
            // negatives.
            let Some(right) = retrieval.positives.choose(rng) else {
                continue;
            };
            if !self.lay(*right, tokens, &mut pack, &mut laid)? {
                continue;
            }
            let mut positives = vec![self.key(*right)];
            positives.extend(retrieval.positives.iter().map(|one| self.key(*one)));
            let mut negatives = Vec::new();
            for wrong in self.negatives(retrieval, rng) {
                if self.lay(wrong, tokens, &mut pack, &mut laid)? {
                    negatives.push(self.key(wrong));
                }
            }
            chosen.push(Anchor {
                retrieval: anchor,
                positives,
                negatives,
            });
        }
        match self.options.passes {
            Passes::One => text.lay(chosen, &mut pack),
            Passes::Two => text.lay_twice(chosen, self.spellings.query, &mut pack),
        }
        Ok((!pack.segments.is_empty()).then_some(pack))
    }

    fn key(&self, sentence: Sentence) -> u32 {
        self.documents[sentence.document].first_key + sentence.number as u32
    }

    /// Negative sentences: those that the record names, and random ones if it names too few.
    fn negatives(&self, retrieval: &Retrieval, rng: &mut StdRng) -> Vec<Sentence> {
        let right = |one: &Sentence| retrieval.positives.contains(one);
        let named: Vec<Sentence> = (retrieval.negatives.iter())
            .filter(|one| !right(one))
            .copied()
            .collect();
        let wanted = self.options.negatives;
        let mut chosen: Vec<Sentence> = named.choose_multiple(rng, wanted).copied().collect();
        // A small set may not have enough other sentences, so the number of tries is limited.
        for _ in 0..8 * wanted {
            if chosen.len() >= wanted {
                break;
            }
            let document = rng.random_range(0..self.documents.len());
            let number = rng.random_range(0..self.documents[document].sentences);
            let one = Sentence { document, number };
            if !right(&one) && !chosen.contains(&one) {
                chosen.push(one);
            }
        }
        chosen
    }

    /// Lays out a sentence's document, once in each pack. Returns whether the sentence is complete.
    fn lay(
        &self,
        sentence: Sentence,
        tokens: &Tokens,
        pack: &mut Pack,
        laid: &mut HashMap<usize, usize>,
    ) -> Result<bool> {
        if let Some(held) = laid.get(&sentence.document) {
            return Ok(sentence.number < *held);
        }
        let document = &self.documents[sentence.document];
        let mut ids = self.spellings.encode(&document.instruction, tokens)?;
        let from = ids.len();
        ids.extend(self.spellings.encode(&document.text, tokens)?);
        ids.truncate(self.options.longest);
        let ends: Vec<usize> = (from..ids.len())
            .filter(|at| ids[*at] == self.spellings.passage)
            .collect();
        laid.insert(sentence.document, ends.len());
        // Tokens after the last sentence are of no use.
        ids.truncate(ends.last().map_or(0, |last| last + 1));
        if !ids.is_empty() {
            let segment = pack.push(ids, 0, vec![]);
            let numbered = ends.into_iter().enumerate();
            pack.passages
                .extend(numbered.map(|(number, offset)| PassageToken {
                    at: TokenPosition { segment, offset },
                    key: document.first_key + number as u32,
                }));
        }
        Ok(laid
            .get(&sentence.document)
            .is_some_and(|held| sentence.number < *held))
    }

    fn encode(&self, record: &Record, tokens: &Tokens) -> Result<RecordText> {
        let end = tokens.end_of_turn().context("no token ends a turn")?;
        let mut text = RecordText::default();
        let mut last_assistant = None;
        for (at, message) in record.messages.iter().enumerate() {
            let last = at + 1 == record.messages.len();
            match (self.options.framing, message.role) {
                (Framing::Raw, Role::System | Role::User) => {
                    let mut ids = self.spellings.encode(&message.content, tokens)?;
                    if at == 0 {
                        tokens.begin(&mut ids);
                    }
                    text.context(&ids);
                }
                // The template writes the system message together with the user's.
                (Framing::Chat, Role::System) => {}
                (Framing::Chat, Role::User) => {
                    let messages = &record.messages[..=at];
                    text.context(&match last_assistant {
                        Some(before) => tokens.encode_turn(messages, before, Some(end))?,
                        None => tokens.encode_chat(messages)?,
                    });
                }
                (framing, Role::Assistant) => {
                    last_assistant = Some(at);
                    let mut ids = self.spellings.encode(&message.content, tokens)?;
                    let ended = ids.last().is_some_and(|id| tokens.is_eos(*id));
                    if (framing == Framing::Chat || last) && !ended {
                        ids.push(end);
                    }
                    text.written(&ids, &self.spellings)?;
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
