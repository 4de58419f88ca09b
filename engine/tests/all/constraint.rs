//! Answers whose text must follow a constraint.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use crate::common::*;
use onegen_engine::{
    Cancellation, Completion, Constraint, ConstraintError, EngineError, FinishReason, Grammar,
    Model, Request, SchemaReport,
};
use serde_json::{Value, json};

/// A schema that limits the length of its texts, so that random weights reach an end.
fn person() -> Constraint {
    Constraint::JsonSchema(json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "home": {"$ref": "#/$defs/city"},
            "tags": {"type": "array", "items": {"enum": ["a", "b c", "\"ü\""]}, "maxItems": 3},
        },
        "required": ["name", "age", "home", "tags"],
        "additionalProperties": false,
        "$defs": {"city": {"anyOf": [{"type": "null"}, {"const": "Lima"}]}},
    }))
}

fn is_person(value: &Value) -> bool {
    let tags = value["tags"].as_array().unwrap();
    let mut keys: Vec<_> = value.as_object().unwrap().keys().collect();
    keys.sort();
    keys == ["age", "home", "name", "tags"]
        && value["name"].as_str().unwrap().chars().count() <= 8
        && (0..=120).contains(&value["age"].as_i64().unwrap())
        && (value["home"].is_null() || value["home"] == "Lima")
        && tags.len() <= 3
        && tags
            .iter()
            .all(|tag| tag == "a" || tag == "b c" || tag == "\"ü\"")
}

fn compile(model: &Model, constraint: Constraint) -> Result<Grammar, ConstraintError> {
    Grammar::compile(&constraint, model.tokens())
}

/// A request at temperature 1 that the model would never end by itself.
fn constrained(model: &Model, conversation: &str, seed: u64, constraint: Constraint) -> Request {
    let mut request = request(model, conversation, "What is the capital of Peru?", 400);
    request.sampling.temperature = 1.0;
    request.sampling.seed = Some(seed);
    request.grammar = Some(compile(model, constraint).unwrap());
    request
}

/// The texts of several seeds, each of a turn that the model has ended.
fn texts(model: &Arc<Model>, constraint: &Constraint) -> Vec<String> {
    let engine = engine(model, None);
    let each = (0..8).map(|seed| {
        let conversation = format!("c {seed}");
        let done = run(
            &engine,
            constrained(model, &conversation, seed, constraint.clone()),
        );
        assert_eq!(
            done.summary.finish_reason,
            FinishReason::Stop,
            "{}",
            done.text
        );
        let last = *log_ids(&engine, &conversation).last().unwrap();
        assert!(model.tokens().is_eos(last));
        done.text
    });
    each.collect()
}

#[test]
fn json_is_what_its_schema_says_whatever_the_weights() {
    for (name, model) in models() {
        for text in texts(&model, &person()) {
            let value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {text}: {e}"));
            assert!(is_person(&value), "{name}: {text}");
        }
    }
}

#[test]
fn a_regex_matches_the_whole_text_leading_space_included() {
    for (name, model) in models() {
        for text in texts(
            &model,
            &Constraint::Regex(r" ?[A-Z][a-z]{2,5}, \d/\d".into()),
        ) {
            let (word, numbers) = text.split_once(", ").unwrap();
            let word = word.strip_prefix(' ').unwrap_or(word);
            assert!((3..=6).contains(&word.len()), "{name}: {text}");
            assert!(
                word.starts_with(|c: char| c.is_ascii_uppercase()),
                "{name}: {text}"
            );
            assert_eq!(numbers.chars().nth(1), Some('/'), "{name}: {text}");
        }
        let spaced = texts(&model, &Constraint::Regex("  Lima".into()));
        assert!(
            spaced.iter().all(|text| text == "  Lima"),
            "{name}: {spaced:?}"
        );
    }
}

