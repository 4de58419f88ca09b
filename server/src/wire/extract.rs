//! Parameters of paths and queries, with errors in the server's own envelope.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::wire::errors::ApiError;

/// The only parameter of a path, percent-decoded.
pub(crate) struct PathParam(pub(crate) String);

/// The parameters of a path, percent-decoded.
pub(crate) struct PathParams<T>(pub(crate) T);

/// The parameters of a query.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathParams(param) = PathParams::from_request_parts(parts, state).await?;
        Ok(Self(param))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |rejection: PathRejection| ApiError::invalid("path", rejection.body_text());
        let Path(params) = Path::from_request_parts(parts, state)
            .await
            .map_err(invalid)?;
        Ok(Self(params))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |rejection: QueryRejection| ApiError::invalid("query", rejection.body_text());
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(invalid)?;
        Ok(Self(params))
    }
}
