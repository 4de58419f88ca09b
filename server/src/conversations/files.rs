//! Transcripts on the disk, a file for each conversation, replaced whole after each turn.
//!
//! A file is JSON and a line with the JSON's checksum. A file of an earlier version has no checksum.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use onegen_engine::{ChatMessage, ConversationId, Role};
use serde::{Deserialize, Serialize};

use crate::admission::Owner;
use crate::conversations::past_retrievals::PastRetrieval;
use crate::conversations::transcript::{
    ConversationDetails, SharedVersion, StoredConversation, StoredResponse, Transcript, TurnEnd,
};

const FINISHED: &str = "json";
const UNFINISHED: &str = "tmp";
/// Bytes that are written to see whether a disk takes files again: those of a long transcript.
const PROBE_BYTES: usize = 64 << 10;

/// The content of a file.
pub(super) type FileContents = (ConversationId, StoredConversation);

/// A directory of transcripts.
pub(crate) struct TranscriptFiles {
    dir: PathBuf,
    /// Whether the last file that was to be written could not be.
    failing: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Record {
    conversation: String,
    /// The name of the key that began the conversation; `None` on a server without keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Seconds since 1970; 0 in a file of an earlier version, which did not record it.
    #[serde(default)]
    created: u64,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    named: bool,
    /// `None` in a file of an earlier version, which has only the last turn's `log_len`.
    turns: Option<Vec<TurnEnd>>,
    #[serde(default, skip_serializing)]
    log_len: usize,
    /// `None` too in a file of an earlier version, in which they are the first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    messages: Vec<Message>,
    /// `None` in a file of an earlier version.
    retrievals: Option<Vec<PastRetrieval>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    responses: Vec<StoredResponse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<SharedVersion>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    role: WireRole,
    content: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireRole {
    System,
    User,
    Assistant,
}

impl TranscriptFiles {
    /// Opens a directory, creating it if necessary, and reads its transcripts, the least recently
    /// written first. A damaged file is logged and left out.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Vec<FileContents>)> {
        fs::create_dir_all(dir)?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|one| one != FINISHED) {
                continue;
            }
            match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                Ok(modified) => paths.push((modified, path)),
                // A link that leads nowhere, for example.
                Err(error) => {
                    let file = path.display();
                    tracing::warn!(%file, %error, "a transcript cannot be read and is left out");
                }
            }
        }
        paths.sort();
        let read = paths.into_iter().filter_map(|(_, path)| match read(&path) {
            Ok(found) => Some(found),
            Err(error) => {
                let file = path.display();
                tracing::warn!(%file, %error, "a transcript cannot be read and is left out");
                None
            }
        });
        let found = read.collect();
        let dir = dir.to_owned();
        let failing = AtomicBool::new(false);
        Ok((Self { dir, failing }, found))
    }

    /// Writes a transcript in place of the one before.
    ///
    /// # Errors
    /// A file could not be written.
    pub(crate) fn write(&self, id: &ConversationId, stored: &StoredConversation) -> io::Result<()> {
        let bytes = to_bytes(id, stored)?;
        let unfinished = self.unfinished(id);
        let written = fs::write(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, self.path(id, FINISHED)))
            // A part of a file would take room that others may need.
            .inspect_err(|_| drop(fs::remove_file(&unfinished)));
        self.failing.store(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Whether files can be written. After one could not be, this tries to write another.
    pub(crate) fn is_writable(&self) -> bool {
        if !self.failing.load(Ordering::Relaxed) {
            return true;
        }
        let probe = self.dir.join("probe").with_extension(UNFINISHED);
        let written = fs::write(&probe, [0; PROBE_BYTES]);
        let removed = fs::remove_file(&probe);
        let writable = written.and(removed).is_ok();
        self.failing.store(!writable, Ordering::Relaxed);
        writable
    }

    /// Deletes a transcript, if there is one.
    ///
    /// # Errors
    /// It could not be deleted.
    pub(crate) fn remove(&self, id: &ConversationId) -> io::Result<()> {
        match fs::remove_file(self.path(id, FINISHED)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Where a transcript is written before it replaces the one before.
    pub(crate) fn unfinished(&self, id: &ConversationId) -> PathBuf {
        self.path(id, UNFINISHED)
    }

    /// A conversation's name may be any text, so files are called by its digest.
    fn path(&self, id: &ConversationId, extension: &str) -> PathBuf {
        let digest = blake3::hash(id.as_str().as_bytes()).to_hex();
        let name = &digest.as_str()[..32];
        self.dir.join(name).with_extension(extension)
    }
}

/// The content of a conversation's file.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn to_bytes(id: &ConversationId, stored: &StoredConversation) -> io::Result<Vec<u8>> {
    let StoredConversation {
        transcript,
        details,
        responses,
        shared,
    } = stored;
    let record = Record {
        conversation: id.to_string(),
        owner: transcript.owner.name().map(|name| name.to_string()),
        created: details.created,
        metadata: details.metadata.clone(),
        named: transcript.named,
        turns: Some(transcript.turns.clone()),
        log_len: 0,
        instructions: transcript.instructions.clone(),
        messages: transcript.messages.iter().map(Message::new).collect(),
        retrievals: Some(transcript.retrievals.clone()),
        responses: responses.clone(),
        deleted: transcript.deleted.clone(),
        shared: shared.clone(),
    };
    Ok(with_checksum(serde_json::to_vec(&record)?))
}

const LINE_BREAK: u8 = b'\n';

fn with_checksum(mut json: Vec<u8>) -> Vec<u8> {
    let checksum = blake3::hash(&json).to_hex();
    json.push(LINE_BREAK);
    json.extend_from_slice(checksum.as_bytes());
    json.push(LINE_BREAK);
    json
}

/// The JSON of a file.
///
/// # Errors
/// The JSON is not the one that was written.
fn checked(file: &[u8]) -> io::Result<&[u8]> {
    let lines = file.strip_suffix(&[LINE_BREAK]).unwrap_or(file);
    let end = lines.iter().rposition(|byte| *byte == LINE_BREAK);
    let checksum = end.and_then(|end| blake3::Hash::from_hex(&lines[end + 1..]).ok());
    let (Some(end), Some(checksum)) = (end, checksum) else {
        return Ok(file);
    };
    let json = &lines[..end];
    if checksum != blake3::hash(json) {
        let message = "it is not as it was written: its checksum is another";
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(json)
}

fn read(path: &Path) -> io::Result<FileContents> {
    parse(&fs::read(path)?)
}

/// Reads the content of a conversation's file.
///
/// # Errors
/// It is damaged.
pub(super) fn parse(file: &[u8]) -> io::Result<FileContents> {
    let record: Record = serde_json::from_slice(checked(file)?)?;
    let messages = record.messages.len();
    let turns = match (record.turns, record.log_len) {
        (Some(turns), _) => turns,
        (None, 0) => Vec::new(),
        (None, log_len) => vec![TurnEnd { messages, log_len }],
    };
    let messages = record.messages.into_iter().map(Message::into_chat);
    let mut transcript = Transcript {
        instructions: record.instructions,
        messages: messages.collect(),
        turns,
        owner: record.owner.as_deref().map(Owner::key).unwrap_or_default(),
        named: record.named,
        retrievals: Vec::new(),
        deleted: record.deleted,
    };
    match record.retrievals {
        Some(retrievals) => transcript.retrievals = retrievals,
        // Retrievals without a recorded digest cannot be checked for deletion.
        None => transcript.begin_again(),
    }
    let details = ConversationDetails {
        created: record.created,
        metadata: record.metadata,
    };
    let stored = StoredConversation {
        transcript,
        details,
        responses: record.responses,
        shared: record.shared,
    };
    Ok((record.conversation.into(), stored))
}

impl Message {
    fn new(message: &ChatMessage) -> Self {
        Self {
            role: match message.role {
                Role::System => WireRole::System,
                Role::User => WireRole::User,
                Role::Assistant => WireRole::Assistant,
            },
            content: message.content.clone(),
        }
    }

    fn into_chat(self) -> ChatMessage {
        let role = match self.role {
            WireRole::System => Role::System,
            WireRole::User => Role::User,
            WireRole::Assistant => Role::Assistant,
        };
        ChatMessage::new(role, self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("gone.json")).unwrap();
        let (_, found) = TranscriptFiles::open(dir.path()).unwrap();
        assert!(found.is_empty());
    }
}
