//! From a corpus to an index.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use common::{graph_options, names, options};
use onegen_index::{
    Change, Corpus, DocumentRules, EmbeddedText, Embedder, Index, IndexBuilder, IndexError,
    IngestError, IngestEvent, IngestOptions, Ingested, Passage, Position, SearchOptions, Splitter,
    VectorsPer, add_from_corpus, build_from_corpus,
};
use serde_json::json;

/// An embedder that embeds a text as its length and first byte. It refuses "long", and it fails at
/// "broken" and after a number of texts.
struct Lengths {
    lasts: Cell<usize>,
}

impl Lengths {
    fn lasting(texts: usize) -> Self {
        Self {
            lasts: Cell::new(texts),
        }
    }
}

impl Embedder for Lengths {
    type Error = String;

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: &[(&str, &str)]) -> Result<Vec<Result<Vec<f32>, String>>, String> {
        let left = self.lasts.get().checked_sub(texts.len());
        self.lasts.set(left.ok_or("worn out")?);
        let vector = |text: &str| match text {
            "long" => Ok(Err("too long".into())),
            "broken" => Err("out of memory".into()),
            _ => Ok(Ok(vec![text.len() as f32, f32::from(text.as_bytes()[0])])),
        };
        texts.iter().map(|(_, text)| vector(text)).collect()
    }

    /// A text's keys and values are its bytes.
    fn embed_with_kv(
        &self,
        texts: &[(&str, &str)],
    ) -> Result<Vec<Result<EmbeddedText, String>>, String> {
        let vectors = self.embed(texts)?.into_iter().zip(texts);
        Ok(vectors
            .map(|(vector, (_, text))| Ok((vector?, Some(text.as_bytes().to_vec()))))
            .collect())
    }
}

fn corpus(lines: &str) -> Corpus {
    Corpus::from_lines(std::io::Cursor::new(lines.to_owned()))
}

fn sentences() -> DocumentRules {
    DocumentRules {
        vectors: VectorsPer::Sentence,
        ..DocumentRules::default()
    }
}

fn ingest_options() -> IngestOptions {
    IngestOptions::new(DocumentRules::default())
}

fn passages(index: &Index) -> Vec<Passage> {
    let mut all = Vec::new();
    let each = |passage: &Passage, _: &[&[f32]]| {
        all.push(passage.clone());
        Ok::<_, IndexError>(())
    };
    index.for_each(each).unwrap();
    all
}

const GOOD: &str = "{\"id\":\"a\",\"text\":\"A text\"}\n{\"id\":\"b\",\"text\":\"B\"}\n{\"id\":\"c\",\"text\":\"Cc\"}\n";

#[test]
fn a_corpus_becomes_an_index_and_bad_records_are_reported() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let lines = format!(
        "{GOOD}nonsense\n{{\"id\":\"b\",\"text\":\"again\"}}\n{{\"id\":\"l\",\"text\":\"long\"}}\n\n{{\"id\":\"d\",\"text\":\"D\"}}"
    );
    let options = IngestOptions {
        batch_texts: 2,
        ..ingest_options()
    };
    let (mut bad, mut embedded, mut linked) = (Vec::new(), Vec::new(), Vec::new());
    let mut left_out = Vec::new();
    let (build, model) = (graph_options(2), Lengths::lasting(100));
    let on_event = |event: IngestEvent<'_>| match event {
        IngestEvent::Resumed { .. } => panic!("nothing was interrupted"),
        IngestEvent::BadRecord(error) => bad.push(error.to_string()),
        IngestEvent::Embedded {
            passages,
            bytes_read,
        } => embedded.push((passages, bytes_read)),
        IngestEvent::LeftOut(report) => left_out.push(report.to_string()),
        IngestEvent::Linked { vectors, total } => linked.push((vectors, total)),
    };
    let built = build_from_corpus(corpus(&lines), &dir, build, options, &model, on_event);
    let (_, ingested) = built.unwrap();
    let wanted = Ingested {
        records: 7,
        bad_records: 3,
        documents: 4,
        passages: 4,
    };
    assert_eq!(ingested, wanted);
    assert!(bad[0].starts_with("line 4: not a JSON object"), "{bad:?}");
    assert_eq!(bad[1], "line 5: has the id \"b\" of line 2");
    assert_eq!(bad[2], "line 6: cannot be embedded: too long");
    assert_eq!(
        left_out,
        [
            "1 not a JSON object: line 4; 1 with an id that was there before: line 5; 1 that cannot be embedded: line 6"
        ]
    );
    assert_eq!(embedded.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(embedded[2].1, lines.len() as u64);
    assert_eq!(linked.last(), Some(&(4, 4)));
    let index = Index::open(&dir).unwrap();
    let hits = index.search(&[6.0, 65.0], &SearchOptions::new(1)).unwrap();
    assert_eq!(hits[0].passage.id, "a");
}

