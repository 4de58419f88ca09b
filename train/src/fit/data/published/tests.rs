use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use onegen_engine::ModelFiles;
use rand::SeedableRng;
use tempfile::TempDir;

use super::*;
use crate::fit::pack::Target;

const OPTIONS: PublishedOptions = PublishedOptions {
    repeat: 1,
    negatives: 2,
    anchors: 8,
    longest: 400,
    framing: Framing::Raw,
    passes: Passes::One,
};

const DOCUMENTS: &str = r#"{"uid":1,"messages":[{"role":"user","content":"Represent it after the '[Document Fragment Representation]' token. "},{"role":"assistant","content":"Peru is wide.[Document Fragment Representation] Lima is its capital.[Document Fragment Representation] The end"}]}
{"uid":"b","messages":[{"role":"user","content":""},{"role":"assistant","content":"Chad is dry.[Document Fragment Representation]"}]}

{"uid":"c","messages":[{"role":"user","content":""},{"role":"assistant","content":"Fiji is wet.[Document Fragment Representation]"}]}
"#;

const RECORDS: &str = r#"{"messages":[{"role":"user","content":"the capital"},{"role":"assistant","content":"of Peru[Question Representation]<paragraph>Lima it is</paragraph> Lima, so [Question Representation]<paragraph>no</paragraph> yes","positive":[["1-1",1],null],"negative":[["b"],[]]}]}
"#;

/// A shipped model's tokens, of a model whose passages see everything before them, as these records spell them.
fn tokens(model: &str) -> Tokens {
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(model);
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let onegen = copy.path().join("onegen.json");
    let text = fs::read_to_string(&onegen).unwrap();
    fs::write(onegen, text.replace("\"block\"", "\"full\"")).unwrap();
    ModelFiles::open(copy.path()).unwrap().own_tokens().unwrap()
}

fn files(records: &str, documents: &str) -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (
        directory.path().join("train.jsonl"),
        directory.path().join("db.jsonl"),
    );
    fs::write(&one, records).unwrap();
    fs::write(&other, documents).unwrap();
    (directory, one, other)
}

fn load(records: &str, documents: &str, options: PublishedOptions) -> Result<PublishedSet> {
    let (_directory, records, documents) = files(records, documents);
    PublishedSet::load(&records, &documents, options, 10, &tokens("almanac"))
}

fn pack(options: PublishedOptions) -> (Pack, Tokens) {
    let (set, tokens) = (
        load(RECORDS, DOCUMENTS, options).unwrap(),
        tokens("almanac"),
    );
    let pack = set
        .pack(0, &tokens, &mut StdRng::seed_from_u64(1))
        .unwrap()
        .unwrap();
    pack.check().unwrap();
    (pack, tokens)
}

#[test]
fn what_the_model_writes_is_learnt_and_the_rest_is_context() {
    let (pack, tokens) = pack(OPTIONS);
    let mut wanted = tokens.encode_plain("of Peru").unwrap();
    wanted.push(tokens.query_id());
    wanted.extend(tokens.encode_plain(" Lima, so ").unwrap());
    wanted.push(tokens.query_id());
    wanted.extend(tokens.encode_plain(" yes").unwrap());
    wanted.extend(tokens.end_of_turn());
    let learnt: Vec<u32> = pack.predict.iter().map(|target| target.id).collect();
    assert_eq!(learnt, wanted);
    // Each target is the token after its position.
    for Target { at, id } in &pack.predict {
        assert_eq!(pack.segments[at.segment].ids[at.offset + 1], *id);
    }
}

#[test]
fn each_sentence_of_a_document_is_a_passage_and_queries_know_theirs() {
    let (pack, tokens) = pack(OPTIONS);
    // Keys 10 and 11 belong to the first document; each other document has one key.
    let mut keys: Vec<u32> = pack.passages.iter().map(|passage| passage.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, [10, 11, 12, 13]);
    for passage in &pack.passages {
        let segment = &pack.segments[passage.at.segment];
        assert_eq!(segment.ids[passage.at.offset], tokens.passage_id());
        assert_eq!((segment.position, segment.sees.len()), (0, 0));
    }
    // The text after the last sentence is left out, and the token that the instruction quotes is not a
    // passage token.
    let first = &pack.segments[pack
        .passages
        .iter()
        .find(|p| p.key == 11)
        .unwrap()
        .at
        .segment];
    assert_eq!(first.ids.last(), Some(&tokens.passage_id()));
    let quoted = first.ids.iter().filter(|id| **id == tokens.passage_id());
    assert_eq!(quoted.count(), 3);
    // The second retrieval token has nothing to find.
    assert_eq!(pack.queries.len(), 1);
    let query = &pack.queries[0];
    let ids = &pack.segments[query.at.segment].ids;
    assert_eq!(ids[query.at.offset], tokens.query_id());
    let mut positives = query.positives.clone();
    positives.sort_unstable();
    positives.dedup();
    assert_eq!(positives, [10, 11]);
    // These are the negative that the record names, and a random one.
    let mut negatives = query.negatives.clone();
    negatives.sort_unstable();
    assert_eq!(negatives, [12, 13]);
}

#[test]
fn in_two_passes_what_is_written_holds_no_retrieval_token() {
    let (pack, tokens) = pack(PublishedOptions {
        passes: Passes::Two,
        ..OPTIONS
    });
    let query = &pack.queries[0];
    let asked = &pack.segments[query.at.segment];
    assert_eq!(query.at.offset, asked.ids.len() - 1);
    let text = tokens.encode_plain("the capital").unwrap();
    assert_eq!(asked.ids[..text.len()], text);
    let written = pack.segments.last().unwrap();
    assert!(!written.ids.contains(&tokens.query_id()));
    assert!(
        pack.predict
            .iter()
            .all(|target| target.id != tokens.query_id())
    );
    assert_eq!(pack.predict.len(), {
        let texts = ["of Peru", " Lima, so ", " yes"];
        let lengths = texts.map(|text| tokens.encode_plain(text).unwrap().len());
        lengths.iter().sum::<usize>() + 1
    });
}

