//! Finds where sentences end: by Unicode's rules (UAX #29), with additional rules for abbreviations
//! and Markdown, which UAX #29 lacks.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Abbreviations before a name, and others that hardly end a sentence.
const BEFORE_NAMES: &[&str] = &[
    "adm", "al", "approx", "assn", "brig", "ca", "capt", "cf", "cmdr", "col", "cpl", "dr", "ft",
    "gen", "gov", "hon", "incl", "jr", "lt", "maj", "messrs", "mlle", "mme", "mr", "mrs", "ms",
    "mt", "pres", "prof", "rep", "rev", "sen", "sgt", "sr", "st", "viz", "vs", "v",
];

/// Abbreviations before a number; before anything else they can be words.
const BEFORE_NUMBERS: &[&str] = &[
    "apr", "art", "aug", "ch", "chap", "dec", "eq", "feb", "fig", "figs", "jan", "jul", "jun",
    "mar", "no", "nos", "nov", "oct", "op", "p", "pp", "sec", "sep", "sept", "vol", "vols", "c",
];

/// The sentences of a text as ranges of its bytes, without the whitespace around them. Every other
/// character is in one of them.
///
/// A blank line ends a sentence, and so does a Markdown heading, list item, table row, rule or line
/// of code; any other line break does not. What holds no letter and no digit belongs to the sentence
/// before it.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences: Vec<Range<usize>> = Vec::new();
    // Only the first sentence can be without words.
    let mut has_words = false;
    for block in blocks(text) {
        for sentence in sentences_of_block(text, block) {
            let words = text[sentence.clone()].contains(char::is_alphanumeric);
            match sentences.last_mut() {
                Some(last) if !words || !has_words => last.end = sentence.end,
                _ => sentences.push(sentence),
            }
            has_words |= words;
        }
    }
    sentences
}

/// The texts that are embedded where each sentence gets a vector: entry i is the text up to the end
/// of sentence i, and the last entry is the whole text. `sentences` are ranges of the text's bytes,
/// in order.
pub fn sentence_prefixes<'a>(text: &'a str, sentences: &[Range<usize>]) -> Vec<&'a str> {
    let before_last = &sentences[..sentences.len().saturating_sub(1)];
    let mut prefixes: Vec<&str> = before_last
        .iter()
        .filter_map(|sentence| text.get(..sentence.end))
        .collect();
    prefixes.push(text);
    prefixes
}

/// Lines that sentences can run across, as ranges of bytes.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let mut goes_on = false;
    let mut in_code = false;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let range = start..start + line.len();
        start = range.end;
        let line = line.trim();
        let is_fence = line.starts_with("```") || line.starts_with("~~~");
        in_code ^= is_fence;
        let stands_alone = in_code
            || is_fence
            || !line.contains(char::is_alphanumeric)
            || line.starts_with('|')
            || is_heading(line);
        match blocks.last_mut() {
            Some(block) if goes_on && !stands_alone && !is_list_item(line) => block.end = range.end,
            _ => blocks.push(range),
        }
        goes_on = !stands_alone;
    }
    blocks
}

fn is_heading(line: &str) -> bool {
    let title = line.trim_start_matches('#');
    title.len() < line.len() && (title.is_empty() || title.starts_with(' '))
}

fn is_list_item(line: &str) -> bool {
    let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let marked = if number.len() < line.len() {
        number.strip_prefix(['.', ')'])
    } else {
        line.strip_prefix(['-', '*', '+', '•'])
    };
    marked.is_some_and(|item| item.starts_with(' '))
}

fn sentences_of_block(text: &str, block: Range<usize>) -> Vec<Range<usize>> {
    let content = &text[block.clone()];
    // In UAX #29 every line break ends a sentence, so it is replaced by a space, which has the same
    // length.
    let one_line = content.replace(['\n', '\r'], " ");
    let mut sentences: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for (at, sentence) in one_line.split_sentence_bound_indices() {
        let first = *start.get_or_insert(at);
        let end = at + sentence.len();
        if ends_with_abbreviation(&one_line[first..end], &one_line[end..]) {
            continue;
        }
        start = None;
        sentences.extend(trimmed(text, block.start + first..block.start + end));
    }
    if let Some(first) = start {
        sentences.extend(trimmed(text, block.start + first..block.end));
    }
    sentences
}

/// The range without the whitespace around it, if anything is left.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let content = text[range.clone()].trim_start();
    let start = range.end - content.len();
    let end = start + content.trim_end().len();
    (start < end).then_some(start..end)
}

