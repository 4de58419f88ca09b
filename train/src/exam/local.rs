//! A model in this process, which is asked through the serving engine.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use onegen_engine::{
    ChatMessage, Constraint, ConversationId, Engine, EngineOptions, Event, FinishReason, Grammar,
    LoadOptions, Model, Request, RetrievalParams, Role, SubmitError,
};

use super::asking::{Answer, Source, TurnRequest};
use super::data::{Exchange, Set};
use super::pool::{Pool, Search};
use super::score::ABSTENTION;

/// A model with its engine and the pool that it searches.
pub struct LocalModel {
    engine: Engine,
    pool: Arc<Pool>,
    /// Counts conversations, to name them.
    begun: AtomicUsize,
}

/// Conversations of one model. The last history is kept, because the next question may continue it.
pub struct LocalSession<'a> {
    local: &'a LocalModel,
    kept: Option<History>,
}

/// A conversation and its turns.
struct History {
    id: ConversationId,
    /// The passage that each turn read.
    reads: Vec<usize>,
    turns: Vec<Exchange>,
    /// The messages, including the system's.
    messages: Vec<ChatMessage>,
}

/// How a turn is generated.
struct Generation<'a> {
    source: &'a Source,
    max_tokens: usize,
    max_retrievals: usize,
    /// The text that it must write.
    dictated: Option<&'a str>,
}

impl LocalModel {
    /// Loads a model and starts its engine, for `concurrent` turns at once.
    ///
    /// # Errors
    /// The model cannot be loaded, or only links entities.
    pub fn load(directory: &Path, options: &LoadOptions, concurrent: usize) -> Result<Self> {
        let model = Model::load(directory, options);
        let model = model.with_context(|| format!("cannot load {}", directory.display()))?;
        if model.tokens().links_entities() {
            bail!(
                "{} links entities and answers no questions; give --linking instead of --set",
                directory.display()
            );
        }
        let options = EngineOptions {
            max_sequences: concurrent,
            ..EngineOptions::default()
        };
        let model = Arc::new(model);
        let pool = Arc::new(Pool::embed(&model, &[], |_| {})?);
        Ok(Self {
            engine: Engine::start(model, None, options)?,
            pool,
            begun: AtomicUsize::new(0),
        })
    }

    /// Embeds the passages of a set as its pool; returns how many are too long.
    ///
    /// # Errors
    /// The tokenizer or the forward failed.
    pub fn learn(&mut self, set: &Set, on_progress: impl FnMut(usize)) -> Result<usize> {
        let pool = Pool::embed(self.engine.model(), &set.passages, on_progress)?;
        let too_long = pool.too_long();
        self.pool = Arc::new(pool);
        Ok(too_long)
    }

    /// Begins a session.
    pub fn session(&self) -> LocalSession<'_> {
        LocalSession {
            local: self,
            kept: None,
        }
    }

    fn name(&self) -> ConversationId {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        format!("exam-{number}").into()
    }

    /// Generates a turn of a conversation after `messages`. The last message is the user's; those before
    /// `answered` are in the conversation's log.
    async fn generate(
        &self,
        id: &ConversationId,
        messages: &[ChatMessage],
        answered: Option<usize>,
        how: &Generation<'_>,
    ) -> Result<Answer> {
        let tokens = self.engine.model().tokens();
        let prompt = match answered {
            None => tokens.encode_chat(messages)?,
            Some(last) => {
                let held = self.engine.conversation(id).await;
                let log_end = held.and_then(|held| held.log.last().map(|(id, _)| id));
                tokens.encode_turn(messages, last, log_end)?
            }
        };
        let given = match how.source {
            Source::Given(passages) => Some(passages.clone()),
            _ => None,
        };
        let search = Arc::new(Search::new(self.pool.clone(), given));
        let mut request = Request::new(id.clone(), prompt);
        request.sampling.max_tokens = Some(how.max_tokens);
        request.retriever = Some(search.clone());
        request.retrieval = RetrievalParams {
            enabled: *how.source != Source::Nothing,
            forced: matches!(how.source, Source::OwnForced | Source::Given(_)),
            max_retrievals: Some(how.max_retrievals),
            ..RetrievalParams::default()
        };
        if let Some(text) = how.dictated {
            let choice = Constraint::Choice(vec![text.to_owned()]);
            let grammar = Grammar::compile(&choice, tokens);
            request.grammar =
                Some(grammar.with_context(|| format!("{text:?} cannot be dictated"))?);
        }
        let mut turn = match self.engine.submit(request).await {
            Err(SubmitError::ContextLength { .. }) => return Ok(too_long()),
            turn => turn.context("a question was refused")?,
        };
        let (mut text, mut answer) = (String::new(), Answer::default());
        while let Some(event) = turn.next().await {
            match event {
                Event::Text(more) => text.push_str(&more.text),
                Event::Retrieval(receipt) => {
                    answer.began_with_retrieval |= receipt.at_token == 0;
                    text.clear();
                }
                Event::Mention(_) => {}
                Event::Failed(error) => return Err(error).context("a turn failed"),
                Event::Finished(summary) => {
                    let log = search.log();
                    answer.text = text.trim().to_owned();
                    answer.searches = log.read.len();
                    answer.ranking = log.rankings.into_iter().next().unwrap_or_default();
                    // The last passage that was found may have been too long to be spliced.
                    let spliced = summary.retrievals.len();
                    answer.read = log.read.into_iter().flatten().take(spliced).collect();
                    answer.too_long = summary.finish_reason == FinishReason::Length
                        && summary.usage.completion_tokens < how.max_tokens;
                    return Ok(answer);
                }
            }
        }
        bail!("a turn ended without an end")
    }

    /// Generates one more turn of a history with a dictated answer. Returns whether it fits the
    /// context.
    async fn dictate(&self, history: &mut History, turn: &Exchange) -> Result<bool> {
        let answered = history.turns.last().map(|_| history.messages.len() - 1);
        let asked = ChatMessage::new(Role::User, turn.q.as_str());
        history.messages.push(asked);
        let dictated = dictated(turn);
        let how = Generation {
            source: &Source::Given(history.reads.clone()),
            // Each token is at least one byte.
            max_tokens: dictated.len() + 16,
            max_retrievals: history.reads.len().max(1),
            dictated: Some(dictated),
        };
        let turned = self.generate(&history.id, &history.messages, answered, &how);
        let fits = !turned.await?.too_long;
        let told = ChatMessage::new(Role::Assistant, dictated);
        history.messages.push(told);
        history.turns.push(turn.clone());
        Ok(fits)
    }
}

