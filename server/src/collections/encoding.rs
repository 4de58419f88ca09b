//! Tokenises texts for all requests, as many bytes at once as the memory allows.

use std::sync::Arc;

use onegen_engine::Tokens;
use tokio::sync::Semaphore;

use crate::wire::blocking::blocking_within;
use crate::wire::errors::ApiError;

/// Kilobytes of text that are tokenised at once. The tokenizer takes some two hundred times as much memory.
const KILOBYTES_AT_ONCE: u32 = 1024;

/// Where texts become ids.
#[derive(Clone)]
pub(crate) struct Encoding {
    tokens: Arc<Tokens>,
    kilobytes: Arc<Semaphore>,
}

impl Encoding {
    pub(crate) fn new(tokens: Arc<Tokens>) -> Self {
        Self {
            tokens,
            kilobytes: Arc::new(Semaphore::new(KILOBYTES_AT_ONCE as usize)),
        }
    }

    /// Runs work that tokenises so many bytes, off the async threads, once there is room for it. It counts
    /// until it ends, also when the request does not wait for it any more.
    ///
    /// # Errors
    /// [`ApiError::Internal`] if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Tokens) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let kilobytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let kilobytes = kilobytes.clamp(1, KILOBYTES_AT_ONCE);
        let tokens = self.tokens.clone();
        blocking_within(&self.kilobytes, kilobytes, move || work(&tokens)).await
    }
}