#[test]
fn a_choice_is_one_of_its_texts_whatever_they_spell() {
    let choices = [
        "Lima",
        "Lima, Peru",
        "\"q\\x41\"\n/*",
        "<|end|>[RQ]",
        "日本",
    ]
    .map(String::from);
    for (name, model) in models() {
        for text in texts(&model, &Constraint::Choice(choices.to_vec())) {
            assert!(choices.contains(&text), "{name}: {text:?}");
        }
        for choice in &choices {
            let only = texts(&model, &Constraint::Choice(vec![choice.clone()]));
            assert!(only.iter().all(|text| text == choice), "{name}: {only:?}");
        }
    }
    let model = Family::Qwen3.model();
    let nothing = texts(&model, &Constraint::Choice(vec![String::new()]));
    assert!(nothing.iter().all(String::is_empty));
}

#[test]
fn a_space_before_the_text_is_let_through_but_not_shown() {
    let model = load(&shipped());
    let tokens = model.tokens();
    let spaced = (0..model.config().vocab_size as u32).find(|&id| tokens.bytes(id) == Some(b" L"));
    let engine = engine(&model, None);
    let mut request = constrained(&model, "c", 1, Constraint::Choice(vec!["Lima".into()]));
    request.sampling.logit_bias.insert(spaced.unwrap(), 100.0);
    let at = request.prompt.len();
    assert_eq!(run(&engine, request).text, "Lima");
    assert_eq!(log_ids(&engine, "c")[at], spaced.unwrap());
}

#[test]
fn a_grammar_may_nest() {
    let lark = "start: pair\npair: \"(\" (pair | /[a-z]/) \")\"";
    for (name, model) in models() {
        for text in texts(&model, &Constraint::Lark(lark.into())) {
            let depth = text.matches('(').count();
            assert_eq!(text.len(), 2 * depth + 1, "{name}: {text}");
            assert!(text.ends_with(&")".repeat(depth)), "{name}: {text}");
        }
    }
}

#[test]
fn one_retrieval_comes_before_the_text_and_does_not_advance_it() {
    for (name, model) in models() {
        let engine = engine(&model, Some(Shelf::new(vec![peru()])));
        let mut request = retrieving(&model, "c", 400, 3);
        let query = model.tokens().query_id();
        request.grammar = Some(compile(&model, person()).unwrap());
        request.sampling.temperature = 1.0;
        request.sampling.seed = Some(3);
        let done = run(&engine, request);
        // Although the model is biased towards [RQ] and may still search, it now writes the text.
        let receipts = &done.summary.retrievals;
        let offsets: Vec<_> = receipts.iter().map(|receipt| receipt.char_offset).collect();
        assert_eq!(offsets, [0], "{name}");
        let value = serde_json::from_str(&done.text).unwrap();
        assert!(is_person(&value), "{name}: {}", done.text);
        let log = log_ids(&engine, "c");
        assert_eq!(log.iter().filter(|&&id| id == query).count(), 1, "{name}");
    }
}

#[test]
fn a_search_that_finds_nothing_leaves_the_text_to_the_grammar() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, Some(Shelf::new(Vec::new())));
    let mut request = retrieving(&model, "c", 400, 3);
    request.grammar = Some(compile(&model, Constraint::Choice(vec!["Lima".into()])).unwrap());
    assert_eq!(run(&engine, request).text, "Lima");
}

fn run_changed(model: &Arc<Model>, change: impl FnOnce(&mut Request)) -> Completion {
    let mut request = constrained(model, "c", 1, person());
    change(&mut request);
    run(&engine(model, None), request)
}

#[test]
fn max_tokens_and_stops_end_a_constrained_text_anywhere() {
    let model = Family::Qwen3.model();
    let whole = run_changed(&model, |_| ());
    let short = run_changed(&model, |r| r.sampling.max_tokens = Some(5));
    assert_eq!(short.summary.finish_reason, FinishReason::Length);
    assert_eq!(short.summary.usage.completion_tokens, 5);
    assert!(whole.text.starts_with(&short.text));
    let stopped = run_changed(&model, |r| r.sampling.stop = vec!["\"age\"".into()]);
    assert_eq!(stopped.summary.finish_reason, FinishReason::Stop);
    assert_eq!(whole.text.find("\"age\""), Some(stopped.text.len()));
    let colon = |id: &u32| model.tokens().bytes(*id) == Some(b":");
    let colons = (0..model.config().vocab_size as u32)
        .filter(colon)
        .collect();
    let stopped = run_changed(&model, |r| r.sampling.stop_token_ids = colons);
    assert_eq!(stopped.summary.finish_reason, FinishReason::Stop);
    assert_eq!(whole.text.find(':'), Some(stopped.text.len()));
}

