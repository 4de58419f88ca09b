//! Constraints: what a turn's text must be, compiled to a grammar that masks tokens.

mod bounds;
mod check;
mod compile;
mod relax;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::ConstraintError;
use crate::tokens::Tokens;
pub use check::{SchemaCheck, SchemaReport};
pub use compile::Cancellation;
use relax::Relaxed;

/// What a turn's text must be, from its first character to its last.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// JSON that this schema allows, as far as that can be enforced: [`Grammar::schema_check`] holds the finished
    /// text against the whole of it. Between its parts stands at most one space, or a line break and
    /// an indentation, since a small model might write white space without end; a schema with
    /// llguidance's own `x-guidance` says otherwise.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole, in the syntax of the crate `regex`
    /// without anchors.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// White space between the parts of JSON.
const JSON_SPACE: &str = r"\x20|\n\x20{0,24}";

impl Constraint {
    fn grammar(&self) -> Result<TopLevelGrammar, ConstraintError> {
        Ok(match self {
            Self::JsonSchema(schema) => json_grammar(schema.clone()),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Choice(choices) if choices.is_empty() => return Err(ConstraintError::NoChoice),
            Self::Choice(choices) => {
                // A string of Lark is a string of JSON.
                let strings: Vec<_> = choices.iter().map(|c| json!(c).to_string()).collect();
                TopLevelGrammar::from_lark(format!("start: {}", strings.join(" | ")))
            }
            Self::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        })
    }
}

