//! The public keys of an issuer: a JSON Web Key Set (RFC 7517) in a file or at an address.
//!
//! They are read in the background: from time to time, and when a token names a key that is unknown.
//! While they cannot be read, those from before stay.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::config::IssuerConfig;
use super::invalid;
use super::signature::PublicKey;
use crate::access::store::TokenRefusal;
use crate::model::alarm::{Alarms, Part};

/// How long an address may take to answer.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// The largest set of keys, in bytes.
const SET_BYTES_MAX: usize = 1 << 20;
/// How often a file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// The first pause after keys could not be read; it doubles up to the usual interval.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How soon keys are read again for a token with an unknown one. It doubles as long as that finds no
/// other keys, so that wrong tokens cannot keep the issuer busy.
const UNKNOWN_PAUSE_MIN: Duration = Duration::from_secs(2);
const UNKNOWN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{url}: {reason}")]
    Fetch { url: String, reason: String },
    #[error("{from}: no set of keys: {reason}")]
    Set { from: String, reason: String },
}

/// The keys of an issuer at one time.
#[derive(Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<(Option<String>, PublicKey)>,
}

/// A set as it is written.
#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<serde_json::Value>,
}

/// A key as it is written, as far as it concerns signatures.
#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl WrittenKey {
    /// The key, if it is of a kind that is used here: not for encryption, and no secret of HMAC.
    fn public_key(&self) -> Option<PublicKey> {
        if self.r#use.as_deref().is_some_and(|of| of != "sig") {
            return None;
        }
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let coordinate = |text: &Option<String>| bytes(text).filter(|bytes| bytes.len() == 32);
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let number = |text| {
                    let bytes: Vec<u8> = bytes(text)?;
                    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                    Some(bytes[zeros..].to_vec())
                };
                PublicKey::Rsa { n: number(&self.n)?, e: number(&self.e)? }
            }
            ("EC", Some("P-256")) => {
                let point = [vec![4], coordinate(&self.x)?, coordinate(&self.y)?].concat();
                PublicKey::P256(point)
            }
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(coordinate(&self.x)?),
            _ => return None,
        };
        // RFC 9864 has a name of its own for EdDSA with this curve.
        let is_its = |alg: &str| alg == key.algorithm() || (alg == "Ed25519" && self.kty == "OKP");
        self.alg.as_deref().is_none_or(is_its).then_some(key)
    }
}

impl KeySet {
    fn parse(bytes: &[u8], from: &str) -> Result<Self, KeysError> {
        let wrong = |reason: String| KeysError::Set { from: from.to_string(), reason };
        let set: WrittenSet =
            serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let usable = |key: serde_json::Value| {
            let key: WrittenKey = serde_json::from_value(key).ok()?;
            Some((key.kid.clone(), key.public_key()?))
        };
        let keys: Vec<_> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            let reason = "it has no key for RS256, ES256 or EdDSA (Ed25519)".to_string();
            return Err(wrong(reason));
        }
        Ok(KeySet { keys })
    }

    /// The key that a token says it is signed by. Its algorithm has to be that of the key.
    pub fn find(&self, kid: Option<&str>, algorithm: &str) -> Result<&PublicKey, TokenRefusal> {
        if !["RS256", "ES256", "EdDSA"].contains(&algorithm) {
            let message = format!("its algorithm is {algorithm:?}, not RS256, ES256 or EdDSA");
            return Err(invalid(&message));
        }
        let Some(kid) = kid else {
            let mut of_algorithm = self.keys.iter().filter(|(_, key)| key.algorithm() == algorithm);
            return match (of_algorithm.next(), of_algorithm.next()) {
                (Some((_, key)), None) => Ok(key),
                (None, _) => Err(invalid("the issuer has no key for its algorithm")),
                _ => Err(invalid("it does not say by which key it is signed")),
            };
        };
        let mut named = self.keys.iter().filter(|(of, _)| of.as_deref() == Some(kid)).peekable();
        if named.peek().is_none() {
            let message = "the token is not accepted: the issuer has no such key".to_string();
            return Err(TokenRefusal::UnknownKey(message));
        }
        let found = named.find(|(_, key)| key.algorithm() == algorithm);
        found.map(|(_, key)| key).ok_or_else(|| invalid("its algorithm is not that of its key"))
    }
}

/// Where keys come from.
enum KeyLocation {
    File(PathBuf),
    Url { url: String, client: reqwest::Client },
}

/// The keys of an issuer, as they were last read.
pub struct KeySource {
    issuer: String,
    place: KeyLocation,
    interval: Duration,
    alarms: Alarms,
    state: Mutex<KeyState>,
    /// Asks for the keys to be read at once.
    wanted: Notify,
    /// How often they have been read.
    reads: watch::Sender<u64>,
}

