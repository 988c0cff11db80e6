//! The gate: refuses pages of other origins, reads tokens, and lets roles decide.
//!
//! Without tokens the server is for this machine alone. A page that somebody on it visits can reach
//! loopback, too, so three things are checked: the `Host`, which a page gives away that had its own
//! name point here (DNS rebinding), and `Origin` and `Sec-Fetch-Site`, which browsers set and pages
//! cannot.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, VARY, WWW_AUTHENTICATE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::problem::Problem;
use crate::access::{Access, Action, AdminRecord, Grant, Issuer, TokenRefusal};

/// The headers that pages of other origins may send.
const PAGE_HEADERS: &str =
    "authorization, content-type, content-encoding, idempotency-key, if-none-match, last-event-id";

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The requirements that a request has to meet.
pub struct Gate {
    /// `None`: nobody is asked for a token.
    access: Option<Access>,
    /// The record of administrative acts.
    record: Option<AdminRecord>,
    /// Names under which the server is reached beside those of loopback; `None`: any name is right.
    hosts: Option<Vec<String>>,
    /// Pages of these origins may use the server, `https://shop.example` say.
    origins: Vec<String>,
}

impl Gate {
    /// A gate that asks for tokens if there are any. `hosts` are names under which the server is
    /// reached beside those of loopback (`None`: any name is right), `origins` those of pages that may
    /// use it.
    pub fn new(
        access: Access,
        record: AdminRecord,
        hosts: Option<Vec<String>>,
        origins: Vec<String>,
    ) -> Self {
        Gate { access: Some(access), record: Some(record), hosts, origins }
    }

    /// A gate that lets everybody in who comes from no page of another origin.
    pub fn open() -> Self {
        Gate { access: None, record: None, hosts: None, origins: Vec::new() }
    }

    /// Where administrative acts are written down.
    pub fn record(&self) -> Option<&AdminRecord> {
        self.record.as_ref()
    }

    fn access(&self) -> Option<&Access> {
        self.access.as_ref().filter(|access| access.is_required())
    }

    /// The issuers whose tokens are accepted.
    pub fn issuers(&self) -> &[Issuer] {
        self.access.as_ref().map_or(&[], Access::issuers)
    }

    /// The rights of a request's client; `None`: it has shown no token, and one is asked for.
    async fn caller(&self, headers: &HeaderMap) -> Result<Option<Arc<Grant>>, Problem> {
        let Some(access) = self.access() else { return Ok(Some(Arc::new(Grant::of_everybody()))) };
        let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let Some(token) = token else {
            let message = "expected a token as Authorization: Bearer …";
            return Err(unauthorized(message, true));
        };
        access.grant(token).await.map(Some).map_err(|refusal| match refusal {
            TokenRefusal::Invalid(message) | TokenRefusal::UnknownKey(message) => {
                unauthorized(&message, true)
            }
            TokenRefusal::NoRole(message) => forbidden(message),
            TokenRefusal::NoKeys(message) => Problem::unavailable("issuer_away", message),
        })
    }

    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        // A page cannot send a token that it does not have, whatever its name points to.
        if self.access().is_some() {
            return Ok(());
        }
        // HTTP/2 has the name in the address.
        let named = headers.get(HOST).map(|value| value.to_str().unwrap_or("?"));
        let Some(host) = named.or(uri.authority().map(|authority| authority.as_str())) else {
            return Ok(());
        };
        let name = name_of(host);
        if is_loopback(name) || hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let message =
            format!("this server is not known as {name:?}: name it with --host, or create tokens");
        Err(Problem::new(StatusCode::FORBIDDEN, "foreign_host", message))
    }

    fn check_origin(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let foreign = |from: &str| {
            let message = format!(
                "requests of pages from {from} are refused: name the origin with --allow-origin if it is yours"
            );
            Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", message))
        };
        let origins: Vec<&str> =
            headers.get_all(ORIGIN).iter().map(|value| value.to_str().unwrap_or("?")).collect();
        let own = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .or(uri.authority().map(|authority| authority.as_str()));
        let is_own = |origin: &str| {
            let bare = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            own.is_some() && bare == own
        };
        let is_allowed = |origin: &str| self.origins.iter().any(|allowed| allowed == origin);
        if let Some(origin) = origins.iter().find(|origin| !is_own(origin) && !is_allowed(origin)) {
            return foreign(origin);
        }
        let site = headers.get(&SEC_FETCH_SITE).map(|site| site.to_str().unwrap_or("?"));
        match site {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) if !origins.is_empty() => Ok(()),
            Some(site) => foreign(&format!("another place ({site})")),
        }
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_address = bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    is_address || name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
}