fn json_grammar(mut schema: Value) -> TopLevelGrammar {
    if let Some(fields) = schema.as_object_mut() {
        let options = fields.entry("x-guidance").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut()
            && !options.contains_key("whitespace_flexible")
        {
            let space = options.entry("whitespace_pattern");
            space.or_insert_with(|| JSON_SPACE.into());
        }
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// A compiled [`Constraint`]. It belongs to the tokens that it was compiled with.
///
/// The model may still retrieve, but only once and before the text begins: neither `[RQ]` nor a passage is
/// part of the text. The turn can end only where the text is complete, and does end where nothing
/// can follow, `min_tokens` or not. `max_tokens`, a full context, stop strings and stop ids end it
/// anywhere.
/// White space that the constraint wants at the text's start is kept. One space that it does not
/// want may come before the text and is not shown: most models write their first word with it.
#[derive(Clone)]
pub struct Grammar {
    /// Boxed for its size.
    matcher: Box<Matcher>,
    compiler: Arc<GrammarCompiler>,
    begun: bool,
    check: Option<Arc<SchemaCheck>>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// Compiles a constraint. A large one may take a second: not for an async thread.
    ///
    /// # Errors
    /// It is too large, does not compile or takes too long to, or no text meets it.
    pub fn compile(constraint: &Constraint, tokens: &Tokens) -> Result<Self, ConstraintError> {
        Self::compile_unless(&Cancellation::default(), (), constraint, tokens)
    }

    /// The same for a caller who may lose interest. `held` is dropped when the work has ended, which may be later
    /// than this returns.
    ///
    /// # Errors
    /// As [`Grammar::compile`], or it was cancelled.
    pub fn compile_unless(
        cancellation: &Cancellation,
        held: impl Send + 'static,
        constraint: &Constraint,
        tokens: &Tokens,
    ) -> Result<Self, ConstraintError> {
        constraint.check_size()?;
        let compiler = GrammarCompiler::of(tokens)?;
        let constraint = constraint.clone();
        let cancelled = cancellation.clone();
        compile::on_large_stack(cancellation, held, move || match &constraint {
            Constraint::JsonSchema(schema) => Self::of_schema(schema, &compiler, &cancelled),
            constraint => {
                if let Constraint::Choice(choices) = constraint {
                    compiler.check_spelling(choices)?;
                }
                Self::new(constraint.grammar()?, &compiler)
            }
        })
    }

    fn new(
        grammar: TopLevelGrammar,
        compiler: &Arc<GrammarCompiler>,
    ) -> Result<Self, ConstraintError> {
        let parser = compiler.factory.create_parser(grammar);
        let parser = parser.map_err(|error| ConstraintError::Compile(reason(error)))?;
        let mut grammar = Self {
            matcher: Box::new(Matcher::new(Ok(parser))),
            compiler: compiler.clone(),
            begun: false,
            check: None,
        };
        match grammar.allowed() {
            Ok(_) => Ok(grammar),
            Err(reason) => Err(ConstraintError::Unsatisfiable(reason)),
        }
    }

    /// A grammar of as much of a schema as can be enforced. What the compiler refuses is left out step by step.
    fn of_schema(
        schema: &Value,
        compiler: &Arc<GrammarCompiler>,
        cancellation: &Cancellation,
    ) -> Result<Self, ConstraintError> {
        let compile = |relaxed: Relaxed| -> Result<Self, ConstraintError> {
            cancellation.check()?;
            let grammar = Self::new(json_grammar(relaxed.schema), compiler)?;
            let check = SchemaCheck::new(schema, relaxed.not_enforced)?;
            Ok(Self {
                check: Some(Arc::new(check)),
                ..grammar
            })
        };
        let relaxed = Relaxed::new(schema);
        let refused = match compile(relaxed.clone()) {
            Err(error @ ConstraintError::Compile(_)) => error,
            compiled => return compiled,
        };
        let works = |schema| {
            let grammar = json_grammar(schema);
            !cancellation.is_cancelled() && compiler.factory.create_parser(grammar).is_ok()
        };
        let without = relaxed.without_patterns(works);
        if without != relaxed
            && let Ok(compiled) = compile(without.clone())
        {
            return Ok(compiled);
        }
        let approximated = without.approximated();
        if approximated.not_enforced == relaxed.not_enforced {
            return Err(refused);
        }
        compile(approximated)
    }

    /// What holds the finished text against the whole schema; `None` if the constraint is no schema.
    pub fn schema_check(&self) -> Option<&Arc<SchemaCheck>> {
        self.check.as_ref()
    }

    /// Whether any text has been written.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// What may come next, or why nothing can.
    pub(crate) fn allowed(&mut self) -> Result<Allowed, String> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(Allowed {
                text: SimpleVob::new(),
                end: true,
            });
        }
        let mut text = self.matcher.compute_mask().map_err(reason)?;
        text.disallow_token(self.compiler.end_of_turn);
        if !self.begun {
            for &(spaced, plain) in &self.compiler.spaced {
                if text.is_allowed(plain) {
                    text.allow_token(spaced);
                }
            }
        }
        let end = self.matcher.is_accepting().map_err(reason)?;
        Ok(Allowed { text, end })
    }

    /// Takes the token that was sampled. True for one that begins with a space which is not part of
    /// the text.
    pub(crate) fn advance(&mut self, id: u32) -> Result<bool, String> {
        let at_start = !std::mem::replace(&mut self.begun, true);
        let spaced = |of: &&(u32, u32)| at_start && of.0 == id;
        if let Some(&(_, plain)) = self.compiler.spaced.iter().find(spaced)
            && self.matcher.validate_tokens(&[id]).map_err(reason)? == 0
        {
            self.matcher.consume_token(plain).map_err(reason)?;
            return Ok(true);
        }
        self.matcher.consume_token(id).map_err(reason)?;
        Ok(false)
    }
}

/// What may come next in a constrained text.
#[derive(Debug)]
pub(crate) struct Allowed {
    text: SimpleVob,
    end: bool,
}

impl Allowed {
    /// Whether the text may go on with this token.
    pub(crate) fn text(&self, id: u32) -> bool {
        (id as usize) < self.text.len() && self.text.is_allowed(id)
    }

    /// Whether the turn may end, which it must where the text cannot go on.
    pub(crate) fn end(&self, too_early: bool) -> bool {
        self.end && (!too_early || self.text.is_zero())
    }
}