/// Whether the full stop belongs to the last word, so that the sentence goes on.
fn ends_with_abbreviation(sentence: &str, rest: &str) -> bool {
    let Some(before_stop) = sentence.trim_end().strip_suffix('.') else {
        return false;
    };
    let word = before_stop
        .rsplit(|c: char| !c.is_alphanumeric() && c != '.')
        .next()
        .unwrap_or_default();
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (None, _) => return false,
        // Initials, as in "J. Smith". "I" is a word, and a number: "Francis I."
        (Some(initial), None) if initial.is_uppercase() && initial != 'I' => return true,
        _ => {}
    }
    // As in "e.g." and "U.S."
    let mut parts = word.split('.');
    let short = |part: &str| (1..=2).contains(&part.chars().count());
    if word.contains('.') && parts.all(|part| short(part) && part.chars().all(char::is_alphabetic))
    {
        return true;
    }
    let word = word.to_lowercase();
    BEFORE_NAMES.contains(&&*word)
        || BEFORE_NUMBERS.contains(&&*word) && rest.starts_with(|c: char| c.is_numeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        sentences(text)
            .into_iter()
            .map(|sentence| &text[sentence])
            .collect()
    }

    #[test]
    fn abbreviations_and_initials_end_no_sentence() {
        for sentence in [
            "Dr. J. R. Smith met Mr. Jones, e.g. in St. Louis.",
            "George W. Bush vs. Al Gore, cf. Fig. 3 on pp. 4–5, decided.",
            "The U.S. Army paid 3.50 per hour at 5 p.m. Monday.",
            "He was born on 5 Jan. 1950 in Berlin (cf. Prof. Weiß et al. 1999).",
        ] {
            assert_eq!(cut(sentence), [sentence]);
        }
    }

    #[test]
    fn ordinary_sentences_end_where_they_end() {
        assert_eq!(
            cut(
                " So did Francis I. He said no. \"Why?\" she asked. 秘鲁是国家。利马是首都！Ende. "
            ),
            [
                "So did Francis I.",
                "He said no.",
                "\"Why?\"",
                "she asked.",
                "秘鲁是国家。",
                "利马是首都！",
                "Ende."
            ]
        );
    }

    #[test]
    fn markdown_ends_sentences_and_wrapped_lines_do_not() {
        let text = "# Peru\nA country in\r\nSouth America. Its capital\nis Lima\n\n- first item\n  goes on\n- second\n1. third\n\
            ```sh\nls -l\ncd ..\n```\n| a | b |\n|---|---|\n---\nAfter it";
        assert_eq!(
            cut(text),
            [
                "# Peru",
                "A country in\r\nSouth America.",
                "Its capital\nis Lima",
                "- first item\n  goes on",
                "- second",
                "1. third",
                "```sh",
                "ls -l",
                "cd ..\n```",
                "| a | b |\n|---|---|\n---",
                "After it",
            ]
        );
    }

    #[test]
    fn what_has_no_words_is_no_sentence_of_its_own() {
        assert_eq!(
            cut("***\n\n…\n\nOne.\n\n---\n\nTwo."),
            ["***\n\n…\n\nOne.\n\n---", "Two."]
        );
        assert_eq!(cut("?!\n\n?!"), ["?!\n\n?!"]);
        assert!(cut(" \n").is_empty());
    }

    #[test]
    fn prefixes_grow_by_a_sentence_and_the_last_is_the_text() {
        let text = "One. Two. Three. ";
        let prefixes = sentence_prefixes(text, &sentences(text));
        assert_eq!(prefixes, ["One.", "One. Two.", text]);
        assert_eq!(sentence_prefixes("", &[]), [""]);
    }

    proptest! {
        #[test]
        fn every_character_but_space_is_in_one_sentence(
            text in prop_oneof![
                any::<String>(),
                prop::collection::vec("([A-Z]?[a-zé]{0,4}|Dr|e\\.g)([.!?。]|\\. |\n|\r\n|\n\n|\n# |\n- |\n```\n| )", 0..20)
                    .prop_map(|words| words.concat()),
            ],
        ) {
            let mut end = 0;
            for sentence in sentences(&text) {
                prop_assert!(text[end..sentence.start].trim().is_empty());
                prop_assert!(!sentence.is_empty());
                prop_assert_eq!(text[sentence.clone()].trim(), &text[sentence.clone()]);
                end = sentence.end;
            }
            prop_assert!(text[end..].trim().is_empty());
        }
    }
}
