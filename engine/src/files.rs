//! Reading small files, with errors that name them, and directories of what is private.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::LoadError;

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse_json(&text, path)
}

/// Reads a JSON file that may be absent.
pub(crate) fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    read_text_if_there(path)?
        .map(|text| parse_json(&text, path))
        .transpose()
}

/// The first of `dirs` that holds the file `name`, or the last one where none does.
pub(crate) fn first_with<'a>(dirs: &[&'a Path], name: &str) -> &'a Path {
    let holds = dirs.iter().find(|dir| dir.join(name).is_file());
    holds.or(dirs.last()).copied().unwrap_or(Path::new(""))
}

/// Reads a text file that may be absent.
pub(crate) fn read_text_if_there(path: &Path) -> Result<Option<String>, LoadError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse_json<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, LoadError> {
    serde_json::from_str(text).map_err(|source| LoadError::Json {
        path: path.to_owned(),
        source,
    })
}

/// Creates a directory, if necessary, that other users of the machine cannot read: what is said and read in
/// conversations is private.
///
/// # Errors
/// It cannot be created.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
