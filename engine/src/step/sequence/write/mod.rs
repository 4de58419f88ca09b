//! A turn that writes: it samples token by token, and retrieves while it does.
//!
//! When `[RQ]` is sampled its forward yields the query embedding (*query*), the turn is parked (*retrieving*),
//! and the passage that comes back is spliced in by another *prefill*. Most answers begin with `[RQ]`, so it is
//! forwarded on suspicion together with the prompt's end, and where it is then sampled there is no step of its own.

mod sample;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::turn_state::{Next, Rules, TurnState, WantedOffsets};
use crate::conversations::Conversation;
use crate::decoding::constraint::Grammar;
use crate::decoding::drafts::Drafts;
use crate::decoding::sampling::Sampler;
use crate::decoding::visible_text::VisibleText;
use crate::error::EngineError;
use crate::model::normalise::normalised;
use crate::model::{BlockDigest, SequenceOutput};
use crate::passages::{Moment, PassageKvSource, PassageName};
use crate::tokens::splice::Passage;
use crate::tokens::token_log::{SpanKind, TokenLog};
use crate::turn::events::{Event, RetrievalReceipt, Usage};
use crate::turn::request::{Request, RetrievalParams};
use crate::turn::retrieval::{RetrievalWorkers, Retriever, Search, SearchOutcome};
use crate::turn::timeline::TurnPhase;

/// Tokens that must be left for the answer behind a passage, or as many as the answer may have.
const ANSWER_ROOM: usize = 32;

/// How far a writing turn is.
pub(super) struct Writing {
    phase: Phase,
    sampler: Sampler,
    grammar: Option<Grammar>,
    retrieval: RetrievalParams,
    /// What answers its searches; `None` where it may not search.
    retriever: Option<Arc<dyn Retriever>>,
    searches_left: usize,
    text: VisibleText,
    receipts: Vec<RetrievalReceipt>,
    /// Tokens of the log that are certain; those after them are drafts.
    ///
    /// **Invariant:** a draft becomes certain only when the logits before it choose it. There are drafts while the
    /// turn decodes, and behind the prompt there may be one: `[RQ]`.
    certain: usize,
    drafts: Drafts,
    /// Positions that were forwarded for drafts which were wrong.
    wrong_drafts: usize,
}

/// What the tokens are that lack their KV.
enum Phase {
    /// The prompt, or what follows the retrieval's query: the splice.
    Prefill { splice: Option<Splice> },
    /// The last sampled token.
    Decode,
    /// `[RQ]`, whose hidden state is wanted for this retriever.
    Query {
        query: Query,
        retriever: Arc<dyn Retriever>,
    },
    /// None that may be forwarded: the turn is parked until the retriever answers.
    Retrieving(Query),
}

/// What must be remembered of the moment when `[RQ]` was sampled.
struct Query {
    /// The logits that it was sampled from.
    logits: Vec<f32>,
    at_token: usize,
    char_offset: usize,
    /// Positions forwarded for the turn by then.
    forwarded: u64,
}

/// A passage whose tokens are being prefilled.
struct Splice {
    query: Query,
    found: Vec<Passage>,
    search_ms: f64,
    answered: Instant,
    tokens: usize,
    /// How many better passages were left out because the context had no room for them.
    too_long: usize,
    /// Where the block's keys and values came from.
    source: PassageKvSource,
    /// When the search began, as the cache of passages counts.
    since: Option<Moment>,
}

/// A retrieved passage whose block was computed.
pub(crate) struct ComputedSplice {
    pub(crate) block: BlockDigest,
    pub(crate) name: PassageName,
    /// When it was searched for.
    pub(crate) since: Moment,
}

