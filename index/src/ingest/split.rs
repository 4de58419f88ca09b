//! Splits long documents into passages of whole sentences. Some of the last sentences are repeated
//! in the next passage.

use std::ops::Range;

use crate::format::document_rules::{DocumentRules, Splitter, VectorsPer};
use crate::ingest::corpus::Document;
use crate::ingest::sentences::{sentence_prefixes, sentences, trimmed};
use crate::segment::passages::{Part, Passage};

/// A passage and its sentences.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitPassage {
    /// The passage.
    pub passage: Passage,
    /// Its sentences as ranges of its text's bytes, where they are known.
    pub sentences: Option<Vec<Range<usize>>>,
}

impl SplitPassage {
    /// The texts that are embedded where each sentence gets a vector: see [`sentence_prefixes`]. If
    /// the sentences are unknown, they are searched for.
    pub fn sentence_prefixes(&self) -> Vec<&str> {
        let text = &self.passage.text;
        match &self.sentences {
            Some(sentences) => sentence_prefixes(text, sentences),
            None => sentence_prefixes(text, &sentences(text)),
        }
    }
}

impl DocumentRules {
    /// The texts of a passage that are embedded, one vector each.
    pub fn texts<'p>(&self, passage: &'p SplitPassage) -> Vec<&'p str> {
        match self.vectors {
            VectorsPer::Passage => vec![&passage.passage.text],
            VectorsPer::Sentence => passage.sentence_prefixes(),
        }
    }
}

/// A sentence, or a piece of one that is too long.
struct Unit {
    bytes: Range<usize>,
    tokens: usize,
}

impl Splitter {
    /// A document's passages, in its order. A document that is short enough stays as it is. Of a
    /// longer one passage `n` has the id `"{id}#{n}"`, from 0, the document's title, url and
    /// metadata, and says which [`Part`] of the text it is.
    ///
    /// Passages end where sentences end; a sentence that is too long is cut between words, a word
    /// that is too long between characters. Only a single character may exceed the allowed number of
    /// tokens.
    ///
    /// `count_tokens` is called once for the document; if that is too long, about once per sentence
    /// and once per passage.
    pub fn split(
        &self,
        document: Document,
        count_tokens: impl Fn(&str) -> usize,
    ) -> Vec<SplitPassage> {
        let total = count_tokens(&document.text);
        if total <= self.max_tokens {
            return vec![whole(document)];
        }
        let text = &document.text;
        let sentences = match &document.sentences {
            Some(given) if covers(text, given) => given.clone(),
            _ => sentences(text),
        };
        let mut units = Vec::with_capacity(sentences.len());
        for sentence in sentences {
            self.add_units(text, sentence, &count_tokens, &mut units);
        }
        let passages = self.pack(text, &units, &count_tokens);

        let mut split = Vec::with_capacity(passages.len());
        // The same place in bytes and in characters.
        let (mut at, mut characters) = (0, 0);
        for (number, range) in passages.into_iter().enumerate() {
            let units = &units[range];
            let bytes = extent(units);
            characters += text[at..bytes.start].chars().count();
            at = bytes.start;
            let passage_text = &text[bytes.clone()];
            let part = Part {
                document: document.id.clone(),
                start: characters,
                end: characters + passage_text.chars().count(),
            };
            let passage = Passage {
                id: format!("{}#{number}", document.id),
                title: document.title.clone(),
                text: passage_text.to_owned(),
                url: document.url.clone(),
                metadata: document.metadata.clone(),
                part: Some(part),
            };
            let within = |unit: &Unit| unit.bytes.start - bytes.start..unit.bytes.end - bytes.start;
            split.push(SplitPassage {
                passage,
                sentences: Some(units.iter().map(within).collect()),
            });
        }
        split
    }

