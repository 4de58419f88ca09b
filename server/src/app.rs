//! Assembles all parts of the server, and reloads those that can change while it runs.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use axum::extract::FromRef;
use axum::http::HeaderValue;
use futures::FutureExt;
use futures::executor::block_on;
use onegen_engine::{Engine, LoadOptions, Model, StartError};
use onegen_index::PostgresAddress;
use onegen_proto::Reloaded;
use tokio::sync::Semaphore;

use crate::admission::{Access, Bounds, Limits, Origins};
use crate::certificate::Certificate;
use crate::collections::{Collections, Embedding, Encoding, IndexingProgress};
use crate::config::{Config, ProxyConfig, StreamConfig};
use crate::conversations::shared_store::SharedStore;
use crate::conversations::{Conversations, Sharing};
use crate::documents::DeletedDocuments;
use crate::metrics::Metrics;
use crate::recordings::{RecordedAnswers, Recordings};
use crate::served_model::ServedModel;
use crate::shutdown::Shutdown;
use crate::traces::Traces;
use crate::wire::clock::unix_seconds;
use crate::wire::json::BodyLimit;

/// Constraints that are compiled at once. The others wait.
const CONSTRAINTS_AT_ONCE: usize = 2;

/// A loaded model over its collections, ready to be served.
pub struct App {
    pub(crate) access: Arc<Access>,
    pub(crate) answers: Arc<RecordedAnswers>,
    pub(crate) bounds: Bounds,
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) collections: Arc<Collections>,
    /// As many constraints may be compiled at once.
    pub(crate) compiling: Arc<Semaphore>,
    pub(crate) conversations: Arc<Conversations>,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) deleted_documents: DeletedDocuments,
    pub(crate) embedding: Embedding,
    pub(crate) encoding: Encoding,
    pub(crate) engine: Engine,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) model: ServedModel,
    pub(crate) origins: Arc<Origins>,
    pub(crate) proxies: Arc<ProxyConfig>,
    pub(crate) recordings: Arc<Recordings>,
    pub(crate) shutdown: Arc<Shutdown>,
    pub(crate) streams: StreamConfig,
    pub(crate) traces: Option<Arc<Traces>>,
}

impl App {
    /// Loads the model, opens its collections or builds them, and starts the engine.
    ///
    /// # Errors
    /// A file is missing or damaged, another model built an index, or two collections have one name; the
    /// error says which.
    pub fn load(config: &Config) -> Result<Arc<Self>> {
        Self::load_with_progress(config, &IndexingProgress::default())
    }

    /// As [`App::load`]; `progress` shows how far the indexing of collections is.
    ///
    /// # Errors
    /// As [`App::load`].
    pub fn load_with_progress(config: &Config, progress: &IndexingProgress) -> Result<Arc<Self>> {
        // Keys are read before the model, so that a mistake in their file does not show only after
        // minutes.
        let access = Access::open(&config.access)?;
        let certificate = Certificate::open(&config.listen)?;
        let traces = Traces::open(&config.traces, &config.model.served_model_name)?;
        let dir = config.model.dir();
        let options = LoadOptions {
            device: config.model.device,
            weights: config.model.weights,
            kv: config.model.kv_type,
            base: config.model.base()?,
            ..LoadOptions::default()
        };
        let model = Model::load(&dir, &options)
            .with_context(|| format!("cannot load the model {}", dir.display()))?;
        let collections = Arc::new(Collections::open(&model, &config.model, progress)?);
        let directory_name = model.name().to_owned();
        // Conversations of a model with another tokenizer have a directory of their own and stay
        // untouched.
        let tokenizer = &model.fingerprints().tokenizer[..16];
        let conversations_dir = config.model.data_dir.join("conversations").join(tokenizer);
        let engine = Engine::start(
            Arc::new(model),
            // Each request has its own retriever, that of its collection.
            None,
            config.capacity.engine_options(conversations_dir.clone()),
        )
        .map_err(|error| match error {
            StartError::StoreInUse { .. } => anyhow!("{error}; choose another with --data-dir"),
            other => other.into(),
        })?;
        let transcripts = conversations_dir.join("transcripts");
        let forgets = engine.clone();
        let forget = move |id| {
            // The engine is told to forget the conversation, and nothing waits for it. If a turn is under
            // way, it puts the conversation back when it ends.
            let _ = forgets.delete(&id).now_or_never();
        };
        let capacity = config.capacity.max_conversations;
        let sharing = match &config.capacity.conversation_store {
            Some(address) => Some(sharing(address, &engine)?),
            None => None,
        };
        let conversations = Conversations::open(&transcripts, capacity, sharing, forget)
            .with_context(|| format!("cannot keep transcripts in {}", transcripts.display()))?;
        let conversations = Arc::new(conversations);
        forget_without_transcript(&engine, &conversations);
        let deleted_documents =
            DeletedDocuments::new(engine.clone(), collections.clone(), conversations.clone());
        deleted_documents.forget_since_last_run();
        let encoding = Encoding::new(engine.model().tokens().clone());
        let shutdown = Arc::new(Shutdown::new());
        Ok(Arc::new(Self {
            access: Arc::new(access),
            answers: Arc::default(),
            bounds: Bounds::new(&config.limits, engine.model().max_positions()),
            certificate,
            collections,
            compiling: Arc::new(Semaphore::new(CONSTRAINTS_AT_ONCE)),
            conversations,
            cors_origins: config.listen.cors_origins.clone(),
            deleted_documents,
            embedding: Embedding::new(engine.model().clone(), encoding.clone()),
            encoding,
            engine,
            limits: Arc::new(Limits::new(&config.limits, shutdown.clone())),
            metrics: Arc::new(Metrics::new()?),
            model: ServedModel {
                name: config.model.served_model_name.clone(),
                directory_name,
                created: unix_seconds(),
            },
            origins: Arc::new(Origins::new(config)),
            proxies: Arc::new(config.proxies.clone()),
            recordings: Arc::new(Recordings::new(config.streams.retention)),
            shutdown,
            streams: config.streams.clone(),
            traces: traces.map(Arc::new),
        }))
    }