impl Writing {
    /// The state before the first token; the prompt ends `log`, and `[RQ]` is drafted behind it where the turn may
    /// begin with a search.
    pub(super) fn new(request: Request, log: &mut TokenLog, rules: &Rules) -> Self {
        let limit = request.retrieval.max_retrievals;
        let text = VisibleText::new(
            rules.tokens.clone(),
            request.sampling.stop.clone(),
            request.trims_text && request.grammar.is_none(),
        );
        let is_likely = request.drafting || request.retrieval.forced;
        let writing = Self {
            phase: Phase::Prefill { splice: None },
            sampler: Sampler::new(request.sampling, log),
            grammar: request.grammar,
            retriever: request.retriever.filter(|_| request.retrieval.enabled),
            searches_left: limit.unwrap_or(rules.tokens.onegen().max_retrievals),
            retrieval: request.retrieval,
            text,
            receipts: Vec::new(),
            certain: log.len(),
            drafts: Drafts::new(request.drafting),
            wrong_drafts: 0,
        };
        let has_room = log.len() + 1 < rules.context;
        if is_likely && has_room && writing.may_search(&Usage::default()).is_some() {
            log.push(rules.tokens.query_id(), SpanKind::Retrieval);
        }
        writing
    }

    pub(super) fn is_retrieving(&self) -> bool {
        matches!(self.phase, Phase::Retrieving(_))
    }

    /// The receipts of all retrievals, in order, and the positions that were forwarded for wrong drafts.
    pub(super) fn into_receipts(self) -> (Vec<RetrievalReceipt>, usize) {
        (self.receipts, self.wrong_drafts)
    }

    /// How many of the log's tokens are drafts.
    pub(super) fn drafted(&self, log: &TokenLog) -> usize {
        log.len() - self.certain
    }

    /// What the log's tokens from `start` to `end` are forwarded for, as offsets from `start`: the last certain one,
    /// and the drafts after it.
    pub(super) fn wanted(&self, start: usize, end: usize) -> WantedOffsets {
        let mut wanted = WantedOffsets::default();
        let from = (self.certain - 1).max(start);
        let queries_from = match self.phase {
            Phase::Query { .. } => from,
            Phase::Prefill { .. } => self.certain,
            Phase::Decode | Phase::Retrieving(_) => end,
        };
        let queries_from = queries_from.clamp(from, end.max(from));
        wanted
            .logits
            .extend((from..queries_from).map(|at| at - start));
        wanted
            .hidden
            .extend((queries_from..end).map(|at| at - start));
        wanted
    }

    /// Notes that a kept block was spliced, which begins so many tokens before the log's end. Returns whether it is the
    /// retrieved one.
    pub(super) fn on_kept_block(&mut self, from_end: usize, source: PassageKvSource) -> bool {
        match &mut self.phase {
            Phase::Prefill {
                splice: Some(splice),
            } if from_end == splice.tokens => {
                splice.source = source;
                true
            }
            _ => false,
        }
    }

    /// The retrieved passage, if all of its block is in the KV-cache and it was computed.
    pub(super) fn computed_splice(&self, conversation: &Conversation) -> Option<ComputedSplice> {
        let Phase::Prefill {
            splice: Some(splice),
        } = &self.phase
        else {
            return None;
        };
        let Conversation { log, cache, .. } = conversation;
        let block = log.len() - splice.tokens..log.len() - 1;
        let computed = splice.source == PassageKvSource::Computed && cache.landed() >= block.end;
        computed.then_some(ComputedSplice {
            block: BlockDigest::of(&log.ids()[block]),
            name: PassageName::of(splice.found.first()?),
            since: splice.since?,
        })
    }

    /// Samples the next token, or has the retriever asked.
    pub(super) fn on_output(
        &mut self,
        turn: &mut TurnState,
        mut output: SequenceOutput,
        rules: &Rules,
        workers: &RetrievalWorkers,
    ) -> Next {
        let phase = std::mem::replace(&mut self.phase, Phase::Decode);
        match (phase, output.hidden.pop(), output.logits.is_empty()) {
            (Phase::Query { query, retriever }, Some(state), _) => {
                self.search(turn, query, retriever, state, workers);
                Next::GoOn
            }
            (Phase::Prefill { splice }, state, false) => {
                let now = Instant::now();
                turn.timeline.begin(TurnPhase::Decode, now);
                if let Some(splice) = splice {
                    self.report(turn, splice, now);
                }
                let next = self.write(turn, output.logits, rules);
                match (std::mem::replace(&mut self.phase, Phase::Decode), state) {
                    (Phase::Query { query, retriever }, Some(state)) => {
                        self.search(turn, query, retriever, state, workers);
                    }
                    (phase, _) => self.phase = phase,
                }
                next
            }
            (_, _, false) => self.write(turn, output.logits, rules),
            // The step had no room for all that lacks its KV.
            (phase, _, true) => {
                self.phase = phase;
                Next::GoOn
            }
        }
    }

