//! The sampling fields that three kinds of requests share.
//!
//! Ranges are the engine's to check: it refuses values by the same names.

use std::collections::{BTreeMap, HashMap};

use onegen_engine::SamplingParams;
use onegen_proto::{ChatCompletionRequest, CompletionRequest, ResponseRequest, Stop};

use crate::wire::errors::ApiError;

macro_rules! sampling_fields {
    ($request:ident) => {
        SamplingFields {
            max_tokens: $request.max_tokens,
            temperature: $request.temperature,
            top_p: $request.top_p,
            top_k: $request.top_k,
            min_p: $request.min_p,
            repetition_penalty: $request.repetition_penalty,
            presence_penalty: $request.presence_penalty,
            frequency_penalty: $request.frequency_penalty,
            seed: $request.seed,
            min_tokens: $request.min_tokens,
            stop_token_ids: $request.stop_token_ids.clone(),
            stop: $request.stop.clone(),
            logit_bias: $request.logit_bias.clone(),
            logprobs: None,
        }
    };
}

/// Sampling as requests ask for it; what is left out has the engine's default.
#[derive(Debug, Clone, Default)]
pub(super) struct SamplingFields {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    min_tokens: Option<usize>,
    stop_token_ids: Option<Vec<u32>>,
    stop: Option<Stop>,
    logit_bias: Option<BTreeMap<u32, f32>>,
    /// How many alternatives of each token are reported; `None` reports no logprobs.
    logprobs: Option<usize>,
}

impl SamplingFields {
    /// # Errors
    /// [`ApiError::Invalid`] for fields that contradict each other.
    pub(super) fn from_chat(request: &ChatCompletionRequest) -> Result<Self, ApiError> {
        let max_tokens = match (request.max_completion_tokens, request.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                return Err(ApiError::invalid(
                    "max_tokens",
                    "differs from max_completion_tokens; send one of them",
                ));
            }
            (new, old) => new.or(old),
        };
        let logprobs = match (request.logprobs.unwrap_or(false), request.top_logprobs) {
            (false, Some(top)) if top > 0 => {
                return Err(ApiError::invalid(
                    "top_logprobs",
                    "is allowed only with logprobs: true",
                ));
            }
            (wanted, top) => wanted.then_some(top.unwrap_or(0)),
        };
        Ok(Self {
            max_tokens,
            logprobs,
            ..sampling_fields!(request)
        })
    }

    pub(super) fn from_completion(request: &CompletionRequest) -> Self {
        sampling_fields!(request)
    }

    pub(super) fn from_response(request: &ResponseRequest) -> Self {
        Self {
            max_tokens: request.max_output_tokens,
            temperature: request.temperature,
            top_p: request.top_p,
            ..Self::default()
        }
    }

    /// The engine's parameters.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for a `top_k` below -1.
    pub(super) fn into_params(self) -> Result<SamplingParams, ApiError> {
        let top_k = match self.top_k {
            None | Some(0 | -1) => None,
            Some(top_k) => Some(usize::try_from(top_k).map_err(|_| {
                ApiError::invalid("top_k", format!("is {top_k}, but must be at least -1"))
            })?),
        };
        let default = SamplingParams::default();
        Ok(SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k,
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            // Any integer names a sequence of draws.
            seed: self.seed.map(i64::cast_unsigned),
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens.unwrap_or(default.min_tokens),
            stop_token_ids: self.stop_token_ids.unwrap_or_default(),
            stop: self.stop.map(Stop::into_vec).unwrap_or_default(),
            logit_bias: HashMap::from_iter(self.logit_bias.unwrap_or_default()),
            logprobs: self.logprobs,
        })
    }
}
