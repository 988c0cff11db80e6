//! `GET /openapi.json`: what this module answers, as OpenAPI 3.1.
//!
//! Operations and their answers are described beside the handlers. Here is what they share, and what
//! is written and read without a Rust type.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::header::Header;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{Content, Ref, RefOr};
use utoipa::{IntoResponses, OpenApi, PartialSchema, ToResponse};

use super::gate::action_of;
use crate::model::limits::Limits;
pub use documented::*;

/// The only described header that an answer may lack.
const OPTIONAL_HEADER: &str = "Idempotency-Replayed";

/// Where the bodies of several events are described.
const SEVERAL_EVENTS: [&str; 2] = [
    "/paths/~1v1~1events/post/requestBody/content/application~1json/schema/oneOf/1",
    "/paths/~1v1~1events/post/requestBody/content/application~1cloudevents-batch+json/schema",
];

/// The document's parts beside the operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Heliostat",
        version = "1",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        description = "Events in, live SQL views out. Errors are problem documents (RFC 9457). A request to a path that is not listed is answered with 404, one with another method with 405. Limits are those of the defaults; an installation may have others."
    ),
    components(
        schemas(StoredEvent),
        responses(
            BadRequest,
            Forbidden,
            Full,
            NoView,
            TooBusy,
            Unauthorized,
            Unavailable,
            TrimmedAway,
            Unreadable
        )
    )
)]
pub struct ApiFrame;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut document = serde_json::to_value(super::routes().into_openapi()).unwrap_or_default();
    complete(&mut document);
    document.to_string()
});

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    responses((status = 200, description = "The document.", body = Object))
)]
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

/// Adds what the annotations cannot say.
fn complete(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    schemas["NewEvent"]["dependentRequired"] = json!({"expected_version": ["stream"]});
    schemas["CloudEvent"]["dependentRequired"] = json!({"expectedversion": ["subject"]});
    schemas["CloudEvent"]["propertyNames"] = json!({"pattern": "^[a-z0-9]+$"});
    schemas["CloudEvent"]["additionalProperties"] =
        json!({"type": ["string", "integer", "boolean"]});
    for several in SEVERAL_EVENTS {
        if let Some(array) = document.pointer_mut(several) {
            array["minItems"] = json!(1);
            array["maxItems"] = json!(Limits::default().request_events_max);
        }
    }
    document["components"]["securitySchemes"] =
        json!({"token": {"type": "http", "scheme": "bearer"}});
    // A server that has no tokens asks for none.
    document["security"] = json!([{"token": []}, {}]);
    let operations = document["paths"].as_object_mut().into_iter().flat_map(|paths| {
        paths.iter_mut().flat_map(|(path, item)| {
            let operations = item.as_object_mut().into_iter().flat_map(|item| item.iter_mut());
            operations.map(move |(method, operation)| (path, method, operation))
        })
    });
    for (path, method, operation) in operations {
        let method = method.to_uppercase().parse().unwrap_or_default();
        let refused = |name| json!({"$ref": format!("#/components/responses/{name}")});
        operation["responses"]["403"] = refused("Forbidden");
        if action_of(&method, path).is_some() {
            operation["responses"]["401"] = refused("Unauthorized");
        }
        require_headers(&mut operation["responses"]);
    }
    require_headers(&mut document["components"]["responses"]);
}

fn require_headers(responses: &mut Value) {
    for response in responses.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        let Some(headers) = response.get_mut("headers").and_then(Value::as_object_mut) else {
            continue;
        };
        for (_, header) in headers.iter_mut().filter(|(name, _)| *name != OPTIONAL_HEADER) {
            header["required"] = json!(true);
        }
    }
}

fn problem(description: &str) -> ResponseBuilder {
    let schema = Ref::from_schema_name("Problem");
    let content = Content::new(Some(schema));
    ResponseBuilder::new().description(description).content("application/problem+json", content)
}

fn later(description: &str) -> ResponseBuilder {
    let mut header = Header::new(u32::schema());
    header.description = Some("Seconds after which to try again.".to_string());
    problem(description).header("Retry-After", header)
}

/// A problem that several operations answer with.
macro_rules! shared_response {
    ($($name:ident: $response:expr;)*) => {$(
        pub struct $name;

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), $response.into())
            }
        }
    )*};
}

shared_response! {
    BadRequest: problem("The request is not well-formed, or asks for what there is not.");
    Unauthorized: problem("`unauthorized`: a token is needed, or the one that was sent is unknown, revoked or expired.");
    Forbidden: problem("`forbidden`: the token does not reach that far. `foreign_origin`, `foreign_host`: a page of another origin, or a name that is not the server's.");
    NoView: problem("`view_not_found`: there is no such view.");
    TooBusy: later("More than the server can take now.");
    Unavailable: later("The server cannot do it now.");
    TrimmedAway: problem("`trimmed`: events that are asked for were removed by `heliostat log trim`. The message says from where on there are events.");
    Unreadable: problem("`log_damaged`: events that are needed are damaged or missing in the log; `heliostat log verify` and `heliostat log repair` tell more. `log_unreadable`: the file system or the indexes fail.");
    Full: later("`insufficient_storage`: the disk of the log is full. Nothing was stored; appends work again by themselves when there is room.");
}

