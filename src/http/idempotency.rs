//! `Idempotency-Key`: a request that can be sent again as a whole, as
//! draft-ietf-httpapi-idempotency-key-header describes it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_128;

use super::problem::Problem;

static KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Set on the answer to a request that had been made before.
pub static REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key.
const KEY_BYTES_MAX: usize = 255;

/// The key of a request, if it has one. The draft's form is text in quotes; most clients leave the
/// quotes out.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(&KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = |why: String| {
        let message = format!("Idempotency-Key: expected 1 to {KEY_BYTES_MAX} bytes, {why}");
        Err(Problem::bad_request("bad_idempotency_key", message))
    };
    if values.next().is_some() {
        return bad("got more than one".to_string());
    }
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
        return bad("got bytes that are not UTF-8".to_string());
    };
    let text = text.trim();
    let key = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return bad(format!("got {}", key.len()));
    }
    Ok(Some(key.to_string()))
}

/// The parts of a request's content that tell it from another one under the same key.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u128 {
    let mut hashes = Vec::new();
    for part in parts {
        hashes.extend_from_slice(&xxh3_128(part).to_le_bytes());
    }
    xxh3_128(&hashes)
}

/// The same key with another content.
pub fn reused() -> Problem {
    let message =
        "another request was made with this Idempotency-Key: take a new key for new content";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message)
}

/// The value of [`REPLAYED_HEADER`].
pub fn replayed() -> HeaderValue {
    HeaderValue::from_static("true")
}
