//! The figures of the model card: held-out names, a pool of 2,000 passages, text generated greedily by
//! the engine that serves the model.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use onegen_engine::{
    ChatMessage, Completion, Engine, EngineOptions, FinishReason, Model, Passage, Request,
    RetrieveError, Retriever, Role, SubmitError,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::bm25::Bm25;
use crate::dialogue::{self, Dialogue, Lesson, TARGET, Turn};
use crate::exam::score::normalised;
use crate::phrases::Wording;
use crate::world::{Entity, Split, World};

/// The number of right answers, and of all.
#[derive(Clone, Copy, Default)]
struct Share {
    right: usize,
    all: usize,
}

impl Share {
    fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.all += 1;
    }

    fn ratio(self) -> Option<f64> {
        (self.all > 0).then(|| self.right as f64 / self.all as f64)
    }
}

/// The figures of one group of turns.
#[derive(Clone, Copy, Default)]
struct Figures {
    recall: Share,
    gold: Share,
    retrieved: Share,
    end_to_end: Share,
    decided: Share,
    bm25: Share,
}

/// One row of the report. Shares are between 0 and 1, `None` if nothing was asked.
#[derive(Serialize)]
pub struct Row {
    /// Which turns
    pub name: String,
    /// How many
    pub turns: usize,
    /// Of all retrievals, how many found the right passage first
    pub recall_at_1: Option<f64>,
    /// Share of right answers if the right passages are given
    pub exact_match_gold: Option<f64>,
    /// Share of right answers among turns whose passages were all found
    pub exact_match_retrieved: Option<f64>,
    /// Share of right answers with the conversation's own history and retrievals
    pub end_to_end: Option<f64>,
    /// Share of turns that retrieved exactly when they should
    pub decided: Option<f64>,
    /// BM25 on the last message alone: the (last) right passage first
    pub bm25_recall_at_1: Option<f64>,
}

/// A retriever that returns scripted passages, or otherwise searches the whole pool exactly.
struct Pool {
    passages: Vec<Passage>,
    embeddings: Vec<Vec<f32>>,
    scripted: Mutex<Vec<usize>>,
}

impl Pool {
    /// Sets the passages that the next searches return, whatever the query is. With an empty list
    /// searches are real.
    fn script(&self, passages: Vec<usize>) {
        *self.scripted.lock().unwrap_or_else(PoisonError::into_inner) = passages;
    }
}

impl Retriever for Pool {
    fn retrieve(&self, query_embedding: &[f32], _: usize) -> Result<Vec<Passage>, RetrieveError> {
        let mut scripted = self.scripted.lock().unwrap_or_else(PoisonError::into_inner);
        let score = |at: &usize| -> f32 {
            self.embeddings[*at]
                .iter()
                .zip(query_embedding)
                .map(|(a, b)| a * b)
                .sum()
        };
        let best = if scripted.is_empty() {
            (0..self.passages.len()).max_by(|a, b| score(a).total_cmp(&score(b)))
        } else {
            Some(scripted.remove(0))
        };
        Ok(best
            .map(|at| Passage {
                score: score(&at),
                ..self.passages[at].clone()
            })
            .into_iter()
            .collect())
    }
}

/// The held-out exam: dialogues, and the pool of their passages and of passages with similar names.
struct Exam {
    entities: Vec<Entity>,
    dialogues: Vec<Dialogue>,
}

impl Exam {
    /// Draws dialogues until their entities have `pool` passages.
    fn draw(reserved: &HashSet<String>, wording: Wording, pool: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(&mut rng, Split::HeldOut, reserved);
        let mut dialogues = Vec::new();
        while world
            .entities
            .iter()
            .filter(|entity| !entity.text.is_empty())
            .count()
            < pool
        {
            dialogues.push(dialogue::dialogue(&mut world, &TARGET, wording));
        }
        let entities = std::mem::take(&mut world.entities);
        Self {
            entities,
            dialogues,
        }
    }
}

/// Runs the exam with known and with held-out wordings; calls `on_wrong` for every wrong answer.
pub fn evaluate(
    model: &Arc<Model>,
    reserved: &HashSet<String>,
    pool: usize,
    mut on_wrong: impl FnMut(&str),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, wording) in [
        ("known wordings", Wording::Known),
        ("held-out wordings", Wording::Unknown),
    ] {
        let exam = Exam::draw(reserved, wording, pool, 20_000);
        rows.extend(sit(model, &exam, name, &mut on_wrong)?);
    }
    Ok(rows)
}

