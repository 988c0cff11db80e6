//! The configuration of an issuer: `[[issuers]]` in `heliostat.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::access::grant::{Narrowing, Role};
use crate::access::store::check_narrowing;

/// The widest leeway for clocks that differ, in seconds.
const LEEWAY_S_MAX: u64 = 600;
/// How often keys may be read from an address, in seconds.
const REFRESH_S_RANGE: std::ops::RangeInclusive<u64> = 10..=86_400;

/// An issuer whose tokens are accepted, and what they give.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The claim `iss` of its tokens.
    pub issuer: String,
    /// The claim `aud` has to name one of these.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// Where its public keys are, as a JSON Web Key Set: an https address (http on loopback), or a
    /// file.
    pub keys: String,
    /// A file of certificates, in PEM, that the one of that address may be signed by.
    pub keys_ca: Option<PathBuf>,
    /// Most seconds that clocks may differ: 0 to 600.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u64,
    /// How often keys are read from their address, in seconds: 10 to 86,400. A file is read when it
    /// changes.
    #[serde(default = "default_refresh_s")]
    pub refresh_s: u64,
    /// The claim by which a token's bearer is known in records.
    #[serde(default = "default_name_claim")]
    pub name_claim: String,
    /// The rules that give roles to tokens. The first one that fits counts.
    #[serde(default)]
    pub grants: Vec<GrantRule>,
}

/// A role, and what it is narrowed to, for tokens with a claim.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRule {
    /// The claim, a path with dots where it is in an object: `realm_access.roles`. Without one the rule
    /// fits every token.
    pub claim: Option<String>,
    /// The claim's value. Where the claim is a list, or words with spaces between, one of them has to be
    /// this.
    pub value: Option<String>,
    pub role: Role,
    /// Lists as for `heliostat token create`; `{tenant}` stands for the claim of that name.
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default)]
    pub sources: Vec<String>,
    #[serde(default)]
    pub streams: Vec<String>,
    #[serde(default)]
    pub views: Vec<String>,
}

fn default_leeway_s() -> u64 {
    60
}

fn default_refresh_s() -> u64 {
    300
}

fn default_name_claim() -> String {
    "sub".to_string()
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(input)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    })
}

/// An error in the configuration of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuers: {issuer}: {reason}")]
pub struct IssuerConfigError {
    issuer: String,
    reason: String,
}

impl IssuerConfig {
    /// Whether the keys are at an address; else they are in a file.
    pub fn keys_are_remote(&self) -> bool {
        self.keys.starts_with("https://") || self.keys.starts_with("http://")
    }

    /// Finds what cannot be meant.
    pub fn check(&self) -> Result<(), IssuerConfigError> {
        let wrong = |reason: String| {
            Err(IssuerConfigError { issuer: format!("{:?}", self.issuer), reason })
        };
        if self.issuer.is_empty() {
            return wrong("issuer is empty".to_string());
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return wrong("audience names nobody: tokens for others would be accepted".to_string());
        }
        if self.leeway_s > LEEWAY_S_MAX {
            return wrong(format!("leeway_s is 0 to {LEEWAY_S_MAX}, found {}", self.leeway_s));
        }
        if !REFRESH_S_RANGE.contains(&self.refresh_s) {
            let (min, max) = (REFRESH_S_RANGE.start(), REFRESH_S_RANGE.end());
            return wrong(format!("refresh_s is {min} to {max}, found {}", self.refresh_s));
        }
        if self.keys_are_remote() && !is_safe(&self.keys) {
            let keys = &self.keys;
            return wrong(format!("keys: expected https, or http on loopback, got {keys:?}"));
        }
        if self.grants.is_empty() {
            return wrong("it has no grants, so its tokens would give nothing".to_string());
        }
        for (index, rule) in self.grants.iter().enumerate() {
            let number = index + 1;
            if rule.claim.is_some() != rule.value.is_some() {
                return wrong(format!("grant {number}: claim and value go together"));
            }
            if let Err(reason) = check_narrowing(rule.role, &rule.narrowing()) {
                return wrong(format!("grant {number}: {reason}"));
            }
        }
        Ok(())
    }
}

impl GrantRule {
    /// The lists as they are written.
    pub fn narrowing(&self) -> Narrowing {
        let GrantRule { types, sources, streams, views, .. } = self.clone();
        Narrowing { types, sources, streams, views }
    }
}

/// Keys that come in the clear could be anybody's.
fn is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback =
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    url.scheme() == "https" || is_loopback
}
