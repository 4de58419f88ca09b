//! TLS for all connections, by rustls.

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

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The most connections that wait to be served after their handshake.
const READY: usize = 64;

/// Accepts connections and returns those whose handshake is complete. A client whose handshake is slow,
/// or that does not use TLS, does not delay others.
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
                    // The server has stopped, so the port is released.
                    () = sender.closed() => return,
                };
                let acceptor = TlsAcceptor::from(certificate.current());
                let sender = sender.clone();
                tokio::spawn(async move {
                    match timeout(HANDSHAKE, acceptor.accept(connection)).await {
                        // Sending fails only if the server has stopped.
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
            // The task above ends only after this listener is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
