//! Configuration from a file: TOML, whose keys are the names of the flags.
//!
//! The file's values become the defaults of the flags. So a flag has priority over a variable, and a
//! variable over the file, and one parser reads and checks all three.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use onegen_index::without_password;
use toml::{Table, Value};

/// The flag that names the file.
const CONFIG: &str = "config";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not TOML.
    #[error("the configuration {path} cannot be understood: {source}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// TOML's parser says where the fault is.
        source: Box<toml::de::Error>,
    },
    /// It contains a key or a value that no flag can have.
    #[error("the configuration {path}: {key} {reason}", path = .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key in the file.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A flag, a variable or a value in the file is invalid.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

/// The configuration from the command line, the variables and the file together.
pub struct Configuration {
    /// The matches of clap.
    pub matches: ArgMatches,
    /// Every setting that was chosen and where, one per line, to be printed at the start. No flag's
    /// value is a secret, because keys are given by their files.
    pub chosen: String,
}

impl Configuration {
    /// Reads all three. The `command` is one whose flags are those of [`crate::Config`].
    ///
    /// # Errors
    /// One of them is invalid.
    pub fn read(
        command: Command,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, ConfigError> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let mut file = Table::new();
        let mut matches = command.clone().try_get_matches_from(&arguments)?;
        if let Some(path) = matches.get_one::<PathBuf>(CONFIG) {
            file = read_file(path)?;
            let command = with_defaults(command.clone(), &file, path)?;
            matches = command.try_get_matches_from(&arguments)?;
        }
        let chosen = chosen(&command, &matches, &file);
        Ok(Self { matches, chosen })
    }
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|source| ConfigError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// The command with the file's values as its defaults.
fn with_defaults(mut command: Command, file: &Table, path: &Path) -> Result<Command, ConfigError> {
    for (key, value) in file {
        let fault = |reason| ConfigError::Key {
            path: path.to_owned(),
            key: key.clone(),
            reason,
        };
        let names = |flag: &&Arg| flag.get_long() == Some(key) && flag.get_env().is_some();
        let flag = command.get_arguments().find(names);
        let flag = flag.filter(|_| key != CONFIG);
        let flag = flag.ok_or_else(|| fault("is the name of no flag"))?;
        let id = flag.get_id().clone();
        let values = values(value)
            .ok_or_else(|| fault("is neither text, number, true, false nor a list of these"))?;
        command = command.mut_arg(id, |flag| flag.default_values(values));
    }
    Ok(command)
}

/// The values as texts for the flags' defaults. They are leaked, because clap needs them for as long as
/// the program runs, and the configuration is read only once.
fn values(value: &Value) -> Option<Vec<&'static str>> {
    let text = |value: &Value| -> Option<&'static str> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            _ => return None,
        };
        Some(text.leak())
    };
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

fn chosen(command: &Command, matches: &ArgMatches, file: &Table) -> String {
    let lines = command.get_arguments().filter_map(|flag| {
        let name = flag.get_long()?;
        flag.get_env()?;
        let id = flag.get_id().as_str();
        let source = match matches.value_source(id)? {
            ValueSource::CommandLine => "flag",
            ValueSource::EnvVariable => "variable",
            _ if file.contains_key(name) => "file",
            _ => return None,
        };
        let values = matches.get_raw(id)?.map(|value| value.to_string_lossy());
        let values = values.map(|value| without_password(&value));
        let values = values.collect::<Vec<_>>().join(", ");
        Some(format!("  {name} = {values} ({source})\n"))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::config::Config;

    fn read(file: &str, arguments: &[&str]) -> Result<(Config, String), String> {
        let place = tempfile::NamedTempFile::new().unwrap();
        fs::write(place.path(), file).unwrap();
        let place = place.path().to_str().unwrap();
        let all = ["onegen-server", "--config", place];
        let all = all.iter().chain(arguments).map(OsString::from);
        let read = Configuration::read(Config::command(), all);
        let read = read.map_err(|error| error.to_string())?;
        let config = Config::from_arg_matches(&read.matches);
        Ok((config.map_err(|error| error.to_string())?, read.chosen))
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let file = "port = 1\nmax-waiting = 2\nopen-metrics = true\nindex = [\"a=b\", \"c=d\"]\n\
                    drain-timeout = 0.5\nlog = \"warn\"";
        let (config, chosen) = read(file, &["--port", "3"]).unwrap();
        assert_eq!(config.listen.port, 3);
        assert_eq!(config.capacity.max_waiting, 2);
        assert_eq!(config.capacity.max_running, 64);
        assert!(config.access.open_metrics);
        assert_eq!(config.listen.drain_timeout.as_millis(), 500);
        assert_eq!(config.log, "warn");
        let names: Vec<_> = config.model.index.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        for line in [
            "port = 3 (flag)",
            "max-waiting = 2 (file)",
            "index = a=b, c=d (file)",
        ] {
            assert!(chosen.contains(line), "{chosen}");
        }
        assert!(!chosen.contains("max-running"), "{chosen}");
        let (_, chosen) = read("", &[]).unwrap();
        assert!(chosen.starts_with("  config = "), "{chosen}");
        assert_eq!(chosen.lines().count(), 1, "{chosen}");
    }

    #[test]
    fn what_no_flag_says_is_refused_by_its_name() {
        for (file, told) in [
            ("prot = 1", "prot is the name of no flag"),
            ("config = \"x\"", "config is the name of no flag"),
            ("port = \"many\"", "invalid value 'many' for '--port"),
            ("[port]\na = 1", "port is neither"),
            ("port = ", "cannot be understood"),
        ] {
            let error = read(file, &[]).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let missing = ["onegen-server", "--config", "/no/such/file"].map(OsString::from);
        let error = Configuration::read(Config::command(), missing)
            .err()
            .unwrap();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
