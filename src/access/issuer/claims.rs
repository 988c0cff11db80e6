//! From a token's claims to what its bearer may do.

use serde_json::{Map, Value};

use super::config::{GrantRule, IssuerConfig};
use crate::access::grant::{Grant, Narrowing};
use crate::access::store::TokenRefusal;

/// The longest name of a bearer, its issuer included, in bytes.
const NAME_BYTES_MAX: usize = 1000;

/// The grant of the first rule that fits the claims.
pub fn grant(config: &IssuerConfig, claims: &Map<String, Value>) -> Result<Grant, TokenRefusal> {
    let name = name(config, claims)?;
    let Some(rule) = config.grants.iter().find(|rule| fits(rule, claims)) else {
        return Err(TokenRefusal::NoRole(format!(
            "{name} has no role here: no grant fits its claims"
        )));
    };
    let list = |entries: &[String]| -> Result<Vec<String>, TokenRefusal> {
        let mut list = Vec::new();
        for entry in entries {
            list.extend(fill_in(entry, claims).map_err(|reason| {
                TokenRefusal::NoRole(format!("{name} cannot be narrowed to {entry:?}: {reason}"))
            })?);
        }
        Ok(list)
    };
    let narrowing = Narrowing {
        types: list(&rule.types)?,
        sources: list(&rule.sources)?,
        streams: list(&rule.streams)?,
        views: list(&rule.views)?,
    };
    Ok(Grant { name, role: rule.role, narrowing })
}

/// The bearer's name has the issuer's before it, so that it is nobody else's: it may be a source.
fn name(config: &IssuerConfig, claims: &Map<String, Value>) -> Result<String, TokenRefusal> {
    let claim = &config.name_claim;
    let name = find(claims, claim).and_then(Value::as_str).unwrap_or_default();
    let full = format!("{}#{name}", config.issuer);
    if name.is_empty() || full.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("the token is not accepted: its claim {claim:?} is no name");
        return Err(TokenRefusal::Invalid(message));
    }
    Ok(full)
}

fn fits(rule: &GrantRule, claims: &Map<String, Value>) -> bool {
    let (Some(claim), Some(wanted)) = (&rule.claim, &rule.value) else { return true };
    let is_wanted = |value: &Value| match value {
        Value::String(text) => text == wanted || text.split(' ').any(|word| word == wanted),
        Value::Bool(_) | Value::Number(_) => {
            serde_json::from_str::<Value>(wanted).is_ok_and(|w| w == *value)
        }
        _ => false,
    };
    match find(claims, claim) {
        Some(Value::Array(values)) => values.iter().any(is_wanted),
        Some(value) => is_wanted(value),
        None => false,
    }
}

/// A claim by its name, or by a path with dots.
fn find<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    // Names with dots in them are common, too: addresses.
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// The entries that come of one with a `{claim}` in it: one of each value of the claim. None would
/// widen what the token reaches, and so would a `*` in a value.
fn fill_in(entry: &str, claims: &Map<String, Value>) -> Result<Vec<String>, String> {
    let Some((before, rest)) = entry.split_once('{') else { return Ok(vec![entry.to_string()]) };
    let Some((claim, after)) = rest.split_once('}') else { return Ok(vec![entry.to_string()]) };
    let values = match find(claims, claim) {
        Some(Value::Array(values)) => values.iter().collect(),
        Some(value) => vec![value],
        None => Vec::new(),
    };
    if values.is_empty() {
        return Err(format!("it has no claim {claim:?}"));
    }
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() && !text.contains('*') => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("its claim {claim:?} has a value that is no name")),
    };
    values.into_iter().map(|value| Ok(format!("{before}{}{after}", text(value)?))).collect()
}