    /// Adds a sentence, in pieces if it is too long. Pieces are at most a quarter of a passage, or a
    /// word, so that passages packed of them are nearly full.
    fn add_units(
        &self,
        text: &str,
        sentence: Range<usize>,
        count_tokens: &impl Fn(&str) -> usize,
        units: &mut Vec<Unit>,
    ) {
        let piece_tokens = (self.max_tokens / 4).max(1);
        let mut pending = vec![(sentence, self.max_tokens)];
        while let Some((bytes, limit)) = pending.pop() {
            let Some(bytes) = trimmed(text, bytes) else {
                continue;
            };
            let tokens = count_tokens(&text[bytes.clone()]);
            let cuts = if tokens > limit {
                cuts(text, bytes.clone(), tokens.div_ceil(piece_tokens))
            } else {
                Vec::new()
            };
            if cuts.is_empty() {
                units.push(Unit { bytes, tokens });
                continue;
            }
            let starts = [bytes.start].into_iter().chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.end]);
            let pieces: Vec<_> = starts.zip(ends).collect();
            // Pieces are pushed in reverse, so that the first is popped first.
            for (start, end) in pieces.into_iter().rev() {
                let is_word = !text[start..end].trim().contains(char::is_whitespace);
                let limit = if is_word {
                    self.max_tokens
                } else {
                    piece_tokens
                };
                pending.push((start..end, limit));
            }
        }
    }

    /// Which units make each passage.
    fn pack(
        &self,
        text: &str,
        units: &[Unit],
        count_tokens: &impl Fn(&str) -> usize,
    ) -> Vec<Range<usize>> {
        let mut passages = Vec::new();
        let mut covered = 0;
        while covered < units.len() {
            let mut start = self.overlap(units, &passages, covered);
            let mut tokens: usize = units[start..=covered].iter().map(|unit| unit.tokens).sum();
            let mut end = covered + 1;
            // Tokens rarely cross a sentence's end, so the sum is nearly the count of the joined
            // text. Only the whitespace between sentences is missing: a space is part of the next
            // word's token, but line breaks may be tokens of their own. The exact count below
            // decides.
            while end < units.len() && tokens + units[end].tokens <= self.max_tokens {
                tokens += units[end].tokens;
                end += 1;
            }
            while end - start > 1
                && count_tokens(&text[extent(&units[start..end])]) > self.max_tokens
            {
                // Every passage keeps something new.
                if end - 1 > covered {
                    end -= 1;
                } else {
                    start += 1;
                }
            }
            passages.push(start..end);
            covered = end;
        }
        passages
    }

    /// The first unit of the next passage. The overlap takes as many of the last units as are
    /// allowed and leave room for a new one.
    fn overlap(&self, units: &[Unit], passages: &[Range<usize>], covered: usize) -> usize {
        let Some(last) = passages.last() else {
            return covered;
        };
        let room = self.max_tokens.saturating_sub(units[covered].tokens);
        let mut room = room.min(self.overlap_tokens);
        let mut start = covered;
        // The overlap is never all of the last passage, which would then be stored twice.
        while start > last.start + 1 && units[start - 1].tokens <= room {
            start -= 1;
            room -= units[start].tokens;
        }
        start
    }
}

fn whole(mut document: Document) -> SplitPassage {
    let sentences = document.sentences.take();
    let sentences = sentences.filter(|given| covers(&document.text, given));
    SplitPassage {
        passage: document.into(),
        sentences,
    }
}

/// Bytes from the first unit's start to the last one's end.
fn extent(units: &[Unit]) -> Range<usize> {
    match units {
        [] => 0..0,
        [first, .., last] => first.bytes.start..last.bytes.end,
        [only] => only.bytes.clone(),
    }
}

/// Whether ranges of bytes follow each other and leave only whitespace out.
fn covers(text: &str, sentences: &[Range<usize>]) -> bool {
    let mut end = 0;
    let in_order = sentences.iter().all(|sentence| {
        let between = text.get(end..sentence.start);
        end = sentence.end;
        text.get(sentence.clone()).is_some() && between.is_some_and(|gap| gap.trim().is_empty())
    });
    in_order && text.get(end..).is_some_and(|rest| rest.trim().is_empty())
}

