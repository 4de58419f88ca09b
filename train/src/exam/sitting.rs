//! Asks every question of a set under every condition that is compared, and records the answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::asking::{Answer, Source, TurnRequest};
use super::data::{Question, Set};
use super::examinee::{Examinee, Session};
use super::pool::DEEPEST;
use super::score::{self, Rule};
use super::titles;
use super::vectors::Vectors;
use crate::bm25::Bm25;

/// The conditions under which a set is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// Questions asked at once.
    pub concurrent: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// The most retrievals of an answer.
    pub max_retrievals: usize,
    /// Whether earlier turns read the question's own passages, as they would in serving. Otherwise
    /// earlier turns read no passage.
    pub history_reads: bool,
    /// Whether every question is also answered without retrieval.
    pub without_retrieval: bool,
    /// Whether every question is also answered from the passage that BM25 finds.
    pub bm25_reads: bool,
}

/// A set with the results of other retrievers, which do not depend on the model.
pub struct PreparedSet {
    /// The questions and passages.
    pub set: Arc<Set>,
    /// The passages that BM25 finds with each question's last message, up to [`DEEPEST`].
    bm25: Vec<Vec<usize>>,
    /// The same with the human rewrite, if there is one.
    bm25_rewrite: Vec<Option<Vec<usize>>>,
    /// The passages that a separate retriever finds with each question's last message.
    retriever: Option<Vec<Vec<usize>>>,
}

/// The answer to one question under one condition.
#[derive(Debug, Clone, Serialize)]
pub struct Reading {
    /// The answer's text.
    pub text: String,
    /// The ids of the passages that were read, in order.
    pub read: Vec<String>,
    /// Exact match, 0 or 1. An answer that abstains is scored as the empty text.
    pub exact: f64,
    /// F1 of words, 0 to 1.
    pub f1: f64,
    /// Whether the answer abstains.
    pub abstained: bool,
    /// Whether the conversation was too long for the context; the answer then counts as the empty
    /// text.
    pub too_long: bool,
}

/// The rank of each gold passage in a retriever's results, from 1; `None` if it is not among the first
/// [`DEEPEST`].
pub type Ranks = Vec<Option<usize>>;

/// The results for one question.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The model.
    pub model: String,
    /// The set.
    pub set: String,
    /// The question's id.
    pub id: String,
    /// The last message.
    pub question: String,
    /// The right answers.
    pub answers: Vec<String>,
    /// Whether the gold passage contains the answer.
    pub answerable: bool,
    /// How many turns came before.
    pub earlier_turns: usize,
    /// The ids of the gold passages.
    pub gold: Vec<String>,
    /// Whether the question shares a content word with the title of its first gold passage
    /// ([`titles`]).
    pub names_title: bool,
    /// Whether the model began with a retrieval of its own accord.
    pub retrieved: bool,
    /// How often it searched in that answer.
    pub searches: usize,
    /// The ranks of the gold passages for the model's own query.
    pub ranks: Ranks,
    /// Their ranks for BM25 with the last message.
    pub bm25_ranks: Ranks,
    /// Their ranks for BM25 with the human rewrite.
    pub bm25_rewrite_ranks: Option<Ranks>,
    /// Their ranks for the separate retriever.
    pub retriever_ranks: Option<Ranks>,
    /// The answer as the model is served.
    pub end_to_end: Reading,
    /// The same with at most one retrieval, for a set that needs several passages.
    pub single_pass: Option<Reading>,
    /// The answer with the gold passages given.
    pub gold_given: Option<Reading>,
    /// The answer without retrieval.
    pub no_retrieval: Option<Reading>,
    /// The answer with BM25's passage given.
    pub bm25_given: Option<Reading>,
    /// The answer with the separate retriever's passage given, as in a pipeline of two models.
    pub retriever_given: Option<Reading>,
}

