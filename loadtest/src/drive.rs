//! Carries out a plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Answer, Client, Message, Outcome};
use crate::plan::{Plan, PlannedConversation, PlannedTurn};
use crate::record::Record;

/// How a plan is carried out.
#[derive(Debug, Clone, Copy)]
pub struct DriveOptions {
    /// Requests that may be under way at once. Beyond it they are dropped, and counted as such.
    pub in_flight: usize,
    /// How long the answers that are under way when all conversations have begun are waited for.
    pub drain: Duration,
}

/// What happens during a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request was sent.
    Sent,
    /// A request ended, or was not sent.
    Ended(Box<Record>),
}

/// What all conversations of a run share.
struct Run {
    client: Client,
    began: Instant,
    in_flight: Semaphore,
    events: mpsc::UnboundedSender<Event>,
    ends: watch::Receiver<bool>,
}

/// Carries out a plan and returns all records, in the order in which the requests ended. `see` gets every event when
/// it happens. `stop` ends the run early: what is under way is unfinished then.
pub async fn drive(
    plan: &Plan,
    client: Client,
    options: DriveOptions,
    mut stop: watch::Receiver<bool>,
    mut see: impl FnMut(&Event),
) -> Vec<Record> {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let (end, ends) = watch::channel(false);
    let run = Arc::new(Run {
        client,
        began: Instant::now(),
        in_flight: Semaphore::new(options.in_flight),
        events,
        ends,
    });
    let arrivals = async {
        let mut begun = JoinSet::new();
        for (number, conversation) in plan.conversations.iter().enumerate() {
            let stopped = tokio::select! {
                () = tokio::time::sleep_until((run.began + conversation.at).into()) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopped {
                break;
            }
            begun.spawn(converse(run.clone(), number, conversation.clone()));
        }
        let all = async { while begun.join_next().await.is_some() {} };
        tokio::select! {
            () = all => return,
            () = tokio::time::sleep(options.drain) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        // Nobody listens only if all have ended.
        let _ = end.send(true);
        while begun.join_next().await.is_some() {}
    };
    tokio::pin!(arrivals);
    let mut records = Vec::new();
    let mut keep = |event: Event| {
        see(&event);
        if let Event::Ended(record) = event {
            records.push(*record);
        }
    };
    loop {
        tokio::select! {
            biased;
            Some(event) = inbox.recv() => keep(event),
            () = &mut arrivals => break,
        }
    }
    while let Ok(event) = inbox.try_recv() {
        keep(event);
    }
    records
}

/// Asks one turn after another, until one fails.
async fn converse(run: Arc<Run>, number: usize, conversation: PlannedConversation) {
    let mut messages: Vec<Message> = Vec::new();
    let system = conversation.system.map(|text| Message {
        role: "system",
        content: text.to_string(),
    });
    messages.extend(system);
    let mut due = run.began + conversation.at;
    for (turn, planned) in conversation.turns.iter().enumerate() {
        due += planned.think;
        messages.push(Message {
            role: "user",
            content: planned.question.clone(),
        });
        let Some(answer) = run.turn((number, turn), due, &messages, planned).await else {
            return;
        };
        due = answer.last;
        messages.push(Message {
            role: "assistant",
            content: answer.text,
        });
    }
}

impl Run {
    /// Asks a turn when it is due and reports it. Returns the answer if the conversation can go on.
    async fn turn(
        &self,
        place: (usize, usize),
        due: Instant,
        messages: &[Message],
        planned: &PlannedTurn,
    ) -> Option<Answer> {
        let mut ends = self.ends.clone();
        let waited = tokio::select! {
            () = tokio::time::sleep_until(due.into()) => true,
            _ = ends.wait_for(|ends| *ends) => false,
        };
        // A turn that would have been due later is no request.
        if !waited {
            return None;
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.report(place, due, due, &Answer::nothing(Outcome::Dropped));
            return None;
        };
        let sent = Instant::now();
        let _ = self.events.send(Event::Sent);
        let asked = self
            .client
            .ask(messages, planned.max_tokens, planned.disconnects);
        let answer = tokio::select! {
            answer = asked => answer,
            _ = ends.wait_for(|ends| *ends) => Answer::nothing(Outcome::Unfinished),
        };
        self.report(place, due, sent, &answer);
        (answer.outcome == Outcome::Ok).then_some(answer)
    }

    fn report(
        &self,
        (conversation, turn): (usize, usize),
        due: Instant,
        sent: Instant,
        answer: &Answer,
    ) {
        let since =
            |instant: Instant, from: Instant| milliseconds(instant.saturating_duration_since(from));
        let usage = answer.usage;
        let record = Record {
            conversation,
            turn,
            due_ms: since(due, self.began),
            late_ms: since(sent, due),
            outcome: answer.outcome.clone(),
            ttft_ms: answer.first_text.map(|first| since(first, due)),
            total_ms: since(answer.last, due),
            gaps_ms: answer.gaps.iter().copied().map(milliseconds).collect(),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.prompt_tokens_details.cached_tokens,
            completion_tokens: usage.completion_tokens,
            retrievals: answer.retrievals.iter().map(Into::into).collect(),
        };
        // The receiver lives as long as the run.
        let _ = self.events.send(Event::Ended(Box::new(record)));
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