    /// The model's name in requests.
    pub fn model_name(&self) -> &str {
        &self.model.name
    }

    /// Whether the model only links entities.
    pub fn links_entities(&self) -> bool {
        self.engine.model().tokens().links_entities()
    }

    /// Tokens that a conversation can hold.
    pub fn context_tokens(&self) -> usize {
        self.engine.model().max_positions()
    }

    /// The collections that can be searched.
    pub fn collections(&self) -> &Collections {
        &self.collections
    }

    /// Where conversations are shared with other servers, without a password.
    pub fn conversation_store(&self) -> Option<String> {
        let store = self.conversations.shared_store();
        store.map(|store| store.address().to_string())
    }

    /// Where and how traces are sent, to be printed at the start, without secrets. `None` if traces
    /// are off.
    pub fn traces(&self) -> Option<String> {
        self.traces.as_ref().map(ToString::to_string)
    }

    /// Reloads what may change while the server runs: the API keys, the certificate and the indexes. A
    /// part that cannot be read stays as it was, and the log says so. This takes as long as opening
    /// indexes and building those of changed corpora; requests are answered meanwhile.
    pub fn reload(&self) -> Reloaded {
        let mut reloaded = Reloaded::default();
        if let Err(error) = self.access.reload() {
            tracing::error!(%error, "the API keys stay as they were");
            reloaded.failed.push("API keys".to_owned());
        }
        if let Some(Err(error)) = self.certificate.as_ref().map(|one| one.reload()) {
            tracing::error!(%error, "the certificate stays as it was");
            reloaded.failed.push("certificate".to_owned());
        }
        for (name, outcome) in self.collections.reload(self.engine.model()) {
            match outcome {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(collection = name, "the index was opened again");
                    reloaded.collections.push(name.to_owned());
                }
                Err(error) => {
                    tracing::error!(
                        collection = name,
                        error = format!("{error:#}"),
                        "the index stays as it was"
                    );
                    reloaded.failed.push(format!("collection {name}"));
                }
            }
        }
        if !reloaded.collections.is_empty() {
            self.deleted_documents.forget_kept_passages_that_are_gone();
        }
        reloaded
    }
}

/// Opens the table in which servers share conversations.
fn sharing(address: &PostgresAddress, engine: &Engine) -> Result<Sharing> {
    let store = SharedStore::open(address).context("cannot share conversations")?;
    let (source, target) = (engine.clone(), engine.clone());
    Ok(Sharing {
        store,
        log_of: Box::new(move |id| match block_on(source.export(id)) {
            Ok(log) => log,
            Err(error) => {
                tracing::warn!(%error, conversation = %id, "is shared without its token log");
                None
            }
        }),
        take_log: Box::new(move |id, log| {
            if let Some(log) = log {
                match block_on(target.import(id, &log)) {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(%error, conversation = %id, "its messages are read again");
                    }
                }
            }
            // It fails only if the engine does not hold it.
            let _ = block_on(target.delete(id));
        }),
    })
}

/// Has the engine forget what no transcript belongs to: a killed server can leave the logs of turns whose end no
/// client has seen, and of conversations that were being deleted.
fn forget_without_transcript(engine: &Engine, conversations: &Conversations) {
    for id in block_on(engine.conversations()) {
        if !conversations.contains(&id) {
            tracing::info!(conversation = %id, "has a log and no transcript, and is forgotten");
            // It fails only if the engine does not hold it.
            let _ = block_on(engine.delete(&id));
        }
    }
}

impl FromRef<Arc<App>> for BodyLimit {
    fn from_ref(app: &Arc<App>) -> Self {
        app.bounds.body_limit()
    }
}