    /// Has the retriever asked, with the state of `[RQ]`, and parks the turn.
    fn search(
        &mut self,
        turn: &TurnState,
        query: Query,
        retriever: Arc<dyn Retriever>,
        state: Vec<f32>,
        workers: &RetrievalWorkers,
    ) {
        let asked = Instant::now();
        workers.search(Search {
            retriever,
            sequence: turn.id,
            query_embedding: normalised(state),
            k: self.retrieval.k,
            asked,
        });
        // **Invariant:** a parked sequence holds no step back; the others go on without it. The query embedding comes
        // from the forward that wrote `[RQ]` into the KV-cache, and no logits of that position are ever asked for.
        turn.timeline.begin(TurnPhase::Retrieval, asked);
        self.phase = Phase::Retrieving(query);
    }

    /// Samples after the last certain token, and goes on as long as that is what was drafted.
    fn write(&mut self, turn: &mut TurnState, logits: Vec<Vec<f32>>, rules: &Rules) -> Next {
        for logits in logits {
            let drafted = turn.conversation.log.ids().get(self.certain).copied();
            let next = self.sample(turn, logits, true, rules);
            if !matches!((&next, &self.phase), (Next::GoOn, Phase::Decode)) {
                // What ends here, or goes on with a search, goes on without drafts.
                self.cut_drafts(turn);
                return next;
            }
            let last = turn.conversation.log.ids()[self.certain - 1];
            if drafted != Some(last) {
                break;
            }
        }
        let log = &turn.conversation.log;
        if self.drafted(log) == 0 {
            self.draft(turn, rules);
        }
        Next::GoOn
    }

    /// Appends a token that was sampled.
    fn append(&mut self, turn: &mut TurnState, id: u32) {
        if turn.conversation.log.ids().get(self.certain) == Some(&id) {
            self.drafts.confirm();
        } else {
            self.cut_drafts(turn);
            turn.conversation.log.push(id, SpanKind::Generated);
        }
        self.certain += 1;
    }

    /// Takes the drafts off the log's end, which are wrong.
    fn cut_drafts(&mut self, turn: &mut TurnState) {
        if self.drafted(&turn.conversation.log) > 0 {
            let forwarded = turn.conversation.cache.len();
            self.wrong_drafts += forwarded.saturating_sub(self.certain);
            turn.conversation.truncate(self.certain);
        }
    }

    /// Appends tokens that are likely to come next.
    fn draft(&mut self, turn: &mut TurnState, rules: &Rules) {
        // The token after the last draft is sampled in any case.
        let left = self
            .max_tokens()
            .saturating_sub(turn.usage.completion_tokens + 1);
        let log = &mut turn.conversation.log;
        let room = left.min(rules.context.saturating_sub(log.len() + 1));
        let usable = |id: u32| rules.never_sampled.get(id as usize) == Some(&false);
        let drafts = self.drafts.propose(log, room, usable);
        log.extend(&drafts, SpanKind::Generated);
    }

    /// Splices the best passage, or takes `[RQ]` back when there is none. `None` where the turn is not parked.
    pub(super) fn on_search_outcome(
        &mut self,
        turn: &mut TurnState,
        outcome: SearchOutcome,
        rules: &Rules,
    ) -> Option<Next> {
        match std::mem::replace(&mut self.phase, Phase::Decode) {
            Phase::Retrieving(query) => Some(self.splice(turn, query, outcome, rules)),
            other => {
                self.phase = other;
                None
            }
        }
    }

