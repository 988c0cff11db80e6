//! TLS: the certificate and its key, read again when their files change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

/// How long a change of the files may go unseen.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where a certificate and its key are.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct TlsFiles {
    /// The certificate and those that sign it, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: PathBuf,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The problem with the file.
        reason: String,
    },
    /// The two do not fit, or are of a kind that is not supported.
    #[error("{certificate} and {key}: {source}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
}

/// Takes TLS connections, with HTTP/2 and HTTP/1.1 to choose from.
pub fn acceptor(files: TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let resolver = Arc::new(Reloading::new(files)?);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| resolver.mismatch(source))?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificate that is in the files now. One that cannot be used leaves the one before.
struct Reloading {
    files: TlsFiles,
    state: Mutex<ReloadState>,
}

struct ReloadState {
    looked: Instant,
    changed: (Option<SystemTime>, Option<SystemTime>),
    key: Arc<CertifiedKey>,
}

impl Reloading {
    fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let changed = changed(&files);
        let key = load(&files)?;
        let state = Mutex::new(ReloadState { looked: Instant::now(), changed, key });
        Ok(Reloading { files, state })
    }

    fn mismatch(&self, source: rustls::Error) -> TlsError {
        mismatch(&self.files, source)
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloading").field(&self.files).finish()
    }
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            state.looked = Instant::now();
            let changed = changed(&self.files);
            if changed != state.changed {
                match load(&self.files) {
                    Ok(key) => {
                        tracing::info!("the certificate has changed");
                        (state.key, state.changed) = (key, changed);
                    }
                    // Half of a pair may have been replaced: the next look finds the other half.
                    Err(error) => tracing::warn!(%error, "the certificate from before stays"),
                }
            }
        }
        Some(Arc::clone(&state.key))
    }
}

fn changed(files: &TlsFiles) -> (Option<SystemTime>, Option<SystemTime>) {
    let of = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    (of(&files.certificate), of(&files.key))
}

fn load(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let wrong = |path: &Path, reason: String| TlsError::File { path: path.to_path_buf(), reason };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error: io::Error| wrong(path, error.to_string()))
    };
    let pem = read(&files.certificate)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates =
        certificates.map_err(|error| wrong(&files.certificate, error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong(&files.certificate, "there is no certificate in it".to_string()));
    }
    let pem = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| wrong(&files.key, format!("no private key: {error}")))?;
    let pair = CertifiedKey::from_der(certificates, key, &ring::default_provider());
    pair.map(Arc::new).map_err(|source| mismatch(files, source))
}

fn mismatch(files: &TlsFiles, source: rustls::Error) -> TlsError {
    let TlsFiles { certificate, key } = files.clone();
    TlsError::Pair { certificate, key, source }
}
