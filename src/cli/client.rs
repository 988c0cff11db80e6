//! The HTTP client of commands that talk to a running server.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder};

/// How a command shows who it is. A token is never an argument: others could read it there.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// A file that holds the token; without it the environment's HELIOSTAT_TOKEN is taken.
    #[arg(long, env = "HELIOSTAT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// A file of certificates, in PEM, that the server's may be signed by.
    #[arg(long, env = "HELIOSTAT_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The token is none.
    #[error("the token has characters that no token has")]
    Token,
    /// The client cannot be made.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

impl ClientArgs {
    /// A client that sends the token, if there is one. `timeout` is that of a whole request.
    pub fn client(&self, timeout: Option<Duration>) -> Result<Client, ClientError> {
        super::choose_tls_provider();
        let mut builder: ClientBuilder = Client::builder();
        if let Some(timeout) = timeout {
            builder = builder.timeout(timeout);
        }
        if let Some(token) = self.token()? {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
        }
        if let Some(path) = &self.tls_ca {
            let read = std::fs::read(path);
            let pem = read.map_err(|source| ClientError::File { path: path.clone(), source })?;
            for certificate in Certificate::from_pem_bundle(&pem)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        Ok(builder.build()?)
    }

    fn token(&self) -> Result<Option<String>, ClientError> {
        let text = match &self.token_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ClientError::File { path: path.clone(), source })?,
            None => std::env::var("HELIOSTAT_TOKEN").unwrap_or_default(),
        };
        let token = text.trim();
        Ok((!token.is_empty()).then(|| token.to_string()))
    }
}
