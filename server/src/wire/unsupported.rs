//! Fields of OpenAI's or vLLM's APIs that ask for something that this server does not do.
//!
//! Ignoring such a field would answer a different request, so the request is refused with the
//! field's name, unless the field has a value without effect. Fields that do not change the answer
//! (`user`, `metadata`, `service_tier`, `prompt_cache_key`, …) are accepted, and so are unknown
//! fields.

use serde_json::{Map, Value, json};

use crate::wire::errors::ApiError;

/// The values of a field that have no effect. Null never has one.
enum NeutralValues {
    Nothing,
    Number(f64),
    Flag(bool),
    Any,
    Word(&'static [&'static str]),
    /// An empty array or object.
    Empty,
    /// `["text"]`.
    TextOnly,
}

use NeutralValues::{Any, Empty, Flag, Nothing, Number, TextOnly, Word};

const OF_REQUESTS: &[(&str, NeutralValues)] = &[
    // OpenAI
    ("audio", Nothing),
    ("function_call", Word(&["none", "auto"])),
    ("functions", Empty),
    ("modalities", TextOnly),
    ("n", Number(1.0)),
    ("parallel_tool_calls", Any),
    ("prediction", Nothing),
    ("reasoning_effort", Word(&["none"])),
    ("tool_choice", Word(&["none", "auto"])),
    ("tools", Empty),
    ("verbosity", Word(&["medium"])),
    ("web_search_options", Nothing),
    // vLLM
    ("allowed_token_ids", Nothing),
    ("bad_words", Empty),
    ("best_of", Number(1.0)),
    ("chat_template", Nothing),
    ("chat_template_kwargs", Empty),
    ("continue_final_message", Flag(false)),
    ("documents", Empty),
    ("echo", Flag(false)),
    ("guided_choice", Nothing),
    ("guided_grammar", Nothing),
    ("guided_json", Nothing),
    ("guided_regex", Nothing),
    ("ignore_eos", Flag(false)),
    ("include_stop_str_in_output", Flag(false)),
    ("length_penalty", Number(1.0)),
    ("prompt_logprobs", Nothing),
    ("return_token_ids", Flag(false)),
    ("skip_special_tokens", Flag(true)),
    ("truncate_prompt_tokens", Nothing),
    ("use_beam_search", Flag(false)),
    // SGLang
    ("return_hidden_states", Flag(false)),
];

/// Fields of completions, in addition to those of chat completions.
const OF_COMPLETIONS: &[(&str, NeutralValues)] = &[
    ("conversation", Nothing),
    ("logprobs", Nothing),
    ("messages", Nothing),
    ("prompt_embeds", Nothing),
    ("resumable", Flag(false)),
    ("response_format", Nothing),
    ("structured_outputs", Nothing),
    ("suffix", Nothing),
    ("top_logprobs", Nothing),
];

/// Fields of OpenAI's Responses API.
const OF_RESPONSES: &[(&str, NeutralValues)] = &[
    ("background", Flag(false)),
    ("frequency_penalty", Number(0.0)),
    ("include_obfuscation", Flag(false)),
    ("max_tool_calls", Nothing),
    ("parallel_tool_calls", Any),
    ("presence_penalty", Number(0.0)),
    ("prompt", Nothing),
    ("reasoning", Empty),
    ("resumable", Flag(false)),
    ("top_logprobs", Number(0.0)),
    ("truncation", Word(&["disabled"])),
];

/// Fields of `text` in the Responses API.
const OF_TEXT: &[(&str, NeutralValues)] = &[("verbosity", Word(&["medium"]))];

const OF_MESSAGES: &[(&str, NeutralValues)] = &[
    ("audio", Nothing),
    ("function_call", Nothing),
    ("tool_call_id", Nothing),
    ("tool_calls", Empty),
];

/// Leaves out of a chat completion what has no effect because of other fields, and writes what earlier answers can
/// hold as text.
pub(crate) fn leave_out_neutral(body: &mut Value) {
    let Some(fields) = body.as_object_mut() else {
        return;
    };
    // Tools that must not be called might as well not be there.
    for (choice, tools) in [("tool_choice", "tools"), ("function_call", "functions")] {
        if fields.get(choice).is_some_and(|choice| choice == "none") {
            fields.remove(tools);
        }
    }
    write_answers_as_text(fields.get_mut("messages"));
}

/// The same of a response's request. What a `file_search` says is echoed, whether or not it may be called.
pub(crate) fn leave_out_neutral_in_response(body: &mut Value) {
    write_answers_as_text(body.get_mut("input"));
    let is_none = body
        .get("tool_choice")
        .is_some_and(|choice| choice == "none");
    let tools = body.get_mut("tools").and_then(Value::as_array_mut);
    if let Some(tools) = tools.filter(|_| is_none) {
        tools.retain(|tool| tool.get("type").is_some_and(|kind| kind == "file_search"));
    }
}

/// Writes as text what earlier answers in a list of messages can hold instead of one. Other lists stay as they are.
pub(crate) fn write_answers_as_text(messages: Option<&mut Value>) {
    let messages = messages.and_then(Value::as_array_mut);
    for message in messages.into_iter().flatten() {
        let Some(message) = message.as_object_mut() else {
            continue;
        };
        let is_answer = message.get("role").is_some_and(|role| role == "assistant");
        // An answer without a text is sent back like this.
        if is_answer && message.get("content").is_none_or(Value::is_null) {
            message.insert("content".to_owned(), json!(""));
        }
        let parts = message.get_mut("content").and_then(Value::as_array_mut);
        for part in parts.into_iter().flatten() {
            if part.get("type").is_some_and(|kind| kind == "refusal") {
                let text = part.get("refusal").cloned();
                *part = json!({"type": "text", "text": text});
            }
        }
    }
}

