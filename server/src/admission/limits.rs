//! The layer that counts requests. It refuses requests beyond the limits, and every request once
//! the server is stopping.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::admission::access::is_counted;
use crate::admission::caller::Caller;
use crate::admission::client_address::ClientAddress;
use crate::admission::clients::{Client, ClientCounters};
use crate::config::LimitsConfig;
use crate::shutdown::{InFlightRequest, Shutdown};
use crate::wire::errors::ApiError;
use crate::wire::until_sent::until_sent;

/// The counters of the layer.
pub(crate) struct Limits {
    clients: ClientCounters,
    shutdown: Arc<Shutdown>,
}

/// A request that is being answered. Dropped when its answer has ended.
pub(crate) struct Ticket {
    limits: Arc<Limits>,
    client: Client,
    _under_way: InFlightRequest,
}

impl Limits {
    pub(crate) fn new(config: &LimitsConfig, shutdown: Arc<Shutdown>) -> Self {
        let clients = ClientCounters::new(config.requests_per_minute, config.max_concurrent);
        Self { clients, shutdown }
    }

    /// Counts a request that begins.
    fn admit(self: &Arc<Self>, client: Client) -> Result<Ticket, ApiError> {
        if self.shutdown.is_draining() {
            return Err(ApiError::ShuttingDown);
        }
        self.clients.enter(&client, Instant::now())?;
        Ok(Ticket {
            _under_way: self.shutdown.begin(),
            limits: self.clone(),
            client,
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.limits.clients.leave(&self.client);
    }
}

/// Counts a request until its answer has ended, or refuses it.
pub(crate) async fn count(
    State(limits): State<Arc<Limits>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !is_counted(request.method(), request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let ticket = Arc::new(limits.admit(client(&request))?);
    // A turn that continues without its client holds the ticket, too.
    request.extensions_mut().insert(ticket.clone());
    Ok(until_sent(next.run(request).await, ticket))
}

fn client(request: &Request) -> Client {
    let caller = request.extensions().get::<Caller>();
    if let Some(caller) = caller.filter(|caller| caller.owner.name().is_some()) {
        return Client::Key(caller.owner.clone());
    }
    let address = request.extensions().get();
    address.map_or(Client::Unknown, |ClientAddress(address)| {
        Client::Address(*address)
    })
}