#[test]
fn the_chat_template_frames_what_the_user_says() {
    let (pack, tokens) = pack(PublishedOptions {
        framing: Framing::Chat,
        ..OPTIONS
    });
    let asked = [ChatMessage::new(Role::User, "the capital")];
    let prompt = tokens.encode_chat(&asked).unwrap();
    let ids = &pack.segments.last().unwrap().ids;
    assert_eq!(ids[..prompt.len()], prompt);
    assert_eq!(ids.last().copied(), tokens.end_of_turn());
}

#[test]
fn what_is_too_long_is_cut_and_never_searched_for() {
    let (whole, tokens) = pack(OPTIONS);
    let end = whole.queries[0].at.offset;
    let (cut, _) = pack(PublishedOptions {
        longest: end,
        ..OPTIONS
    });
    assert!(cut.queries.is_empty());
    assert!(cut.segments.iter().all(|segment| segment.ids.len() <= end));
    let short = tokens.encode_plain("of").unwrap().len();
    assert!(cut.predict.len() >= short);
}

#[test]
fn mentions_are_written_and_what_follows_their_token_is_not() {
    let records = r#"{"messages":[{"role":"user","content":"Lima grew. "},{"role":"assistant","content":"<MENTION>Lima</MENTION>[LK][_CONTINUE_] grew.","positive":["7"],"negative":[null]}]}"#;
    let documents = r#"{"uid":"7","messages":[{"role":"user","content":""},{"role":"assistant","content":"Lima: a city[SE]"}]}"#;
    let (_directory, records, documents) = files(records, documents);
    let tokens = tokens("linker");
    let set = PublishedSet::load(&records, &documents, OPTIONS, 0, &tokens).unwrap();
    let pack = set
        .pack(0, &tokens, &mut StdRng::seed_from_u64(1))
        .unwrap()
        .unwrap();
    let go_on = tokens.id_of("[_CONTINUE_]").unwrap();
    let learnt: Vec<u32> = pack.predict.iter().map(|target| target.id).collect();
    assert!(learnt.contains(&tokens.query_id()) && !learnt.contains(&go_on));
    let ids = &pack.segments[pack.queries[0].at.segment].ids;
    assert_eq!(ids[pack.queries[0].at.offset + 1], go_on);
    assert_eq!(pack.queries[0].positives, [0, 0]);
}

#[test]
fn published_spellings_stand_for_the_tokens_that_the_model_has() {
    let tokens = tokens("almanac");
    let spellings = Spellings::new(&tokens).unwrap();
    let ids = spellings
        .encode("a[Question Representation]b[RQ]", &tokens)
        .unwrap();
    let queries = ids.iter().filter(|id| **id == tokens.query_id());
    assert_eq!(queries.count(), 2);
    assert_eq!(
        spellings.count_queries("a[Question Representation]b[RQ]"),
        2
    );
}

#[test]
fn packed_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["train.jsonl.gz", "db.jsonl.gz"].map(|name| directory.path().join(name));
    for (path, text) in paths.iter().zip([RECORDS, DOCUMENTS]) {
        let mut file = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
        file.write_all(text.as_bytes()).unwrap();
        file.finish().unwrap();
    }
    let set = PublishedSet::load(&paths[0], &paths[1], OPTIONS, 0, &tokens("almanac")).unwrap();
    assert_eq!((set.counts(), set.end_key()), ((3, 1), 4));
}

#[test]
fn broken_lines_are_refused_by_file_and_line() {
    let refused = |records: &str, documents: &str, why: &[&str]| {
        let error = load(records, documents, OPTIONS).err().unwrap();
        let error = format!("{error:#}");
        for why in why {
            assert!(error.contains(why), "{error}");
        }
    };
    let second = format!("{RECORDS}\n{{\"messages\":[{{\"role\":\"user\"}}]}}");
    refused(&second, DOCUMENTS, &["train.jsonl, line 3", "content"]);
    let few = RECORDS.replace(r#"[["1-1",1],null]"#, r#"[["1-1",1]]"#);
    refused(
        &few,
        DOCUMENTS,
        &[
            "train.jsonl, line 1",
            "2 retrieval tokens",
            "1 entries of `positive`",
        ],
    );
    let odd = RECORDS.replace("1-1", "1-x");
    refused(&odd, DOCUMENTS, &["train.jsonl, line 1", "1-x"]);
    let unknown = RECORDS
        .replace(r#"["1-1",1]"#, r#"["nine"]"#)
        .replace(r#"["b"]"#, "[]");
    refused(&unknown, DOCUMENTS, &["no reference", "db.jsonl"]);
    let bare = DOCUMENTS.replace("Fiji is wet.[Document Fragment Representation]", "Fiji.");
    refused(
        RECORDS,
        &bare,
        &["db.jsonl, line 4", "[Document Fragment Representation]"],
    );
    refused(
        RECORDS,
        &DOCUMENTS.replace(r#""c""#, r#""b""#),
        &["db.jsonl, line 4", "before"],
    );
    refused(
        RECORDS,
        &DOCUMENTS.replace(r#""c""#, r#""c-1""#),
        &["line 4", "hyphen"],
    );
    let user_last = r#"{"messages":[{"role":"user","content":"so"}]}"#;
    refused(user_last, DOCUMENTS, &["line 1", "not the assistant's"]);
    refused("", DOCUMENTS, &["holds no records"]);
}
