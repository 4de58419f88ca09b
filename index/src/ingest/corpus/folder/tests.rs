use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::ingest::corpus::Corpus;

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

#[test]
fn text_files_come_by_path_and_hidden_ones_links_and_others_do_not() {
    let elsewhere = folder(&[("secret.md", b"Secret")]);
    let dir = folder(&[
        ("b.md", b"B"),
        ("a/z.TXT", b"Z"),
        ("a/deep/er/x.markdown", b"X"),
        ("a.txt", b"A"),
        (".hidden.md", b"H"),
        (".git/config.txt", b"G"),
        ("picture.png", b"P"),
        ("noextension", b"N"),
    ]);
    #[cfg(unix)]
    for (link, to) in [
        ("out", elsewhere.path().to_path_buf()),
        ("out.md", elsewhere.path().join("secret.md")),
        ("loop", dir.path().to_path_buf()),
        ("in.md", dir.path().join("b.md")),
    ] {
        std::os::unix::fs::symlink(to, dir.path().join(link)).unwrap();
    }
    let mut corpus = Corpus::open(dir.path()).unwrap();
    let documents: Vec<Document> = corpus.by_ref().map(Result::unwrap).collect();
    let ids: Vec<&str> = documents.iter().map(|document| &*document.id).collect();
    assert_eq!(ids, ["a/deep/er/x.markdown", "a/z.TXT", "a.txt", "b.md"]);
    let titles: Vec<&str> = documents.iter().map(|document| &*document.title).collect();
    assert_eq!(titles, ["x", "z", "a", "b"]);
    assert_eq!((corpus.bytes_read(), corpus.total_bytes()), (4, 4));
}

#[test]
fn a_title_is_front_matter_or_first_heading_and_front_matter_is_no_text() {
    let cases: BTreeMap<&str, (&[u8], &str, &str)> = [
        (
            "a.md",
            (
                &b"---\ntitle: \"Peru\"\ntags: [x]\n---\n\n# Lima\nCity."[..],
                "Peru",
                "# Lima\nCity.",
            ),
        ),
        (
            "b.md",
            (
                b"---\r\ntags: x\r\n---\r\n\r\nText.\r\n## Lima ##\r\n",
                "Lima",
                "Text.\r\n## Lima ##",
            ),
        ),
        (
            "c.md",
            (
                b"```sh\n# comment\n```\n#hashtag\n# Real",
                "Real",
                "```sh\n# comment\n```\n#hashtag\n# Real",
            ),
        ),
        (
            "d.md",
            (
                b"\xef\xbb\xbfLima\n====\nCity.",
                "Lima",
                "Lima\n====\nCity.",
            ),
        ),
        (
            "e.md",
            (
                b"--- no front matter\nText.",
                "e",
                "--- no front matter\nText.",
            ),
        ),
        (
            "f.md",
            (
                b"---\ntitle: never closed\nText.",
                "f",
                "---\ntitle: never closed\nText.",
            ),
        ),
        (
            "g.txt",
            (
                b"---\ntitle: x\n---\n# Not Markdown",
                "g",
                "---\ntitle: x\n---\n# Not Markdown",
            ),
        ),
    ]
    .into();
    let files: Vec<(&str, &[u8])> = cases.iter().map(|(path, case)| (*path, case.0)).collect();
    let dir = folder(&files);
    let documents: Vec<Document> = Corpus::open(dir.path())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(documents.len(), cases.len());
    for document in documents {
        let (_, title, text) = cases[&*document.id];
        assert_eq!(
            (&*document.title, &*document.text),
            (title, text),
            "{}",
            document.id
        );
    }
}

#[test]
fn a_bad_file_is_named_and_the_next_is_read() {
    let dir = folder(&[
        ("a.md", b"\xff\xfe"),
        ("b/empty.txt", b" \n"),
        ("c.txt", b"C"),
    ]);
    let mut corpus = Corpus::open(dir.path()).unwrap();
    fs::write(dir.path().join("d.txt"), b"came later").unwrap();
    let errors: Vec<String> = corpus
        .by_ref()
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(
        errors,
        [
            "file \"a.md\": it is not UTF-8",
            "file \"b/empty.txt\": \"text\" is empty"
        ]
    );
    assert_eq!(corpus.records(), 3);
    let mut corpus = Corpus::open(dir.path()).unwrap();
    fs::remove_file(dir.path().join("c.txt")).unwrap();
    let gone = corpus.nth(2).unwrap().unwrap_err().to_string();
    assert!(
        gone.starts_with("file \"c.txt\": cannot be opened: No such file"),
        "{gone}"
    );
    assert!(corpus.next().unwrap().is_ok());
}

#[test]
fn an_interrupted_run_goes_on_without_reading_files_again() {
    let dir = folder(&[("a.txt", b"A"), ("b.txt", b"BB"), ("c.txt", b"C")]);
    let mut corpus = Corpus::open(dir.path()).unwrap();
    corpus.skip_records(2).unwrap();
    assert_eq!((corpus.records(), corpus.bytes_read()), (2, 3));
    assert_eq!(corpus.next().unwrap().unwrap().id, "c.txt");
    let error = Corpus::open(dir.path())
        .unwrap()
        .skip_records(4)
        .unwrap_err();
    assert!(
        error.to_string().contains("ends after 3 records, but 4"),
        "{error}"
    );
}

#[test]
fn identity_changes_with_any_file() {
    let dir = folder(&[("a.txt", b"A"), ("b.txt", b"B")]);
    let identity = || Corpus::open(dir.path()).unwrap().identity().to_owned();
    let before = identity();
    assert_eq!(before, identity());
    fs::write(dir.path().join("b.txt"), b"BB").unwrap();
    let longer = identity();
    fs::rename(dir.path().join("b.txt"), dir.path().join("c.txt")).unwrap();
    let renamed = identity();
    assert!(before != longer && longer != renamed && before != renamed);
}

#[test]
fn a_folder_without_text_is_refused() {
    let dir = folder(&[("a.png", b"A")]);
    let error = Corpus::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("no text file is in it"), "{error}");
}
