//! Files that hold many records: their kinds, and how they are opened.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use super::compression::Compression;
use super::source::{CorpusError, Source};
use super::{jsonl, table};

/// A kind of file that holds many records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Lines,
    Parquet,
}

impl Format {
    /// The format of a file by the ending of its name, or why it has none.
    pub(super) fn from_path(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        let (name, compression) = [".gz", ".zst"]
            .into_iter()
            .find_map(|ending| Some((name.strip_suffix(ending)?, ending)))
            .unwrap_or((&name, ""));
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        match (extension, compression) {
            (Some("jsonl" | "ndjson"), _) | (None, ".gz" | ".zst") => Ok(Self::Lines),
            (Some("parquet"), "") => Ok(Self::Parquet),
            (None, _) => Err("it has no extension".into()),
            (Some(extension), _) => Err(format!("its extension is .{extension}{compression}")),
        }
    }

    /// Reads a file of this format. Compression is detected from its first bytes.
    ///
    /// # Errors
    /// The file cannot be read, or is of another format.
    pub(super) fn open(self, path: &Path, mut file: File) -> Result<Box<dyn Source>, CorpusError> {
        let beginning = beginning(&mut file).map_err(CorpusError::io(path))?;
        Ok(match self {
            Self::Parquet => Box::new(table::Table::open(path, file)?),
            Self::Lines if beginning == b"PAR1" => {
                return Err(CorpusError::Kind {
                    path: path.to_path_buf(),
                    reason: "it is Parquet; name it .parquet".into(),
                });
            }
            Self::Lines => match Compression::from_beginning(&beginning) {
                Some(compression) => {
                    let opened = compression.decompress(file);
                    let (input, read) = opened.map_err(CorpusError::io(path))?;
                    Box::new(jsonl::Lines::compressed(input, read))
                }
                None => {
                    let input = BufReader::with_capacity(1 << 20, file);
                    Box::new(jsonl::Lines::new(input))
                }
            },
        })
    }
}

/// The first bytes of a file, which is rewound.
fn beginning(file: &mut File) -> io::Result<Vec<u8>> {
    let mut beginning = Vec::new();
    file.take(4).read_to_end(&mut beginning)?;
    file.rewind()?;
    Ok(beginning)
}
