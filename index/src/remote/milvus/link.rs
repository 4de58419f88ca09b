//! Calls of Milvus, over one connection that is made again when it breaks.

use std::env;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::time::timeout_at;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status as Refusal};
use tonic_prost::ProstCodec;

use super::address::MilvusAddress;
use super::messages::{Call, Reply, Status};
use crate::error::IndexError;
use crate::remote::calls::{Calls, Fault, RemoteOptions, RemoteStats, fault, in_full};

/// The variable that holds the password of addresses without one.
const PASSWORD: &str = "MILVUS_PASSWORD";
/// How much longer a call may take for each of its rows: Milvus slows writers down while it has much to do.
const FOR_A_ROW: Duration = Duration::from_millis(10);
/// Milvus's code for it.
const COLLECTION_NOT_FOUND: i32 = 100;
/// The most bytes of an answer: a batch of passages with their vectors is far below.
const ANSWER_BYTES: usize = 512 << 20;
/// Between two signs of life of a connection on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A connection to Milvus.
pub(super) struct Link {
    calls: Calls,
    channel: Channel,
    address: MilvusAddress,
    /// Who asks, as Milvus has it in each call.
    authorization: Option<MetadataValue<Ascii>>,
}

impl Link {
    /// The connection is made with the first call.
    ///
    /// # Errors
    /// A thread or TLS cannot be had, or the address is none.
    pub(super) fn new(address: &MilvusAddress, options: RemoteOptions) -> Result<Self, IndexError> {
        let fault = |reason: String| fault(address, reason);
        let scheme = if address.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", address.authority);
        let mut endpoint = Endpoint::from_shared(url)
            .map_err(|error| fault(in_full(&error)))?
            .connect_timeout(options.deadline)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .tcp_nodelay(true);
        if address.tls {
            let tls = ClientTlsConfig::new().with_native_roots();
            let with_tls = endpoint.tls_config(tls);
            endpoint = with_tls.map_err(|error| fault(in_full(&error)))?;
        }
        let calls = Calls::new(address, options)?;
        let channel = calls.within_runtime(|| endpoint.connect_lazy());
        Ok(Self {
            calls,
            channel,
            address: address.clone(),
            authorization: authorization(address).map_err(fault)?,
        })
    }

    /// Where Milvus is.
    pub(super) fn address(&self) -> &MilvusAddress {
        &self.address
    }

    /// How its calls went.
    pub(super) fn stats(&self) -> RemoteStats {
        self.calls.stats()
    }

    /// Makes a call and waits for it. It may be made again after it has taken effect unseen, so it must do the same
    /// twice as once. Not to be called where async code runs.
    ///
    /// # Errors
    /// [`IndexError::Unreachable`], and what the call itself is at fault for.
    pub(super) fn call<C: Call>(&self, request: &C) -> Result<C::Reply, IndexError> {
        self.call_within(self.calls.options().deadline, request)
    }

    /// [`Link::call`] with a deadline of its own.
    ///
    /// # Errors
    /// As of [`Link::call`].
    pub(super) fn call_within<C: Call>(
        &self,
        deadline: Duration,
        request: &C,
    ) -> Result<C::Reply, IndexError> {
        let answer = self.answered(deadline, request)?;
        answer.map_err(|status| fault(&self.address, reason(&status)))
    }

    /// How long a call may take that is about so many rows.
    pub(super) fn deadline_of(&self, rows: usize) -> Duration {
        self.calls.options().deadline + FOR_A_ROW * rows as u32
    }

    /// [`Link::call`] of a collection that may not be there; `None` if it is not.
    ///
    /// # Errors
    /// As of [`Link::call`].
    pub(super) fn call_if_there<C: Call>(
        &self,
        request: &C,
    ) -> Result<Option<C::Reply>, IndexError> {
        match self.answered(self.calls.options().deadline, request)? {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if status.code == COLLECTION_NOT_FOUND => Ok(None),
            Err(status) => Err(fault(&self.address, reason(&status))),
        }
    }

    /// What Milvus answers, or what it says of a call that it has not done and will not do.
    fn answered<C: Call>(
        &self,
        deadline: Duration,
        request: &C,
    ) -> Result<Result<C::Reply, Status>, IndexError> {
        self.calls
            .call_within(deadline, async |end| self.attempt(end, request).await)
    }

    async fn attempt<C: Call>(
        &self,
        end: Instant,
        request: &C,
    ) -> Result<Result<C::Reply, Status>, Fault> {
        let answer = timeout_at(end.into(), self.ask(request)).await;
        let answer = answer.map_err(|_| Fault::Away("it does not answer in time".to_owned()))?;
        let answer = answer.map_err(|refusal| self.refused(&refusal))?;
        match answer.status() {
            Some(status) if is_away(status) => Err(Fault::Away(reason(status))),
            Some(status) if status.code != 0 || status.error_code != 0 => Ok(Err(status.clone())),
            _ => Ok(Ok(answer)),
        }
    }

    async fn ask<C: Call>(&self, message: &C) -> Result<C::Reply, Refusal> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES);
        let ready = client.ready().await;
        ready.map_err(|error| Refusal::unavailable(in_full(&error)))?;
        let mut request = Request::new(message.clone());
        if let Some(authorization) = &self.authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", authorization.clone());
        }
        let method = C::METHOD.parse();
        let method = method.map_err(|_| Refusal::internal("a method's name is no path"))?;
        let codec = ProstCodec::<C, C::Reply>::default();
        Ok(client.unary(request, method, codec).await?.into_inner())
    }

    /// What gRPC says of a call that Milvus has not answered.
    fn refused(&self, refusal: &Refusal) -> Fault {
        match refusal.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
            | Code::OutOfRange => Fault::Index(fault(&self.address, refusal.message())),
            _ => Fault::Away(in_full(refusal)),
        }
    }
}

fn reason(status: &Status) -> String {
    match status.reason.is_empty() {
        true => format!("Milvus's error {}", status.code.max(status.error_code)),
        false => status.reason.clone(),
    }
}

/// The header of Milvus's calls: the user and the password, if the address has a user.
fn authorization(address: &MilvusAddress) -> Result<Option<MetadataValue<Ascii>>, String> {
    let Some(user) = &address.user else {
        return Ok(None);
    };
    let password = address.password.clone();
    let password = password.or_else(|| env::var(PASSWORD).ok());
    let password = password.ok_or_else(|| {
        format!("there is no password for {user:?}: put it into the address or into {PASSWORD}")
    })?;
    let value = BASE64.encode(format!("{user}:{password}"));
    let value = value.parse().map_err(|_| "the password cannot be sent");
    Ok(Some(value?))
}

/// Whether another try may succeed. After a start, parts of Milvus are not there yet for a while: its services (codes up
/// to 99), the collection in memory, its replicas, channels and nodes. 65535 is what has no code of its own, as a
/// server that is going away; the rest is about the request.
fn is_away(status: &Status) -> bool {
    let parts = matches!(
        status.code,
        1..=99 | 101 | 103 | 400..=499 | 500..=599 | 900..=999 | 65_535
    );
    status.retriable || parts
}
