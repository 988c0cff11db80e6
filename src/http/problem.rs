//! Problem documents (RFC 9457): how every error is answered.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Most errors of one request that are listed.
pub const ERRORS_MAX: usize = 100;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorItem {
    /// Which of the request's events, from 0; `None` where it is not about an event.
    #[schema(required)]
    pub index: Option<usize>,
    /// A word for programs.
    pub code: &'static str,
    /// Where in the event, as a JSON pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    /// A sentence for people.
    pub message: String,
    /// The version that the event's stream has, where another one was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u64)]
    pub current_version: Option<u64>,
}

/// The errors of a request: the first [`ERRORS_MAX`], and how many there are.
#[derive(Debug, Default)]
pub struct Errors {
    items: Vec<ErrorItem>,
    count: usize,
}

impl Errors {
    pub fn push(&mut self, item: ErrorItem) {
        self.count += 1;
        if self.items.len() < ERRORS_MAX {
            self.items.push(item);
        }
    }

    /// Takes over other errors, with their pointers led to where they belong.
    pub fn append(&mut self, others: Errors, pointer: impl Fn(&str) -> String) {
        for item in others.items {
            self.push(ErrorItem { pointer: pointer(&item.pointer), ..item });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True when every listed error has this code.
    pub fn all_are(&self, code: &str) -> bool {
        self.items.iter().all(|item| item.code == code)
    }

    /// The problem that these errors are; nothing of the request was stored.
    pub fn into_problem(self, status: StatusCode) -> Problem {
        let listed = self.items.len();
        let detail = match (&self.items[..], self.count) {
            ([only], 1) => only.message.clone(),
            (_, count) if count > listed => {
                format!("{count} errors, the first {listed} are listed; nothing was stored")
            }
            (_, count) => format!("{count} errors; nothing was stored"),
        };
        Problem { status, detail, errors: self.items, headers: Vec::new() }
    }
}

/// An answer that says what went wrong.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<ErrorItem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// RFC 9457
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Problem)]
pub struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// The current version of the first version conflict.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = u64)]
    current_version: Option<u64>,
    #[schema(min_items = 1)]
    errors: &'a [ErrorItem],
}

impl Problem {
    /// A problem of the request as a whole.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let pointer = String::new();
        let item = ErrorItem { index: None, code, pointer, message, current_version: None };
        Problem { status, detail: item.message.clone(), errors: vec![item], headers: Vec::new() }
    }

    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_after(1)
    }

    /// More than the server can take now; the client is asked to come back.
    pub fn too_busy(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_busy", message).retry_after(1)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// Asks the client to wait this many seconds.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Ends the connection after the answer, because the rest of the request was not read.
    pub fn closing(self) -> Self {
        self.with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Sets a header, in place of one of that name.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            current_version: self.errors.iter().find_map(|error| error.current_version),
            errors: &self.errors,
        };
        let text = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A browser may keep a 404, and keeps a 410 for ever.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
