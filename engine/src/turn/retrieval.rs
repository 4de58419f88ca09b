//! The retriever's side: what the engine asks for, and the threads that wait for the answer.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::RetrieveError;
use crate::ids::SequenceId;
use crate::passages::{Moment, PassageCache};
use crate::tokens::splice::Passage;

/// Finds passages. The engine calls it on a worker thread, never on the step thread, so it may
/// take its time, but it must return.
pub trait Retriever: Send + Sync {
    /// The `k` passages nearest to `query_embedding`, best first. Fewer when there are fewer, none
    /// when nothing fits. The embedding has [`crate::Model::hidden_size`] components and length 1.
    ///
    /// # Errors
    /// Whatever keeps it from answering; the turn then fails.
    fn retrieve(&self, query_embedding: &[f32], k: usize) -> Result<Vec<Passage>, RetrieveError>;

    /// The bytes that [`crate::Model::embed_texts_with_kv`] gave for a passage that was found, if they are kept
    /// with it. A passage that has changed meanwhile may give its new ones; they are recognised. The default is
    /// `None`.
    fn passage_kv(&self, _passage: &Passage) -> Option<Vec<u8>> {
        None
    }
}

impl fmt::Debug for dyn Retriever {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Retriever")
    }
}

/// A search for a parked sequence.
pub(crate) struct Search {
    /// The retriever of the sequence's own request, or the engine's.
    pub(crate) retriever: Arc<dyn Retriever>,
    pub(crate) sequence: SequenceId,
    pub(crate) query_embedding: Vec<f32>,
    pub(crate) k: usize,
    pub(crate) asked: Instant,
}

/// The answer to a [`Search`].
#[derive(Debug)]
pub(crate) struct SearchOutcome {
    pub(crate) sequence: SequenceId,
    pub(crate) passages: Result<Vec<Passage>, RetrieveError>,
    pub(crate) search_time: Duration,
    pub(crate) answered: Instant,
    /// When the search began, as the cache of passages counts; `None` without one.
    pub(crate) since: Option<Moment>,
}

/// Worker threads that call retrievers. They end when this is dropped, each after the search
/// it is in.
pub(crate) struct RetrievalWorkers {
    retriever: Option<Arc<dyn Retriever>>,
    passages: Option<Arc<PassageCache>>,
    searches: Sender<Search>,
}

impl RetrievalWorkers {
    /// Starts `count` workers, which hand each [`SearchOutcome`] to `reply`. Before that they read the block of
    /// the best passage from the disk, if `passages` has it there.
    pub(crate) fn start(
        retriever: Option<Arc<dyn Retriever>>,
        passages: Option<Arc<PassageCache>>,
        count: usize,
        reply: impl Fn(SearchOutcome) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (searches, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for worker in 0..count {
            let (queue, reply) = (queue.clone(), reply.clone());
            let passages = passages.clone();
            thread::Builder::new()
                .name(format!("onegen-retrieval-{worker}"))
                .spawn(move || work(&queue, passages.as_deref(), reply))?;
        }
        Ok(Self {
            retriever,
            passages,
            searches,
        })
    }

    /// The retriever of requests that bring none.
    pub(crate) fn retriever(&self) -> Option<Arc<dyn Retriever>> {
        self.retriever.clone()
    }

    /// The passages whose keys and values are kept.
    pub(crate) fn passages(&self) -> Option<Arc<PassageCache>> {
        self.passages.clone()
    }

    /// Queues a search.
    pub(crate) fn search(&self, search: Search) {
        // The workers outlive this sender, since they end only when it is dropped.
        let _ = self.searches.send(search);
    }
}

fn work(
    queue: &Mutex<Receiver<Search>>,
    kept: Option<&PassageCache>,
    reply: impl Fn(SearchOutcome),
) {
    loop {
        // A worker holds the lock only while it waits for a search, so a poisoned lock guards nothing.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(search) = next else { return };
        let since = kept.map(PassageCache::moment);
        // A retriever that panics fails its own turn, not the worker.
        let passages = catch_unwind(AssertUnwindSafe(|| {
            search.retriever.retrieve(&search.query_embedding, search.k)
        }))
        .unwrap_or_else(|_| Err(RetrieveError::new("the retriever panicked")));
        if let (Some(kept), Some(since), Ok([best, ..])) = (kept, since, passages.as_deref()) {
            // What a retriever keeps is only ever a saving: without it the passage is computed.
            let with_passage = || {
                let read = AssertUnwindSafe(|| search.retriever.passage_kv(best));
                catch_unwind(read).ok().flatten()
            };
            kept.prefetch(best, since, with_passage);
        }
        let answered = Instant::now();
        reply(SearchOutcome {
            sequence: search.sequence,
            passages,
            search_time: answered - search.asked,
            answered,
            since,
        });
    }
}
