//! Sentences and passages of real documents.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use common::shared_data;
use onegen_index::{Corpus, Document, Splitter, sentences};
use serde_json::{Value, json};

#[test]
fn sentence_vectors_of_onegens_own_data_follow_its_cuts() {
    let Some(corpus) = shared_data("hotpotqa_train_corpus.json") else {
        return;
    };
    let corpus: BTreeMap<String, Vec<String>> = serde_json::from_str(&corpus).unwrap();
    let token = "[Document Fragment Representation]";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db.jsonl");
    let mut file = File::create(&path).unwrap();
    for (uid, (title, sentences)) in corpus.iter().enumerate() {
        let user = format!(
            "Represent the following document fragment and output it after the '{token}' token. \n\
             Here are document fragment:\nwiki title: {title}\ncontent: {}",
            sentences[0]
        );
        let assistant = sentences[1..]
            .iter()
            .fold(token.to_owned(), |text, s| text + s + token);
        let messages =
            json!([{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]);
        writeln!(
            file,
            "{}",
            json!({"uid": uid.to_string(), "messages": messages})
        )
        .unwrap();
    }
    let documents: Vec<Document> = Corpus::open(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(documents.len(), corpus.len());
    let words = |text: &str| text.split_whitespace().count();
    let splitter = Splitter::new(1000, 0).unwrap();
    for (document, (title, sentences)) in documents.into_iter().zip(&corpus) {
        assert_eq!(&document.title, title);
        let split = splitter.split(document, words).remove(0);
        let mut text = String::new();
        let mut prefixes = Vec::new();
        for sentence in sentences {
            text += sentence;
            if !sentence.trim().is_empty() {
                prefixes.push(text.trim().to_owned());
            }
        }
        assert_eq!(split.sentence_prefixes(), prefixes);
    }
}

/// The reference are the sentences of HotpotQA's authors.
#[test]
fn sentences_end_where_a_data_set_says() {
    let Some(corpus) = shared_data("hotpotqa_train_corpus.json") else {
        return;
    };
    let corpus: BTreeMap<String, Vec<String>> = serde_json::from_str(&corpus).unwrap();
    let (mut right, mut found, mut wanted) = (0, 0, 0);
    for cut in corpus.values() {
        let text = cut.concat();
        let mut ends: Vec<usize> = Vec::new();
        let mut end = 0;
        for sentence in cut {
            end += sentence.len();
            if !sentence.trim().is_empty() {
                ends.push(text[..end].trim_end().len());
            }
        }
        let sentences = sentences(&text);
        right += sentences
            .iter()
            .filter(|sentence| ends.contains(&sentence.end))
            .count();
        found += sentences.len();
        wanted += ends.len();
    }
    let (precision, recall) = (right as f64 / found as f64, right as f64 / wanted as f64);
    println!(
        "{found} sentences, {wanted} in the data set: precision {precision:.4}, recall {recall:.4}"
    );
    assert!(precision > 0.9 && recall > 0.9, "{precision} {recall}");
}

#[test]
fn real_documents_split_into_passages_within_the_limit() {
    let Some(corpus) = shared_data("2wikimultihopqa_corpus.json") else {
        return;
    };
    let corpus: Vec<Value> = serde_json::from_str(&corpus).unwrap();
    // A book of all passages, a paragraph each.
    let text: Vec<&str> = corpus
        .iter()
        .filter_map(|passage| passage["text"].as_str())
        .collect();
    let book = Document {
        id: "book".into(),
        text: text.join("\n\n"),
        ..Document::default()
    };
    let words = |text: &str| text.split_whitespace().count();
    let calls = Cell::new(0);
    let count = |text: &str| {
        calls.set(calls.get() + 1);
        words(text)
    };
    let sentences = sentences(&book.text).len();
    let passages = Splitter::new(200, 40).unwrap().split(book, count);
    let lengths: Vec<usize> = passages
        .iter()
        .map(|split| words(&split.passage.text))
        .collect();
    assert!(lengths.iter().all(|&length| length <= 200));
    let mean = lengths.iter().sum::<usize>() / lengths.len();
    println!(
        "{sentences} sentences, {} passages of {mean} words, {} counts",
        lengths.len(),
        calls.get()
    );
    assert!(mean > 160, "{mean}");
    assert!(
        calls.get() < sentences + passages.len() * 2,
        "{}",
        calls.get()
    );
}