impl PreparedSet {
    /// Searches the set with BM25, and with a separate retriever's vectors if there are any.
    ///
    /// # Errors
    /// The vectors belong to another set.
    pub fn new(set: Set, vectors: Option<&Vectors>) -> Result<Self> {
        let texts = set.passages.iter();
        let bm25 = Bm25::new(texts.map(|p| (p.title.as_str(), p.text.as_str())));
        let rank = |query: &str| bm25.rank(query, DEEPEST);
        let questions = || set.questions.iter();
        Ok(Self {
            bm25: questions().map(|q| rank(&q.question)).collect(),
            bm25_rewrite: questions()
                .map(|q| q.rewrite.as_deref().map(rank))
                .collect(),
            retriever: vectors
                .map(|vectors| vectors.rank(&set, DEEPEST))
                .transpose()?,
            set: Arc::new(set),
        })
    }

    /// Asks every question under every condition and calls `on_progress` with the number done. Records
    /// are in the set's order.
    ///
    /// # Errors
    /// The engine or the server failed.
    pub async fn sit(
        &self,
        name: &str,
        examinee: &Examinee,
        conditions: &Conditions,
        mut on_progress: impl FnMut(usize),
    ) -> Result<Vec<Record>> {
        let groups = self.groups();
        let sat = stream::iter(groups).map(|group| async move {
            let mut session = examinee.session();
            let mut records = Vec::new();
            for at in group {
                let sitting = Sitting {
                    paper: self,
                    at,
                    conditions,
                    gives: examinee.takes_passages(),
                };
                records.push((at, sitting.record(name, &mut session).await?));
            }
            session.close().await;
            anyhow::Ok(records)
        });
        let mut sat = sat.buffer_unordered(conditions.concurrent.max(1));
        let mut records = Vec::new();
        while let Some(more) = sat.try_next().await? {
            records.extend(more);
            on_progress(records.len());
        }
        records.sort_by_key(|(at, _)| *at);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// Groups of questions that are asked one after another: those of one dialogue, the earlier
    /// ones first.
    fn groups(&self) -> Vec<Vec<usize>> {
        let questions = &self.set.questions;
        let mut dialogues = BTreeMap::<&[usize], Vec<usize>>::new();
        let mut groups = Vec::new();
        for (at, question) in questions.iter().enumerate() {
            if question.history.is_empty() {
                groups.push(vec![at])
            } else {
                dialogues.entry(&question.gold).or_default().push(at)
            }
        }
        for mut dialogue in dialogues.into_values() {
            dialogue.sort_by_key(|at| questions[*at].history.len());
            groups.push(dialogue);
        }
        groups
    }
}

/// One question that is being asked.
struct Sitting<'a> {
    paper: &'a PreparedSet,
    at: usize,
    conditions: &'a Conditions,
    /// Whether passages can be given.
    gives: bool,
}

