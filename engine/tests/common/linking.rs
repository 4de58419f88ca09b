//! Random linking models with tokenizers of both kinds, and a reference decoder that is simple enough
//! to be obviously right.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use onegen_engine::{ChatMessage, Model, Role, SequenceInput, SpanKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{Family, SMALL, load, write_byte_level, write_json};

pub const POSITIONS: usize = 2048;

const CONTROL: [&str; 6] = [
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "[LK]",
    "[SE]",
    "[_CONTINUE_]",
];
const MARKS: [&str; 2] = ["<MENTION>", "</MENTION>"];

/// How a linking model's tokenizer spells texts, and its marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// A character for each byte; the marks are tokens.
    ByteLevel,
    /// `▁` for a space, one before every text, single bytes for what has no token; the marks are tokens.
    SentencePiece,
    /// The same, and the marks are text as in the published checkpoints.
    TextMarks,
    /// Only small letters and spaces have tokens.
    Letters,
}

pub const SPELLINGS: [Spelling; 4] = [
    Spelling::ByteLevel,
    Spelling::SentencePiece,
    Spelling::TextMarks,
    Spelling::Letters,
];

pub fn linking_model(family: Family, spelling: Spelling) -> Arc<Model> {
    load(write_linking(family, spelling, 7).path())
}

pub fn write_linking(family: Family, spelling: Spelling, seed: u64) -> TempDir {
    let dir = family.write(seed);
    // A random model marks a mention at every chance.
    let mut config = family.config(SMALL);
    config["max_position_embeddings"] = POSITIONS.into();
    write_json(dir.path(), "config.json", &config);
    let tokenizer = dir.path().join("tokenizer.json");
    match spelling {
        Spelling::ByteLevel => byte_level(&tokenizer),
        Spelling::SentencePiece => sentence_piece(&tokenizer, true, true),
        Spelling::TextMarks => sentence_piece(&tokenizer, true, false),
        Spelling::Letters => sentence_piece(&tokenizer, false, true),
    }
    favour_marks(dir.path());
    write_json(
        dir.path(),
        "onegen.json",
        &json!({
            "query_token": "[LK]", "passage_token": "[SE]",
            "embed_template": "{title}: {text}", "linking": {},
        }),
    );
    dir
}

fn byte_level(path: &Path) {
    let text = "Is Lima the capital of Peru? Lima is the capital of Peru, a country on the coast.";
    let control: Vec<_> = CONTROL.iter().chain(&MARKS).copied().collect();
    write_byte_level(path, text, ByteLevel::new(false, true, true), &control);
}

fn sentence_piece(path: &Path, bytes: bool, marks: bool) {
    let mut spellings: Vec<String> = vec!["<unk>".into()];
    if bytes {
        spellings.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        spellings.extend("MENTIO<>/LP".chars().map(String::from));
    }
    spellings.extend(('a'..='z').map(String::from));
    spellings.push("\u{2581}".into());
    let merges = [
        "\u{2581} t",
        "\u{2581}t h",
        "\u{2581}th e",
        "i s",
        "\u{2581} is",
        "i m",
        "im a",
        "e r",
        "er u",
        "\u{2581} l",
        "\u{2581} p",
        "\u{2581} a",
        "\u{2581} <",
    ];
    let merges: Vec<_> = merges
        .into_iter()
        .filter(|merge| bytes || !merge.contains('<'))
        .collect();
    spellings.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let marks = MARKS.iter().filter(|_| marks);
    let control: Vec<_> = CONTROL.iter().chain(marks).collect();
    let first = spellings.len();
    let added: Vec<_> = control
        .iter()
        .enumerate()
        .map(|(at, token)| {
            json!({"id": first + at, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let control = control.iter().map(|token| (**token).to_owned());
    let vocab: HashMap<String, usize> = spellings.into_iter().chain(control).zip(0..).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "byte_fallback": bytes, "ignore_merges": false, "vocab": vocab, "merges": merges},
    });
    std::fs::write(path, Value::to_string(&tokenizer)).unwrap();
}

/// Makes marks likely. With random weights alone a mark would almost never be the likeliest token.
fn favour_marks(dir: &Path) {
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let favoured = [MARKS[0], MARKS[1], "<", "\u{2581}<"].map(|token| tokenizer.token_to_id(token));
    let weights = dir.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let head = if tensors.contains_key("lm_head.weight") {
        "lm_head.weight"
    } else {
        "model.embed_tokens.weight"
    };
    let mut rows: Vec<Vec<f32>> = tensors[head].to_vec2().unwrap();
    for id in favoured.into_iter().flatten() {
        rows[id as usize].iter_mut().for_each(|x| *x *= 20.0);
    }
    let rows = Tensor::new(rows, &Device::Cpu).unwrap();
    tensors.insert(head.to_owned(), rows);
    candle_core::safetensors::save(&tensors, weights).unwrap();
}

/// An expected mention: its bytes, and the state at its `[LK]`.
pub type Expected = (usize, usize, Vec<f32>);

/// A symbol of the output: a byte of text, or a control token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Byte(u8),
    Token(u32),
}

/// One way to read the output as a marked copy.
#[derive(Debug, Clone, Default)]
struct Reading {
    at: usize,
    mention: Option<usize>,
    /// Within a mark.
    marking: bool,
    spans: Vec<(usize, usize)>,
}

/// Finds all ways to read symbols as a marked copy.
struct Reader<'a> {
    goal: &'a str,
    open: Vec<Symbol>,
    /// With `[LK]` and `[_CONTINUE_]`.
    close: Vec<Symbol>,
}