#[test]
fn a_build_that_fails_leaves_the_old_index() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let strict = IngestOptions {
        strict: true,
        ..ingest_options()
    };
    let build = |lines: &str| {
        let model = Lengths::lasting(100);
        build_from_corpus(corpus(lines), &dir, options(2), strict, &model, |_| ())
    };
    build(GOOD).unwrap();
    assert!(
        matches!(build(&format!("{GOOD}nonsense\n{GOOD}")), Err(IngestError::Record(error)) if error.position == Position::Line(4))
    );
    let error = build("\n").unwrap_err();
    assert!(matches!(error, IngestError::NoPassages { bad_records: 0 }));
    let error = build("{\"id\":\"x\",\"text\":\"broken\"}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot embed the passages from \"x\" on: out of memory"
    );
    assert_eq!(Index::open(&dir).unwrap().passages(), 3);
    assert_eq!(names(home.path()), ["index"]);
}

/// A corpus file of so many documents, each of three sentences.
fn write_corpus(file: &Path, documents: usize) {
    let line = |n: usize| {
        let text = format!("Number {n} is here. It has a second sentence! And a third one?");
        json!({"id": format!("d{n}"), "title": format!("T{n}"), "text": text, "metadata": {"n": n}})
            .to_string()
    };
    let lines: Vec<String> = (0..documents).map(line).collect();
    fs::write(file, lines.join("\n")).unwrap();
}

#[test]
fn an_interrupted_build_goes_on_and_gives_what_an_undisturbed_one_gives() {
    let home = tempfile::tempdir().unwrap();
    let (file, dir) = (home.path().join("c.jsonl"), home.path().join("index"));
    write_corpus(&file, 300);
    let options = IngestOptions {
        batch_texts: 8,
        rules: DocumentRules {
            split: Splitter::new(6, 0).unwrap(),
            ..DocumentRules::default()
        },
        save_every: std::time::Duration::ZERO,
        ..ingest_options()
    };
    let build = |dir: &Path, model: &Lengths, resumed: &mut Vec<(u64, u64)>| {
        let corpus = Corpus::open(&file).unwrap();
        let on_event = |event: IngestEvent<'_>| {
            if let IngestEvent::Resumed { passages, records } = event {
                resumed.push((passages, records));
            }
        };
        build_from_corpus(corpus, dir, common::options(2), options, model, on_event)
    };
    let mut resumed = Vec::new();
    for _ in 0..3 {
        let error = build(&dir, &Lengths::lasting(200), &mut resumed).unwrap_err();
        assert!(error.to_string().contains("worn out"), "{error}");
        assert_eq!(names(home.path()), [".index.building", "c.jsonl"]);
    }
    let (_, ingested) = build(&dir, &Lengths::lasting(9999), &mut resumed).unwrap();
    assert_eq!(resumed.len(), 3);
    assert!(resumed.is_sorted() && resumed[0].0 > 150, "{resumed:?}");
    assert_eq!(names(home.path()), ["c.jsonl", "index"]);

    let undisturbed = home.path().join("undisturbed");
    let model = Lengths::lasting(9999);
    assert_eq!(
        build(&undisturbed, &model, &mut Vec::new()).unwrap().1,
        ingested
    );
    let (index, wanted) = (
        Index::open(&dir).unwrap(),
        Index::open(undisturbed).unwrap(),
    );
    assert_eq!(passages(&index), passages(&wanted));
    assert_eq!(index.manifest().segments, wanted.manifest().segments);
}