/// The errors of every operation that reads a body.
pub struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let shared = |name| RefOr::Ref(Ref::from_response_name(name));
        let problems: [(&str, RefOr<Response>); 5] = [
            ("400", shared("BadRequest")),
            ("408", problem("The body did not arrive in time.").into()),
            ("413", problem("The request, or an event, is too large.").into()),
            (
                "415",
                problem(
                    "The media type, the encoding, or the data of a CloudEvent is not supported.",
                )
                .into(),
            ),
            ("429", shared("TooBusy")),
        ];
        problems.map(|(status, problem)| (status.to_string(), problem)).into()
    }
}

/// Types of the wire that are read and written without being built: `envelope.rs` and `cloudevents.rs`
/// check what comes in, `events.rs`, `streams.rs`, `rows.rs` and `changes.rs` write what goes out.
mod documented {
    #![allow(dead_code, reason = "only their schemas are used")]

    use std::collections::BTreeMap;

    use serde_json::Value;
    use utoipa::ToSchema;

    type Object = BTreeMap<String, Value>;

    /// An event to append.
    #[derive(ToSchema)]
    #[schema(as = NewEvent)]
    #[serde(deny_unknown_fields)]
    pub struct NewEventSchema {
        #[schema(min_length = 1, max_length = 255)]
        r#type: String,
        /// The payload.
        data: Object,
        /// With `source` the identity, for ever; made by the server where it is absent.
        #[schema(required = false, value_type = String, min_length = 1, max_length = 255)]
        id: Option<String>,
        #[schema(required = false, value_type = String, max_length = 255)]
        source: Option<String>,
        #[schema(required = false, value_type = String, min_length = 1, max_length = 255)]
        stream: Option<String>,
        /// The version of the payload's schema.
        #[schema(required = false, value_type = u32, minimum = 1, maximum = 4294967295_u64)]
        version: Option<u32>,
        #[schema(required = false, value_type = String, format = DateTime)]
        time: Option<String>,
        #[schema(required = false, value_type = Object)]
        metadata: Option<Object>,
        /// The version that the stream must have before this event.
        #[schema(required = false, value_type = u64)]
        expected_version: Option<u64>,
    }

    /// One event, or several.
    #[derive(ToSchema)]
    #[serde(untagged)]
    pub enum NewEvents {
        One(NewEventSchema),
        Several(Vec<NewEventSchema>),
    }

    /// CloudEvents 1.0; further members are extensions.
    #[derive(ToSchema)]
    pub struct CloudEvent {
        #[schema(pattern = "^1\\.0$")]
        specversion: String,
        #[schema(min_length = 1, max_length = 255)]
        id: String,
        #[schema(min_length = 1, max_length = 255)]
        source: String,
        #[schema(min_length = 1, max_length = 255)]
        r#type: String,
        /// The stream.
        #[schema(required = false, value_type = String, min_length = 1, max_length = 255)]
        subject: Option<String>,
        #[schema(required = false, value_type = String, format = DateTime)]
        time: Option<String>,
        #[schema(required = false, value_type = String, pattern = "^application/json$")]
        datacontenttype: Option<String>,
        #[schema(required = false, value_type = String)]
        dataschema: Option<String>,
        #[schema(required = false, value_type = Object)]
        data: Option<Object>,
        #[schema(required = false, value_type = u32, minimum = 1, maximum = 4294967295_u64)]
        dataversion: Option<u32>,
        #[schema(required = false, value_type = u32, maximum = 2147483647)]
        expectedversion: Option<u32>,
    }

    /// An event of the log.
    #[derive(ToSchema)]
    #[serde(deny_unknown_fields)]
    pub struct StoredEvent {
        #[schema(minimum = 1)]
        position: u64,
        /// When it was committed, in milliseconds since the Unix epoch.
        #[schema(minimum = 1)]
        tick: u64,
        id: String,
        #[schema(required = false, value_type = String)]
        source: Option<String>,
        r#type: String,
        #[schema(minimum = 1)]
        version: u32,
        #[schema(required = false, value_type = String)]
        stream: Option<String>,
        #[schema(required = false, value_type = u64, minimum = 1)]
        stream_version: Option<u64>,
        time: String,
        data: Object,
        #[schema(required = false, value_type = Object)]
        metadata: Option<Object>,
    }

    /// A part of a stream.
    #[derive(ToSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Stream {
        stream: String,
        #[schema(minimum = 1)]
        stream_version: u64,
        events: Vec<StoredEvent>,
    }

    /// Rows of a view, whose members are its columns.
    #[derive(ToSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Rows {
        tick: u64,
        position: u64,
        rows: Vec<Object>,
        #[schema(required)]
        cursor: Option<String>,
    }

    /// One server-sent event.
    #[derive(ToSchema)]
    pub struct ServerSentEvent {
        #[schema(inline)]
        event: ChangeKind,
        /// JSON: `{tick, row}` of `upsert` and `delete`, `{tick, position}` of `tick`, `{reason}` of
        /// `end`.
        data: String,
        /// The place from which a feed can go on. Only `tick` has it.
        #[schema(required = false, value_type = String)]
        id: Option<String>,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    enum ChangeKind {
        Upsert,
        Delete,
        Tick,
        End,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum AliveStatus {
        Alive,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum ReadyStatus {
        Ready,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum AllViews {
        All,
    }

    /// The part of the server that is wrong.
    #[derive(ToSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum WrongPart {
        Log,
        Queries,
        Clickhouse,
        Clock,
        Access,
        ReadSide,
        Server,
        View,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum WaitFor {
        Views,
        Clickhouse,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum Int64 {
        String,
        Number,
    }

    #[derive(ToSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum YesOrNo {
        True,
        False,
    }
}