/// Where to cut a range into about as many equal pieces: before whitespace, or between the characters
/// of a single word. Nowhere if it is a single character.
fn cuts(text: &str, bytes: Range<usize>, pieces: usize) -> Vec<usize> {
    let piece_bytes = (bytes.len() / pieces).max(1);
    let is_word = !text[bytes.clone()].contains(char::is_whitespace);
    let mut cuts = Vec::new();
    let mut start = bytes.start;
    while bytes.end - start > piece_bytes {
        let wanted = start + piece_bytes;
        let mut before = (start + 1..=wanted).rev();
        let mut after = wanted + 1..bytes.end;
        let is_cut = |at: &usize| {
            let is_space = || text[*at..].starts_with(char::is_whitespace);
            text.is_char_boundary(*at) && (is_word || is_space())
        };
        let Some(cut) = before.find(is_cut).or_else(|| after.find(is_cut)) else {
            break;
        };
        cuts.push(cut);
        start = cut;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::IndexError;

    fn document(text: &str) -> Document {
        Document {
            id: "doc".into(),
            title: "Title".into(),
            text: text.into(),
            url: Some("https://e.org".into()),
            metadata: Some([("year".to_owned(), 1821.into())].into_iter().collect()),
            sentences: None,
        }
    }

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn split(text: &str, max: usize, overlap: usize) -> Vec<String> {
        let passages = Splitter::new(max, overlap)
            .unwrap()
            .split(document(text), words);
        passages
            .into_iter()
            .map(|split| split.passage.text)
            .collect()
    }

    #[test]
    fn a_short_document_stays_as_it_is() {
        let whole = Splitter::new(4, 2)
            .unwrap()
            .split(document("One two. Three four. "), words);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].passage, document("One two. Three four. ").into());
        assert_eq!(
            whole[0].sentence_prefixes(),
            ["One two.", "One two. Three four. "]
        );
    }

    #[test]
    fn a_long_document_becomes_passages_of_whole_sentences_that_overlap() {
        let text = "A b. C d.\n\nE f. G h. I j.";
        let passages = Splitter::new(6, 2).unwrap().split(document(text), words);
        let ids: Vec<&str> = passages.iter().map(|split| &*split.passage.id).collect();
        assert_eq!(ids, ["doc#0", "doc#1"]);
        let texts: Vec<&str> = passages.iter().map(|split| &*split.passage.text).collect();
        assert_eq!(texts, ["A b. C d.\n\nE f.", "E f. G h. I j."]);
        let second = &passages[1];
        assert_eq!(
            second.sentence_prefixes(),
            ["E f.", "E f. G h.", "E f. G h. I j."]
        );
        let part = Part {
            document: "doc".into(),
            start: 11,
            end: 25,
        };
        assert_eq!(second.passage.part, Some(part));
        let first = Passage {
            id: "doc".into(),
            text: text.into(),
            part: None,
            ..second.passage.clone()
        };
        assert_eq!(first, document(text).into());
    }

    #[test]
    fn a_sentence_too_long_is_cut_between_words_and_a_word_between_characters() {
        assert_eq!(
            split("a b c d e f g h i j. K l.", 4, 0),
            ["a b c d", "e f g h", "i j. K l."]
        );
        let splitter = Splitter::new(4, 0).unwrap();
        let passages = splitter.split(document("süßeÄpfel. 秘鲁秘鲁秘鲁"), |text| {
            text.chars().count()
        });
        let texts: Vec<&str> = passages.iter().map(|split| &*split.passage.text).collect();
        assert_eq!(texts, ["süße", "Äpfe", "l. 秘", "鲁秘鲁秘", "鲁"]);
        // A character that exceeds the allowed tokens by itself cannot be split.
        let passages = Splitter::new(1, 0).unwrap().split(document("é"), str::len);
        assert_eq!(passages[0].passage.text, "é");
    }

    #[test]
    fn given_sentences_are_kept_unless_they_do_not_fit_the_text() {
        let text = "One. Two. Three. Four.";
        let given = |ranges: &[(usize, usize)]| Document {
            sentences: Some(ranges.iter().map(|&(start, end)| start..end).collect()),
            ..document(text)
        };
        let splitter = Splitter::new(2, 0).unwrap();
        let kept = splitter.split(given(&[(0, 9), (10, 22)]), words);
        assert_eq!(kept[1].passage.text, "Three. Four.");
        assert_eq!(kept[1].sentence_prefixes(), ["Three. Four."]);
        let wrong: [&[(usize, usize)]; 4] = [
            &[(0, 9)],
            &[(0, 9), (8, 22)],
            &[(0, 9), (10, 99)],
            &[(9, 0), (0, 22)],
        ];
        for wrong in wrong {
            let found = splitter.split(given(wrong), words);
            assert_eq!(found[1].sentence_prefixes(), ["Three.", "Three. Four."]);
        }
    }

    #[test]
    fn options_that_make_no_progress_are_refused() {
        for (max, overlap) in [(0, 0), (4, 4), (4, 9)] {
            assert!(matches!(
                Splitter::new(max, overlap),
                Err(IndexError::Option { .. })
            ));
        }
    }

    /// Ways to count tokens. Some of them cannot be predicted from the counts of the parts.
    fn count(kind: usize, text: &str) -> usize {
        match kind {
            0 => words(text),
            1 => text.chars().count(),
            2 => text.len().div_ceil(3),
            // Whitespace and the beginning cost something.
            3 => 1 + text.split(' ').count() + text.matches('\n').count() * 3,
            // This count does not even grow with the text.
            _ => blake3::hash(text.as_bytes()).as_bytes()[0] as usize % (text.len() + 1),
        }
    }

    proptest! {
        #[test]
        fn passages_cover_the_text_within_limits_at_exact_offsets(
            text in prop_oneof![
                any::<String>(),
                prop::collection::vec("([A-Z]?[a-zé秘]{0,9})([.!?。]|\\. |\n\n|\n- | )", 0..60)
                    .prop_map(|words| words.concat()),
            ],
            max in 1usize..30,
            overlap in 0usize..30,
            kind in 0usize..5,
        ) {
            let overlap = overlap % max;
            let splitter = Splitter::new(max, overlap).unwrap();
            let count = |text: &str| count(kind, text);
            let passages = splitter.split(document(&text), count);
            if count(&text) <= max {
                prop_assert_eq!(&passages[0].passage, &document(&text).into());
                return Ok(());
            }
            let characters: Vec<char> = text.chars().collect();
            let mut covered = 0;
            let mut last_start = None;
            for (number, split) in passages.iter().enumerate() {
                let passage = &split.passage;
                prop_assert_eq!(&passage.id, &format!("doc#{number}"));
                let part = passage.part.as_ref().unwrap();
                let slice: String = characters[part.start..part.end].iter().collect();
                prop_assert_eq!(&slice, &passage.text);
                prop_assert!(
                    count(&passage.text) <= max || passage.text.chars().count() == 1,
                    "{} tokens in {:?}", count(&passage.text), passage.text
                );
                prop_assert!(covered < part.end && last_start < Some(part.start));
                if part.start < covered {
                    let shared: String = characters[part.start..covered].iter().collect();
                    // A sum of words is exact.
                    prop_assert!(kind != 0 || words(&shared) <= overlap, "{shared:?}");
                } else {
                    prop_assert!(characters[covered..part.start].iter().all(|c| c.is_whitespace()));
                }
                let prefixes = split.sentence_prefixes();
                prop_assert_eq!(prefixes.last(), Some(&passage.text.as_str()));
                covered = part.end;
                last_start = Some(part.start);
            }
            prop_assert!(characters[covered..].iter().all(|c| c.is_whitespace()));
        }
    }
}
