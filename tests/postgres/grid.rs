//! The values that everything is tried with: for each type twenty, the ordinary ones first.
//!
//! Not among them is what no column here can hold: NaN and infinities of NUMERIC, infinite dates,
//! years before 1 and after 9999; nor JSON's null by itself, which in an event is an
//! absent member; intervals of more than 292 years of time; arrays of several dimensions.

use serde_json::Value;

/// How many values a grid has.
pub const VALUES: usize = 20;
/// How many of them are ordinary: no extremes, no infinities.
pub const ORDINARY: usize = 13;

/// A column of values.
pub struct Grid {
    pub name: &'static str,
    /// The type in PostgreSQL.
    pub postgres: &'static str,
    /// The type of the column in an event table: TEXT where JSON or a column cannot carry the values.
    pub column: &'static str,
    /// How the column is read, `#` for its name, here and there.
    pub read: &'static str,
    pub values: &'static [&'static str],
}

const fn grid(
    name: &'static str,
    column: &'static str,
    read: &'static str,
    values: &'static [&'static str],
) -> Grid {
    Grid { name, postgres: name, column, read, values }
}

const fn special(
    name: &'static str,
    postgres: &'static str,
    values: &'static [&'static str],
) -> Grid {
    Grid { name, postgres, column: postgres, read: "#", values }
}

/// The value that stands for NULL.
pub const NULL: &str = "NULL";

const TEXTS: &[&str] = &[
    NULL,
    "",
    "a",
    "A",
    "abc",
    "ABC def",
    "  padded  ",
    "foobar",
    "foo bar baz",
    "a%b_c",
    "a,b,,c",
    "123",
    "x\\y",
    "Straße",
    "ÄÖÜ äöü",
    "日本語",
    "😀x",
    "e\u{301}",
    "ǆ ŉ İı ς",
    "O'Reilly \"q\" ~ z",
];