impl Sitting<'_> {
    fn question(&self) -> &Question {
        &self.paper.set.questions[self.at]
    }

    async fn record(&self, name: &str, session: &mut Session<'_>) -> Result<Record> {
        let (paper, at, question) = (self.paper, self.at, self.question());
        let set = &paper.set;
        let rule = set.rule();
        let own = self.ask(session, Source::Own).await?;
        let ranking = if own.began_with_retrieval {
            own.ranking.clone()
        } else {
            self.search(session).await?
        };
        // An answer whose only retrieval came first is the same, bit for bit, as with that passage
        // given. So it need not be generated again.
        let mut given = HashMap::new();
        if own.began_with_retrieval && own.searches == 1 && !own.too_long {
            given.insert(own.read.clone(), own.clone());
        }
        let mark = |answer: &Answer| self.mark(answer, rule);
        let end_to_end = mark(&own);
        let single_pass = if !set.multi_hop {
            None
        } else if own.searches > 1 {
            Some(mark(&self.ask_once(session).await?))
        } else {
            Some(end_to_end.clone())
        };
        let gold = &question.gold;
        let gold_given = self.given(session, &mut given, Some(gold.clone())).await?;
        let first = |ranking: &Vec<usize>| ranking.iter().take(1).copied().collect();
        let found = Some(first(&paper.bm25[at])).filter(|_| self.conditions.bm25_reads);
        let bm25_given = self.given(session, &mut given, found).await?;
        let found = paper.retriever.as_ref().map(|ranking| first(&ranking[at]));
        let retriever_given = self.given(session, &mut given, found).await?;
        let no_retrieval = if self.conditions.without_retrieval {
            Some(mark(&self.ask(session, Source::Nothing).await?))
        } else {
            None
        };
        let ranks = |ranking: &Vec<usize>| ranks(ranking, gold);
        let id = |at: &usize| set.passages[*at].id.clone();
        let title = gold
            .first()
            .map_or("", |at| set.passages[*at].title.as_str());
        Ok(Record {
            model: name.to_owned(),
            set: set.name.clone(),
            id: question.id.clone(),
            question: question.question.clone(),
            answers: question.answers.clone(),
            answerable: question.answerable,
            earlier_turns: question.history.len(),
            gold: gold.iter().map(id).collect(),
            names_title: titles::share_a_word(&question.question, title),
            retrieved: own.began_with_retrieval,
            searches: own.searches,
            ranks: ranks(&ranking),
            bm25_ranks: ranks(&paper.bm25[at]),
            bm25_rewrite_ranks: paper.bm25_rewrite[at].as_ref().map(ranks),
            retriever_ranks: paper.retriever.as_ref().map(|found| ranks(&found[at])),
            end_to_end,
            single_pass,
            gold_given,
            no_retrieval,
            bm25_given,
            retriever_given,
        })
    }

    fn mark(&self, answer: &Answer, rule: Rule) -> Reading {
        let set = &self.paper.set;
        let abstained = !answer.too_long && score::abstains(&answer.text);
        let counted = if abstained || answer.too_long {
            ""
        } else {
            &answer.text
        };
        let score = rule.score(counted, &self.question().answers);
        let read = answer.read.iter();
        Reading {
            text: answer.text.clone(),
            read: read.map(|at| set.passages[*at].id.clone()).collect(),
            exact: score.exact,
            f1: score.f1,
            abstained,
            too_long: answer.too_long,
        }
    }

    /// The answer with passages given, generated only if it is not known yet. `None` if there are no
    /// passages or none can be given.
    async fn given(
        &self,
        session: &mut Session<'_>,
        known: &mut HashMap<Vec<usize>, Answer>,
        passages: Option<Vec<usize>>,
    ) -> Result<Option<Reading>> {
        let Some(passages) = passages.filter(|_| self.gives) else {
            return Ok(None);
        };
        if !known.contains_key(&passages) {
            let source = Source::Given(passages.clone());
            known.insert(passages.clone(), self.ask(session, source).await?);
        }
        let rule = self.paper.set.rule();
        Ok(known.get(&passages).map(|answer| self.mark(answer, rule)))
    }

    /// The results of the question's own query, for a question for which the model did not begin with
    /// a retrieval.
    async fn search(&self, session: &mut Session<'_>) -> Result<Vec<usize>> {
        // A retrieval needs at least two tokens.
        let ask = TurnRequest {
            max_tokens: 2,
            max_retrievals: 1,
            ..self.to_ask(Source::OwnForced)
        };
        Ok(session.ask(&ask).await?.ranking)
    }

    async fn ask(&self, session: &mut Session<'_>, source: Source) -> Result<Answer> {
        session.ask(&self.to_ask(source)).await
    }

    /// Asks as the model is served, but with at most one retrieval.
    async fn ask_once(&self, session: &mut Session<'_>) -> Result<Answer> {
        let ask = TurnRequest {
            max_retrievals: 1,
            ..self.to_ask(Source::Own)
        };
        session.ask(&ask).await
    }

    fn to_ask(&self, source: Source) -> TurnRequest<'_> {
        let question = self.question();
        let reads: &[usize] = if self.conditions.history_reads {
            &question.gold
        } else {
            &[]
        };
        TurnRequest {
            system: None,
            history: &question.history,
            history_reads: reads,
            message: &question.question,
            source,
            max_tokens: self.conditions.max_tokens,
            max_retrievals: self.conditions.max_retrievals,
        }
    }
}

/// The rank of each gold passage in a ranking.
fn ranks(ranking: &[usize], gold: &[usize]) -> Ranks {
    let place = |gold: &usize| ranking.iter().position(|at| at == gold);
    gold.iter().map(|gold| Some(place(gold)? + 1)).collect()
}