#[test]
fn nothing_ends_the_turn_before_the_text_is_complete_and_min_tokens_cannot_make_it_longer() {
    let model = Family::Qwen3.model();
    let tokens = model.tokens();
    let ending = |bias: f32| {
        let ids = 0..model.config().vocab_size as u32;
        ids.filter(|&id| tokens.is_eos(id))
            .map(move |id| (id, bias))
    };
    let eager = run_changed(&model, |r| r.sampling.logit_bias = ending(100.0).collect());
    assert!(is_person(&serde_json::from_str(&eager.text).unwrap()));
    let long = run_changed(&model, |r| r.sampling.min_tokens = 300);
    assert!(is_person(&serde_json::from_str(&long.text).unwrap()));
    assert!(long.summary.usage.completion_tokens < 300);
}

#[test]
fn penalties_biases_and_logprobs_go_with_a_constraint() {
    let model = Family::Qwen3.model();
    let done = run_changed(&model, |r| {
        r.sampling.repetition_penalty = 1.8;
        r.sampling.presence_penalty = 1.0;
        r.sampling.top_p = 0.9;
        r.sampling.logprobs = Some(2);
    });
    assert!(is_person(&serde_json::from_str(&done.text).unwrap()));
    let bytes = done
        .logprobs
        .iter()
        .flat_map(|t| t.sampled.bytes.clone().unwrap());
    let bytes = String::from_utf8(bytes.collect()).unwrap();
    assert_eq!(bytes.trim_start(), done.text);
    let again = run_changed(&model, |_| ());
    assert_eq!(again.text, run_changed(&model, |_| ()).text);
}

#[test]
fn a_constraint_that_cannot_be_met_is_refused_with_the_compilers_words() {
    let model = Family::Qwen3.model();
    let refused = |constraint| compile(&model, constraint).unwrap_err();
    let told = |constraint| match refused(constraint) {
        ConstraintError::Compile(reason) | ConstraintError::Unsatisfiable(reason) => reason,
        other => panic!("{other}"),
    };
    let schema = |schema: Value| told(Constraint::JsonSchema(schema));
    assert!(schema(json!({"type": "integer", "minimum": 5, "maximum": 4})).contains("minimum"));
    assert!(schema(json!({"type": "unheard"})).contains("unheard"));
    assert!(schema(json!({"$ref": "#/$defs/x"})).contains("$defs"));
    assert!(!told(Constraint::Regex("(a".into())).is_empty());
    assert!(!told(Constraint::Regex(r"[^\s\S]".into())).is_empty());
    assert!(told(Constraint::Lark("start: word".into())).contains("word"));
    assert!(!told(Constraint::Lark("start: <|unheard|>".into())).contains("backtrace"));
    assert_eq!(
        refused(Constraint::Choice(Vec::new())),
        ConstraintError::NoChoice
    );
}

