//! Change events of Debezium: which row an event is about, and whether it is gone.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{PayloadFormat, RowData};
use crate::decode::Violation;

/// See the module.
pub struct Debezium;

impl PayloadFormat for Debezium {
    fn row<'a>(&self, data: &'a [u8]) -> Result<RowData<'a>, Violation> {
        row(data)
    }

    fn has_numeric_times(&self) -> bool {
        true
    }
}

/// The envelope; what else it holds (`source`, `ts_ms`, `transaction`) is of no matter to the row.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    op: Option<&'a str>,
    /// Around all of that, where the converter writes schemas, too.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Pointers to the row, without and with `payload` around it.
const AFTER: [&str; 2] = ["/after", "/payload/after"];
const BEFORE: [&str; 2] = ["/before", "/payload/before"];
const OP: [&str; 2] = ["/op", "/payload/op"];

/// The row that a change event is about.
fn row(data: &[u8]) -> Result<RowData<'_>, Violation> {
    let mut envelope = parse(data, "")?;
    let mut depth = 0;
    if let (None, Some(payload)) = (envelope.op, envelope.payload) {
        envelope = parse(payload.get().as_bytes(), "/payload")?;
        depth = 1;
    }
    let wrong = |message: String| Violation { pointer: OP[depth].to_string(), message };
    let (row, pointer, deleted) = match envelope.op {
        Some("c" | "r" | "u") => (envelope.after, AFTER[depth], false),
        Some("d") => (envelope.before, BEFORE[depth], true),
        Some("t") => {
            return Err(wrong(
                "op \"t\" truncates a whole table, which one event cannot say here: have the \
                 connector skip it (skipped.operations)"
                    .to_string(),
            ));
        }
        Some(op) => return Err(wrong(format!("op is c, r, u or d, found {op:?}"))),
        None => {
            return Err(wrong(
                "op is missing: expected Debezium's before, after and op".to_string(),
            ));
        }
    };
    match row {
        Some(row) => Ok(RowData { data: row.get().as_bytes(), pointer, deleted }),
        None => Err(Violation {
            pointer: pointer.to_string(),
            message: format!(
                "op {:?} needs the row here{}",
                envelope.op.unwrap_or_default(),
                if deleted { ", its key at least (REPLICA IDENTITY DEFAULT or FULL)" } else { "" }
            ),
        }),
    }
}

fn parse<'a>(data: &'a [u8], pointer: &str) -> Result<Envelope<'a>, Violation> {
    serde_json::from_slice(data).map_err(|error| Violation {
        pointer: pointer.to_string(),
        message: format!("not a change event of Debezium: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_tells_the_row_and_whether_it_is_gone() {
        let told = |data: &str| {
            row(data.as_bytes())
                .map(|r| (String::from_utf8_lossy(r.data).into_owned(), r.pointer, r.deleted))
                .map_err(|violation| violation.pointer)
        };
        let row = |text: &str, pointer, deleted| Ok((text.to_string(), pointer, deleted));
        for (data, expected) in [
            (r#"{"before":null,"after":{"a":1},"op":"c"}"#, row(r#"{"a":1}"#, "/after", false)),
            (r#"{"before":{"a":1},"after":null,"op":"d"}"#, row(r#"{"a":1}"#, "/before", true)),
            (
                r#"{"schema":{},"payload":{"after":{"a":2},"op":"u","ts_ms":1}}"#,
                row(r#"{"a":2}"#, "/payload/after", false),
            ),
            (r#"{"before":null,"after":null,"op":"d"}"#, Err("/before".to_string())),
            (r#"{"payload":{"op":"c"}}"#, Err("/payload/after".to_string())),
            (r#"{"op":"t"}"#, Err("/op".to_string())),
            (r#"{"op":"x","after":{}}"#, Err("/op".to_string())),
            (r#"{"a":1}"#, Err("/op".to_string())),
            ("[1]", Err(String::new())),
        ] {
            assert_eq!(told(data), expected, "{data}");
        }
    }
}
