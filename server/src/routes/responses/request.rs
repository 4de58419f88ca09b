//! From a validated JSON request to a turn.

use std::time::Instant;

use onegen_engine::{ChatMessage, ConversationId, Role};
use onegen_proto::{FileSearchTool, InputItem, ResponseInput, ResponseRequest, RetrievalOptions};
use serde_json::Value;

use crate::admission::{Caller, Owner};
use crate::app::App;
use crate::conversations::items::conversation_of;
use crate::conversations::stored_responses::stored_response;
use crate::routes::sampling::SamplingFields;
use crate::turns::{
    Instructions, RequestedConstraint, RequestedRetrieval, TurnOptions, TurnRequest,
};
use crate::wire::errors::{ApiError, FieldNames};
use crate::wire::messages::{role, text};

use super::writer::SEARCH_PREFIX;

/// The fields that can be at fault here.
const FIELDS: FieldNames = FieldNames {
    max_tokens: "max_output_tokens",
    prompt: "input",
};

/// What the request asks of the engine.
///
/// # Errors
/// Each names the field at fault.
pub(super) async fn turn_request(
    request: ResponseRequest,
    app: &App,
    caller: &Caller,
    received: Instant,
) -> Result<TurnRequest, ApiError> {
    let retrieval = retrieval(&request)?;
    let retrieval = RequestedRetrieval::new(retrieval, &app.collections, caller)?;
    let sampling = SamplingFields::from_response(&request).into_params()?;
    let continued = Continuation::new(&request, app, &caller.owner).await?;
    let messages = input(request.input, app, &caller.owner).await?;
    match messages.last() {
        Some(last) if last.role == Role::User => {}
        _ => {
            return Err(ApiError::invalid(
                "input",
                "the last message must be the user's",
            ));
        }
    }
    Ok(TurnRequest {
        instructions: Instructions::These(request.instructions),
        kept: request.store.unwrap_or(true) || request.conversation.is_some(),
        conversation: continued.conversation,
        after: continued.after,
        messages,
        constraint: request
            .text
            .as_ref()
            .and_then(RequestedConstraint::from_response_text),
        options: TurnOptions {
            caller: caller.clone(),
            sampling,
            retrieval,
            drafting: request.drafting.unwrap_or(true),
            received,
            fields: FIELDS,
        },
    })
}

/// What a response goes on after; a new conversation by default.
#[derive(Default)]
struct Continuation {
    conversation: Option<ConversationId>,
    /// How many of its messages; none where it is all.
    after: Option<usize>,
}

impl Continuation {
    async fn new(request: &ResponseRequest, app: &App, owner: &Owner) -> Result<Self, ApiError> {
        const PREVIOUS: &str = "previous_response_id";
        match (&request.previous_response_id, &request.conversation) {
            (None, None) => Ok(Self::default()),
            (None, Some(conversation)) => Ok(Self {
                conversation: Some(conversation.id().into()),
                after: None,
            }),
            (Some(_), Some(_)) => Err(ApiError::invalid(
                PREVIOUS,
                "is not allowed with conversation; send one of them",
            )),
            (Some(previous), None) => {
                let (conversation, stored) =
                    stored_response(&app.conversations, previous, owner, PREVIOUS).await?;
                Ok(Self {
                    conversation: Some(conversation),
                    after: Some(stored.input.end + 1),
                })
            }
        }
    }
}