#[test]
fn the_largest_constraints_of_each_kind_compile_and_write_or_are_refused_with_a_reason() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, None);
    let nested = (0..62).fold(json!({"const": "a"}), |schema, _| json!({"not": schema}));
    let chain: serde_json::Map<_, _> = (0..1_000)
        .map(|n| match n {
            999 => (n.to_string(), json!({"const": "a"})),
            _ => (n.to_string(), json!({"$ref": format!("#/$defs/{}", n + 1)})),
        })
        .collect();
    let rules = |body: fn(usize) -> String| -> String {
        let rules = (0..998).map(|n| format!("r{n}: {}\n", body(n)));
        format!("start: r0\n{}r998: \"a\"\n", rules.collect::<String>())
    };
    let constraints = [
        Constraint::JsonSchema(nested),
        Constraint::JsonSchema(json!({"$ref": "#/$defs/0", "$defs": chain})),
        Constraint::Lark(rules(|n| format!("r{}", n + 1))),
        Constraint::Lark(rules(|n| format!("\"b\" | r{}", n + 1))),
        Constraint::Lark(format!("start: {}\"a\"{}", "(".repeat(64), ")?".repeat(64))),
        Constraint::Lark(format!("start: {}", "\"a\" ".repeat(10_000))),
        Constraint::Lark(format!("start: \"a\"{}", " | \"b\"".repeat(10_000))),
        Constraint::Lark(format!("start: {}\"a\"", "~".repeat(60_000))),
        Constraint::Regex(format!("{}a{}", "(".repeat(64), ")?".repeat(64))),
        Constraint::Regex("a".repeat(16_000)),
        Constraint::Regex("a?".repeat(8_000)),
        Constraint::Regex(format!("a{}", "|b".repeat(8_000))),
        Constraint::Regex(format!("a{}", "?".repeat(16_000))),
        Constraint::Choice((0..1_000).map(|n| format!("{n:060}")).collect()),
    ];
    for (number, constraint) in constraints.into_iter().enumerate() {
        match compile(&model, constraint) {
            Err(ConstraintError::Compile(reason)) => println!("{number}: {reason:.100}"),
            Err(error) => panic!("{number}: {error}"),
            Ok(grammar) => {
                let mut request = request(&model, &number.to_string(), "What?", 8);
                request.grammar = Some(grammar);
                // It may lead nowhere, but not take the step thread with it.
                let _ = block_on(async { engine.submit(request).await.unwrap().collect().await });
            }
        }
    }
}

#[test]
fn a_text_that_leads_nowhere_fails_its_turn_and_leaves_the_conversation() {
    let model = Family::Qwen3.model();
    let engine = engine(&model, None);
    // Control tokens are never sampled, so after "a" nothing can follow.
    let lark = Constraint::Lark("start: \"a\" <|user|>".into());
    let request = constrained(&model, "c", 1, lark);
    let failed = block_on(async { engine.submit(request).await.unwrap().collect().await });
    assert!(
        matches!(failed, Err(EngineError::Constraint(_))),
        "{failed:?}"
    );
    assert!(block_on(engine.conversation(&"c".into())).is_none());
}

/// The reports on the texts of several seeds.
fn reports(model: &Arc<Model>, schema: &Value) -> Vec<(String, SchemaReport)> {
    let constraint = Constraint::JsonSchema(schema.clone());
    let check = compile(model, constraint.clone()).unwrap();
    let check = check.schema_check().unwrap().clone();
    let texts = texts(model, &constraint).into_iter();
    texts
        .map(|text| (text.clone(), check.report(&text)))
        .collect()
}

#[test]
fn schemas_of_everyday_tools_compile_and_what_is_not_enforced_is_named() {
    let model = Family::Qwen3.model();
    let short = json!({"type": "string", "maxLength": 4});
    for (schema, not_enforced) in [
        // zod's record, and one whose names are an enumeration.
        (
            json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "boolean"},
                   "maxProperties": 2}),
            &[][..],
        ),
        (
            json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "boolean"},
                   "maxProperties": 2}),
            &["propertyNames"],
        ),
        // zod's startsWith and nanoid, Python's set and Path.
        (
            json!({"type": "string", "format": "starts_with", "pattern": "^ab[a-z]{0,3}$"}),
            &["format \"starts_with\""],
        ),
        (
            json!({"type": "string", "format": "nanoid", "pattern": "^[a-zA-Z0-9_-]{4}$"}),
            &["format \"nanoid\""],
        ),
        (
            json!({"type": "object", "properties": {
                "tags": {"type": "array", "items": short, "uniqueItems": true, "maxItems": 2},
                "file": {"$ref": "#/$defs/File"},
            }, "required": ["tags", "file"], "additionalProperties": false,
            "$defs": {"File": {"type": "string", "format": "path", "maxLength": 4}}}),
            &[
                "/properties/tags: uniqueItems",
                "/$defs/File: format \"path\"",
            ],
        ),
        // zod's email.
        (
            json!({"type": "string", "maxLength": 12, "format": "email",
                   "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"}),
            &["pattern"],
        ),
        (
            json!({"oneOf": [short, {"type": "string", "minLength": 1, "maxLength": 2}]}),
            &["oneOf"],
        ),
        (
            json!({"type": "integer", "not": {"multipleOf": 2}, "minimum": 0, "maximum": 99}),
            &["not"],
        ),
        (
            json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "contains": {"const": 3},
                   "maxItems": 3}),
            &["contains"],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
                   "additionalProperties": false, "dependentRequired": {"a": ["b"]},
                   "if": {"required": ["a"]}, "then": {"required": ["b"]}}),
            &["dependentRequired", "if", "then"],
        ),
    ] {
        for (text, report) in reports(&model, &schema) {
            serde_json::from_str::<Value>(&text)
                .unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
            assert_eq!(report.not_enforced, not_enforced, "{schema}");
            let valid = report
                .valid
                .unwrap_or_else(|| panic!("{schema}: {text}: {report:?}"));
            assert_eq!(valid, report.error.is_none(), "{text}: {report:?}");
        }
    }
}

