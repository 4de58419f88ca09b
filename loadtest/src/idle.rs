//! Conversations that have one turn before a load, are idle while it lasts, and go on after it.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::client::{Answer, Client, Message, Outcome};
use crate::figures::Percentiles;
use crate::plan::dataset::Dataset;

/// First turns that are under way at once.
const AT_ONCE: usize = 8;

/// Conversations that are idle.
pub struct IdleConversations {
    /// The messages of each, with the answer to its first turn.
    conversations: Vec<Vec<Message>>,
    failed: usize,
    took: Duration,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdleFigures {
    /// How many had a first turn.
    pub begun: usize,
    /// How many of their first turns failed.
    pub failed: usize,
    /// Seconds that all first turns took, eight at a time.
    pub seconds: f64,
    /// How many went on after the load, one after the other.
    pub resumed: usize,
    /// How many of those found their earlier tokens cached.
    pub cached: usize,
    /// How many of those failed.
    pub not_resumed: usize,
    /// Milliseconds to the first text of those that went on.
    pub ttft_ms: Option<Percentiles>,
}

impl IdleConversations {
    /// Asks the first turn of so many conversations. A number in each question makes them differ.
    pub async fn begin(
        client: &Client,
        dataset: &Dataset,
        count: usize,
        max_tokens: usize,
    ) -> Self {
        let began = Instant::now();
        let questions = dataset.texts().cycle().take(count).enumerate();
        let turns = questions.map(|(number, question)| async move {
            let content = format!("({number}) {question}");
            let mut messages = vec![Message {
                role: "user",
                content,
            }];
            let answer = client.ask(&messages, max_tokens, false).await;
            if answer.outcome != Outcome::Ok {
                return None;
            }
            messages.push(Message {
                role: "assistant",
                content: answer.text,
            });
            Some(messages)
        });
        let begun: Vec<_> = stream::iter(turns).buffered(AT_ONCE).collect().await;
        let conversations: Vec<_> = begun.into_iter().flatten().collect();
        Self {
            failed: count - conversations.len(),
            conversations,
            took: began.elapsed(),
        }
    }

    /// Asks the second turn of so many of them, spread evenly over all.
    pub async fn resume(
        self,
        client: &Client,
        dataset: &Dataset,
        count: usize,
        max_tokens: usize,
    ) -> IdleFigures {
        let begun = self.conversations.len();
        let stride = (begun / count.max(1)).max(1);
        let mut answers = Vec::new();
        let questions = dataset.texts().cycle();
        let chosen = self.conversations.into_iter().step_by(stride);
        for (mut messages, question) in chosen.take(count).zip(questions) {
            let content = question.to_owned();
            messages.push(Message {
                role: "user",
                content,
            });
            let began = Instant::now();
            answers.push((began, client.ask(&messages, max_tokens, false).await));
        }
        let is_whole = |answer: &Answer| answer.outcome == Outcome::Ok;
        let whole = || answers.iter().filter(|(_, answer)| is_whole(answer));
        let is_cached = |answer: &Answer| answer.usage.prompt_tokens_details.cached_tokens > 0;
        let ttft = whole()
            .filter_map(|(began, answer)| Some((answer.first_text? - *began).as_secs_f64() * 1e3));
        IdleFigures {
            begun,
            failed: self.failed,
            seconds: self.took.as_secs_f64(),
            resumed: answers.len(),
            cached: whole().filter(|(_, answer)| is_cached(answer)).count(),
            not_resumed: answers.len() - whole().count(),
            ttft_ms: Percentiles::from_milliseconds(ttft),
        }
    }
}
