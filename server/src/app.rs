//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use axum::http::HeaderValue;
use futures::FutureExt;
use onegen_engine::{Engine, LoadOptions, Model, StartError};
use onegen_proto::Reloaded;
use tokio::sync::watch;

use crate::access::Access;
use crate::client_address::ProxyConfig;
use crate::collections::Collections;
use crate::config::Config;
use crate::conversations::Conversations;
use crate::embedding::Embedding;
use crate::errors::ApiError;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::streams::Streams;
use crate::tls::Tls;
use crate::traces::{RequestTrace, Traces};

/// A loaded model over its collections, ready to be served.
pub struct App {
    pub(crate) access: Access,
    pub(crate) proxies: ProxyConfig,
    pub(crate) engine: Engine,
    pub(crate) embedding: Embedding,
    pub(crate) collections: Collections,
    pub(crate) model: ServedModel,
    pub(crate) conversations: Conversations,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) limits: Limits,
    pub(crate) streams: Arc<Streams>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Option<Traces>,
    draining: AtomicBool,
    /// Whether turns under way are to end.
    cutting_off: watch::Sender<bool>,
}

/// The model as requests name it.
pub(crate) struct ServedModel {
    pub(crate) name: String,
    /// As its directory is called; requests may use it too.
    pub(crate) directory_name: String,
    /// When it was loaded, in seconds since 1970.
    pub(crate) created: u64,
}

impl App {
    /// Loads the model, opens its collections or builds them, and starts the engine.
    ///
    /// # Errors
    /// A file is missing or damaged, another model built an index, or two collections have one name; the
    /// error says which.
    pub fn load(config: &Config) -> Result<Arc<Self>> {
        // Before the model: a mistake in it should not show only after minutes.
        let access = Access::open(&config.access)?;
        let tls = Tls::open(&config.listen)?;
        let traces = Traces::open(&config.traces)?;
        let dir = config.model.dir();
        let options = LoadOptions {
            device: config.model.device.open()?,
            weights: config.model.weights,
            base: config.model.base()?,
            ..LoadOptions::default()
        };
        let model = Model::load(&dir, &options)
            .with_context(|| format!("cannot load the model {}", dir.display()))?;
        let collections = Collections::open(&model, &config.model)?;
        let directory_name = model.name().to_owned();
        // Conversations in another model's tokens stay beside, untouched.
        let tokenizer = &model.fingerprints().tokenizer[..16];
        let conversations_dir = config.model.data_dir.join("conversations").join(tokenizer);
        let engine = Engine::start(
            Arc::new(model),
            // Each request brings the retriever of its collection.
            None,
            config.limits.engine_options(conversations_dir.clone()),
        )
        .map_err(|error| match error {
            StartError::StoreInUse { .. } => anyhow!("{error}; choose another with --data-dir"),
            other => other.into(),
        })?;
        let transcripts = conversations_dir.join("transcripts");
        let forgets = engine.clone();
        let forget = move |id| {
            // Said, and not waited for. A turn that is under way puts its conversation back at its end.
            let _ = forgets.delete(&id).now_or_never();
        };
        let capacity = config.limits.max_conversations;
        let conversations = Conversations::open(&transcripts, capacity, forget)
            .with_context(|| format!("cannot keep transcripts in {}", transcripts.display()))?;
        let app = Self {
            access,
            proxies: config.proxies.clone(),
            embedding: Embedding::new(engine.model().clone()),
            engine,
            collections,
            model: ServedModel {
                name: config.model.served_model_name.clone(),
                directory_name,
                created: unix_seconds(),
            },
            conversations,
            tls,
            cors_origins: config.listen.cors_origins.clone(),
            limits: Limits::new(config.traffic.clone()),
            streams: Arc::new(Streams::new(config.streams.clone())),
            metrics: Arc::new(Metrics::new()?),
            traces,
            draining: AtomicBool::new(false),
            cutting_off: watch::Sender::new(false),
        };
        app.forget_what_is_gone();
        Ok(Arc::new(app))
    }

    /// The model's name in requests.
    pub fn model_name(&self) -> &str {
        &self.model.name
    }

    /// Whether the model links entities, and answers nothing.
    pub fn links_entities(&self) -> bool {
        self.engine.model().tokens().links_entities()
    }

    /// Tokens that a conversation can hold.
    pub fn context_tokens(&self) -> usize {
        self.engine.model().max_positions()
    }

    /// What can be retrieved from.
    pub fn collections(&self) -> &Collections {
        &self.collections
    }

    /// Where traces go and how, for the start; secrets are left out. `None` where there are none.
    pub fn traces(&self) -> Option<String> {
        self.traces.as_ref().map(ToString::to_string)
    }

    /// Reads again what may change while the server runs: the API keys, the certificate, the indexes. What
    /// cannot be read stays as it was, with a line in the log. Takes as long as opening indexes and
    /// building those of changed corpora; requests go on.
    pub fn reload(&self) -> Reloaded {
        let mut reloaded = Reloaded::default();
        if let Err(error) = self.access.reload() {
            tracing::error!(%error, "the API keys stay as they were");
            reloaded.failed.push("API keys".to_owned());
        }
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.reload()) {
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
        reloaded
    }

    /// From now on the server counts as not ready.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Ends all turns that are under way.
    pub(crate) fn cut_off(&self) {
        self.cutting_off.send_replace(true);
    }

    /// Waits until turns are to end.
    pub(crate) async fn is_cut_off(&self) {
        // Fails only without a sender, and that is here.
        let _ = self.cutting_off.subscribe().wait_for(|cut| *cut).await;
    }
}

impl ServedModel {
    /// Fails for a name that is not this model's; notes the other in the request's trace.
    pub(crate) fn check(&self, name: &str) -> Result<(), ApiError> {
        if name == self.name || name == self.directory_name {
            if let Some(trace) = RequestTrace::current() {
                trace.set("gen_ai.request.model", name.to_owned());
            }
            return Ok(());
        }
        Err(ApiError::ModelNotFound {
            model: name.to_owned(),
            served: self.name.clone(),
        })
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