    fn splice(
        &mut self,
        turn: &mut TurnState,
        query: Query,
        outcome: SearchOutcome,
        rules: &Rules,
    ) -> Next {
        let mut passages = match outcome.passages {
            Ok(passages) => passages,
            Err(error) => return Next::Fail(EngineError::Retrieval(error.message)),
        };
        let room = self.room_for_splice(turn, rules);
        let mut too_long = 0;
        let splice = loop {
            let Some(best) = passages.get(too_long) else {
                break None;
            };
            match rules.tokens.splice(best) {
                Ok(splice) if splice.len() <= room => break Some(splice),
                Ok(_) => too_long += 1,
                Err(error) => return Next::Fail(EngineError::Tokens(error.to_string())),
            }
        };
        passages.drain(..too_long);
        let Some(splice) = splice else {
            turn.timeline.begin(TurnPhase::Decode, outcome.answered);
            self.take_back_query(turn);
            if too_long > 0 {
                self.report_too_long(turn, &query, outcome.search_time, too_long);
            }
            let next = self.sample(turn, query.logits, false, rules);
            if matches!(next, Next::GoOn) {
                self.draft(turn, rules);
            }
            return next;
        };
        turn.timeline.begin(TurnPhase::Splice, outcome.answered);
        // **Invariant:** what follows `[RQ]` is appended as ids to the same log and KV-cache.
        turn.conversation
            .log
            .extend(&splice.ids(), SpanKind::Passage);
        self.certain = turn.conversation.log.len();
        turn.usage.passage_tokens += splice.len();
        self.phase = Phase::Prefill {
            splice: Some(Splice {
                query,
                found: passages,
                search_ms: outcome.search_time.as_secs_f64() * 1e3,
                answered: outcome.answered,
                tokens: splice.len(),
                too_long,
                source: PassageKvSource::Computed,
                since: outcome.since,
            }),
        };
        Next::GoOn
    }

    /// How many tokens a splice may have, so that the context holds it and an answer.
    fn room_for_splice(&self, turn: &TurnState, rules: &Rules) -> usize {
        let answer = self
            .max_tokens()
            .saturating_sub(turn.usage.completion_tokens);
        let answer = answer.clamp(1, ANSWER_ROOM);
        let used = turn.conversation.log.len() + answer;
        rules.context.saturating_sub(used)
    }

    /// Sends the receipt of a search that found only passages for which the context has no room.
    fn report_too_long(
        &mut self,
        turn: &TurnState,
        query: &Query,
        search_time: Duration,
        too_long: usize,
    ) {
        let receipt = RetrievalReceipt {
            index: self.receipts.len(),
            at_token: query.at_token,
            char_offset: query.char_offset,
            passages: Vec::new(),
            too_long,
            query_tokens_reencoded: 0,
            search_ms: search_time.as_secs_f64() * 1e3,
            splice_tokens: 0,
            splice_forwarded: 0,
            passage_kv: PassageKvSource::Computed,
            splice_ms: 0.0,
        };
        self.receipts.push(receipt.clone());
        turn.emit(Event::Retrieval(receipt));
        // The others would be too long as well.
        self.searches_left = 0;
    }

    /// Sends the receipt of a splice whose first logits have been computed.
    fn report(&mut self, turn: &TurnState, splice: Splice, now: Instant) {
        let since_query = turn.forwarded.total() - splice.query.forwarded;
        let forwarded = match splice.source {
            PassageKvSource::Computed => splice.tokens,
            // The closing marker.
            PassageKvSource::Memory | PassageKvSource::Disk => 1,
        };
        let receipt = RetrievalReceipt {
            index: self.receipts.len(),
            at_token: splice.query.at_token,
            char_offset: splice.query.char_offset,
            passages: splice.found,
            too_long: splice.too_long,
            query_tokens_reencoded: since_query.saturating_sub(1 + forwarded as u64),
            search_ms: splice.search_ms,
            splice_tokens: splice.tokens,
            splice_forwarded: forwarded,
            passage_kv: splice.source,
            splice_ms: (now - splice.answered).as_secs_f64() * 1e3,
        };
        self.receipts.push(receipt.clone());
        turn.emit(Event::Retrieval(receipt));
    }

    /// Undoes the sampling of `[RQ]`, which is the log's last token and the cache's.
    fn take_back_query(&mut self, turn: &mut TurnState) {
        self.certain -= 1;
        turn.conversation.truncate(self.certain);
        turn.usage.completion_tokens -= 1;
    }
}
