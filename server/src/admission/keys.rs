//! The file of API keys. It contains only hashes, so it is of no use to somebody who reads it.
//!
//! A key is long and random, made here ([`NewKey`]), so it cannot be guessed, and a plain hash is as
//! safe as a slow one.
//!
//! Keys with the same name belong to the same owner. So a key can be replaced by another while both
//! are valid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::admission::caller::{Caller, Owner, Scope, Validity};

/// The prefix of every key, by which scanners for leaked secrets recognise it.
const PREFIX: &str = "sk-onegen-";

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the API keys in {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not TOML, or has wrong fields.
    #[error("the API keys in {path} cannot be understood: {source}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// It is contradictory.
    #[error("the API keys in {path}: {reason}", path = .path.display())]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What is wrong with which key.
        reason: String,
    },
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<KeyEntry>,
}

/// A key's entry in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    /// In hexadecimal digits.
    blake3: String,
    scopes: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collections: Option<Vec<String>>,
}

/// All keys.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    hash: blake3::Hash,
    caller: Caller,
    /// When the last clone is dropped, because the key is no longer in the file, the caller's
    /// validity ends.
    valid: Arc<watch::Sender<()>>,
}

impl ApiKeys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// The file cannot be read or parsed, two keys have the same hash, two keys of one name have different
    /// rights, or a key has no rights.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyFileError> {
        let text = fs::read_to_string(path).map_err(|source| KeyFileError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let file: KeyFile = toml::from_str(&text).map_err(|source| KeyFileError::Malformed {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Self::check(file).map_err(|reason| KeyFileError::Senseless {
            path: path.to_owned(),
            reason,
        })
    }

    fn check(file: KeyFile) -> Result<Self, String> {
        if file.key.is_empty() {
            return Err("there is none; make one with the command new-key".to_owned());
        }
        let mut keys: Vec<Key> = Vec::new();
        for entry in file.key {
            let name = &entry.name;
            let hash = blake3::Hash::from_hex(&entry.blake3)
                .map_err(|error| format!("the hash of {name:?} is no blake3: {error}"))?;
            if name.is_empty() {
                return Err("a key has an empty name".to_owned());
            }
            if entry.scopes.is_empty() {
                return Err(format!("{name:?} has no scopes, so it may do nothing"));
            }
            let (valid, validity) = Validity::new();
            let caller = Caller {
                owner: Owner::key(name),
                scopes: entry.scopes,
                collections: entry.collections,
                validity,
            };
            if keys.iter().any(|other| other.hash == hash) {
                return Err(format!("{name:?} has the hash of another key"));
            }
            let mut of_owner = keys.iter().map(|key| &key.caller);
            let of_owner = of_owner.find(|other| other.owner == caller.owner);
            if of_owner.is_some_and(|other| !other.covers(&caller) || !caller.covers(other)) {
                return Err(format!(
                    "two keys are called {name:?}, which makes them one owner's, but they differ in \
                     scopes or collections"
                ));
            }
            keys.push(Key {
                hash,
                caller,
                valid: Arc::new(valid),
            });
        }
        Ok(Self { keys })
    }

    /// Keeps keys valid that were in the previous file and have at least the same rights now. All other
    /// keys of the previous file become invalid when that file's keys are dropped.
    pub(super) fn succeed(&mut self, before: &Self) {
        for key in &mut self.keys {
            let same = |old: &&Key| old.hash == key.hash && key.caller.covers(&old.caller);
            if let Some(old) = before.keys.iter().find(same) {
                key.valid = old.valid.clone();
                key.caller.validity = old.caller.validity.clone();
            }
        }
    }

    /// Whose key this is.
    pub(crate) fn find(&self, key: &str) -> Option<&Caller> {
        let hash = blake3::hash(key.as_bytes());
        // blake3 compares hashes in constant time, and every key is compared, so that the time
        // reveals nothing.
        self.keys.iter().fold(None, |found, key| {
            if key.hash == hash {
                Some(&key.caller)
            } else {
                found
            }
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// A newly made key.
pub struct NewKey {
    key: String,
    entry: KeyEntry,
}

impl NewKey {
    /// Makes a key of 244 random bits.
    pub fn new(name: String, scopes: Vec<Scope>, collections: Option<Vec<String>>) -> Self {
        let [first, second] = [Uuid::new_v4(), Uuid::new_v4()].map(Uuid::simple);
        let key = format!("{PREFIX}{first}{second}");
        let blake3 = blake3::hash(key.as_bytes()).to_hex().to_string();
        let entry = KeyEntry {
            name,
            blake3,
            scopes,
            collections,
        };
        Self { key, entry }
    }

    /// The key itself, for its owner. It is stored nowhere.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its entry for the file of keys.
    ///
    /// # Errors
    /// It cannot be written as TOML.
    pub fn entry(self) -> Result<String, toml::ser::Error> {
        toml::to_string(&KeyFile {
            key: vec![self.entry],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ApiKeys, KeyFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        ApiKeys::read(file.path())
    }

    fn new_key(name: &str) -> NewKey {
        NewKey::new(name.into(), vec![Scope::Chat], Some(vec!["a".into()]))
    }

    #[test]
    fn what_new_keys_print_is_a_file_of_keys() {
        let (alice, bob) = (new_key("alice"), new_key("bob \"the\" builder"));
        let (a, b) = (alice.key().to_owned(), bob.key().to_owned());
        assert_ne!(a, b);
        let text = alice.entry().unwrap() + "\n" + &bob.entry().unwrap();
        assert!(!text.contains(&a) && !text.contains(PREFIX), "{text}");
        let keys = read(&text).unwrap();
        let caller = keys.find(&a).unwrap();
        assert_eq!(caller.owner, Owner::key("alice"));
        assert!(caller.sees("a") && !caller.sees("b"));
        let owner = &keys.find(&b).unwrap().owner;
        assert_eq!(*owner, Owner::key("bob \"the\" builder"));
        for wrong in ["", &a[..a.len() - 1], &a.to_uppercase()] {
            assert!(keys.find(wrong).is_none());
        }
    }

    #[test]
    fn keys_of_one_name_are_one_owners() {
        let [old, new] = ["alice"; 2].map(new_key);
        let keys = [&old, &new].map(|new| new.key().to_owned());
        let both = [old, new].map(|new| new.entry().unwrap()).join("\n");
        let file = read(&both).unwrap();
        for key in &keys {
            assert_eq!(file.find(key).unwrap().owner, Owner::key("alice"));
        }
    }

    #[test]
    fn a_key_is_good_until_a_file_does_not_have_it_or_lets_it_do_less() {
        use futures::FutureExt;
        let new = new_key("alice");
        let key = new.key().to_owned();
        let entry = new.entry().unwrap();
        let other = new_key("bob").entry().unwrap();
        let more = entry.replace("[\"chat\"]", "[\"documents\", \"chat\"]");
        for (after, good) in [
            (format!("{other}\n{entry}"), true),
            (more.clone(), true),
            (entry.replace("\"a\"", "\"b\", \"a\""), true),
            (entry.replace("\"a\"", "\"b\""), false),
            (entry.replace("\"chat\"", "\"admin\""), false),
            (entry.replace("alice", "eve"), false),
            (other.clone(), false),
        ] {
            let before = read(&entry).unwrap();
            let mut validity = before.find(&key).unwrap().validity();
            let mut file = read(&after).unwrap();
            file.succeed(&before);
            drop(before);
            assert_eq!(validity.ended().now_or_never().is_none(), good, "{after}");
        }
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_and_says_why() {
        let entry = new_key("alice").entry().unwrap();
        let again = NewKey::new("alice".into(), vec![Scope::Chat], None);
        let again = again.entry().unwrap();
        for (text, reason) in [
            (String::new(), "there is none"),
            (entry.replace("[\"chat\"]", "[]"), "may do nothing"),
            (entry.replace("chat", "everything"), "unknown variant"),
            (entry.replace("blake3", "key"), "unknown field"),
            (entry.replace("blake3 = \"", "blake3 = \"x"), "no blake3"),
            (
                format!("{entry}\n{again}"),
                "differ in scopes or collections",
            ),
            (
                format!("{entry}\n{}", entry.replace("alice", "bob")),
                "the hash of another",
            ),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = ApiKeys::read(Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