/// The problem of a request without a token, or with one that is not accepted.
fn unauthorized(message: &str, was_given: bool) -> Problem {
    let challenge = match was_given {
        true => "Bearer realm=\"heliostat\", error=\"invalid_token\"",
        false => "Bearer realm=\"heliostat\"",
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// The action that a request to this route is; `None`: it is open to everybody. A route that is not listed is
/// for administrators.
pub fn action_of(method: &Method, path: &str) -> Option<Action> {
    let action = match (path, method.as_str()) {
        ("/" | "/healthz" | "/readyz", _) => return None,
        ("/v1/events", "POST") => Action::Append,
        ("/v1/events", "GET" | "HEAD") => Action::ReadEvents,
        ("/v1/streams/{stream}", _) => Action::ReadStreams,
        (
            "/v1/views"
            | "/v1/views/{view}"
            | "/v1/views/{view}/rows"
            | "/v1/views/{view}/changes"
            | "/v1/dead-letters"
            | "/metrics",
            _,
        ) => Action::ReadViews,
        ("/openapi.json", _) => Action::Look,
        _ => Action::Administer,
    };
    Some(action)
}

/// The middleware: lets a request pass with the grant of its client, or answers it.
pub async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let action = match request.extensions().get::<MatchedPath>() {
        Some(path) => action_of(request.method(), path.as_str()),
        // Nothing is there, which every token may know.
        None => Some(Action::Look),
    };
    match admit(&state.gate, request.headers(), request.uri(), action).await {
        Ok(caller) => {
            request.extensions_mut().insert(Caller(caller));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// The middleware of CORS, for the pages that may use the server: answers what their browsers ask
/// beforehand, and lets them read the answers.
pub async fn answer_pages(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let origin = headers.get(ORIGIN).filter(|origin| {
        let allowed = |origin: &str| state.gate.origins.iter().any(|allowed| allowed == origin);
        origin.to_str().is_ok_and(allowed)
    });
    let Some(origin) = origin.cloned() else { return next.run(request).await };
    let asks =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(PAGE_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("etag, heliostat-position, idempotency-replayed, retry-after"),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
    response
}

async fn admit(
    gate: &Gate,
    headers: &HeaderMap,
    uri: &Uri,
    action: Option<Action>,
) -> Result<Option<Arc<Grant>>, Problem> {
    gate.check_host(headers, uri)?;
    gate.check_origin(headers, uri)?;
    let Some(action) = action else {
        // A wrong token does no harm where none is needed.
        return Ok(gate.caller(headers).await.unwrap_or(None));
    };
    let Some(grant) = gate.caller(headers).await? else {
        let message = "a token is needed: send it as Authorization: Bearer …";
        return Err(unauthorized(message, false));
    };
    if !grant.allows(action) {
        let Grant { name, role, .. } = &*grant;
        let message =
            format!("token {name} has the role {role}, which does not {}", action.as_str());
        return Err(forbidden(message));
    }
    Ok(Some(grant))
}

/// Refuses a body of a type that a page may send without its browser asking beforehand.
pub fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let got = if media_type.is_empty() { "there is no Content-Type" } else { media_type };
    let message = format!("expected application/json: {got}");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_media_type", message))
}

/// The problem of a token that does not reach as far as a request.
pub fn forbidden(message: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", message)
}

/// The client of a request: `None` where a route is open and it has shown no token.
#[derive(Clone)]
pub struct Caller(pub Option<Arc<Grant>>);

impl Caller {
    /// Whether it reads everything that the server tells.
    pub fn sees_all(&self) -> bool {
        self.0.as_ref().is_some_and(|grant| grant.allows(Action::ReadViews) && !grant.is_narrowed())
    }

    /// Whether it may know of this view.
    pub fn sees_view(&self, view: &str) -> bool {
        self.0
            .as_ref()
            .is_some_and(|grant| grant.allows(Action::ReadViews) && grant.sees_view(view))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or(Caller(None)))
    }
}

/// The client of a request to a route that is not open to everybody.
pub struct Client(pub Arc<Grant>);

impl Client {
    /// Fails where the client may not know of this view.
    pub fn check_view(&self, view: &str) -> Result<(), Problem> {
        check_view(&self.0, view)
    }
}

/// Fails where whoever has this grant may not know of the view, whether there is one or not.
pub fn check_view(grant: &Grant, view: &str) -> Result<(), Problem> {
    if grant.sees_view(view) {
        return Ok(());
    }
    Err(forbidden(format!("token {} does not reach view {view}", grant.name)))
}

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<Caller>() {
            Some(Caller(Some(grant))) => Ok(Client(Arc::clone(grant))),
            _ => Err(unauthorized("a token is needed: send it as Authorization: Bearer …", false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_names_and_others_have_not() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:1",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(name_of(host)), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "",
        ] {
            assert!(!is_loopback(name_of(host)), "{host}");
        }
    }

    #[test]
    fn every_route_has_an_action_of_its_own() {
        let document = super::super::routes().into_openapi();
        let mut administered = Vec::new();
        for (path, item) in &document.paths.paths {
            let operations = [(Method::GET, &item.get), (Method::POST, &item.post)];
            for (method, _) in operations.into_iter().filter(|(_, operation)| operation.is_some()) {
                if action_of(&method, path) == Some(Action::Administer) {
                    administered.push(path.as_str());
                }
            }
        }
        administered.sort_unstable();
        let expected =
            ["/v1/dead-letters/dismiss", "/v1/dead-letters/retry", "/v1/views/{view}/rebuild"];
        assert_eq!(administered, expected);
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn pages_of_other_origins_are_kept_out() {
        let gate = Gate {
            access: None,
            record: None,
            hosts: None,
            origins: vec!["https://shop.example".into()],
        };
        let check = |pairs: &[(&str, &str)]| {
            let uri = Uri::from_static("/v1/events");
            gate.check_origin(&headers(pairs), &uri).is_ok()
        };
        let host = ("host", "127.0.0.1:8080");
        assert!(check(&[host]));
        assert!(check(&[
            host,
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(check(&[host, ("sec-fetch-site", "none")]));
        assert!(check(&[
            host,
            ("origin", "https://shop.example"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(!check(&[
            host,
            ("origin", "http://127.0.0.1:9090"),
            ("sec-fetch-site", "same-site")
        ]));
        assert!(!check(&[host, ("origin", "null")]));
        assert!(!check(&[host, ("origin", "https://shop.example.evil.example")]));
        assert!(!check(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!check(&[host, ("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused() {
        let gate = Gate {
            access: None,
            record: None,
            hosts: Some(vec!["heliostat".into()]),
            origins: Vec::new(),
        };
        let check = |host: &str| {
            gate.check_host(&headers(&[("host", host)]), &Uri::from_static("/")).is_ok()
        };
        assert!(check("localhost:8080") && check("Heliostat:8080"));
        assert!(!check("rebound.example:8080"));
    }
}
