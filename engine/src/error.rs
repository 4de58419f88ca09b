//! All errors of the engine. Each says what was found, and what would help.

use std::path::PathBuf;

use crate::ids::ConversationId;

/// Why a model directory was not loaded. Each variant names the file at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file does not parse, or a field has the wrong type.
    #[error("{} is not what it should be: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file is well-formed but asks for something that this engine does not do.
    #[error("{}: {what} is not supported; {remedy}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting and its value.
        what: String,
        /// What is supported instead.
        remedy: String,
    },
    /// The numbers in a configuration contradict one another.
    #[error("{}: {reason}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Which numbers, and how.
        reason: String,
    },
    /// The tokenizer is damaged.
    #[error("cannot make a tokenizer of {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A control token that the model needs is not in its tokenizer.
    #[error(
        "{} has no token {token:?}, which is the {role}; name the model's own in onegen.json",
        path.display()
    )]
    MissingToken {
        /// The tokenizer file.
        path: PathBuf,
        /// The spelling looked for.
        token: String,
        /// What it is needed for.
        role: &'static str,
    },
    /// The chat template does not compile, or renders no chat.
    #[error("the chat template in {} does not work: {reason}", path.display())]
    ChatTemplate {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        reason: String,
    },
    /// The device cannot be used.
    #[error("cannot run on {device}: {reason}")]
    Device {
        /// As it was named.
        device: String,
        /// Why.
        reason: String,
    },
    /// There is no weight file in the directory.
    #[error("{} holds neither a *.safetensors nor a *.gguf file", dir.display())]
    NoWeights {
        /// The model directory.
        dir: PathBuf,
    },
    /// There are several models in the directory.
    #[error("{} holds {count} *.gguf files; name the one to load", dir.display())]
    SeveralModels {
        /// The directory.
        dir: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// An adapter was loaded without the model that it changes.
    #[error(
        "{} is an adapter, and an adapter needs its base model{}: give the base's GGUF file or directory",
        dir.display(),
        base.as_ref().map(|base| format!(" ({base})")).unwrap_or_default()
    )]
    NoBase {
        /// The adapter's directory.
        dir: PathBuf,
        /// What the adapter calls its base.
        base: Option<String>,
    },
    /// An adapter does not belong to the base that it was loaded over.
    #[error("the adapter {} is for another base than {}: {reason}", adapter.display(), base.display())]
    OtherBase {
        /// The adapter's directory.
        adapter: PathBuf,
        /// The base's file or directory.
        base: PathBuf,
        /// What the adapter asks for, and what the base has.
        reason: String,
    },
    /// A tensor that the configuration calls for is in none of the weight files.
    #[error("the weights in {} lack the tensor {name}", dir.display())]
    MissingTensor {
        /// The model directory.
        dir: PathBuf,
        /// The tensor's full name.
        name: String,
    },
    /// A weight file is damaged, or a tensor has another shape than the configuration says.
    #[error("{}: {reason}", path.display())]
    DamagedWeights {
        /// The weight file.
        path: PathBuf,
        /// Which tensor, and why.
        reason: String,
    },
    /// The tensor library could not load the weights.
    #[cfg(feature = "mistralrs")]
    #[error("cannot load the weights in {}: {source}", dir.display())]
    Weights {
        /// The model directory.
        dir: PathBuf,
        /// Which file or tensor, and why.
        source: candle_core::Error,
    },
}