#[test]
fn keys_and_values_stay_with_their_passage_as_long_as_it_does_not_change() {
    let home = tempfile::tempdir().unwrap();
    let (file, dir) = (home.path().join("c.jsonl"), home.path().join("index"));
    write_corpus(&file, 100);
    let options = IngestOptions {
        batch_texts: 8,
        keep_kv: true,
        save_every: std::time::Duration::ZERO,
        ..ingest_options()
    };
    let build = |model: &Lengths, options: IngestOptions| {
        let build = onegen_index::BuildOptions {
            passage_kv: options.keep_kv.then(|| "tiny".to_owned()),
            ..common::options(2)
        };
        let corpus = Corpus::open(&file).unwrap();
        build_from_corpus(corpus, &dir, build, options, model, |_| ())
    };
    // A build that is interrupted goes on with what it had kept.
    build(&Lengths::lasting(60), options).unwrap_err();
    build(&Lengths::lasting(9999), options).unwrap();
    let index = Index::open_for_changes(&dir).unwrap();
    let kept = |index: &Index, id: &str| index.passage_kv(id).unwrap();
    let text = |index: &Index, id: &str| index.get(id).unwrap().unwrap().text.into_bytes();
    for id in ["d0", "d57", "d99"] {
        assert_eq!(kept(&index, id), Some(text(&index, id)), "{id}");
    }
    assert_eq!(index.manifest().passage_kv.as_deref(), Some("tiny"));
    let bytes = passages(&index).iter().map(|p| p.text.len() as u64).sum();
    assert_eq!(index.stats().passage_kv, (100, bytes));
    assert_eq!(kept(&index, "nobody"), None);

    let mut changed = index.get("d57").unwrap().unwrap();
    changed.text = "Other".into();
    let change = Change::Upsert {
        passage: changed,
        vectors: vec![vec![1.0, 2.0]],
    };
    let gone = Change::DeleteDocument { id: "d0".into() };
    index.apply(vec![change, gone]).unwrap();
    for _ in 0..2 {
        assert_eq!(kept(&index, "d57"), None);
        assert_eq!(kept(&index, "d0"), None);
        assert_eq!(kept(&index, "d99"), Some(text(&index, "d99")));
        index.compact().unwrap();
    }
    assert_eq!(index.stats().passage_kv.0, 98);
    drop(index);
    let findings = || onegen_index::verify(&dir).unwrap().findings.len();
    assert_eq!(findings(), 0);
    assert_eq!(kept(&Index::open(&dir).unwrap(), "d1").unwrap().len(), 60);
    // No bytes of what was deleted are left.
    let segments = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = segments.filter(|path| path.is_dir()).last().unwrap();
    let file = file.join("passages.kv");
    let mut bytes = fs::read(&file).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("Number 57 "));
    // What is damaged is found.
    bytes[10] ^= 1;
    fs::write(&file, bytes).unwrap();
    let damaged = Index::open(&dir).unwrap();
    assert!(damaged.passage_kv("d1").is_err());
    assert_eq!(findings(), 1);

    // With a vector for each sentence none of them is of the passage alone.
    let rules = sentences();
    build(&Lengths::lasting(9999), IngestOptions { rules, ..options }).unwrap();
    assert_eq!(Index::open(&dir).unwrap().stats().passage_kv, (0, 0));
}

#[test]
fn another_corpus_or_other_options_begin_anew() {
    let home = tempfile::tempdir().unwrap();
    let (file, dir) = (home.path().join("c.jsonl"), home.path().join("index"));
    write_corpus(&file, 50);
    let interrupt = || {
        let (corpus, model) = (Corpus::open(&file).unwrap(), Lengths::lasting(20));
        let options = IngestOptions {
            batch_texts: 4,
            save_every: std::time::Duration::ZERO,
            ..ingest_options()
        };
        build_from_corpus(corpus, &dir, options_of(2), options, &model, |_| ()).unwrap_err();
        options
    };
    fn options_of(dimension: usize) -> onegen_index::BuildOptions {
        options(dimension)
    }
    let anew = |options: IngestOptions| {
        let (corpus, model) = (Corpus::open(&file).unwrap(), Lengths::lasting(9999));
        let on_event = |event: IngestEvent<'_>| {
            assert!(!matches!(event, IngestEvent::Resumed { .. }));
        };
        build_from_corpus(corpus, &dir, options_of(2), options, &model, on_event).unwrap();
    };
    let interrupted = interrupt();
    anew(IngestOptions {
        rules: sentences(),
        ..interrupted
    });
    let interrupted = interrupt();
    write_corpus(&file, 51);
    anew(interrupted);
    assert_eq!(Index::open(&dir).unwrap().passages(), 51);
}