/// The answer of an earlier turn. If it is unknown, the answer is that nothing was found.
pub(super) fn dictated(turn: &Exchange) -> &str {
    match turn.a.trim() {
        "" => ABSTENTION,
        told => told,
    }
}

fn too_long() -> Answer {
    Answer {
        too_long: true,
        ..Answer::default()
    }
}

impl LocalSession<'_> {
    /// Asks and waits for the answer. Conversations are deleted as soon as no question can continue
    /// them.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn ask(&mut self, ask: &TurnRequest<'_>) -> Result<Answer> {
        let local = self.local;
        let how = Generation {
            source: &ask.source,
            max_tokens: ask.max_tokens,
            max_retrievals: ask.max_retrievals,
            dictated: None,
        };
        let id = local.name();
        let last = ChatMessage::new(Role::User, ask.message);
        let answer = if ask.history.is_empty() {
            let mut messages = opening(ask.system);
            messages.push(last);
            local.generate(&id, &messages, None, &how).await?
        } else {
            self.dictate_history(ask).await?;
            let Some(history) = &self.kept else {
                return Ok(too_long());
            };
            let mut messages = history.messages.clone();
            messages.push(last);
            let answered = messages.len() - 2;
            local.engine.fork(&history.id, &id, None).await?;
            local.generate(&id, &messages, Some(answered), &how).await?
        };
        // A refused conversation was never begun, so deleting it may fail.
        let _ = local.engine.delete(&id).await;
        Ok(answer)
    }

    /// Deletes the conversation that is kept.
    pub async fn close(mut self) {
        self.forget().await;
    }

    /// Generates the earlier turns. Each reads its given passage, and its answer is dictated. If they
    /// do not fit the context, nothing is kept.
    async fn dictate_history(&mut self, ask: &TurnRequest<'_>) -> Result<()> {
        let begins = |kept: &History| {
            kept.reads == ask.history_reads && ask.history.starts_with(&kept.turns)
        };
        if !self.kept.as_ref().is_some_and(begins) {
            self.forget().await;
        }
        let local = self.local;
        let mut history = self.kept.take().unwrap_or_else(|| History {
            id: local.name(),
            reads: ask.history_reads.to_vec(),
            turns: vec![],
            messages: opening(ask.system),
        });
        while let Some(turn) = ask.history.get(history.turns.len()) {
            let fits = local.dictate(&mut history, turn).await?;
            if !fits {
                // If the first turn did not fit, the conversation was never begun, so deleting it
                // may fail.
                let _ = local.engine.delete(&history.id).await;
                return Ok(());
            }
        }
        self.kept = Some(history);
        Ok(())
    }

    async fn forget(&mut self) {
        if let Some(history) = self.kept.take() {
            // The conversation may have been evicted meanwhile.
            let _ = self.local.engine.delete(&history.id).await;
        }
    }
}

/// The first messages of a conversation.
fn opening(system: Option<&str>) -> Vec<ChatMessage> {
    let system = system.map(|text| ChatMessage::new(Role::System, text));
    system.into_iter().collect()
}