/// Why messages could not be turned into token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The model directory has neither a chat template nor a prompt template.
    #[error(
        "the model has no chat template: add chat_template to tokenizer_config.json or prompt_template to onegen.json"
    )]
    NoChatTemplate,
    /// The template itself refused the messages (`raise_exception`).
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The template cannot render these messages, whoever sent them: it is the model's fault.
    #[error("the model's chat template is broken: {0}")]
    BrokenTemplate(String),
    /// There is no user message to put into the prompt.
    #[error("the messages hold no {0} message")]
    MissingMessage(&'static str),
    /// The rendered prompt does not hold the assistant's message that the conversation ends with.
    #[error("the chat template leaves out message {0}, so the conversation cannot go on from it")]
    MessageLeftOut(usize),
    /// The model links entities, so it reads no passages.
    #[error("the model links entities and splices no passages")]
    NoSplice,
    /// The model does not link entities.
    #[error(
        "the model links no entities: one that does says `linking` in its onegen.json and has the tokens for it, {}",
        if .lacking.is_empty() {
            "as this one's tokenizer has".to_owned()
        } else {
            format!("of which this one's tokenizer lacks {}", .lacking.join(", "))
        }
    )]
    NoLinking {
        /// The usual linking tokens that its tokenizer lacks.
        lacking: Vec<&'static str>,
    },
    /// A text cannot fit the context, however long its tokens are. It was not read.
    #[error("at least {needed} tokens are needed, but the model's context holds {available}")]
    TooLong {
        /// A lower bound of the tokens that are needed.
        needed: usize,
        /// Tokens that the context holds.
        available: usize,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}

/// A text has more tokens than the model has positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it takes {needed} tokens, but the model's context holds {available}")]
pub struct TooLong {
    /// Tokens that are needed, or a lower bound of them.
    pub needed: usize,
    /// Tokens that the context holds.
    pub available: usize,
}

/// Why a forward did not happen or did not finish. No KV-cache has grown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The sequence would be longer than the model's positions.
    #[error("{needed} positions are needed, but the model has {available}")]
    ContextLength {
        /// Cached and new positions together.
        needed: usize,
        /// The model's `max_position_embeddings`.
        available: usize,
    },
    /// An input cannot be forwarded: it has no tokens, an offset outside them, or an unknown id.
    #[error("bad input to the forward: {0}")]
    Input(String),
    /// The tensor library failed (out of memory, a device error).
    #[cfg(feature = "mistralrs")]
    #[error("the forward failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A text could not be encoded.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// Why a request was not accepted. Nothing was forwarded and no conversation changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Another turn of the same conversation is under way.
    #[error("conversation {0} is busy with another turn; wait for its end or cancel it")]
    Busy(ConversationId),
    /// `expected_log_len` says that the conversation exists, but the engine does not hold it.
    #[error("there is no conversation {0}")]
    UnknownConversation(ConversationId),
    /// The conversation has continued since the caller read its length.
    #[error("conversation {conversation} holds {got} tokens where {expected} were expected")]
    LogLength {
        /// Which conversation.
        conversation: ConversationId,
        /// What the request said.
        expected: usize,
        /// What the token log holds.
        got: usize,
    },
    /// The prompt is empty, so there is nothing to forward.
    #[error("the prompt holds no tokens")]
    EmptyPrompt,
    /// The prompt holds an id that is not in the model's vocabulary.
    #[error("the prompt holds the id {id}, but the vocabulary ends at {vocabulary}")]
    UnknownId {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// Conversation and prompt together do not fit the context.
    #[error(
        "the conversation and its prompt need {needed} positions, but the context has {available}"
    )]
    ContextLength {
        /// Log, prompt and one generated token.
        needed: usize,
        /// The model's positions, or fewer when the KV budget holds fewer.
        available: usize,
    },
    /// The conversation cannot begin as the copy that was asked for.
    #[error("the conversation cannot begin as a copy: {0}")]
    Copy(#[from] ConversationError),
    /// The model can only link entities.
    #[error("this model links entities and writes no answers; hand in texts to be linked")]
    OnlyLinks,
    /// The prompt ends with `[RQ]`, whose logits must not be sampled.
    #[error("the prompt ends with the query token; only the model itself retrieves")]
    QueryAtEnd,
    /// The prompt holds a part of a passage block, of a model with block attention.
    #[error(
        "the prompt's passages are not whole: {0}; a passage goes from its opening token to the passage token"
    )]
    PassageBlock(String),
    /// A parameter is outside its range.
    #[error("{field} is {value}, but it must be {range}")]
    OutOfRange {
        /// The parameter.
        field: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// As many requests are waiting as the options allow.
    #[error("{waiting} requests are waiting already; try again later")]
    Overloaded {
        /// The queue's length.
        waiting: usize,
    },
    /// The engine has shut down.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a constraint was not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// It is not well-formed, asks for something that the compiler does not know, or is too large.
    #[error("the constraint does not compile: {0}")]
    Compile(String),
    /// It does not allow any first token.
    #[error("no text meets the constraint: {0}")]
    Unsatisfiable(String),
    /// It exceeds a bound that keeps the compiler within its stack and its time.
    #[error("the constraint has {found} {what}, but may have at most {most}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// The compiler was not ready in time.
    #[error("the constraint does not compile within {seconds} s; make it smaller")]
    TooSlow {
        /// The time limit.
        seconds: u64,
    },
    /// The caller lost interest.
    #[error("the work was cancelled")]
    Cancelled,
    /// A text to choose that the vocabulary cannot write.
    #[error("the model's vocabulary has no tokens to write the choice {text:?}")]
    Unspellable {
        /// The text, or its beginning.
        text: String,
    },
    /// A choice without any text.
    #[error("there is no text to choose; name at least one")]
    NoChoice,
    /// The model's tokens cannot be matched by a grammar.
    #[error("this model's answers cannot be constrained: {0}")]
    Tokens(String),
}