/// The messages of the input. Those that it only names are looked up.
async fn input(
    input: ResponseInput,
    app: &App,
    owner: &Owner,
) -> Result<Vec<ChatMessage>, ApiError> {
    let items = match input {
        ResponseInput::Text(text) => return Ok(vec![ChatMessage::new(Role::User, text)]),
        ResponseInput::Items(items) => items,
    };
    let mut messages = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let unsupported = |kind: &str| ApiError::Unsupported {
            param: format!("input[{at}].type {kind:?}"),
        };
        match item {
            InputItem::Message(item) => {
                if let Some(kind) = item.kind.filter(|kind| kind != "message") {
                    return Err(unsupported(&kind));
                }
                let text = text(item.content, &format!("input[{at}].content"))?;
                messages.push(ChatMessage::new(role(item.role), text));
            }
            InputItem::Named { kind, id } => match kind.as_deref() {
                // What was read stands in the conversation's own log.
                Some("file_search_call") => {}
                None | Some("item_reference") if id.starts_with(SEARCH_PREFIX) => {}
                None | Some("item_reference") => {
                    messages.push(message_named(app, owner, id, at).await?);
                }
                Some(kind) => return Err(unsupported(kind)),
            },
            InputItem::Other { kind } if kind == "file_search_call" => {}
            InputItem::Other { kind } => return Err(unsupported(&kind)),
        }
    }
    Ok(messages)
}

/// The message of a conversation of the owner's that an item's id names.
async fn message_named(
    app: &App,
    owner: &Owner,
    item: String,
    at: usize,
) -> Result<ChatMessage, ApiError> {
    let named = conversation_of(&item);
    if let Some((conversation, _)) = &named {
        app.conversations.refresh(conversation).await?;
    }
    let found = named.and_then(|(conversation, number)| {
        let transcript = app.conversations.get(&conversation, owner)?;
        let place = transcript.place(number)?;
        transcript.messages.get(place).cloned()
    });
    found.ok_or_else(|| {
        let message = format!("there is no message {item:?} to refer to, or not any more");
        ApiError::invalid(format!("input[{at}].id"), message)
    })
}

/// What the tool says, unless the server's own words say it.
fn retrieval(request: &ResponseRequest) -> Result<RetrievalOptions, ApiError> {
    let mut options = request.retrieval.clone().unwrap_or_default();
    match request.tool_choice.as_ref() {
        None | Some(Value::Null) => {}
        Some(choice) if choice == "auto" => {}
        Some(choice) if choice == "none" => {
            if options.forced != Some(true) {
                options.enabled.get_or_insert(false);
            }
        }
        Some(choice) if choice == "required" || choice["type"] == "file_search" => {
            if options.enabled != Some(false) && options.max_retrievals != Some(0) {
                options.forced.get_or_insert(true);
            }
        }
        Some(_) => {
            return Err(ApiError::invalid(
                "tool_choice",
                "must be auto, none, required or {\"type\": \"file_search\"}",
            ));
        }
    }
    match request.tools.as_deref().unwrap_or_default() {
        [] => {}
        [tool] => add_tool_options(tool, &mut options)?,
        [_, ..] => {
            let message = "may hold one file_search; collections are not searched together";
            return Err(ApiError::invalid("tools", message));
        }
    }
    Ok(options)
}

fn add_tool_options(tool: &FileSearchTool, options: &mut RetrievalOptions) -> Result<(), ApiError> {
    let unsupported = |param: String| Err(ApiError::Unsupported { param });
    if tool.kind != "file_search" {
        return unsupported(format!("tools[0].type {:?}", tool.kind));
    }
    let [collection] = tool.vector_store_ids.as_slice() else {
        let message = "must hold the name of one collection";
        return Err(ApiError::invalid("tools[0].vector_store_ids", message));
    };
    options.collection.get_or_insert_with(|| collection.clone());
    options.k = options.k.or(tool.max_num_results);
    if options.filter.is_none() {
        options.filter = tool.filters.clone().filter(|filter| !filter.is_null());
    }
    let Some(ranking) = &tool.ranking_options else {
        return Ok(());
    };
    if let Some(ranker) = ranking
        .ranker
        .as_ref()
        .filter(|one| !matches!(&***one, "auto" | "none"))
    {
        return unsupported(format!("tools[0].ranking_options.ranker {ranker:?}"));
    }
    options.min_score = options.min_score.or(ranking.score_threshold);
    Ok(())
}
