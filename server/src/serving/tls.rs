//! TLS before the routes, by rustls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::Certificate;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that have shaken hands and wait to be served.
const READY: usize = 64;

/// Takes connections and hands out those that have shaken hands. A client that is slow at it, or speaks
/// no TLS, keeps nobody else waiting.
pub(crate) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    pub(crate) fn new(
        mut listener: impl Listener<Io = TcpStream, Addr = SocketAddr>,
        certificate: Arc<Certificate>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY);
        tokio::spawn(async move {
            loop {
                let (connection, peer) = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // Nobody serves any more: the port is given back.
                    () = sender.closed() => return,
                };
                let acceptor = TlsAcceptor::from(certificate.current());
                let sender = sender.clone();
                tokio::spawn(async move {
                    match timeout(HANDSHAKE, acceptor.accept(connection)).await {
                        // Fails only when nobody serves any more.
                        Ok(Ok(stream)) => drop(sender.send((stream, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                        Err(_) => tracing::debug!(%peer, "TLS took too long"),
                    }
                });
            }
        });
        Ok(Self { address, ready })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The task above ends only after this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