/// Why an accepted request failed. The conversation is as it was before the turn.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The forward failed.
    #[error("the forward failed: {0}")]
    Forward(String),
    /// The retriever failed.
    #[error("the retrieval failed: {0}")]
    Retrieval(String),
    /// The model's logits hold no finite number: its weights are damaged.
    #[error("the logits at position {position} hold no finite number")]
    Logits {
        /// The position whose logits these are.
        position: usize,
    },
    /// The text cannot be continued under its constraint: the constraint cannot be completed, or it
    /// takes too much work.
    #[error("the text cannot go on as the constraint wants: {0}")]
    Constraint(String),
    /// Text could not be made from the generated ids, or ids from a passage.
    #[error("the tokenizer failed: {0}")]
    Tokens(String),
    /// The turn was written, but the store could not keep it: its disk is full or broken.
    #[error("the conversation could not be stored: {0}")]
    NotStored(String),
    /// The engine shut down while the request was running.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a retriever could not answer. Finding nothing is not an error; it is an empty list.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RetrieveError {
    /// What went wrong, for a log line.
    pub message: String,
}

impl RetrieveError {
    /// An error that says `message`.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
        }
    }
}

/// Why a conversation could not be forked, rewound or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// The engine does not hold it.
    #[error("there is no conversation {0}")]
    Unknown(ConversationId),
    /// A turn of it is under way.
    #[error("conversation {0} is busy with a turn; wait for its end or cancel it")]
    Busy(ConversationId),
    /// A fork's name is taken.
    #[error("there is a conversation {0} already")]
    Exists(ConversationId),
    /// A log cannot be cut there: it is shorter, or a retrieval and its passage belong together.
    #[error("the log of {log_len} tokens cannot be cut after {len}")]
    Cut {
        /// The tokens to be kept.
        len: usize,
        /// The tokens that there are.
        log_len: usize,
    },
    /// The KV-cache could not be copied.
    #[error("cannot copy the KV-cache: {0}")]
    Copy(String),
    /// An imported log cannot be used.
    #[error("the log cannot be imported: {0}")]
    Import(String),
    /// The store could not write or delete its files.
    #[error("the store failed: {0}")]
    Store(String),
    /// The engine has shut down.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option that must be at least 1 is 0.
    #[error("{option} is 0, but it must be at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// The KV budget does not hold even the smallest KV-cache.
    #[error("kv_bytes is {bytes}, but this model's smallest KV-cache takes {least}")]
    KvBudget {
        /// The budget.
        bytes: usize,
        /// The least that works.
        least: usize,
    },
    /// The directory of conversations cannot be made or read.
    #[error("cannot keep conversations in {}: {source}", dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another engine keeps its conversations there.
    #[error("{} is in use by another process", dir.display())]
    StoreInUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
