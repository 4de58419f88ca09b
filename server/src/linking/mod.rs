//! Linking texts: cut into parts, handed to the engine side by side, each mention searched for while the
//! model copies on.

mod offsets;
mod parts;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use std::vec;

use onegen_engine::{Event, FinishReason, Mention, Request, Turn, TurnSummary};
use onegen_index::{Hit, SearchOptions};
use onegen_proto::{EntityCandidate, EntityMention, OffsetUnit};
use tokio::time::timeout_at;
use uuid::Uuid;

use crate::access::Owner;
use crate::app::App;
use crate::blocking::blocking;
use crate::collections::Collection;
use crate::errors::ApiError;
use crate::metrics::Observation;

use parts::{Part, parts};

/// Parts of one request that are linked at once; the others wait for their turn, so that a long text lets
/// other requests in between.
const PARTS_AT_ONCE: usize = 8;

/// What a client asks, validated.
pub(crate) struct LinkRequest {
    /// Whose KV-caches it may share.
    pub(crate) owner: Owner,
    pub(crate) texts: Vec<String>,
    /// Where the entities are.
    pub(crate) collection: Arc<Collection>,
    pub(crate) search: SearchOptions,
    pub(crate) offsets: OffsetUnit,
    /// When the request came.
    pub(crate) received: Instant,
}

/// What happens while texts are linked, in order.
pub(crate) enum LinkEvent {
    /// A mention in the text of this number.
    Mention(usize, EntityMention),
    /// The model has copied a part, or as much of one as its context held.
    Copied(TurnSummary),
}

/// Texts that are being linked. Dropped before the end, all of it is cancelled.
pub(crate) struct Linking {
    shared: Arc<Shared>,
    waiting: vec::IntoIter<Part>,
    /// In order.
    running: VecDeque<LivePart>,
    /// How many parts there are.
    pub(crate) parts: usize,
}

/// What all parts of a request have in common.
struct Shared {
    app: Arc<App>,
    asked: LinkRequest,
}

/// A part that the engine copies.
struct LivePart {
    shared: Arc<Shared>,
    part: Part,
    turn: Option<Turn>,
    observation: Observation,
}

impl LinkRequest {
    /// Cuts the texts and hands the first parts to the engine.
    ///
    /// # Errors
    /// The model links nothing, or the request is one too many.
    pub(crate) async fn start(mut self, app: &Arc<App>) -> Result<Linking, ApiError> {
        let model = app.engine.model().clone();
        let (texts, unit) = (std::mem::take(&mut self.texts), self.offsets);
        let parts = blocking(move || parts(texts, unit, &model)).await??;
        let mut linking = Linking {
            parts: parts.len(),
            shared: Arc::new(Shared {
                app: app.clone(),
                asked: self,
            }),
            waiting: parts.into_iter(),
            running: VecDeque::new(),
        };
        for _ in 0..PARTS_AT_ONCE {
            linking.start_next().await?;
        }
        Ok(linking)
    }
}

impl Linking {
    /// The next event, or `None` after the last. Nothing comes after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<LinkEvent, ApiError>> {
        loop {
            let next = match self.running.front_mut()?.next().await {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {
                    self.running.pop_front();
                    self.start_next().await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = next {
                self.running.clear();
                return Some(Err(error));
            }
        }
    }

    async fn start_next(&mut self) -> Result<(), ApiError> {
        if let Some(part) = self.waiting.next() {
            let live = LivePart::start(self.shared.clone(), part).await?;
            self.running.push_back(live);
        }
        Ok(())
    }
}

impl LivePart {
    async fn start(shared: Arc<Shared>, part: Part) -> Result<Self, ApiError> {
        let Shared { app, asked } = &*shared;
        let observation = Observation::new(app.metrics.clone(), asked.received);
        let turn = submit(&shared, &part).await?;
        Ok(Self {
            part,
            turn: Some(turn),
            observation,
            shared,
        })
    }