impl Reader<'_> {
    fn read(&self, symbols: &[Symbol], so_far: Reading, readings: &mut Vec<Reading>) {
        let Some(first) = symbols.first() else {
            return readings.push(so_far);
        };
        let Reading { at, mention, .. } = so_far;
        let next = self.goal.as_bytes().get(at);
        if next.is_some_and(|byte| *first == Symbol::Byte(*byte)) {
            let more = Reading {
                at: at + 1,
                ..so_far.clone()
            };
            self.read(&symbols[1..], more, readings);
        }
        if !self.goal.is_char_boundary(at) {
            return;
        }
        let (mark, around) = match mention {
            None => (&self.open, &self.goal[at..]),
            Some(start) => (&self.close, &self.goal[start..at]),
        };
        let fits = symbols.iter().zip(mark).all(|(a, b)| a == b);
        if around.trim().is_empty() || !fits {
            return;
        }
        let mut marked = so_far;
        match marked.mention.take() {
            None => marked.mention = Some(at),
            // A mention counts once its [LK] is there.
            Some(start) if symbols.len() + 1 >= mark.len() => marked.spans.push((start, at)),
            Some(start) => marked.mention = Some(start),
        }
        match symbols.get(mark.len()..) {
            Some(rest) => self.read(rest, marked, readings),
            None => {
                marked.marking = true;
                readings.push(marked);
            }
        }
    }
}

/// Links token by token: at each position it tests every id of the vocabulary for whether a marked
/// copy may continue with it. The tokenizer must be able to spell the text.
pub fn link_simply(model: &Model, text: &str) -> Vec<Expected> {
    let tokens = model.tokens();
    let id_of = |spelling: &str| {
        (0..model.config().vocab_size as u32)
            .find(|id| tokens.spelling(*id).as_deref() == Some(spelling))
    };
    let symbols = |id: u32| match tokens.bytes(id) {
        Some(bytes) => bytes.iter().copied().map(Symbol::Byte).collect(),
        None => vec![Symbol::Token(id)],
    };
    let mark = |spelling: &str| match id_of(spelling) {
        Some(id) => vec![Symbol::Token(id)],
        None => spelling.bytes().map(Symbol::Byte).collect(),
    };
    let (link, go_on) = (id_of("[LK]").unwrap(), id_of("[_CONTINUE_]").unwrap());
    let core = text.trim();
    let trimmed = text.len() - text.trim_start().len();
    // One space may come before the text.
    let goal = format!(" {core}");
    let mut close = mark("</MENTION>");
    close.extend([Symbol::Token(link), Symbol::Token(go_on)]);
    let mut own = Vec::new();
    let mut at = goal.len();
    for id in tokens.encode_plain(core).unwrap().into_iter().rev() {
        at -= tokens.bytes(id).unwrap().len();
        own.push((at, id));
    }
    let reader = Reader {
        goal: &goal,
        open: mark("<MENTION>"),
        close,
    };

    let prompt = tokens
        .encode_chat(&[ChatMessage::new(Role::User, text)])
        .unwrap();
    let mut cache = model.new_cache();
    let (mut new, mut written) = (prompt, Vec::new());
    let mut mentions = Vec::new();
    loop {
        let end = new.len() - 1;
        let output = model
            .forward(&mut [SequenceInput {
                ids: &new,
                kinds: &vec![SpanKind::Prompt; new.len()],
                cache: &mut cache,
                hidden_at: &[end],
                logits_at: &[end],
            }])
            .unwrap()
            .remove(0);
        let read = |symbols: &[Symbol]| {
            let mut readings = Vec::new();
            for at in 0..2 {
                let start = Reading {
                    at,
                    ..Reading::default()
                };
                reader.read(symbols, start, &mut readings);
            }
            readings
        };
        if !written.is_empty() {
            let readings = read(&written);
            let reading = &readings[0];
            if new == [link] {
                let (start, end) = *reading.spans.last().unwrap();
                let mention = &goal[start..end];
                let start = start + mention.len() - mention.trim_start().len();
                let end = start + mention.trim().len();
                mentions.push((
                    start + trimmed - 1,
                    end + trimmed - 1,
                    output.hidden[0].clone(),
                ));
            }
            if reading.at == goal.len() && reading.mention.is_none() {
                return mentions;
            }
        }
        let logit = |id: &u32| output.logits[0][*id as usize];
        let order = |a: &u32, b: &u32| logit(a).total_cmp(&logit(b)).then(b.cmp(a));
        let read_on = |id: u32| {
            let mut longer = written.clone();
            longer.extend(symbols(id));
            read(&longer)
        };
        let vocabulary = 0..model.config().vocab_size as u32;
        let spelt = vocabulary.filter(|&id| tokens.spelling(id).is_some());
        let allowed: Vec<u32> = spelt.filter(|&id| !read_on(id).is_empty()).collect();
        let now = read(&written);
        let is_text = |id: u32| {
            let goes_on =
                |r: &Reading| !r.marking && now.iter().any(|now| now.mention == r.mention);
            read_on(id).iter().any(goes_on)
        };
        let (text, marks): (Vec<u32>, Vec<u32>) = allowed.iter().partition(|&&id| is_text(id));
        let likeliest = (0..output.logits[0].len() as u32).max_by(order).unwrap();
        let next = if allowed.contains(&likeliest) {
            likeliest
        } else {
            // If the model expects another text, the copy continues with the tokenizer's own
            // tokens.
            let own = own
                .iter()
                .find(|(at, id)| now.len() == 1 && now[0].at == *at && text.contains(id));
            let text = own.map(|own| own.1).or(text.into_iter().max_by(order));
            let is_outside = now.iter().all(|r| r.mention.is_none());
            match text {
                Some(text) if is_outside => text,
                text => text.into_iter().chain(marks).max_by(order).unwrap(),
            }
        };
        written.extend(symbols(next));
        new = vec![next];
    }
}
