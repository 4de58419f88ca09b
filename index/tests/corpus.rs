//! The same corpus in every format gives the same documents, and damage is an error.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use common::shared_data;
use flate2::Compression;
use flate2::write::GzEncoder;
use onegen_index::{Corpus, CorpusError, Document, Position, RecordError, RecordReason};
use parquet::basic::Compression as TableCompression;
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use serde_json::{Value, json};

fn documents(path: &Path) -> Vec<Document> {
    Corpus::open(path).unwrap().map(Result::unwrap).collect()
}

/// The result of each record; checks that nothing follows a failure.
fn outcomes(corpus: Corpus) -> Vec<Result<String, RecordError>> {
    corpus
        .map(|record| record.map(|document| document.id))
        .collect()
}

/// Passages of 2WikiMultihopQA, or invented ones if that file is missing: (title, text).
fn passages() -> Vec<(String, String)> {
    let Some(corpus) = shared_data("2wikimultihopqa_corpus.json") else {
        return (0..500)
            .map(|n| (format!("Title {n}"), format!("Text {n}.\nEnd.")))
            .collect();
    };
    let corpus: Vec<Value> = serde_json::from_str(&corpus).unwrap();
    let field = |passage: &Value, name: &str| passage[name].as_str().unwrap().to_owned();
    let passages = corpus.iter().map(|p| (field(p, "title"), field(p, "text")));
    passages
        .filter(|(_, text)| !text.trim().is_empty())
        .collect()
}

fn url(number: i64) -> Option<String> {
    (number % 3 == 0).then(|| format!("https://e.org/{number}"))
}

fn json_lines(passages: &[(String, String)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (n, (title, text)) in passages.iter().enumerate() {
        let line = json!({
            "id": n, "title": title, "text": text,
            "url": url(n as i64),
            "metadata": {"number": n, "list": [n]},
        });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame with a checksum, as the command zstd writes it.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 0).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

type RowGroup<'a> = SerializedRowGroupWriter<'a, File>;

/// Writes the next column. Definition levels say which rows have a value.
fn column<T: DataType>(rows: &mut RowGroup<'_>, values: &[T::T], levels: Option<&[i16]>) {
    let mut column = rows.next_column().unwrap().unwrap();
    let writer = column.typed::<T>();
    // In repeated columns every row has one value.
    let flat = vec![0; levels.map_or(0, <[i16]>::len)];
    writer
        .write_batch(values, levels, levels.is_some().then_some(&flat))
        .unwrap();
    column.close().unwrap();
}

fn texts<'a>(rows: &mut RowGroup<'_>, values: impl Iterator<Item = &'a str>) {
    let values: Vec<ByteArray> = values.map(ByteArray::from).collect();
    column::<ByteArrayType>(rows, &values, None);
}

fn optional_texts(rows: &mut RowGroup<'_>, values: &[Option<&str>]) {
    let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
    let values: Vec<ByteArray> = values.iter().flatten().map(|&value| value.into()).collect();
    column::<ByteArrayType>(rows, &values, Some(&levels));
}

fn table_writer(
    path: &Path,
    schema: &str,
    compression: TableCompression,
) -> SerializedFileWriter<File> {
    let schema = parse_message_type(&format!("message passages {{ {schema} }}")).unwrap();
    let properties = WriterProperties::builder().set_compression(compression);
    let file = File::create(path).unwrap();
    SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build())).unwrap()
}

