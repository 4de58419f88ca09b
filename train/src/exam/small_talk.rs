//! Messages that ask for nothing that could be looked up. A model that retrieves for them makes a
//! mistake.

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::asking::{Source, TurnRequest};
use super::examinee::Examinee;
use super::sitting::Conditions;

/// The separator between a system message and the user's.
const SEPARATOR: &str = " || ";

/// A message, and the system message before it, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What the system says.
    pub system: Option<String>,
    /// What the user says.
    pub message: String,
}

/// The result for one line.
#[derive(Debug, Clone, Serialize)]
pub struct SmallTalkRecord {
    /// The model.
    pub model: String,
    /// What the system said.
    pub system: Option<String>,
    /// What the user said.
    pub message: String,
    /// Whether the model retrieved anywhere in its answer.
    pub retrieved: bool,
    /// What it answered.
    pub text: String,
}

/// Reads one message a line, or `SYSTEM || MESSAGE` with a system message. Empty lines and those that begin
/// with `#` are skipped.
///
/// # Errors
/// There is no line, or one has an empty part.
pub fn lines(text: &str) -> Result<Vec<Line>> {
    let each = text.lines().map(str::trim);
    let kept = each.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<Line> = kept
        .map(|line| match line.split_once(SEPARATOR) {
            Some((system, message)) => Line {
                system: Some(system.trim().to_owned()),
                message: message.trim().to_owned(),
            },
            None => Line {
                system: None,
                message: line.to_owned(),
            },
        })
        .collect();
    ensure!(!lines.is_empty(), "there is no small talk");
    for line in &lines {
        let empty = line.message.is_empty() || line.system.as_deref() == Some("");
        ensure!(!empty, "a part of {line:?} is empty");
    }
    Ok(lines)
}

/// Sends every line to a model, over the last pool that it was given.
///
/// # Errors
/// The engine or the server failed.
pub async fn sit(
    name: &str,
    examinee: &Examinee,
    lines: &[Line],
    conditions: &Conditions,
) -> Result<Vec<SmallTalkRecord>> {
    let sat = stream::iter(lines).map(|line| async move {
        let mut session = examinee.session();
        let ask = TurnRequest {
            system: line.system.as_deref(),
            history: &[],
            history_reads: &[],
            message: &line.message,
            source: Source::Own,
            max_tokens: conditions.max_tokens,
            max_retrievals: 1,
        };
        let answer = session.ask(&ask).await?;
        session.close().await;
        anyhow::Ok(SmallTalkRecord {
            model: name.to_owned(),
            system: line.system.clone(),
            message: line.message.clone(),
            retrieved: answer.searches > 0,
            text: answer.text,
        })
    });
    sat.buffered(conditions.concurrent.max(1))
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_two_hundred_and_some_have_a_system_message() {
        let lines = lines(include_str!("../../exam/small_talk.txt")).expect("well formed");
        assert_eq!(lines.len(), 200);
        let with_system = lines.iter().filter(|line| line.system.is_some()).count();
        assert!((50..100).contains(&with_system), "{with_system}");
    }
}
