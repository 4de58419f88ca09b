//! Limits on the size of one request and of its answer.

use std::time::{Duration, Instant};

use crate::config::LimitsConfig;
use crate::wire::errors::ApiError;
use crate::wire::json::BodyLimit;

/// The most that one request may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    max_tokens: Option<usize>,
    /// What the model's context holds.
    context: usize,
    request_timeout: Option<Duration>,
    max_body_kb: usize,
    body_timeout: Duration,
}

impl Bounds {
    /// The configured ones, for a model whose context holds so many tokens.
    pub(crate) fn new(config: &LimitsConfig, context: usize) -> Self {
        Self {
            max_tokens: config.max_tokens,
            context,
            request_timeout: config.request_timeout,
            max_body_kb: config.max_body_kb,
            body_timeout: config.body_timeout,
        }
    }

    /// How long a request's body may be, and how long it may take.
    pub(crate) fn body_limit(&self) -> BodyLimit {
        BodyLimit {
            bytes: self.max_body_kb.saturating_mul(1024),
            time: self.body_timeout,
        }
    }

    /// The time by which a request that was received at `received` must be answered.
    pub(crate) fn deadline(&self, received: Instant) -> Option<Instant> {
        received.checked_add(self.request_timeout?)
    }

    /// How many tokens an answer may have, if its request asks for this number in the field
    /// `param`.
    ///
    /// # Errors
    /// The request asks for more than is allowed, or than the model can write.
    pub(crate) fn max_tokens(
        &self,
        requested: Option<usize>,
        param: &str,
    ) -> Result<Option<usize>, ApiError> {
        if let Some(requested) = requested.filter(|requested| *requested > self.context) {
            let context = self.context;
            let message = format!("is {requested}, but the model's context holds {context} tokens");
            return Err(ApiError::invalid(param, message));
        }
        match (requested, self.max_tokens) {
            (Some(requested), Some(most)) if requested > most => Err(ApiError::invalid(
                param,
                format!("is {requested}, but this server gives at most {most}"),
            )),
            (requested, most) => Ok(requested.or(most)),
        }
    }
}