    async fn next(&mut self) -> Result<Option<LinkEvent>, ApiError> {
        while let Some(event) = self.next_of_turn().await? {
            match event {
                Event::Mention(mention) => {
                    let mention = self.linked(mention).await?;
                    return Ok(Some(LinkEvent::Mention(self.part.index, mention)));
                }
                Event::Finished(summary) => {
                    self.observation.finished(&summary);
                    self.turn = self.rest(&summary).await?;
                    return Ok(Some(LinkEvent::Copied(summary)));
                }
                Event::Failed(error) => {
                    self.observation.failed();
                    return Err(error.into());
                }
                // A turn that links neither writes nor reads.
                Event::Text(_) | Event::Retrieval(_) => {}
            }
        }
        Ok(None)
    }

    async fn next_of_turn(&mut self) -> Result<Option<Event>, ApiError> {
        let Some(turn) = &mut self.turn else {
            return Ok(None);
        };
        let Shared { app, asked } = &*self.shared;
        let Some(deadline) = app.limits.deadline(asked.received) else {
            return Ok(turn.next().await);
        };
        let event = timeout_at(deadline.into(), turn.next()).await;
        event.map_err(|_| {
            self.observation.failed();
            let after = asked.received.elapsed();
            ApiError::TimedOut { after }
        })
    }

    /// A turn over what the context was too short for.
    async fn rest(&mut self, summary: &TurnSummary) -> Result<Option<Turn>, ApiError> {
        if summary.finish_reason != FinishReason::Length {
            return Ok(None);
        }
        if summary.linked_bytes == 0 {
            return Err(ApiError::Internal(
                "the context does not hold a text and one mention in it".to_owned(),
            ));
        }
        self.part.bytes.start += summary.linked_bytes;
        let app = &self.shared.app;
        self.observation = Observation::new(app.metrics.clone(), self.shared.asked.received);
        submit(&self.shared, &self.part).await.map(Some)
    }

    /// A mention with its candidates.
    async fn linked(&mut self, mention: Mention) -> Result<EntityMention, ApiError> {
        let start = self.part.bytes.start + mention.start;
        let end = self.part.bytes.start + mention.end;
        let Part { text, offsets, .. } = &mut self.part;
        let (start_index, end_index) = (offsets.at(text, start), offsets.at(text, end));
        let text = text[start..end].to_owned();
        let shared = self.shared.clone();
        let searched = blocking(move || {
            let since = Instant::now();
            let index = shared.asked.collection.index();
            let hits = index.search(&mention.embedding, &shared.asked.search);
            (hits, since.elapsed().as_secs_f64())
        });
        let (hits, search_seconds) = searched.await?;
        let hits = hits.map_err(|error| ApiError::Internal(error.to_string()))?;
        self.observation.mention(!hits.is_empty(), search_seconds);
        Ok(EntityMention {
            start_index,
            end_index,
            text,
            candidates: candidates(hits),
            search_ms: search_seconds * 1e3,
        })
    }
}

async fn submit(shared: &Shared, part: &Part) -> Result<Turn, ApiError> {
    let Shared { app, asked } = shared;
    let tokens = app.engine.model().tokens().clone();
    let (text, bytes) = (part.text.clone(), part.bytes.clone());
    let name = format!("link_{}", Uuid::new_v4().simple());
    let request = blocking(move || Request::linking(name, &text[bytes], &tokens)).await??;
    let request = Request {
        cache_salt: asked.owner.name().cloned(),
        ..request
    };
    Ok(app.engine.submit(request).await?)
}

/// Each entity once, with its best score: one that is described at length is several passages.
fn candidates(hits: Vec<Hit>) -> Vec<EntityCandidate> {
    let mut candidates: Vec<EntityCandidate> = Vec::with_capacity(hits.len());
    for Hit { passage, score, .. } in hits {
        let id = passage.document_id();
        if candidates.iter().all(|candidate| candidate.id != id) {
            candidates.push(EntityCandidate {
                id: id.to_owned(),
                title: passage.title,
                url: passage.url,
                score,
                metadata: passage.metadata,
            });
        }
    }
    candidates
}
