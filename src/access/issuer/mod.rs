//! Tokens of an issuer (JWTs, RFC 7519): who has signed them, for whom, until when, and which role
//! their claims give.
//!
//! The issuer's keys are read in the background and kept while they cannot be read ([`keys`]). A key
//! belongs to one algorithm; what a token says of its algorithm has to agree with it.

mod claims;
mod config;
mod keys;
mod signature;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::grant::Grant;
use super::store::TokenRefusal;
use crate::model::alarm::Alarms;
use crate::model::clock::now_ms;
pub use config::{IssuerConfig, IssuerConfigError};
use keys::KeySource;
pub use keys::KeysError;
use signature::{Parts, split};

/// How long a request waits for keys that are read anew because of its token.
const KEYS_PATIENCE: Duration = Duration::from_secs(3);

/// An issuer whose tokens are accepted.
pub struct Issuer {
    config: IssuerConfig,
    keys: Arc<KeySource>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.config.issuer).finish()
    }
}

/// The head of a token.
#[derive(Deserialize)]
struct TokenHead {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    crit: Option<Value>,
}

/// The claims that say who has signed a token, for whom and for how long.
#[derive(Deserialize)]
struct RegisteredClaims {
    iss: String,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, wanted: &[String]) -> bool {
        match self {
            Audience::One(name) => wanted.contains(name),
            Audience::Many(names) => names.iter().any(|name| wanted.contains(name)),
        }
    }
}

/// Whether a text has the form of an issuer's token. Tokens of the data directory have not.
pub fn is_signed_token(token: &str) -> bool {
    split(token).is_some()
}

/// The issuer of these whom a token names. Nothing of the token is to be believed yet.
pub fn named_by<'i>(issuers: &'i [Issuer], token: &str) -> Option<&'i Issuer> {
    let parts = split(token)?;
    let claims: RegisteredClaims = serde_json::from_slice(&parts.claims).ok()?;
    issuers.iter().find(|issuer| issuer.config.issuer == claims.iss)
}

impl Issuer {
    /// An issuer whose keys are not read yet: see [`Issuer::follow_keys`].
    pub fn new(config: IssuerConfig, alarms: Alarms) -> Result<Self, KeysError> {
        let keys = Arc::new(KeySource::new(&config, alarms)?);
        Ok(Issuer { config, keys })
    }

    /// Reads the keys, and reads them again from time to time and when a token names an unknown one.
    /// Never ends.
    pub fn follow_keys(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.keys).follow()
    }

    /// The rights of a token's bearer.
    pub async fn grant(&self, token: &str) -> Result<Arc<Grant>, TokenRefusal> {
        let parts = split(token).ok_or_else(|| invalid("it has not three parts"))?;
        match self.claims_of(&parts) {
            Err(TokenRefusal::UnknownKey(_)) => {
                if let Some(read) = self.keys.read_anew() {
                    // Without an answer in time the keys are as before.
                    let _ = tokio::time::timeout(KEYS_PATIENCE, read).await;
                }
                self.claims_of(&parts)
            }
            checked => checked,
        }
        .and_then(|claims| claims::grant(&self.config, &claims))
        .map(Arc::new)
    }

    /// The claims of a token whose signature and times are right.
    fn claims_of(&self, parts: &Parts<'_>) -> Result<Map<String, Value>, TokenRefusal> {
        let head: TokenHead =
            serde_json::from_slice(&parts.head).map_err(|_| invalid("its head is wrong"))?;
        if head.crit.is_some() {
            return Err(invalid("its head has a critical extension, which is unknown here"));
        }
        let keys = self.keys.now().ok_or_else(|| {
            let issuer = &self.config.issuer;
            TokenRefusal::NoKeys(format!("the keys of {issuer} could not be read yet: see /readyz"))
        })?;
        let key = keys.find(head.kid.as_deref(), &head.alg)?;
        if !key.verify(parts.signed.as_bytes(), &parts.signature) {
            return Err(invalid("its signature is wrong"));
        }
        let wrong = |_| invalid("its claims are wrong: iss, aud, exp or nbf");
        let claims: RegisteredClaims = serde_json::from_slice(&parts.claims).map_err(wrong)?;
        self.check(&claims)?;
        serde_json::from_slice(&parts.claims).map_err(wrong)
    }

    fn check(&self, claims: &RegisteredClaims) -> Result<(), TokenRefusal> {
        let IssuerConfig { issuer, audience, leeway_s, .. } = &self.config;
        if claims.iss != *issuer {
            return Err(invalid("it is of another issuer"));
        }
        if !claims.aud.as_ref().is_some_and(|aud| aud.names(audience)) {
            return Err(invalid("it is for another audience"));
        }
        let (now, leeway) = (now_ms() as f64 / 1000.0, *leeway_s as f64);
        let Some(expires) = claims.exp else { return Err(invalid("it never expires")) };
        if now >= expires + leeway {
            return Err(invalid("it has expired"));
        }
        if claims.nbf.is_some_and(|begins| now + leeway < begins) {
            return Err(invalid("it is not valid yet"));
        }
        Ok(())
    }
}

fn invalid(why: &str) -> TokenRefusal {
    TokenRefusal::Invalid(format!("the token is not accepted: {why}"))
}

#[cfg(test)]
mod tests;