#[test]
fn a_text_that_its_schema_does_not_allow_is_reported() {
    let model = Family::Qwen3.model();
    for (schema, words) in [
        (
            json!({"type": "array", "items": {"const": "a"}, "minItems": 2, "maxItems": 3, "uniqueItems": true}),
            "non-unique",
        ),
        (
            json!({"type": "string", "format": "date", "pattern": "^2023-02-29$"}),
            "date",
        ),
        (json!({"const": 1, "not": {"type": "integer"}}), "not"),
    ] {
        for (text, report) in reports(&model, &schema) {
            assert_eq!(report.valid, Some(false), "{schema}: {text}");
            let error = report.error.unwrap();
            assert!(error.contains(words), "{error}");
        }
    }
    for (text, report) in reports(&model, &json!({"enum": ["a", 1, null]})) {
        assert_eq!(report.valid, Some(true), "{text}");
        assert_eq!((report.error, report.not_enforced), (None, Vec::new()));
    }
}

/// The model without the token of a byte.
fn without_byte(byte: &str) -> Arc<Model> {
    let dir = Family::Llama.write(1);
    edit_json(dir.path(), "tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]
            .as_object_mut()
            .unwrap()
            .remove(byte)
            .unwrap();
    });
    load(dir.path())
}

#[test]
fn what_the_vocabulary_cannot_write_is_said_in_words() {
    // The spelling of the byte 1.
    let model = without_byte("\u{101}");
    let choices =
        |texts: &[&str]| Constraint::Choice(texts.iter().map(|&t| t.to_owned()).collect());
    let refused = compile(&model, choices(&["Lima", "La\u{1}Paz"])).unwrap_err();
    assert_eq!(
        refused,
        ConstraintError::Unspellable {
            text: "La\u{1}Paz".into()
        }
    );
    assert!(compile(&model, choices(&["Lima", "La Paz"])).is_ok());
    for constraint in [
        Constraint::Regex("\u{1}+".into()),
        Constraint::Lark("start: \"\\u0001\"".into()),
    ] {
        let refused = compile(&model, constraint).unwrap_err().to_string();
        assert!(
            refused.contains("vocabulary") && !refused.contains("NoExtension"),
            "{refused}"
        );
    }
    let later = constrained(&model, "c", 1, Constraint::Regex("a\u{1}".into()));
    let engine = engine(&model, None);
    let failed = block_on(async { engine.submit(later).await.unwrap().collect().await });
    let failed = failed.unwrap_err().to_string();
    assert!(
        failed.contains("vocabulary") && !failed.contains("NoExtension"),
        "{failed}"
    );
}

#[test]
fn work_that_nobody_wants_any_more_ends_at_its_next_step() {
    let model = Family::Qwen3.model();
    let cancellation = Cancellation::default();
    cancellation.cancel();
    let held = Arc::new(());
    let refused = Grammar::compile_unless(&cancellation, held.clone(), &person(), model.tokens());
    assert_eq!(refused.unwrap_err(), ConstraintError::Cancelled);
    while Arc::strong_count(&held) > 1 {
        std::thread::yield_now();
    }
}
