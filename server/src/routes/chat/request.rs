//! From JSON to a typed request, once.

use std::time::Instant;

use onegen_engine::{ChatMessage, Role as EngineRole};
use onegen_proto::{ChatCompletionRequest, RequestMessage, Role};
use serde_json::Value;

use crate::admission::Caller;
use crate::collections::Collections;
use crate::routes::delivery::Delivery;
use crate::routes::sampling::SamplingFields;
use crate::served_model::ServedModel;
use crate::turns::{
    Instructions, RequestedConstraint, RequestedRetrieval, TurnOptions, TurnRequest,
};
use crate::wire::errors::{ApiError, FieldNames};
use crate::wire::json::typed;
use crate::wire::messages::{role, text};
use crate::wire::unsupported::{leave_out_neutral, refuse_unsupported};

/// Validates a request for a chat completion.
///
/// # Errors
/// Each names the field at fault.
pub(super) fn validate(
    mut body: Value,
    model: &ServedModel,
    collections: &Collections,
    caller: &Caller,
    received: Instant,
) -> Result<(TurnRequest, Delivery), ApiError> {
    leave_out_neutral(&mut body);
    refuse_unsupported(&body)?;
    let request: ChatCompletionRequest = typed(body)?;
    model.check(&request.model)?;
    let delivery = Delivery::new(
        request.stream,
        request.stream_options.as_ref(),
        request.resumable.unwrap_or(false),
    )?;
    let sampling = SamplingFields::from_chat(&request)?.into_params()?;
    let fields = FieldNames {
        max_tokens: if request.max_completion_tokens.is_some() {
            "max_completion_tokens"
        } else {
            "max_tokens"
        },
        prompt: "messages",
    };
    let conversation = request.conversation.as_ref().map(|c| c.id().into());
    let constraint = RequestedConstraint::from_chat_request(&request)?;
    let retrieval = request.retrieval.clone().unwrap_or_default();
    let turn = TurnRequest {
        conversation,
        after: None,
        kept: request.store.unwrap_or(true) || request.conversation.is_some(),
        instructions: Instructions::AsBefore,
        messages: messages(request.messages)?,
        constraint,
        options: TurnOptions {
            caller: caller.clone(),
            sampling,
            retrieval: RequestedRetrieval::new(retrieval, collections, caller)?,
            drafting: request.drafting.unwrap_or(true),
            received,
            fields,
        },
    };
    Ok((turn, delivery))
}

