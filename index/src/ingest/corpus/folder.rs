//! A folder of Markdown and plain text, each file a document.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::document::Document;
use super::identity;
use super::record::{Position, RecordReason};
use super::source::{CorpusError, RECORD_LIMIT, Source};

/// The files below a directory, by path. Hidden files and symbolic links are skipped: a link's
/// target within the directory is read at its own path, and a target outside does not belong to the
/// corpus.
pub(super) struct Folder {
    dir: PathBuf,
    files: Vec<TextFile>,
    next: usize,
    bytes_read: u64,
}

struct TextFile {
    /// The path relative to the directory.
    path: PathBuf,
    bytes: u64,
    stamp: [u8; 24],
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, CorpusError> {
        let mut files = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(below) = pending.pop() {
            let here = dir.join(&below);
            list(&here, &below, &mut files, &mut pending).map_err(CorpusError::io(&here))?;
        }
        if files.is_empty() {
            return Err(CorpusError::Kind {
                path: dir.to_path_buf(),
                reason: "no text file is in it".into(),
            });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            dir: dir.to_path_buf(),
            files,
            next: 0,
            bytes_read: 0,
        })
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn identity(&self) -> String {
        identity::of_files(self.files.iter().map(|file| (&*file.path, &file.stamp)))
    }

    fn document(&self, file: &TextFile) -> Result<Document, RecordReason> {
        let id = id(&file.path).ok_or(RecordReason::NotUtf8("its name"))?;
        let mut content = Vec::new();
        File::open(self.dir.join(&file.path))
            .and_then(|file| file.take(RECORD_LIMIT + 1).read_to_end(&mut content))
            .map_err(RecordReason::Open)?;
        if content.len() as u64 > RECORD_LIMIT {
            return Err(RecordReason::TooLong {
                limit: RECORD_LIMIT,
            });
        }
        let content = String::from_utf8(content).map_err(|_| RecordReason::NotUtf8("it"))?;
        let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
        let (title, text) = match Kind::from_path(&file.path) {
            Some(Kind::Markdown) => markdown(content),
            _ => (None, content),
        };
        if text.trim().is_empty() {
            return Err(RecordReason::Empty("text"));
        }
        let name = || file.path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Document {
            id,
            title: title.map_or_else(|| name().into_owned(), str::to_owned),
            text: text.trim().to_owned(),
            ..Document::default()
        })
    }
}

impl Source for Folder {
    fn next(&mut self) -> Option<(Position, Result<Document, RecordReason>)> {
        let file = self.files.get(self.next)?;
        let document = self.document(file);
        let position = Position::File(file.path.to_string_lossy().into_owned());
        self.pass(1);
        Some((position, document))
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Paths are unique, so files that were read before need not be read again.
    fn pass(&mut self, records: u64) -> u64 {
        let files = self.files[self.next..].iter();
        let mut passed = 0;
        for file in files.take(usize::try_from(records).unwrap_or(usize::MAX)) {
            self.bytes_read += file.bytes;
            passed += 1;
        }
        self.next += passed;
        passed as u64
    }
}

/// Adds a directory's text files to `files` and its directories to `pending`.
fn list(
    dir: &Path,
    below: &Path,
    files: &mut Vec<TextFile>,
    pending: &mut Vec<PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // For a symbolic link this is the type of the link itself, neither file nor directory.
        let file_type = entry.file_type()?;
        let path = below.join(name);
        if file_type.is_dir() {
            pending.push(path);
        } else if file_type.is_file() && Kind::from_path(&path).is_some() {
            let metadata = entry.metadata()?;
            files.push(TextFile {
                path,
                bytes: metadata.len(),
                stamp: identity::stamp(&metadata),
            });
        }
    }
    Ok(())
}

enum Kind {
    Markdown,
    Plain,
}

impl Kind {
    fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_ascii_lowercase();
        match extension.to_str()? {
            "md" | "markdown" => Some(Self::Markdown),
            "txt" => Some(Self::Plain),
            _ => None,
        }
    }
}

/// The path with `/`, if it is UTF-8.
fn id(path: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    Some(names?.join("/"))
}

/// Title and text of a Markdown file. The title is the front matter's, else the first heading, which
/// stays in the text.
fn markdown(content: &str) -> (Option<&str>, &str) {
    let (front_matter, text) = front_matter(content).unwrap_or(("", content));
    let title = front_matter
        .lines()
        .find_map(|line| line.strip_prefix("title:"))
        .map(|title| title.trim().trim_matches(['"', '\'']))
        .filter(|title| !title.is_empty());
    (title.or_else(|| first_heading(text)), text)
}

/// What stands between a first line `---` and the next such line, and what comes after it.
fn front_matter(content: &str) -> Option<(&str, &str)> {
    let mut end = 0;
    let mut start = None;
    for line in content.split_inclusive('\n') {
        end += line.len();
        match start {
            None if line.trim_end() == "---" => start = Some(end),
            None => return None,
            Some(start) if line.trim_end() == "---" => {
                return Some((&content[start..end - line.len()], &content[end..]));
            }
            Some(_) => {}
        }
    }
    None
}

/// The first line with `#`s before it or `===` under it that is not in a code block.
fn first_heading(text: &str) -> Option<&str> {
    let mut in_code = false;
    let mut before = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") || line.starts_with("~~~") {
            in_code = !in_code;
        }
        if !in_code {
            let heading = line.trim_start_matches('#');
            if heading.len() < line.len() && heading.starts_with(' ') {
                let heading = heading.trim_end_matches('#').trim();
                if !heading.is_empty() {
                    return Some(heading);
                }
            }
            if line.len() > 1 && line.bytes().all(|byte| byte == b'=') && !before.is_empty() {
                return Some(before);
            }
        }
        before = line;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
}
