//! Query parameters, each known by name: what nobody reads is an error, not silence.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::problem::Problem;

/// The parameters of one request that nobody has taken yet.
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The parameters of an address, decoded.
    pub fn of(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::bad_request("bad_parameter", error.body_text()))?;
        Ok(Params(pairs))
    }

    /// The value of a parameter that may be given once.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.texts(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            n => Err(bad(name, format!("given {n} times, expected once"))),
        }
    }

    /// All values of a parameter.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(given, _)| given == name).map(|(_, value)| value).collect()
    }

    /// A parameter that is a number, or `default`.
    pub fn number<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, Problem> {
        Ok(self.number_if_given(name)?.unwrap_or(default))
    }

    /// A parameter that is a number.
    pub fn number_if_given<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = text.parse().map_err(|_| bad(name, format!("{text:?} is not a number")))?;
        Ok(Some(number))
    }

    /// A parameter that says how many, from 1 to `max`.
    pub fn limit(&mut self, default: usize, max: usize) -> Result<usize, Problem> {
        match self.number("limit", default)? {
            limit if (1..=max).contains(&limit) => Ok(limit),
            limit => Err(bad("limit", format!("expected 1 to {max}, got {limit}"))),
        }
    }

    /// A parameter that is one of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        Err(bad(name, format!("expected {}, got {text:?}", words.join(" or "))))
    }

    /// The parameter `timeout`: `5s` or `500ms`, up to `max_ms`; 5 s by default.
    pub fn timeout(&mut self, max_ms: u64) -> Result<Duration, Problem> {
        const DEFAULT_MS: u64 = 5_000;
        let Some(text) = self.text("timeout")? else {
            return Ok(Duration::from_millis(DEFAULT_MS.min(max_ms)));
        };
        match parse_duration_ms(&text) {
            Some(ms) if ms <= max_ms => Ok(Duration::from_millis(ms)),
            Some(_) => Err(bad("timeout", format!("expected at most {max_ms}ms, got {text}"))),
            None => Err(bad("timeout", format!("expected 5s or 500ms, say, got {text:?}"))),
        }
    }

    /// The parameters that nothing has taken, in the order of the address.
    pub fn rest(self) -> Vec<(String, String)> {
        self.0
    }

    /// Fails when something was not taken.
    pub fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::bad_request(
                "unknown_parameter",
                format!("there is no parameter {name:?} here"),
            )),
        }
    }
}

/// The single name in the path of a request, percent-decoded.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(error) => Err(Problem::bad_request("bad_path", error.body_text())),
        }
    }
}

/// The problem of a parameter.
pub fn bad(name: &str, why: impl Display) -> Problem {
    Problem::bad_request("bad_parameter", format!("{name}: {why}"))
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok();
    }
    let seconds: u64 = text.strip_suffix('s')?.parse().ok()?;
    seconds.checked_mul(1000)
}