/// Every turn of the exam, once with the right passages given and once with the model's own retrieval.
fn sit(
    model: &Arc<Model>,
    exam: &Exam,
    name: &str,
    on_wrong: &mut impl FnMut(&str),
) -> Result<Vec<Row>> {
    let pool = Arc::new(embed(model, &exam.entities)?);
    let bm25 = Bm25::new(
        pool.passages
            .iter()
            .map(|passage| (passage.title.as_str(), passage.text.as_str())),
    );
    let engine = Engine::start(model.clone(), Some(pool.clone()), EngineOptions::default())?;
    let mut figures = BTreeMap::<String, Figures>::new();
    for (number, dialogue) in exam.dialogues.iter().enumerate() {
        let mut given = Chat::new(&engine, format!("given-{number}"));
        let mut own = Chat::new(&engine, format!("own-{number}"));
        for turn in dialogue {
            pool.script(turn.hops.iter().map(|hop| hop.shown).collect());
            let with_gold = given.say(&turn.user)?;
            pool.script(vec![]);
            // A dialogue ends when it no longer fits the context.
            let (Some(with_gold), Some(served)) = (with_gold, own.say(&turn.user)?) else {
                break;
            };
            if !turn.hops.is_empty() && normalised(&served.text) != wanted(turn) {
                let (lesson, found) = (turn.lesson, titles(&served));
                let (user, text) = (&turn.user, &served.text);
                on_wrong(&format!(
                    "{name}: {lesson:?}: {user:?} found {found:?} said {text:?}, not {:?}",
                    wanted(turn)
                ));
            }
            for group in groups(turn) {
                let figures = figures.entry(format!("{name}: {group}")).or_default();
                figures.add(turn, &pool.passages, &with_gold, &served, &bm25);
            }
        }
    }
    let row = |(name, f): (String, Figures)| Row {
        name,
        turns: f.decided.all,
        recall_at_1: f.recall.ratio(),
        exact_match_gold: f.gold.ratio(),
        exact_match_retrieved: f.retrieved.ratio(),
        end_to_end: f.end_to_end.ratio(),
        decided: f.decided.ratio(),
        bm25_recall_at_1: f.bm25.ratio(),
    };
    Ok(figures.into_iter().map(row).collect())
}

/// The right answer of a turn, normalised.
fn wanted(turn: &Turn) -> String {
    let texts: Vec<&str> = turn.hops.iter().map(|hop| hop.then.as_str()).collect();
    normalised(&texts.join(" "))
}

/// The titles of the passages that a turn read.
fn titles(completion: &Completion) -> Vec<&str> {
    let first = completion
        .summary
        .retrievals
        .iter()
        .filter_map(|receipt| receipt.passages.first());
    first.map(|passage| passage.title.as_str()).collect()
}

/// The rows of the report in which a turn counts.
fn groups(turn: &Turn) -> Vec<&'static str> {
    let lesson = match turn.lesson {
        Lesson::Single => "one question",
        Lesson::Several => "several attributes",
        Lesson::Describe => "tell me about",
        Lesson::FollowUp => "follow-up on the same",
        Lesson::FollowAnswer => "follow-up on the answer",
        Lesson::SameAgain => "the same of another",
        Lesson::TwoHop => "two hops",
        Lesson::SmallTalk => "small talk",
        Lesson::Untold => "passage does not tell",
        Lesson::Stranger => "not in the corpus",
    };
    let mut groups = vec![lesson];
    if matches!(turn.lesson, Lesson::FollowUp | Lesson::FollowAnswer) {
        groups.push("follow-ups that name nothing");
    }
    if !turn.hops.is_empty() {
        groups.push("all that retrieve");
        if !turn.user.chars().any(char::is_uppercase) {
            groups.push("all that retrieve, in lower case");
        }
    }
    groups
}

