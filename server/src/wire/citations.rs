//! Converts the engine's receipts to annotations and citations for clients.

use std::fmt::Write;
use std::ops::Range;

use onegen_engine::{Passage, PassageKvSource, RetrievalReceipt};
use onegen_proto::{OffsetUnit, PassageKv, Receipt, ReceiptPassage, UrlCitation};

/// The receipt of a search in `collection`, as clients get it.
pub(crate) fn receipt(receipt: &RetrievalReceipt, collection: &str) -> Receipt {
    let passage = |passage: &Passage| ReceiptPassage {
        id: passage.id.clone(),
        title: passage.title.clone(),
        url: passage.url.clone(),
        score: passage.score,
    };
    Receipt {
        index: receipt.index,
        at_token: receipt.at_token,
        collection: collection.to_owned(),
        passages: receipt.passages.iter().map(passage).collect(),
        too_long: receipt.too_long,
        query_tokens_reencoded: receipt.query_tokens_reencoded,
        search_ms: to_microseconds(receipt.search_ms),
        splice_tokens: receipt.splice_tokens,
        splice_forwarded: receipt.splice_forwarded,
        passage_kv: match receipt.passage_kv {
            PassageKvSource::Computed => PassageKv::Computed,
            PassageKvSource::Memory => PassageKv::Memory,
            PassageKvSource::Disk => PassageKv::Disk,
        },
        splice_ms: to_microseconds(receipt.splice_ms),
    }
}

/// Rounds milliseconds to microseconds, because a clock does not measure more digits.
pub(crate) fn to_microseconds(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

/// A passage that was read, and the place in the text where it was read, in characters.
pub(crate) struct CitedPassage<'r> {
    pub(crate) char_offset: usize,
    pub(crate) id: &'r str,
    pub(crate) title: &'r str,
    pub(crate) url: Option<&'r str>,
}

/// One citation for each passage that was read for an answer.
pub(crate) fn citations_of(
    content: &str,
    receipts: &[RetrievalReceipt],
    unit: OffsetUnit,
) -> Vec<UrlCitation> {
    let read = receipts.iter().filter_map(|receipt| {
        let passage = receipt.passages.first()?;
        Some(CitedPassage {
            char_offset: receipt.char_offset,
            id: &passage.id,
            title: &passage.title,
            url: passage.url.as_deref(),
        })
    });
    let read: Vec<_> = read.collect();
    citations(content, &read, unit)
}

/// One citation for each passage that was read. It covers the text from the retrieval to the next one,
/// without the white space around it.
pub(crate) fn citations(
    content: &str,
    read: &[CitedPassage<'_>],
    unit: OffsetUnit,
) -> Vec<UrlCitation> {
    let characters: Vec<char> = content.chars().collect();
    // A stop string may have cut off the text where the retrieval happened.
    let start = |read: &CitedPassage<'_>| read.char_offset.min(characters.len());
    let offset = |at: usize| length(characters[..at].iter().copied(), unit);
    let each = read.iter().enumerate().map(|(index, passage)| {
        let end = read.get(index + 1).map_or(characters.len(), start);
        let text = trimmed(&characters, start(passage)..end);
        let url = passage.url.map(str::to_owned);
        UrlCitation {
            start_index: offset(text.start),
            end_index: offset(text.end),
            url: url.unwrap_or_else(|| passage_url(passage.id)),
            title: passage_name(passage.id, passage.title).to_owned(),
        }
    });
    each.collect()
}

/// The length of a text, as a client counts.
pub(crate) fn length(text: impl Iterator<Item = char>, unit: OffsetUnit) -> usize {
    let width = |character: char| match unit {
        OffsetUnit::Characters => 1,
        OffsetUnit::Utf16 => character.len_utf16(),
        OffsetUnit::Bytes => character.len_utf8(),
    };
    text.map(width).sum()
}

fn trimmed(characters: &[char], range: Range<usize>) -> Range<usize> {
    let text = &characters[range.clone()];
    let Some(first) = text.iter().position(|c| !c.is_whitespace()) else {
        return range.start..range.start;
    };
    let last = text
        .iter()
        .rposition(|c| !c.is_whitespace())
        .unwrap_or(first);
    range.start + first..range.start + last + 1
}

/// The displayed name of a passage: its title, or its id if it has no title.
pub(crate) fn passage_name<'p>(id: &'p str, title: &'p str) -> &'p str {
    if title.is_empty() { id } else { title }
}

/// The URL of a passage, unless a browser would run it as a script: whoever writes passages may not write the pages
/// that link to them.
pub(crate) fn linkable(url: Option<String>) -> Option<String> {
    url.filter(|url| {
        // Browsers pass over white space and control characters in a scheme.
        let letters = url
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_control());
        let scheme: String = letters.take_while(|c| *c != ':').collect();
        !["javascript", "vbscript", "data"].contains(&&*scheme.to_ascii_lowercase())
    })
}