#[test]
fn a_vector_a_sentence_finds_the_passage_by_its_best_beginning() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let text = "One is here. Two follows at some length. Three.";
    let lines = json!({"id": "d", "text": text}).to_string();
    let options = IngestOptions::new(sentences());
    let model = Lengths::lasting(100);
    build_from_corpus(
        corpus(&lines),
        &dir,
        common::options(2),
        options,
        &model,
        |_| (),
    )
    .unwrap();
    let index = Index::open(&dir).unwrap();
    assert_eq!((index.stats().passages, index.stats().vectors), (1, 3));
    let second = "One is here. Two follows at some length.".len() as f32;
    let hits = index
        .search(&[second, f32::from(b'O')], &SearchOptions::new(5))
        .unwrap();
    assert_eq!((hits.len(), hits[0].part), (1, 1));
    assert_eq!(hits[0].passage.text, text);
}

#[test]
fn a_document_that_is_added_again_takes_the_place_of_all_its_passages() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let model = Lengths::lasting(9999);
    build_from_corpus(
        corpus(GOOD),
        &dir,
        options(2),
        ingest_options(),
        &model,
        |_| (),
    )
    .unwrap();
    let index = Index::open_for_changes(&dir).unwrap();
    let split = IngestOptions::new(DocumentRules {
        split: Splitter::new(4, 0).unwrap(),
        ..DocumentRules::default()
    });
    let add = |text: &str| {
        let line = json!({"id": "b", "title": "B", "text": text}).to_string();
        add_from_corpus(
            corpus(&line),
            |changes| index.apply(changes),
            split,
            &model,
            |_| (),
        )
        .unwrap();
        let ids = passages(&index).into_iter().map(|p| p.id);
        ids.collect::<Vec<_>>()
    };
    let long = "One two three. Four five six. Seven eight nine.";
    assert_eq!(add(long), ["a", "c", "b#0", "b#1", "b#2"]);
    assert_eq!(
        add("One two three. Four five six."),
        ["a", "c", "b#0", "b#1"]
    );
    index.compact().unwrap();
    assert_eq!(add("Short now."), ["a", "c", "b"]);
}

#[test]
fn an_index_knows_how_its_documents_became_passages_whatever_is_put_in_later() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("index");
    let rules = DocumentRules {
        split: Splitter::new(9, 2).unwrap(),
        ..sentences()
    };
    let (model, options) = (Lengths::lasting(9999), common::options(2));
    let ingest = IngestOptions::new(rules);
    build_from_corpus(corpus(GOOD), &dir, options, ingest, &model, |_| ()).unwrap();
    let index = Index::open_for_changes(&dir).unwrap();
    assert_eq!(index.document_rules(), rules);
    let line = json!({"id": "z", "text": "One. Two. Three."}).to_string();
    add_from_corpus(
        corpus(&line),
        |changes| index.apply(changes),
        ingest_options(),
        &model,
        |_| (),
    )
    .unwrap();
    index.compact().unwrap();
    drop(index);
    assert_eq!(Index::open(&dir).unwrap().document_rules(), rules);
}

#[test]
fn an_index_that_does_not_know_it_goes_by_the_vectors_that_it_has() {
    let home = tempfile::tempdir().unwrap();
    let passage = serde_json::from_value(json!({"id": "a", "title": "", "text": "A."})).unwrap();
    for (vectors, expected) in [(1, VectorsPer::Passage), (2, VectorsPer::Sentence)] {
        let dir = home.path().join(vectors.to_string());
        let mut builder = IndexBuilder::create(&dir, common::options(2)).unwrap();
        builder
            .add(&passage, &vec![vec![1.0, 0.0]; vectors])
            .unwrap();
        builder.finish().unwrap();
        let index = Index::open(&dir).unwrap();
        let expected = DocumentRules {
            vectors: expected,
            ..DocumentRules::default()
        };
        assert_eq!(index.document_rules(), expected);
    }
}