/// Refuses a chat completion that asks for something that this server does not do.
///
/// # Errors
/// [`ApiError::Unsupported`] names the first such field.
pub(crate) fn refuse_unsupported(body: &Value) -> Result<(), ApiError> {
    refuse(body, OF_REQUESTS, "")?;
    let messages = body.get("messages").and_then(Value::as_array);
    for (at, message) in messages.into_iter().flatten().enumerate() {
        refuse(message, OF_MESSAGES, &format!("messages[{at}]."))?;
    }
    Ok(())
}

/// Refuses a completion of plain text that asks for something that this server does not do.
///
/// # Errors
/// [`ApiError::Unsupported`] names the first such field.
pub(crate) fn refuse_unsupported_in_completion(body: &Value) -> Result<(), ApiError> {
    refuse(body, OF_COMPLETIONS, "")?;
    refuse(body, OF_REQUESTS, "")
}

/// Refuses a response that asks for something that this server does not do.
///
/// # Errors
/// [`ApiError::Unsupported`] names the first such field.
pub(crate) fn refuse_unsupported_in_response(body: &Value) -> Result<(), ApiError> {
    refuse(body, OF_RESPONSES, "")?;
    match body.get("text") {
        Some(text) => refuse(text, OF_TEXT, "text."),
        None => Ok(()),
    }
}

/// The values of these fields that each type allows, as JSON Schema.
pub(crate) fn neutral_fields() -> impl Iterator<Item = (&'static str, Value)> {
    let of_types = [
        ("ChatCompletionRequest", OF_REQUESTS),
        ("RequestMessage", OF_MESSAGES),
        ("CompletionRequest", OF_REQUESTS),
        ("CompletionRequest", OF_COMPLETIONS),
        ("ResponseRequest", OF_RESPONSES),
    ];
    of_types.into_iter().map(|(kind, fields)| {
        let fields = fields
            .iter()
            .map(|(field, neutral)| ((*field).to_owned(), neutral.schema()));
        let description =
            "Fields of other servers that are refused, unless their value asks for nothing.";
        let properties: Map<_, _> = fields.collect();
        (
            kind,
            json!({"description": description, "properties": properties}),
        )
    })
}

fn refuse(object: &Value, fields: &[(&str, NeutralValues)], path: &str) -> Result<(), ApiError> {
    let asking = fields.iter().find(|(field, neutral)| {
        let value = object.get(field);
        value.is_some_and(|value| !neutral.holds(value))
    });
    match asking {
        None => Ok(()),
        Some((field, _)) => Err(ApiError::Unsupported {
            param: format!("{path}{field}"),
        }),
    }
}

impl NeutralValues {
    /// The values without effect, as a schema.
    fn schema(&self) -> Value {
        let nothing = json!({"type": "null"});
        match self {
            Self::Nothing => nothing,
            Self::Any => json!({}),
            Self::Number(number) => json!({"enum": [number, null]}),
            Self::Flag(flag) => json!({"enum": [flag, null]}),
            Self::Word(words) => {
                let words = words.iter().map(|word| Value::from(*word));
                json!({"enum": words.chain([Value::Null]).collect::<Vec<_>>()})
            }
            Self::Empty => json!({"anyOf": [
                nothing, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0},
            ]}),
            Self::TextOnly => json!({"anyOf": [
                nothing, {"type": "array", "items": {"const": "text"}},
            ]}),
        }
    }

    fn holds(&self, value: &Value) -> bool {
        if value.is_null() {
            return true;
        }
        match self {
            Self::Nothing => false,
            Self::Any => true,
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Flag(flag) => value.as_bool() == Some(*flag),
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Empty => match value {
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            },
            Self::TextOnly => value
                .as_array()
                .is_some_and(|kinds| kinds.iter().all(|kind| kind == "text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: Value) -> Option<String> {
        match refuse_unsupported(&body) {
            Ok(()) => None,
            Err(ApiError::Unsupported { param }) => Some(param),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_field_that_asks_for_what_is_not_done_is_named() {
        for (field, value) in [
            ("n", json!(2)),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("best_of", json!(2)),
            ("guided_regex", json!("a+")),
            ("modalities", json!(["text", "audio"])),
        ] {
            let mut body = json!({});
            body[field] = value;
            assert_eq!(refused(body), Some(field.to_owned()));
        }
        let called = json!({"messages": [{}, {"role": "assistant", "tool_calls": [{}]}]});
        assert_eq!(refused(called), Some("messages[1].tool_calls".to_owned()));
    }

    #[test]
    fn what_ordinary_clients_send_asks_for_nothing() {
        let body = json!({
            "n": 1, "tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "logprobs": false,
            "guided_json": null, "presence_penalty": 0, "frequency_penalty": 0.0,
            "modalities": ["text"], "store": false, "user": "someone", "metadata": {}, "never_heard_of": 1,
            "messages": [{"role": "assistant", "content": "x", "refusal": null, "annotations": [], "tool_calls": null}],
        });
        assert_eq!(refused(body), None);
    }
}