fn messages(messages: Vec<RequestMessage>) -> Result<Vec<ChatMessage>, ApiError> {
    // A system message may stand behind the question that it is about.
    let asked = messages
        .iter()
        .rfind(|one| role(one.role) != EngineRole::System);
    match asked.or(messages.last()) {
        None => {
            return Err(ApiError::invalid(
                "messages",
                "must hold at least one message",
            ));
        }
        Some(last) if last.role != Role::User => {
            let at = messages.len() - 1;
            return Err(ApiError::invalid(
                format!("messages[{at}].role"),
                "the last message must be the user's",
            ));
        }
        Some(_) => {}
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(at, message)| {
            let text = text(message.content, &format!("messages[{at}].content"))?;
            Ok(ChatMessage::new(role(message.role), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::LazyLock;

    use onegen_engine::{Constraint, SamplingParams};
    use serde_json::json;

    use super::*;
    use crate::collections::tests::collections;
    use crate::routes::delivery::StreamDelivery;

    static COLLECTIONS: LazyLock<Collections> = LazyLock::new(|| collections(&["default"]));

    fn model() -> ServedModel {
        ServedModel {
            name: "onegen".to_owned(),
            directory_name: "almanac".to_owned(),
            created: 0,
        }
    }

    fn validated(fields: Value) -> Result<(TurnRequest, Delivery), ApiError> {
        let mut body =
            json!({"model": "onegen", "messages": [{"role": "user", "content": "Hello!"}]});
        let (Some(body_fields), Some(fields)) = (body.as_object_mut(), fields.as_object()) else {
            panic!("not an object: {fields}");
        };
        body_fields.extend(fields.clone());
        let caller = Caller::anybody();
        validate(body, &model(), &COLLECTIONS, &caller, Instant::now())
    }

    fn fault(fields: Value) -> String {
        match validated(fields) {
            Err(ApiError::Invalid { param, .. } | ApiError::Unsupported { param }) => param,
            Err(other) => panic!("{other}"),
            Ok(accepted) => panic!("accepted: {accepted:?}"),
        }
    }

    #[test]
    fn parts_of_a_message_are_put_together() {
        let parts = json!([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]);
        let (turn, _) =
            validated(json!({"messages": [{"role": "user", "content": parts}]})).unwrap();
        assert_eq!(turn.messages[0].content, "Hello!");
        let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]);
        assert_eq!(
            fault(json!({"messages": [{"role": "user", "content": image}]})),
            "messages[0].content[1].type \"image_url\""
        );
    }

    #[test]
    fn a_conversation_is_named_in_both_of_openais_ways() {
        for conversation in [json!("conv_1"), json!({"id": "conv_1"})] {
            let (turn, _) = validated(json!({"conversation": conversation})).unwrap();
            assert_eq!(turn.conversation, Some("conv_1".into()));
        }
        assert_eq!(fault(json!({"conversation": 7})), "conversation");
    }

    #[test]
    fn sampling_fields_arrive_at_the_engine() {
        let (turn, _) = validated(json!({
            "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1,
            "max_completion_tokens": 7, "max_tokens": 7, "stop": "\n", "logit_bias": {"3": -100},
            "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5,
            "min_tokens": 2, "stop_token_ids": [9], "logprobs": true, "top_logprobs": 5,
        }))
        .unwrap();
        let expected = SamplingParams {
            temperature: 0.5,
            top_p: 0.9,
            top_k: Some(40),
            min_p: 0.1,
            repetition_penalty: 1.5,
            presence_penalty: 0.5,
            frequency_penalty: -0.5,
            seed: Some(u64::MAX),
            max_tokens: Some(7),
            min_tokens: 2,
            stop_token_ids: vec![9],
            stop: vec!["\n".to_owned()],
            logit_bias: HashMap::from([(3, -100.0)]),
            logprobs: Some(5),
        };
        assert_eq!(turn.options.sampling, expected);
        assert_eq!(
            validated(json!({"top_k": -1}))
                .unwrap()
                .0
                .options
                .sampling
                .top_k,
            None
        );
        assert_eq!(fault(json!({"top_k": -2})), "top_k");
        assert_eq!(
            fault(json!({"max_completion_tokens": 7, "max_tokens": 8})),
            "max_tokens"
        );
        assert_eq!(fault(json!({"logit_bias": {"word": 1}})), "logit_bias");
        assert_eq!(fault(json!({"top_logprobs": 2})), "top_logprobs");
    }

    #[test]
    fn a_constraint_arrives_from_either_field_but_not_from_both() {
        let asked = |fields: Value| {
            let constraint = validated(fields).unwrap().0.constraint;
            constraint.map(|asked| (asked.field, asked.constraint))
        };
        let outputs = |outputs: Value| json!({"structured_outputs": outputs});
        let format = |format: Value| json!({"response_format": format});
        let integer = || json!({"type": "integer"});
        assert_eq!(asked(format(json!({"type": "text"}))), None);
        assert_eq!(asked(format(Value::Null)), None);
        let object = Constraint::JsonSchema(json!({"type": "object"}));
        assert_eq!(
            asked(format(json!({"type": "json_object"}))),
            Some(("response_format", object))
        );
        let schema = json!({"name": "n", "strict": true, "schema": integer()});
        assert_eq!(
            asked(format(
                json!({"type": "json_schema", "json_schema": schema})
            )),
            Some((
                "response_format.json_schema.schema",
                Constraint::JsonSchema(integer())
            ))
        );
        for json in [integer(), integer().to_string().into()] {
            let expected = Constraint::JsonSchema(integer());
            let got = asked(outputs(json!({"json": json})));
            assert_eq!(got, Some(("structured_outputs.json", expected)));
        }
        let choice = Constraint::Choice(vec!["a".into(), "b".into()]);
        assert_eq!(
            asked(outputs(json!({"choice": ["a", "b"]}))),
            Some(("structured_outputs.choice", choice))
        );

        let schemaless = json!({"type": "json_schema"});
        assert_eq!(fault(format(schemaless)), "response_format.json_schema");
        let nameless = json!({"type": "json_schema", "json_schema": {}});
        assert_eq!(
            fault(format(nameless)),
            "response_format.json_schema.schema"
        );
        assert_eq!(
            fault(format(json!({"type": "xml"}))),
            "response_format.type"
        );
        assert_eq!(
            fault(outputs(json!({"json": "{"}))),
            "structured_outputs.json"
        );
        assert_eq!(
            fault(outputs(json!({"structural_tag": "x"}))),
            "structured_outputs.structural_tag"
        );
        for several in [json!({}), json!({"regex": "a", "grammar": "b"})] {
            assert_eq!(fault(outputs(several)), "structured_outputs");
        }
        let both = json!({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}});
        assert_eq!(fault(both), "structured_outputs");
    }

    #[test]
    fn retrieval_options_arrive_and_unknown_ones_are_refused() {
        let options = json!({"enabled": false, "k": 3});
        let (turn, _) = validated(json!({"retrieval": options})).unwrap();
        assert!(!turn.options.retrieval.params.enabled);
        assert_eq!(turn.options.retrieval.params.k, 3);
        assert_eq!(turn.options.retrieval.collection().name(), "default");
        assert_eq!(
            fault(json!({"retrieval": {"filters": {}}})),
            "retrieval.filters"
        );
    }

    #[test]
    fn stream_options_need_a_stream() {
        let options = json!({"include_usage": true});
        assert_eq!(fault(json!({"stream_options": options})), "stream_options");
        let (_, delivery) = validated(json!({"stream": true, "stream_options": options})).unwrap();
        let with_usage = StreamDelivery {
            include_usage: true,
            resumable: false,
            events: None,
        };
        assert_eq!(delivery, Delivery::Stream(with_usage));
    }
}
