//! How an answer goes back: at once, or as a stream.

use onegen_proto::{StreamEvents, StreamOptions};

use crate::wire::errors::ApiError;

/// How the answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The whole answer at its end.
    Whole,
    /// The answer as server-sent events.
    Stream(StreamDelivery),
}

/// What a stream holds beside the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamDelivery {
    pub(super) include_usage: bool,
    /// Whether the turn goes on when its client is gone.
    pub(super) resumable: bool,
    /// The kind of events, where it is not OpenAI's.
    pub(super) events: Option<StreamEvents>,
}

impl Delivery {
    /// Reads the fields `stream`, `stream_options` and `resumable`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for what is said of a stream where there is none.
    pub(super) fn new(
        stream: Option<bool>,
        options: Option<&StreamOptions>,
        resumable: bool,
    ) -> Result<Self, ApiError> {
        match (stream.unwrap_or(false), options) {
            (false, Some(_)) => Err(ApiError::invalid(
                "stream_options",
                "is allowed only with stream",
            )),
            (false, None) if resumable => Err(ApiError::invalid(
                "resumable",
                "is allowed only with stream",
            )),
            (false, None) => Ok(Self::Whole),
            (true, options) => Ok(Self::Stream(StreamDelivery {
                include_usage: options.and_then(|o| o.include_usage).unwrap_or(false),
                resumable,
                events: options.and_then(|o| o.events),
            })),
        }
    }

    /// The kind of events, where it is not OpenAI's.
    pub(super) fn events(self) -> Option<StreamEvents> {
        match self {
            Self::Whole => None,
            Self::Stream(stream) => stream.events,
        }
    }

    /// Whether the turn goes on when its client is gone.
    pub(super) fn is_resumable(self) -> bool {
        matches!(self, Self::Stream(stream) if stream.resumable)
    }
}