/// The documents of [`json_lines`] as a table, with a column of a type that is not read.
fn table(
    path: &Path,
    passages: &[(String, String)],
    compression: TableCompression,
    row_group_rows: usize,
) {
    let schema = "required int64 id; optional binary url (UTF8); required binary text (UTF8);
        required binary title (UTF8); required int64 number; repeated int64 list;
        required fixed_len_byte_array(12) interval (INTERVAL);";
    let mut writer = table_writer(path, schema, compression);
    let numbered: Vec<(i64, &(String, String))> = (0..).zip(passages).collect();
    for rows in numbered.chunks(row_group_rows) {
        let numbers: Vec<i64> = rows.iter().map(|(n, _)| *n).collect();
        let urls: Vec<Option<String>> = numbers.iter().map(|&n| url(n)).collect();
        let urls: Vec<Option<&str>> = urls.iter().map(Option::as_deref).collect();
        let mut row_group = writer.next_row_group().unwrap();
        column::<Int64Type>(&mut row_group, &numbers, None);
        optional_texts(&mut row_group, &urls);
        texts(&mut row_group, rows.iter().map(|(_, passage)| &*passage.1));
        texts(&mut row_group, rows.iter().map(|(_, passage)| &*passage.0));
        column::<Int64Type>(&mut row_group, &numbers, None);
        column::<Int64Type>(&mut row_group, &numbers, Some(&vec![1; rows.len()]));
        let interval = FixedLenByteArray::from(vec![0; 12]);
        column::<FixedLenByteArrayType>(&mut row_group, &vec![interval; rows.len()], None);
        row_group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn lines_compressed_lines_and_parquet_hold_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let passages = passages();
    let lines = json_lines(&passages);
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.jsonl"), &lines).unwrap();
    let expected = documents(&path("a.jsonl"));
    assert_eq!(expected.len(), passages.len());
    assert_eq!((&*expected[1].id, &expected[1].text), ("1", &passages[1].1));
    assert_eq!(expected[3].metadata.as_ref().unwrap()["number"], 3);

    // Members of a gzip file and frames of a zstd file end anywhere.
    let (head, tail) = lines.split_at(lines.len() / 3);
    for compress in [gzip, zstd] {
        let members = [compress(head), compress(b""), compress(tail)].concat();
        for name in [
            "a.jsonl.gz",
            "a.GZ",
            "a.ndjson.zst",
            "a.zst",
            "downloaded.ndjson",
        ] {
            fs::write(path(name), &members).unwrap();
            assert_eq!(documents(&path(name)), expected, "{name}");
        }
    }
    for (compression, rows) in [
        (TableCompression::UNCOMPRESSED, 1000),
        (TableCompression::SNAPPY, 7000),
        (TableCompression::ZSTD(Default::default()), 999),
        (TableCompression::GZIP(Default::default()), 1000),
        (TableCompression::LZ4_RAW, 100),
    ] {
        table(&path("a.parquet"), &passages, compression, rows);
        assert_eq!(documents(&path("a.parquet")), expected, "{compression:?}");
        let mut table = Corpus::open(path("a.parquet")).unwrap();
        table.by_ref().for_each(drop);
        assert_eq!(
            table.left_out().to_string(),
            "1 columns of a type that is not read: interval (FIXED_LEN_BYTE_ARRAY INTERVAL)"
        );
    }
}

#[test]
fn progress_reaches_the_total_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let passages = passages();
    let lines = json_lines(&passages);
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.jsonl"), &lines).unwrap();
    fs::write(path("a.jsonl.gz"), gzip(&lines)).unwrap();
    fs::write(path("a.jsonl.zst"), zstd(&lines)).unwrap();
    table(&path("a.parquet"), &passages, TableCompression::SNAPPY, 200);
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"] {
        let mut corpus = Corpus::open(path(name)).unwrap();
        let total = path(name).metadata().unwrap().len();
        assert!(corpus.bytes_read() < total / 10, "{name}");
        assert_eq!(corpus.total_bytes(), total);
        corpus.nth(passages.len() / 2).unwrap().unwrap();
        let half = corpus.bytes_read() as f64 / total as f64;
        assert!((0.4..0.7).contains(&half), "{name}: {half}");
        assert_eq!(
            corpus.by_ref().count(),
            passages.len() - passages.len() / 2 - 1
        );
        assert_eq!(
            (corpus.bytes_read(), corpus.records()),
            (total, passages.len() as u64)
        );
    }
}

#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_been() {
    let dir = tempfile::tempdir().unwrap();
    let lines = b"{\"id\":\"a\",\"text\":\"A\"}\n\nnonsense\n{\"id\":\"b\",\"text\":\"\"}\n\
        {\"id\":\"a\",\"text\":\"again\"}\n{\"id\":\"b\",\"text\":\"B\"}\n{\"id\":\"c\",\"text\":\"C\"}\n";
    let passages: Vec<(String, String)> =
        (0..50).map(|n| (String::new(), format!("{n}"))).collect();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.jsonl"), lines).unwrap();
    fs::write(path("a.jsonl.gz"), gzip(lines)).unwrap();
    fs::write(path("a.jsonl.zst"), zstd(lines)).unwrap();
    table(&path("a.parquet"), &passages, TableCompression::SNAPPY, 20);
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"] {
        let show = |corpus: Corpus| -> Vec<String> {
            corpus
                .map(|record| record.map_or_else(|e| e.to_string(), |d| format!("{d:?}")))
                .collect()
        };
        let all = show(Corpus::open(path(name)).unwrap());
        for skip in 0..=all.len() {
            let mut corpus = Corpus::open(path(name)).unwrap();
            corpus.skip_records(skip as u64).unwrap();
            assert_eq!(corpus.records(), skip as u64);
            assert_eq!(show(corpus), all[skip..], "{name} from {skip}");
        }
        let mut corpus = Corpus::open(path(name)).unwrap();
        let error = corpus.skip_records(all.len() as u64 + 1).unwrap_err();
        assert!(matches!(error, CorpusError::EndsEarly { .. }), "{error}");
    }
}