struct KeyState {
    keys: Option<Arc<KeySet>>,
    /// When a token with an unknown key may next ask for them to be read.
    next_unknown: Instant,
    unknown_pause: Duration,
}

impl KeySource {
    pub fn new(config: &IssuerConfig, alarms: Alarms) -> Result<Self, KeysError> {
        let place = match config.keys_are_remote() {
            false => KeyLocation::File(config.keys.clone().into()),
            true => KeyLocation::Url { url: config.keys.clone(), client: client(config)? },
        };
        let interval = match &place {
            KeyLocation::File(_) => FILE_INTERVAL,
            KeyLocation::Url { .. } => Duration::from_secs(config.refresh_s),
        };
        let state =
            KeyState { keys: None, next_unknown: Instant::now(), unknown_pause: UNKNOWN_PAUSE_MIN };
        Ok(KeySource {
            issuer: config.issuer.clone(),
            place,
            interval,
            alarms,
            state: Mutex::new(state),
            wanted: Notify::new(),
            reads: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys; `None`: they have not been read yet.
    pub fn now(&self) -> Option<Arc<KeySet>> {
        self.lock().keys.clone()
    }

    /// Asks for the keys to be read at once, and resolves when they have been; `None`: they were read
    /// a short while ago.
    pub fn read_anew(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut state = self.lock();
        let now = Instant::now();
        if now < state.next_unknown {
            return None;
        }
        state.next_unknown = now + state.unknown_pause;
        state.unknown_pause = (state.unknown_pause * 2).min(UNKNOWN_PAUSE_MAX);
        drop(state);
        let mut reads = self.reads.subscribe();
        reads.mark_unchanged();
        self.wanted.notify_one();
        Some(async move { drop(reads.changed().await) })
    }

    /// Reads the keys again and again.
    pub async fn follow(self: Arc<Self>) {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let next = match self.read().await {
                Ok(keys) => {
                    pause = RETRY_PAUSE_MIN;
                    self.adopt(keys);
                    self.interval
                }
                Err(error) => {
                    let stay = match self.now() {
                        Some(_) => "the keys from before stay",
                        None => "tokens of this issuer are not accepted until they are there",
                    };
                    let message =
                        format!("the keys of {} cannot be read: {error}; {stay}", self.issuer);
                    self.alarms.raise(Part::Access, &self.issuer, message);
                    let now = pause.min(self.interval);
                    pause = (pause * 2).min(self.interval);
                    now
                }
            };
            self.reads.send_modify(|reads| *reads += 1);
            tokio::select! {
                () = sleep_until(Instant::now() + next) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn adopt(&self, keys: KeySet) {
        let mut state = self.lock();
        if state.keys.as_deref() != Some(&keys) {
            tracing::info!(
                issuer = self.issuer,
                keys = keys.keys.len(),
                "the issuer's keys are read"
            );
            state.keys = Some(Arc::new(keys));
            state.unknown_pause = UNKNOWN_PAUSE_MIN;
        }
        drop(state);
        self.alarms.clear(Part::Access, &self.issuer);
    }

    async fn read(&self) -> Result<KeySet, KeysError> {
        match &self.place {
            KeyLocation::File(path) => {
                let bytes = tokio::fs::read(path).await;
                let bytes =
                    bytes.map_err(|source| KeysError::File { path: path.clone(), source })?;
                KeySet::parse(&bytes, &path.display().to_string())
            }
            KeyLocation::Url { url, client } => {
                let failed = |reason: String| KeysError::Fetch { url: url.clone(), reason };
                let bytes = fetch(client, url).await.map_err(failed)?;
                KeySet::parse(&bytes, url)
            }
        }
    }
}

/// A client that goes nowhere but to the address that it is given.
fn client(config: &IssuerConfig) -> Result<reqwest::Client, KeysError> {
    let failed = |reason: String| KeysError::Fetch { url: config.keys.clone(), reason };
    let mut builder = reqwest::Client::builder()
        .timeout(FETCH_TIME_MAX)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &config.keys_ca {
        let pem =
            std::fs::read(path).map_err(|source| KeysError::File { path: path.clone(), source })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| failed(error.to_string()))
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| {
        // The innermost error says what happened.
        let mut error: &dyn std::error::Error = &error;
        while let Some(source) = error.source() {
            error = source;
        }
        error.to_string()
    };
    let mut response = client.get(url).send().await.map_err(told)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > SET_BYTES_MAX {
            return Err(format!("it answers more than {SET_BYTES_MAX} bytes"));
        }
    }
    Ok(bytes)
}
