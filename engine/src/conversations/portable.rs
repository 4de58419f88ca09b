//! Token logs as bytes, with which an engine goes on where another one stopped.

use crate::conversations::store::record::{KvRecord, Record};
use crate::model::Model;
use crate::tokens::token_log::TokenLog;

/// A conversation's log, as it is in its file, but for keys and values.
pub(crate) fn to_bytes(id: &str, log: &TokenLog, model: &Model) -> Result<Vec<u8>, String> {
    let tokenizer = &model.fingerprints().tokenizer;
    let record = Record::new(id, tokenizer, log, KvRecord::default());
    record.to_bytes().map_err(|error| error.to_string())
}

/// Reads [`to_bytes`].
///
/// # Errors
/// Says what is wrong: the bytes are damaged or another conversation's, or were written with another
/// tokenizer.
pub(crate) fn from_bytes(id: &str, bytes: &[u8], model: &Model) -> Result<TokenLog, String> {
    let record = Record::parse(bytes)?;
    if record.tokenizer != model.fingerprints().tokenizer {
        return Err("its tokens are those of another tokenizer".to_owned());
    }
    if record.conversation != id {
        return Err(format!("it is the conversation {}", record.conversation));
    }
    record.log_for(model)
}