/// The URL of a passage that has none of its own.
pub(crate) fn passage_url(id: &str) -> String {
    let mut url = String::from("onegen://passage/");
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                url.push(byte.into());
            }
            // Writing to a string never fails.
            _ => _ = write!(url, "%{byte:02X}"),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_a_script_is_no_link() {
        let linked = |url: &str| linkable(Some(url.to_owned())).is_some();
        for script in [
            "javascript:x",
            " JavaScript:x",
            "java\tscript:x",
            "data:text/html,x",
        ] {
            assert!(!linked(script), "{script}");
        }
        for url in [
            "https://example.org/javascript:x",
            "file:///a",
            "a/b.html",
            "doc:1",
        ] {
            assert!(linked(url), "{url}");
        }
    }

    fn found(id: &str, char_offset: usize) -> RetrievalReceipt {
        RetrievalReceipt {
            index: 0,
            at_token: 0,
            char_offset,
            passages: vec![Passage {
                id: id.into(),
                title: String::new(),
                text: "…".into(),
                url: None,
                score: 0.5,
            }],
            too_long: 0,
            query_tokens_reencoded: 0,
            search_ms: 0.1,
            splice_tokens: 3,
            splice_forwarded: 3,
            passage_kv: PassageKvSource::Computed,
            splice_ms: 0.1,
        }
    }

    fn cited(content: &str, receipts: &[RetrievalReceipt]) -> Vec<String> {
        let characters: Vec<char> = content.chars().collect();
        citations_of(content, receipts, OffsetUnit::Characters)
            .iter()
            .map(|c| characters[c.start_index..c.end_index].iter().collect())
            .collect()
    }

    #[test]
    fn each_passage_is_cited_for_exactly_the_text_that_followed_it() {
        let content = "Zürich 🇨🇭. Drelland. Zorm.";
        let second = content.chars().count() - " Zorm.".chars().count();
        let receipts = [found("a", 11), found("b", second)];
        assert_eq!(cited(content, &receipts), ["Drelland.", "Zorm."]);
    }

    #[test]
    fn offsets_are_counted_as_the_client_counts() {
        let content = "Zürich 🇨🇭. Lima.";
        let characters = content.chars().count() - " Lima.".chars().count();
        let start = |unit| citations_of(content, &[found("a", characters)], unit)[0].start_index;
        let bytes = content.find("Lima").unwrap();
        assert_eq!(start(OffsetUnit::Characters), 11);
        assert_eq!(start(OffsetUnit::Utf16), 13);
        assert_eq!(start(OffsetUnit::Bytes), bytes);
    }

    #[test]
    fn a_passage_without_text_after_it_is_cited_for_none() {
        let receipts = [found("a", 0), found("b", 0), found("c", 99)];
        assert_eq!(cited("Lima.", &receipts), ["", "Lima.", ""]);
    }

    #[test]
    fn a_passage_without_url_and_title_is_named_by_its_id() {
        let read = [found("a b/ü", 0)];
        let citation = citations_of("Lima.", &read, OffsetUnit::Characters).remove(0);
        assert_eq!(citation.url, "onegen://passage/a%20b%2F%C3%BC");
        assert_eq!(citation.title, "a b/ü");
    }
}
