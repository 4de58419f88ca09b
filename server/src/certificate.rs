//! The certificate that the server speaks TLS with, which can be renewed while it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::ListenConfig;

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or does not contain a certificate or key.
    #[error("cannot read a {what} from {path}: {reason}", path = .path.display())]
    File {
        /// `certificate` or `private key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Only one of two files is named.
    #[error(
        "a certificate and its private key belong together: name both --tls-cert and --tls-key"
    )]
    Half,
    /// rustls refuses the certificate or the key.
    #[error("the certificate {certificate} and the private key {key} cannot be used: {source}", certificate = .certificate.display(), key = .key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        source: tokio_rustls::rustls::Error,
    },
}

/// The files of a certificate and its key, and the TLS configuration that was last made from them.
#[derive(Debug)]
pub(crate) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
}

impl Certificate {
    /// Returns `None` if the configuration names no certificate.
    ///
    /// # Errors
    /// The files cannot be used.
    pub(crate) fn open(config: &ListenConfig) -> Result<Option<Arc<Self>>, TlsError> {
        let (certificate, key) = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(None),
            _ => return Err(TlsError::Half),
        };
        Ok(Some(Arc::new(Self {
            current: ArcSwap::new(read(certificate, key)?),
            certificate: certificate.clone(),
            key: key.clone(),
        })))
    }

    /// Reads the files again, for new connections. If that fails, the old certificate stays in use.
    ///
    /// # Errors
    /// The files cannot be used.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.certificate, &self.key)?;
        self.current.store(config);
        Ok(())
    }

    /// The TLS configuration for the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let fault = |what, path: &Path, reason: String| TlsError::File {
        what,
        path: path.to_owned(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| fault("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(fault(
            "certificate",
            certificate,
            "there is none in it".to_owned(),
        ));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| fault("private key", key, error.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(|source| TlsError::Unusable {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