#[test]
fn identity_is_of_the_content_and_changes_at_either_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let changed = File::create(&path)
        .unwrap()
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    let identity = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        File::open(&path).unwrap().set_modified(changed).unwrap();
        Corpus::open(&path).unwrap().identity().to_owned()
    };
    let mut content = vec![b'\n'; 3 << 20];
    let before = identity(&content);
    assert_eq!(before, identity(&content));
    for at in [0, content.len() - 1] {
        content[at] = b' ';
        assert_ne!(before, identity(&content));
        content[at] = b'\n';
    }
    content.pop();
    assert_ne!(before, identity(&content));
}

#[test]
fn what_is_no_corpus_is_refused_with_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content, reason) in [
        ("a.json", &b"[]"[..], "its extension is .json;"),
        ("a.tar.gz", b"", "its extension is .tar.gz;"),
        ("a.parquet.gz", b"", "its extension is .parquet.gz;"),
        ("a.tar.zst", b"", "its extension is .tar.zst;"),
        ("corpus", b"", "it has no extension;"),
        ("a.jsonl", b"PAR1", "it is Parquet; name it .parquet;"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
        let error = Corpus::open(dir.path().join(name))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(reason) && error.contains(".ndjson"),
            "{error}"
        );
    }
    fs::write(dir.path().join("b.parquet"), b"{}").unwrap();
    for (name, reason) in [("b.parquet", "b.parquet: "), ("no.jsonl", "No such file")] {
        let error = Corpus::open(dir.path().join(name))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_table_without_the_columns_is_refused_with_those_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    for (schema, reason) in [
        (
            "required binary id (UTF8); required binary body (UTF8);",
            "has no column \"text\", only [\"id\", \"body\"]",
        ),
        ("required binary text (UTF8);", "has no column \"id\""),
        (
            "required int32 _id (DATE); required binary text (UTF8);",
            "column \"_id\" is of a type that is not read",
        ),
    ] {
        table_writer(&path, schema, TableCompression::UNCOMPRESSED)
            .close()
            .unwrap();
        let error = Corpus::open(&path).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn metadata_of_a_table_are_json_or_a_struct_and_other_columns_join_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let metadata = |schema: &str, columns: [[Option<&str>; 3]; 2]| -> Vec<Result<Value, String>> {
        // Old writers store texts as plain bytes.
        let schema = format!("required binary id; required binary text; {schema}");
        let mut writer = table_writer(&path, &schema, TableCompression::UNCOMPRESSED);
        let mut row_group = writer.next_row_group().unwrap();
        for _ in ["id", "text"] {
            texts(&mut row_group, ["a", "b", "c"].into_iter());
        }
        for column in columns {
            optional_texts(&mut row_group, &column);
        }
        row_group.close().unwrap();
        writer.close().unwrap();
        let records = Corpus::open(&path).unwrap();
        records
            .map(|record| record.map_err(|e| e.to_string()))
            .map(|record| record.map(|document| document.metadata.unwrap().into()))
            .collect()
    };
    let json_and_another = metadata(
        "optional binary metadata (UTF8); optional binary lang (UTF8);",
        [
            [Some("{\"lang\":\"es\",\"n\":1}"), None, Some("[1]")],
            [Some("en"), Some("en"), None],
        ],
    );
    let not_an_object = "row 3: \"metadata\" is not an object";
    assert_eq!(
        json_and_another,
        [
            Ok(json!({"lang": "es", "n": 1})),
            Ok(json!({"lang": "en"})),
            Err(not_an_object.into())
        ]
    );
    let a_struct = metadata(
        "required group metadata { optional binary lang (UTF8); optional binary kind (UTF8); }",
        [[Some("es"), None, None], [None, None, Some("city")]],
    );
    let expected = [json!({"lang": "es"}), json!({}), json!({"kind": "city"})];
    assert_eq!(a_struct, expected.map(Ok));
}

#[test]
fn a_broken_compressed_file_ends_with_one_error_after_what_was_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl.gz");
    let passages: Vec<(String, String)> =
        (0..2000).map(|n| (String::new(), format!("{n}"))).collect();
    for (compress, checksum) in [(gzip as fn(&[u8]) -> Vec<u8>, 5), (zstd, 1)] {
        // Several members, since a zstd decoder gives a block once it has all of it.
        let lines = json_lines(&passages);
        let whole: Vec<u8> = lines.chunks(1 << 14).flat_map(compress).collect();
        let mut flipped = whole.clone();
        let checksum = flipped.len() - checksum;
        flipped[checksum] ^= 1;
        for broken in [
            &whole[..whole.len() - 9],
            &whole[..whole.len() / 2],
            &flipped,
            &[&whole[..], b"more"].concat(),
        ] {
            fs::write(&path, broken).unwrap();
            let mut outcomes = outcomes(Corpus::open(&path).unwrap());
            let error = outcomes.pop().unwrap().unwrap_err();
            assert!(matches!(error.reason, RecordReason::Read(_)), "{error}");
            assert!(
                outcomes.len() > 500 && outcomes.iter().all(Result::is_ok),
                "{}",
                outcomes.len()
            );
            assert!(
                matches!(error.position, Position::Line(line) if line == outcomes.len() as u64 + 1)
            );
        }
    }
}