/// What compiles constraints for one model.
struct GrammarCompiler {
    factory: ParserFactory,
    /// The bytes of all tokens.
    trie: TokTrie,
    end_of_turn: u32,
    /// Tokens that begin with one space, and what they are without it.
    spaced: Vec<(u32, u32)>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// The compiler for a tokenizer, made when it is first asked for.
    ///
    /// # Errors
    /// The tokens cannot be matched by a grammar.
    fn of(tokens: &Tokens) -> Result<Arc<Self>, ConstraintError> {
        type Compiler = Result<Arc<GrammarCompiler>, ConstraintError>;
        let compiler: Arc<Compiler> = tokens.derived(|| {
            let no_end = || ConstraintError::Tokens("no token ends a turn".into());
            let end_of_turn = tokens.end_of_turn().ok_or_else(no_end)?;
            Self::new(tokens, tokens.ids(), end_of_turn).map(Arc::new)
        });
        (*compiler).clone()
    }

    /// Puts the bytes of the first `count` ids into a trie. Control tokens are in it by names that no
    /// text spells.
    fn new(tokens: &Tokens, count: u32, end_of_turn: u32) -> Result<Self, ConstraintError> {
        let word = |id| match (tokens.bytes(id), tokens.spelling(id)) {
            (Some(bytes), _) => bytes.to_vec(),
            (None, Some(name)) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
            (None, None) => Vec::new(),
        };
        let words: Vec<_> = (0..count).map(word).collect();
        let spaced = spaced(&words);
        let trie = TokTrie::from(&TokRxInfo::new(count, end_of_turn), &words);
        // Not canonical: the model chooses how it cuts a text into tokens.
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie.clone()));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| ConstraintError::Tokens(reason(error)))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self {
            factory,
            trie,
            end_of_turn,
            spaced,
        })
    }

    /// # Errors
    /// One of the texts cannot be written with the model's tokens.
    fn check_spelling(&self, choices: &[String]) -> Result<(), ConstraintError> {
        match choices
            .iter()
            .find(|choice| !self.spells(choice.as_bytes()))
        {
            Some(choice) => Err(ConstraintError::Unspellable {
                text: choice.chars().take(100).collect(),
            }),
            None => Ok(()),
        }
    }

    /// Whether tokens can be put together to these bytes.
    fn spells(&self, bytes: &[u8]) -> bool {
        let mut reached = vec![false; bytes.len() + 1];
        reached[0] = true;
        for start in 0..bytes.len() {
            if !reached[start] {
                continue;
            }
            let mut node = self.trie.root();
            for (at, &byte) in bytes.iter().enumerate().skip(start) {
                let Some(child) = self.trie.child_at_byte(node, byte) else {
                    break;
                };
                node = child;
                reached[at + 1] |= node.token_id().is_some();
            }
        }
        reached[bytes.len()]
    }
}

fn spaced(words: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let ids: HashMap<&[u8], u32> = words.iter().map(Vec::as_slice).zip(0..).collect();
    let without_space = |word: &Vec<u8>| {
        let plain = word.strip_prefix(b" ")?;
        let visible = !plain.first()?.is_ascii_whitespace();
        ids.get(plain).copied().filter(|_| visible)
    };
    let pairs = words.iter().zip(0..);
    pairs
        .filter_map(|(word, id)| Some((id, without_space(word)?)))
        .collect()
}

/// What an error says to people: without the states and traces that follow for llguidance's authors.
fn reason(error: impl fmt::Display) -> String {
    let mut text = format!("{error:#}");
    // llguidance's name for a text that its grammar allows and its vocabulary does not.
    if text.contains("NoExtensionBias") {
        return "no token of the model's vocabulary writes what must come next".to_owned();
    }
    for tail in ["\n<backtrace>", "\n<non-verbose/>"] {
        text.truncate(text.find(tail).unwrap_or(text.len()));
    }
    text
}
