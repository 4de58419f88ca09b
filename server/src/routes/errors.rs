//! The errors that kinds of routes have in common, as the OpenAPI document describes them.

use onegen_proto::ErrorEnvelope;
use utoipa::IntoResponses;

/// The errors of a route that may fail.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only the document is made of it")]
pub(super) enum ServerErrors {
    #[response(status = 500, description = "The server failed")]
    Failed(ErrorEnvelope),
    #[response(
        status = 507,
        description = "The disk does not take what has to be kept; nothing was changed"
    )]
    NotStored(ErrorEnvelope),
}

/// The errors of a route that takes a JSON body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only the document is made of it")]
pub(super) enum BodyErrors {
    #[response(status = 400, description = "The request makes no sense")]
    Invalid(ErrorEnvelope),
    #[response(status = 408, description = "The body did not arrive in time")]
    Late(ErrorEnvelope),
    #[response(status = 413, description = "The body is too large")]
    TooLarge(ErrorEnvelope),
    #[response(
        status = 415,
        description = "The body is not declared as JSON, or is encoded in another way than gzip or zstd"
    )]
    NotJson(ErrorEnvelope),
    #[response(status = 500, description = "The server failed")]
    Failed(ErrorEnvelope),
    #[response(
        status = 507,
        description = "The disk does not take what has to be kept; nothing was changed"
    )]
    NotStored(ErrorEnvelope),
}

/// The errors of a route that asks the model for an answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only the document is made of it")]
pub(super) enum TurnErrors {
    #[response(
        status = 400,
        description = "The request makes no sense, or is longer than the context"
    )]
    Invalid(ErrorEnvelope),
    #[response(status = 408, description = "The body did not arrive in time")]
    Late(ErrorEnvelope),
    #[response(status = 413, description = "The body is too large")]
    TooLarge(ErrorEnvelope),
    #[response(
        status = 415,
        description = "The body is not declared as JSON, or is encoded in another way than gzip or zstd"
    )]
    NotJson(ErrorEnvelope),
    #[response(status = 429, description = "Too many requests are waiting")]
    TooMany(ErrorEnvelope),
    #[response(status = 500, description = "The server failed")]
    Failed(ErrorEnvelope),
    #[response(
        status = 507,
        description = "The disk does not take what has to be kept; nothing was changed"
    )]
    NotStored(ErrorEnvelope),
    #[response(
        status = 503,
        description = "The server is shutting down, or a database does not answer"
    )]
    ShuttingDown(ErrorEnvelope),
    #[response(
        status = 504,
        description = "The answer took longer than the server gives it"
    )]
    TimedOut(ErrorEnvelope),
}
