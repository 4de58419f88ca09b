//! OneGen's document data: `{"uid", "messages": [user, assistant]}`. The two contents, one after
//! the other, are the text that OneGen's models embed: an instruction that quotes the retrieval
//! token, the title, and the sentences with a retrieval token after each.

use std::ops::Range;

use serde_json::{Map, Value};

use super::document::Document;
use super::record::{self, RecordReason, take};

/// The retrieval token, unless the instruction quotes another one.
const RETRIEVAL_TOKEN: &str = "[Document Fragment Representation]";

/// Whether a line is of this kind.
pub(super) fn is(fields: &Map<String, Value>) -> bool {
    fields.contains_key("uid") && fields.contains_key("messages")
}

/// The document without its instruction and retrieval tokens. Its sentences end where the retrieval
/// tokens were.
pub(super) fn document(mut fields: Map<String, Value>) -> Result<Document, RecordReason> {
    let id = record::id(take(&mut fields, "uid"), "uid")?;
    let contents = contents(&fields)?;
    let fragment = Fragment::new(&contents);
    let (text, sentences) = fragment.without_retrieval_tokens();
    if text.is_empty() {
        return Err(RecordReason::Empty("messages"));
    }
    Ok(Document {
        id,
        title: fragment.title.trim().to_owned(),
        text,
        sentences: Some(sentences),
        ..Document::default()
    })
}

fn contents(fields: &Map<String, Value>) -> Result<String, RecordReason> {
    let content = |message: &Value| message.get("content")?.as_str().map(str::to_owned);
    fields["messages"]
        .as_array()
        .and_then(|messages| messages.iter().map(content).collect())
        .ok_or(RecordReason::Type {
            field: "messages",
            expected: "a list of messages with text as content",
        })
}

/// The part of the contents that is the document.
struct Fragment<'a> {
    retrieval_token: &'a str,
    title: &'a str,
    /// The text, with its retrieval tokens.
    text: &'a str,
}

impl<'a> Fragment<'a> {
    fn new(contents: &'a str) -> Self {
        let Some((retrieval_token, heading, body)) = instruction(contents) else {
            return Self::with_wiki_title(RETRIEVAL_TOKEN, contents).unwrap_or(Self {
                retrieval_token: RETRIEVAL_TOKEN,
                title: "",
                text: contents,
            });
        };
        // Entity linking: "The description of Peru is as follows:".
        let entity = heading
            .strip_prefix("The description of ")
            .and_then(|heading| heading.trim_end().strip_suffix(" is as follows:"));
        if let Some(title) = entity {
            return Self {
                retrieval_token,
                title,
                text: body,
            };
        }
        // Multi-hop data name their fields; single-hop data have the title on the first line.
        Self::with_wiki_title(retrieval_token, body).unwrap_or_else(|| {
            let (title, text) = body.split_once('\n').unwrap_or(("", body));
            Self {
                retrieval_token,
                title,
                text,
            }
        })
    }

    fn with_wiki_title(retrieval_token: &'a str, body: &'a str) -> Option<Self> {
        let (title, text) = body.strip_prefix("wiki title:")?.split_once("\ncontent:")?;
        Some(Self {
            retrieval_token,
            title,
            text,
        })
    }

    fn without_retrieval_tokens(&self) -> (String, Vec<Range<usize>>) {
        let mut text = String::new();
        let mut sentences = Vec::new();
        for sentence in self.text.trim_start().split(self.retrieval_token) {
            let start = text.len() + (sentence.len() - sentence.trim_start().len());
            text.push_str(sentence);
            let end = text.trim_end().len();
            if start < end {
                sentences.push(start..end);
            }
        }
        text.truncate(text.trim_end().len());
        (text, sentences)
    }
}

/// The retrieval token that the instruction quotes, the line under the instruction, and what comes
/// after both.
fn instruction(contents: &str) -> Option<(&str, &str, &str)> {
    let instruction = contents.trim_start();
    let (first_line, rest) = instruction.split_once('\n')?;
    let (_, quoted) = first_line
        .strip_prefix("Represent the ")?
        .split_once("output it after the '")?;
    let (retrieval_token, _) = quoted.split_once("' token")?;
    let (heading, body) = rest.split_once('\n')?;
    (!retrieval_token.is_empty()).then_some((retrieval_token, heading, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(line: Value) -> Result<Document, String> {
        let Value::Object(fields) = line else {
            panic!("{line}")
        };
        assert!(is(&fields));
        document(fields).map_err(|reason| reason.to_string())
    }

    fn sentences(document: &Document) -> Vec<&str> {
        let ranges = document.sentences.as_ref().unwrap();
        ranges
            .iter()
            .map(|range| &document.text[range.clone()])
            .collect()
    }

    const INSTRUCTION: &str = "Represent the following document fragment and output it after the \
        '[Document Fragment Representation]' token. \nHere are document fragment:\n";

    #[test]
    fn a_multi_hop_document_keeps_title_text_and_cuts_wherever_the_turn_changes() {
        let contents = format!(
            "{INSTRUCTION}wiki title: Lima\ncontent: Lima is a city.[Document Fragment Representation] \
             It lies in Peru, e.g. by the sea.[Document Fragment Representation]"
        );
        for at in [0, INSTRUCTION.len(), INSTRUCTION.len() + 40, contents.len()] {
            let (user, assistant) = contents.split_at(at);
            let document = read(json!({"uid": 7, "messages": [
                {"role": "user", "content": user},
                {"role": "assistant", "content": assistant},
            ]}))
            .unwrap();
            assert_eq!((&*document.id, &*document.title), ("7", "Lima"));
            assert_eq!(
                document.text,
                "Lima is a city. It lies in Peru, e.g. by the sea."
            );
            assert_eq!(
                sentences(&document),
                ["Lima is a city.", "It lies in Peru, e.g. by the sea."]
            );
        }
    }

    #[test]
    fn single_hop_documents_and_entities_are_one_sentence() {
        let fragment = format!("{INSTRUCTION}Lima\nA city. In Peru.");
        let entity = "Represent the entity based on its description and output it after the '[SE]' token.\n\
            The description of Lima is as follows:\nA city. In Peru.";
        for (contents, retrieval_token) in [(&*fragment, RETRIEVAL_TOKEN), (entity, "[SE]")] {
            let document = read(json!({"uid": "q1", "messages": [
                {"role": "user", "content": contents},
                {"role": "assistant", "content": retrieval_token},
            ]}))
            .unwrap();
            assert_eq!(document.title, "Lima");
            assert_eq!(sentences(&document), ["A city. In Peru."]);
        }
    }

    #[test]
    fn what_holds_no_document_says_why() {
        let empty = json!({"uid": "a", "messages": [{"role": "user", "content": INSTRUCTION}]});
        assert_eq!(read(empty).unwrap_err(), "\"messages\" is empty");
        for messages in [json!("hello"), json!([{"role": "user"}]), json!([1])] {
            assert_eq!(
                read(json!({"uid": "a", "messages": messages})).unwrap_err(),
                "\"messages\" is not a list of messages with text as content"
            );
        }
        assert_eq!(
            read(json!({"uid": null, "messages": []})).unwrap_err(),
            "has no \"uid\""
        );
    }
}