impl Figures {
    fn add(
        &mut self,
        turn: &Turn,
        passages: &[Passage],
        with_gold: &Completion,
        served: &Completion,
        bm25: &Bm25,
    ) {
        let retrieved = &served.summary.retrievals;
        self.decided
            .add(retrieved.is_empty() == turn.hops.is_empty());
        if turn.hops.is_empty() {
            return;
        }
        let wanted = wanted(turn);
        let right = |completion: &Completion| normalised(&completion.text) == wanted;
        self.gold.add(right(with_gold));
        self.end_to_end.add(right(served));
        let mut all_found = true;
        for (at, hop) in turn.hops.iter().enumerate().filter(|(_, hop)| hop.gold) {
            let found = retrieved
                .get(at)
                .and_then(|receipt| receipt.passages.first())
                .is_some_and(|passage| passage.id == passages[hop.shown].id);
            self.recall.add(found);
            all_found &= found;
        }
        if all_found && turn.lesson != Lesson::Stranger {
            self.retrieved.add(right(served));
        }
        if let Some(last) = turn.hops.last().filter(|hop| hop.gold) {
            self.bm25.add(bm25.best(&turn.user) == Some(last.shown));
        }
    }
}

/// Embeds every passage; entities without one are never found.
fn embed(model: &Model, entities: &[Entity]) -> Result<Pool> {
    let passages: Vec<Passage> = entities
        .iter()
        .enumerate()
        .map(|(at, entity)| Passage {
            id: at.to_string(),
            title: entity.title(),
            text: entity.text.clone(),
            url: None,
            score: 0.0,
        })
        .collect();
    let mut embeddings = vec![vec![0.0; model.hidden_size()]; passages.len()];
    let known: Vec<usize> = (0..passages.len())
        .filter(|at| !passages[*at].text.is_empty())
        .collect();
    for chunk in known.chunks(32) {
        let ids = chunk
            .iter()
            .map(|at| {
                model
                    .tokens()
                    .passage_ids(&passages[*at].title, &passages[*at].text)
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (at, embedding) in chunk.iter().zip(model.embed_passages(&ids)?) {
            embeddings[*at] = embedding;
        }
    }
    Ok(Pool {
        passages,
        embeddings,
        scripted: Mutex::new(vec![]),
    })
}

/// The most sampled tokens. The longest right answers are lists of neighbours.
const LONGEST_ANSWER: usize = 160;

/// One conversation with the engine.
struct Chat<'a> {
    engine: &'a Engine,
    id: String,
    messages: Vec<ChatMessage>,
}

impl<'a> Chat<'a> {
    fn new(engine: &'a Engine, id: String) -> Self {
        Self {
            engine,
            id,
            messages: vec![],
        }
    }

    /// The next turn; `None` if the conversation no longer fits the context.
    fn say(&mut self, text: &str) -> Result<Option<Completion>> {
        let tokens = self.engine.model().tokens();
        let answered = self.messages.len().checked_sub(1);
        self.messages.push(ChatMessage::new(Role::User, text));
        let prompt = match answered {
            None => tokens.encode_chat(&self.messages)?,
            Some(last) => {
                let id = self.id.as_str().into();
                let held = futures::executor::block_on(self.engine.conversation(&id));
                let log_end = held.and_then(|held| held.log.last().map(|(id, _)| id));
                tokens.encode_turn(&self.messages, last, log_end)?
            }
        };
        let mut request = Request::new(self.id.as_str(), prompt);
        request.sampling.max_tokens = Some(LONGEST_ANSWER);
        let turn = match futures::executor::block_on(self.engine.submit(request)) {
            Err(SubmitError::ContextLength { .. }) => return Ok(None),
            turn => turn.with_context(|| format!("{text:?} was refused"))?,
        };
        let completion = futures::executor::block_on(turn.collect())?;
        self.messages
            .push(ChatMessage::new(Role::Assistant, completion.text.as_str()));
        let summary = &completion.summary;
        let outgrown = summary.finish_reason == FinishReason::Length
            && summary.usage.completion_tokens < LONGEST_ANSWER;
        Ok((!outgrown).then_some(completion))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |value: Option<f64>| {
            value.map_or("–".to_owned(), |value| format!("{:.1}%", 100.0 * value))
        };
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.name,
            self.turns,
            cell(self.recall_at_1),
            cell(self.exact_match_gold),
            cell(self.exact_match_retrieved),
            cell(self.end_to_end),
            cell(self.decided),
            cell(self.bm25_recall_at_1)
        )
    }
}