#[test]
fn a_damaged_table_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let passages: Vec<(String, String)> = (0..40)
        .map(|n| (format!("T{n}"), format!("Text {n}.")))
        .collect();
    let mut intact = 0;
    for compression in [TableCompression::UNCOMPRESSED, TableCompression::SNAPPY] {
        table(&path, &passages, compression, 15);
        let whole = fs::read(&path).unwrap();
        let expected = outcomes(Corpus::open(&path).unwrap()).len();
        let damages = std::env::var("ONEGEN_TEST_DAMAGES")
            .ok()
            .and_then(|n| n.parse().ok());
        for seed in 0..damages.unwrap_or(1000) {
            let random = blake3::hash(&u64::to_le_bytes(seed));
            let random = |n: usize| {
                u32::from_le_bytes(random.as_bytes()[4 * n..][..4].try_into().unwrap()) as usize
            };
            let mut damaged = whole.clone();
            for flip in 0..=random(0) % 3 {
                let at = random(1 + flip) % damaged.len();
                damaged[at] = random(5) as u8;
            }
            if random(6) % 8 == 0 {
                damaged.drain(random(7) % whole.len()..);
            }
            fs::write(&path, &damaged).unwrap();
            let Ok(corpus) = Corpus::open(&path) else {
                continue;
            };
            let outcomes = outcomes(corpus);
            intact += usize::from(outcomes.len() == expected && outcomes.iter().all(Result::is_ok));
            let failed = |outcome: &Result<_, RecordError>| {
                matches!(
                    outcome,
                    Err(RecordError {
                        reason: RecordReason::Read(_),
                        ..
                    })
                )
            };
            let failures = outcomes.iter().filter(|outcome| failed(outcome)).count();
            assert!(
                failures == 0 || failures == 1 && failed(outcomes.last().unwrap()),
                "seed {seed}"
            );
        }
    }
    // Pages have no checksum, so damage within a text is not detected.
    println!("{intact} were read as if whole");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_to_the_end_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        name in prop::sample::select(vec!["a.jsonl", "a.jsonl.gz", "a.parquet"]),
        framed in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let bytes = match (framed, name) {
            (true, "a.jsonl.gz") => [&[0x1f, 0x8b, 8, 0][..], &bytes].concat(),
            (true, "a.parquet") => {
                let footer = u32::try_from(bytes.len()).unwrap().to_le_bytes();
                [&b"PAR1"[..], &bytes, &footer, b"PAR1"].concat()
            }
            _ => bytes,
        };
        fs::write(&path, &bytes).unwrap();
        if let Ok(corpus) = Corpus::open(&path) {
            prop_assert!(corpus.count() <= bytes.len() + 1);
        }
    }
}