pub const GRIDS: &[Grid] = &[
    grid("boolean", "BOOLEAN", "#", &[NULL, "true", "false"]),
    grid(
        "smallint",
        "SMALLINT",
        "#",
        &[
            NULL, "0", "1", "-1", "2", "3", "-3", "5", "7", "-7", "10", "12", "31", "100", "-100",
            "255", "1000", "-1000", "32767", "-32768",
        ],
    ),
    grid(
        "integer",
        "INT",
        "#",
        &[
            NULL,
            "0",
            "1",
            "-1",
            "2",
            "3",
            "-3",
            "5",
            "7",
            "-7",
            "10",
            "12",
            "31",
            "100",
            "-100",
            "255",
            "65536",
            "1000000000",
            "2147483647",
            "-2147483648",
        ],
    ),
    grid(
        "bigint",
        "BIGINT",
        "#",
        &[
            NULL,
            "0",
            "1",
            "-1",
            "2",
            "3",
            "-3",
            "5",
            "7",
            "-7",
            "10",
            "12",
            "31",
            "100",
            "-100",
            "65536",
            "4294967296",
            "9007199254740993",
            "9223372036854775807",
            "-9223372036854775808",
        ],
    ),
    grid(
        "real",
        "TEXT",
        "CAST(# AS REAL)",
        &[
            NULL,
            "0",
            "1",
            "-1",
            "0.5",
            "-0.5",
            "1.5",
            "2.5",
            "-2.5",
            "3.14159",
            "0.1",
            "100",
            "1e5",
            "-0",
            "16777217",
            "1e-5",
            "3.4e38",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    grid(
        "double precision",
        "TEXT",
        "CAST(# AS DOUBLE PRECISION)",
        &[
            NULL,
            "0",
            "1",
            "-1",
            "0.5",
            "-0.5",
            "1.5",
            "2.5",
            "-2.5",
            "3.14159",
            "0.1",
            "100",
            "1e5",
            "-0",
            "123456789.125",
            "1e-5",
            "1e300",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
    ),
    Grid {
        name: "numeric",
        postgres: "numeric(20,4)",
        column: "NUMERIC(20,4)",
        read: "#",
        values: &[
            NULL,
            "0",
            "1",
            "-1",
            "0.5",
            "-0.5",
            "1.5",
            "2.5",
            "-2.5",
            "3.1416",
            "0.0001",
            "10",
            "100",
            "-100.25",
            "12345.6789",
            "99999.9999",
            "1000000000",
            "-0.0001",
            "9999999999999999.9999",
            "-9999999999999999.9999",
        ],
    },
    grid("text", "TEXT", "#", TEXTS),
    Grid {
        name: "character varying",
        postgres: "text",
        column: "TEXT",
        read: "CAST(# AS VARCHAR(5))",
        values: TEXTS,
    },
    Grid {
        name: "character",
        postgres: "text",
        column: "TEXT",
        read: "CAST(# AS CHAR(5))",
        values: TEXTS,
    },
    grid(
        "bytea",
        "BYTEA",
        "#",
        &[
            NULL,
            "\\x",
            "\\x00",
            "\\x61",
            "\\x616263",
            "\\x20616220",
            "\\xff",
            "\\xdeadbeef",
            "\\x00ff00",
            "\\x666f6f20626172",
            "\\x7f80",
            "\\x5c",
            "\\x27",
            "\\xc3a4",
            "\\xffffffffffffffff",
            "\\x0a0d",
            "\\xe697a5",
            "\\x01020304050607080910",
            "\\x6161616161616161",
            "\\x80",
        ],
    ),
    grid(
        "date",
        "DATE",
        "#",
        &[
            NULL,
            "2000-01-01",
            "1999-12-31",
            "2024-02-29",
            "2023-02-28",
            "2024-01-31",
            "2024-03-31",
            "1970-01-01",
            "1969-12-31",
            "2020-12-31",
            "2021-01-03",
            "2024-10-27",
            "2024-12-30",
            "1900-02-28",
            "2100-03-01",
            "1582-10-15",
            "0100-06-15",
            "0001-01-01",
            "9999-12-31",
            "2038-01-19",
        ],
    ),
    grid(
        "time without time zone",
        "TEXT",
        "CAST(# AS TIME)",
        &[
            NULL,
            "00:00:00",
            "12:00:00",
            "23:59:59",
            "01:02:03.5",
            "23:59:59.999999",
            "06:30:00.123456",
            "00:00:00.000001",
            "13:45:30",
        ],
    ),
    grid(
        "timestamp without time zone",
        "TIMESTAMP",
        "#",
        &[
            NULL,
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "2024-02-29 12:34:56.789012",
            "2023-02-28 06:00:00",
            "2024-01-31 10:00:00",
            "2024-03-31 02:30:00",
            "1970-01-01 00:00:00",
            "1969-12-31 23:59:59.5",
            "2020-12-31 18:00:00.25",
            "2021-01-03 00:00:01",
            "2024-10-27 02:30:00",
            "2024-12-30 13:14:15.000001",
            "1900-02-28 01:02:03",
            "2100-03-01 00:00:00",
            "1582-10-15 12:00:00",
            "0100-06-15 07:08:09",
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
            "2038-01-19 03:14:08",
        ],
    ),
    grid(
        "timestamp with time zone",
        "TIMESTAMP WITH TIME ZONE",
        "#",
        &[
            NULL,
            "2000-01-01 00:00:00+00",
            "1999-12-31 23:59:59.999999+00",
            "2024-02-29 12:34:56.789012+00",
            "2023-02-28 06:00:00+00",
            "2024-01-31 10:00:00+00",
            "2024-03-31 00:59:59.999999+00",
            "2024-03-31 01:00:00+00",
            "1969-12-31 23:59:59.5+00",
            "2020-12-31 18:00:00.25+00",
            "2024-10-27 00:30:00+00",
            "2024-10-27 01:30:00+00",
            "2024-07-01 13:14:15.000001+00",
            "1900-02-28 01:02:03+00",
            "2100-03-01 00:00:00+00",
            "1582-10-15 12:00:00+00",
            "0100-06-15 07:08:09+00",
            "0001-01-01 00:00:00+00",
            "9999-12-31 23:59:59.999999+00",
            "2038-01-19 03:14:08+00",
        ],
    ),
    grid(
        "interval",
        "TEXT",
        "CAST(# AS INTERVAL)",
        &[
            NULL,
            "00:00:00",
            "1 day",
            "1 mon",
            "24:00:00",
            "1 year 2 mons 3 days 04:05:06.789",
            "-1 days",
            "30 days",
            "-1 mons +1 day -01:00:00",
            "00:00:00.000001",
            "1 year",
            "-04:05:06.5",
            "36:30:00",
            "12 mons 30 days 24:00:00",
            "100 years",
            "-1 years -2 mons +3 days",
            "1000000 days",
            "00:59:59.999999",
            "-00:00:00.5",
            "-2000000:00:54.775807",
        ],
    ),
    grid(
        "uuid",
        "UUID",
        "#",
        &[
            NULL,
            "00000000-0000-0000-0000-000000000000",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "123e4567-e89b-12d3-a456-426614174000",
        ],
    ),
    grid("json", "JSON", "#", JSONS),
    Grid {
        name: "jsonb",
        postgres: "json",
        column: "JSON",
        read: "CAST(# AS JSONB)",
        values: JSONS,
    },
    // What some functions are worth trying with.
    special(
        "year",
        "integer",
        &["2024", "2023", "1", "9999", "1900", "2000", "0", "-44", "10000", NULL],
    ),
    special("month", "integer", &["1", "2", "12", "6", "0", "13", "2", "3", "11", "-1", NULL]),
    special("day", "integer", &["1", "28", "29", "30", "31", "32", "0", "15", "-1", NULL]),
    special("hour", "integer", &["0", "1", "12", "23", "24", "25", "-1", NULL]),
    special("minute", "integer", &["0", "1", "30", "59", "60", "-1", NULL]),
    special("small", "integer", &["0", "1", "2", "3", "-1", "-2", "5", "4", "10", NULL]),
    Grid {
        name: "second",
        postgres: "text",
        column: "TEXT",
        read: "CAST(# AS DOUBLE PRECISION)",
        values: &["0", "1.5", "59.999999", "60", "60.5", "-1", "30.1234567", "59.9999999", NULL],
    },
    special(
        "integer text",
        "text",
        &[
            NULL,
            "0",
            "12",
            "-12",
            " 12 ",
            "+7",
            "1e3",
            "1.5",
            "",
            "abc",
            "9223372036854775808",
            "2147483648",
            "-32768",
            "0x10",
            "1_000",
            "--1",
            "\t3\n",
            "00012",
            "32767",
            "1 2",
        ],
    ),
    special(
        "numeric text",
        "text",
        &[
            NULL,
            "0",
            "12.5",
            "-12.345",
            " 1.5 ",
            "+.5",
            "5.",
            "1e3",
            "1e-3",
            "abc",
            "",
            "1.5e2",
            "0.00005",
            "1e5",
            "-0",
            "123456789012.3456",
            "1,5",
            ".",
            "1e",
            "9.99995",
        ],
    ),
    special(
        "float text",
        "text",
        &[
            NULL,
            "0",
            "12.5",
            "-12.345",
            " 1.5 ",
            "+.5",
            "5.",
            "1e3",
            "1e-3",
            "abc",
            "",
            "NaN",
            "inf",
            "-infinity",
            "1e400",
            "1e-400",
            "1,5",
            "nan",
            "0x1",
            "Infinity",
        ],
    ),
    special(
        "boolean text",
        "text",
        &[
            NULL, "t", "true", "TRUE", " yes ", "on", "1", "f", "false", "no", "off", "0", "",
            "maybe", "o", "tr", "n", "y", "2", "of",
        ],
    ),
    special(
        "bytea text",
        "text",
        &[
            NULL,
            "",
            "\\x",
            "\\x00ff",
            "\\xABCD",
            "abc",
            "\\x0",
            "\\xzz",
            "a\\\\b",
            "\\001",
            "\\x 00 ff",
            "ä",
            "\\",
            "\\1",
            "\\x00 f",
        ],
    ),
    special(
        "date text",
        "text",
        &[
            NULL,
            "2024-02-29",
            "2023-02-29",
            "2024-2-9",
            "20240229",
            "2024/02/29",
            "Feb 29, 2024",
            "29 February 2024",
            "2024-02-29 12:00:00",
            " 2024-02-29 ",
            "2024.060",
            "J2451187",
            "",
            "epoch",
            "99-01-02",
            "2024-13-01",
            "abc",
            "2024-12-31T23:59:59Z",
            "0001-01-01",
            "January 8, 99 BC",
        ],
    ),
    special(
        "time text",
        "text",
        &[
            NULL,
            "12:34:56",
            "12:34",
            "123456",
            "04:05:06.789",
            "04:05 PM",
            "24:00:00",
            "25:00:00",
            "12:60:00",
            "",
            "abc",
            "04:05:06.7891234",
            " 1:2:3 ",
            "12:34:56+02",
            "allballs",
            "0405",
            "23:59:60",
            "23:59:59.9999999",
            "04:05:06 AM",
            "2024-01-01 04:05:06",
        ],
    ),
    special(
        "timestamp text",
        "text",
        &[
            NULL,
            "2024-02-29 12:34:56",
            "2024-02-29T12:34:56Z",
            "2024-02-29 12:34:56.1234567",
            "2024-02-29",
            "2024-02-30",
            "2024-02-29 25:00:00",
            "Feb 29 12:34:56 2024",
            "2024-02-29 12:34:56+02",
            "2024-02-29 12:34:56 Europe/Berlin",
            "",
            "epoch",
            "abc",
            "2024-02-29 12:34:56.9999995",
            "20240229T123456",
            "2024-07-01 12:00:00 America/New_York",
            "2024-02-29 12:34 PM",
            "0044-03-15 00:00:00 BC",
            "2024-02-29 24:00:00",
            "2024-02-29 12:34:56-05:30",
        ],
    ),
    special(
        "interval text",
        "text",
        &[
            NULL,
            "1 day",
            "1 year 2 months",
            "1 week",
            "-1 day 2 hours",
            "1:30",
            "01:02:03.5",
            "P1Y2M3DT4H5M6S",
            "1.5 months",
            "0.5 day",
            "2 hours ago",
            "1 mon -1 day",
            "",
            "abc",
            "1",
            "3-2",
            "1 12:59:10",
            "100 milliseconds",
            "1 century 1 decade",
            "P0001-02-03T04:05:06",
        ],
    ),
    special(
        "uuid text",
        "text",
        &[
            NULL,
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "",
            "abc",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
        ],
    ),
    special(
        "json text",
        "text",
        &[
            NULL,
            "null",
            "1",
            "1.50",
            "\"a\"",
            "[1, 2,3]",
            "{\"b\":1,  \"a\":{\"c\":null}}",
            "{\"a\":1,\"a\":2}",
            "",
            "abc",
            "[1,",
            "true",
            " {} ",
            "\"\\u00e4\"",
            "1e2",
            "01",
            "{\"a\" : [ {\"b\":\"x\"} ] }",
            "'a'",
            "[]",
            "-0",
        ],
    ),
    special(
        "integer[] text",
        "text",
        &[
            NULL,
            "{}",
            "{1,2}",
            "{1,NULL,3}",
            "{ 1 , 2 }",
            "{1,2",
            "1,2",
            "{a}",
            "",
            "{1,}",
            "{\"1\",2}",
            "{null}",
        ],
    ),
    special(
        "text[] text",
        "text",
        &[
            NULL,
            "{}",
            "{a,b}",
            "{a,NULL,c}",
            "{\"a b\",\"c,d\"}",
            "{\"NULL\"}",
            "{a b, c }",
            "{\"a\\\"b\"}",
            "{",
            "{a\\,b}",
            "{\"\"}",
            "{,}",
            "{ä,日本}",
        ],
    ),
    special(
        "timestamp words",
        "text",
        &[
            NULL,
            "2024-02-29",
            "2024-02-29 12:34:56",
            "29.02.2024",
            "20240229",
            "Feb 29 2024",
            "2024-60",
            "24-2-9",
            "12:34:56 PM",
            "2023-02-30",
            "",
            "abc",
            "2024-02-29 12:34:56.789",
            "Thursday, 29 February 2024",
            "2024 W09 4",
            "1 2 3",
            "2024-13-45",
            "99-12-31",
            "2024Feb29",
        ],
    ),
    special(
        "number words",
        "text",
        &[
            NULL, "12", "-12", "1,234.5", "12.34-", "$ 12.50", "+5", "abc", "", "<12>", "  7",
            "0012", "1e3", "XIV", "12.", ".5",
        ],
    ),
    special(
        "pattern",
        "text",
        &[
            NULL,
            "",
            "%",
            "_",
            "a%",
            "%a",
            "%b%",
            "A_C",
            "a\\%b\\_c",
            "foo%",
            "%bar%baz",
            "abc",
            "___",
            "%\\",
            "日%",
            "a%b_c",
            "%ß%",
            "x\\\\y",
            "%ä%",
            "😀_",
        ],
    ),
];

const JSONS: &[&str] = &[
    NULL,
    "1",
    "-1.50",
    "\"text\"",
    "true",
    "[]",
    "{}",
    "[1, 2, 3]",
    "[1, null, \"a\", [2]]",
    "{\"a\": 1, \"b\": \"x\"}",
    "{\"b\": [1, {\"c\": null}], \"a\": {\"d\": 1.50}}",
    "\"\"",
    "1e2",
    "{\"b\":1,\"a\":2,\"b\":3}",
    "{\"bb\":1,  \"a\":2}",
    "\"\\u00e4\\n\"",
    "12345678901234567890",
    "[{\"a\": 1}, {\"a\": 2}]",
    "false",
];

/// The values of a column: which of the grid's is at `row` in the argument `position` (from 1).
pub fn index(row: usize, position: usize) -> usize {
    match position {
        1 => row % VALUES,
        2 => row / VALUES % VALUES,
        _ => (row * 7919 + position * 104_729 + row * row * position / 3) % VALUES,
    }
}

/// A grid's type by PostgreSQL's name, and whether its arrays are meant.
pub fn find(name: &str) -> Option<(&'static Grid, bool)> {
    let (name, array) = match name.strip_suffix("[]") {
        Some(item) if !GRIDS.iter().any(|g| g.name == name) => (item, true),
        _ => (name, false),
    };
    Some((GRIDS.iter().find(|grid| grid.name == name)?, array))
}

impl Grid {
    fn value(&self, at: usize) -> Option<&'static str> {
        let text = self.values[at % self.values.len()];
        (text != NULL).then_some(text)
    }

    /// The value at this index as PostgreSQL reads it, as a literal.
    pub fn sql(&self, at: usize, array: bool) -> String {
        let literal = |value: Option<&str>| match value {
            Some(text) => format!("'{}'", text.replace('\'', "''")),
            None => NULL.to_string(),
        };
        match array {
            false => literal(self.value(at)),
            true => match self.array(at) {
                None => NULL.to_string(),
                Some(items) => {
                    let items: Vec<String> = items.into_iter().map(literal).collect();
                    format!("ARRAY[{}]::{}[]", items.join(","), self.postgres)
                }
            },
        }
    }

    /// The value at this index as an event has it.
    pub fn json(&self, at: usize, array: bool) -> Value {
        let one = |value: Option<&str>| match (value, self.column) {
            (None, _) => Value::Null,
            (
                Some(text),
                "BOOLEAN" | "SMALLINT" | "INT" | "BIGINT" | "integer" | "JSON" | "JSONB",
            ) => {
                // Kept as it is written: the server stores what was posted.
                Value::String(format!("\u{1}{text}\u{2}"))
            }
            (Some(text), "BYTEA") => Value::String(base64(text)),
            (Some(text), "TIMESTAMP") => Value::String(text.replace(' ', "T")),
            (Some(text), "TIMESTAMP WITH TIME ZONE") => {
                Value::String(text.replace(' ', "T").replace("+00", "Z"))
            }
            (Some(text), _) => Value::String(text.to_string()),
        };
        match array {
            false => one(self.value(at)),
            true => {
                self.array(at).map_or(Value::Null, |items| items.into_iter().map(one).collect())
            }
        }
    }

    /// The array at this index: none, one, several, with NULLs, of all orders.
    fn array(&self, at: usize) -> Option<Vec<Option<&'static str>>> {
        let ordinary: Vec<Option<&str>> = (1..self.values.len()).map(|n| self.value(n)).collect();
        let pick = |n: usize| ordinary[n % ordinary.len()];
        Some(match at {
            0 => return None,
            1 => Vec::new(),
            2 => vec![pick(1)],
            3 => vec![None],
            4 => vec![pick(1), pick(2), pick(3)],
            5 => vec![pick(1), None, pick(2)],
            6 => vec![pick(2), pick(1)],
            7 => vec![pick(1), pick(1)],
            n if n % 3 == 0 => (0..n % 5 + 1).map(|k| pick(n + k * 2)).collect(),
            n => (0..n % 4 + 1).map(|k| if k == n % 7 { None } else { pick(n * 3 + k) }).collect(),
        })
    }
}

fn base64(hex: &str) -> String {
    use base64::Engine;
    let digits = hex.trim_start_matches("\\x").as_bytes();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// JSON text with the values that are written as they are put in.
pub fn raw(event: &Value) -> String {
    let text = event.to_string();
    let mut out = String::new();
    for (n, part) in text.split("\"\\u0001").enumerate() {
        if n == 0 {
            out.push_str(part);
            continue;
        }
        let (inner, rest) = part.split_once("\\u0002\"").expect("it is closed");
        let inner: String =
            serde_json::from_str(&format!("\"{inner}\"")).expect("it was written so");
        out.push_str(&inner);
        out.push_str(rest);
    }
    out
}
