//! How entries are written: `{type}` and `{type:2}` are columns of the grid, at the first or another
//! place. Where an argument is a word of a language of its own (a field of a date, a pattern), the words
//! are listed here.

use super::entries::{Entry, Kind};

const FIELDS: [&str; 21] = [
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "quarter",
    "week",
    "dow",
    "isodow",
    "doy",
    "isoyear",
    "epoch",
    "decade",
    "century",
    "millennium",
    "millisecond",
    "microsecond",
    "julian",
    "timezone",
    "nonsense",
];
const ZONES: [&str; 6] =
    ["Europe/Berlin", "America/New_York", "UTC", "+02:30", "Asia/Kolkata", "Nowhere/Town"];
const TIME_PATTERNS: [&str; 12] = [
    "YYYY-MM-DD HH24:MI:SS",
    "YYYY-MM-DD\"T\"HH24:MI:SS.US",
    "DD.MM.YY",
    "FMDay, FMDD FMMonth YYYY",
    "Dy DD Mon",
    "HH12:MI AM",
    "IYYY-IW-ID",
    "DDD Q CC J",
    "YYYY Y,YYY MS FF3",
    "FMMM/FMDD/YY",
    "MONTH month DAY day D",
    "RM SSSS WW W",
];
const NUMBER_PATTERNS: [&str; 12] = [
    "999",
    "9999.99",
    "0000.00",
    "FM999990.00",
    "9,999,999.99",
    "S9999",
    "9999MI",
    "9999PR",
    "RN",
    "9.99EEEE",
    "L99",
    "99V99",
];
const PARSE_PATTERNS: [&str; 8] = [
    "YYYY-MM-DD",
    "YYYY-MM-DD HH24:MI:SS",
    "DD.MM.YYYY",
    "YYYYMMDD",
    "Mon DD YYYY",
    "YYYY-DDD",
    "YYYY-MM-DD HH24:MI:SS.MS",
    "HH12:MI:SS AM",
];
const REGEXES: [&str; 12] = [
    "a",
    "^a",
    "[a-c]+",
    "foo|foobar",
    "(foo)(bar)?",
    "\\d+",
    "o+?",
    "(?i)ABC",
    ".",
    "b$",
    "[[:alpha:]]+",
    "(",
];
const ENCODINGS: [&str; 4] = ["hex", "base64", "escape", "rot13"];

/// Constructs that are no function, operator or cast of the catalogue.
const CONSTRUCTS: &[(&str, &str)] = &[
    ("coalesce({integer}, {integer:2})", "integer"),
    ("coalesce({integer}, {bigint:2})", "bigint"),
    ("coalesce({integer}, {numeric:2})", "numeric"),
    ("coalesce({date}, {timestamp without time zone:2})", "timestamp without time zone"),
    ("nullif({text}, {text:2})", "text"),
    ("nullif({integer}, {bigint:2})", "integer"),
    ("greatest({integer}, {integer:2}, {integer:3})", "integer"),
    ("least({double precision}, {double precision:2})", "double precision"),
    ("greatest({text}, {text:2})", "text"),
    ("least({numeric}, {integer:2})", "numeric"),
    ("greatest({interval}, {interval:2})", "interval"),
    ("CASE WHEN {boolean} THEN {integer:2} ELSE {numeric:3} END", "numeric"),
    ("CASE {integer} WHEN 1 THEN 'one' WHEN 2 THEN 'two' END", "text"),
    ("{boolean} IS TRUE", "boolean"),
    ("{boolean} IS NOT FALSE", "boolean"),
    ("{boolean} IS UNKNOWN", "boolean"),
    ("{boolean} AND {boolean:2}", "boolean"),
    ("{boolean} OR {boolean:2}", "boolean"),
    ("NOT {boolean}", "boolean"),
    ("{integer} IS DISTINCT FROM {integer:2}", "boolean"),
    ("{double precision} IS NOT DISTINCT FROM {double precision:2}", "boolean"),
    ("{integer} BETWEEN {integer:2} AND {integer:3}", "boolean"),
    ("{text} BETWEEN SYMMETRIC {text:2} AND {text:3}", "boolean"),
    ("{integer} IN (1, 2, NULL)", "boolean"),
    ("{integer} NOT IN (1, 2, NULL)", "boolean"),
    ("{numeric} IN (1, 0.5)", "boolean"),
    ("{text} LIKE {pattern:2}", "boolean"),
    ("{text} NOT LIKE {pattern:2}", "boolean"),
    ("{text} ILIKE {pattern:2}", "boolean"),
    ("{text} LIKE {pattern:2} ESCAPE '#'", "boolean"),
    ("{text} LIKE 'a#%%' ESCAPE '#'", "boolean"),
    ("{text} SIMILAR TO '(a|b)%'", "boolean"),
    ("{text} SIMILAR TO 'abc'", "boolean"),
    ("{text} SIMILAR TO '_b_'", "boolean"),
    ("{text} NOT SIMILAR TO '%(o|b)+%'", "boolean"),
    ("{integer} = ANY ({integer[]:2})", "boolean"),
    ("{integer} <> ALL ({integer[]:2})", "boolean"),
    ("{integer} < ANY ({integer[]:2})", "boolean"),
    ("{text} = ANY ({text[]:2})", "boolean"),
    ("{integer[]}[{small:2}]", "integer"),
    ("({text[]})[1]", "text"),
    ("({integer[]})[2:3]", "integer[]"),
    ("({integer[]})[:2]", "integer[]"),
    ("({integer[]})[{small:2}:{small:3}]", "integer[]"),
    ("ARRAY[{integer}, {integer:2}, 7]", "integer[]"),
    ("ARRAY[{integer}, {numeric:2}]", "numeric[]"),
    ("ROW({integer}, {text:2}) = ROW({integer:2}, {text})", "boolean"),
    ("({integer}, {integer:2}) < ({integer:2}, {integer:3})", "boolean"),
    ("ROW({integer}, {integer:2}) IS NULL", "boolean"),
    ("ROW({integer}, {integer:2}) IS NOT NULL", "boolean"),
    ("CAST({numeric} AS NUMERIC(10,2))", "numeric"),
    ("CAST({numeric} AS NUMERIC(10,0))", "numeric"),
    ("CAST({numeric} AS NUMERIC(3))", "numeric"),
    ("CAST({double precision} AS NUMERIC(12,3))", "numeric"),
    ("CAST({real} AS NUMERIC(12,3))", "numeric"),
    ("CAST({numeric text} AS NUMERIC(10,2))", "numeric"),
    ("CAST({text} AS VARCHAR(3))", "character varying"),
    ("CAST({integer} AS VARCHAR(3))", "character varying"),
    ("CAST({text} AS CHAR(4)) = 'a'", "boolean"),
    ("CAST({timestamp without time zone} AS TIMESTAMP(0))", "timestamp without time zone"),
    ("CAST({timestamp without time zone} AS TIMESTAMP(3))", "timestamp without time zone"),
    ("CAST({timestamp with time zone} AS TIMESTAMP(1) WITH TIME ZONE)", "timestamp with time zone"),
    ("CAST({timestamp text} AS TIMESTAMP(3))", "timestamp without time zone"),
    ("-{integer} ^ 2", "double precision"),
    ("{small} ^ 2 ^ 0.5", "double precision"),
    ("-{integer} % 3", "integer"),
    ("{integer} * 1000000000", "integer"),
    ("{integer} + 1", "integer"),
    ("{smallint} + 1", "integer"),
    ("{integer} / 2", "integer"),
    ("{bigint} / 3.0", "numeric"),
    ("{integer} / 3.0", "numeric"),
    ("{numeric} * 1.5", "numeric"),
    ("1e5::double precision + {double precision}", "double precision"),
    ("{double precision} * 0.1", "double precision"),
    ("{double precision} < 1000000000.5", "boolean"),
    ("{real} = 0.1", "boolean"),
    ("{real} + 0.1", "double precision"),
    ("{integer} + 0.5", "numeric"),
    ("{date} + 1", "date"),
    ("{date} + INTERVAL '1 month'", "timestamp without time zone"),
    ("{date} + INTERVAL '1 hour'", "timestamp without time zone"),
    (
        "{timestamp without time zone} - INTERVAL '1 month 1 day 1 hour'",
        "timestamp without time zone",
    ),
    ("{timestamp without time zone} > '2024-01-01'", "boolean"),
    ("{date} >= '2024-02-29'", "boolean"),
    ("{timestamp with time zone} < '2024-03-31 03:00:00+02'", "boolean"),
    ("INTERVAL '1 day' = INTERVAL '24 hours'", "boolean"),
    (
        "extract(hour FROM {timestamp without time zone} - {timestamp without time zone:2})",
        "numeric",
    ),
    ("{text} || {integer:2}", "text"),
    ("{text} COLLATE \"C\" < {text:2}", "boolean"),
    ("{json} -> 'a' ->> 'd'", "text"),
    ("{json} -> 1", "json"),
    ("{json} #>> '{b,1,c}'", "text"),
    ("{jsonb} @> '{\"a\": 1}'", "boolean"),
    ("{jsonb} ? 'a'", "boolean"),
    ("(SELECT max(x) FROM unnest({integer[]}) AS u(x))", "integer"),
];

pub fn constructs() -> Vec<Entry> {
    let of = |(template, result): &(&str, &str)| Entry {
        kind: Kind::Construct,
        title: String::new(),
        name: template.to_string(),
        arguments: Vec::new(),
        result: result.to_string(),
        returns_set: false,
    };
    CONSTRUCTS.iter().map(of).collect()
}

/// The expressions that try an entry.
pub fn expressions(entry: &Entry) -> Vec<String> {
    if let Some(forms) = special(entry) {
        return forms;
    }
    let arguments: Vec<String> = entry
        .arguments
        .iter()
        .enumerate()
        .map(|(n, t)| match n {
            0 => format!("{{{t}}}"),
            n => format!("{{{t}:{}}}", n + 1),
        })
        .collect();
    let list = arguments.join(", ");
    let name = &entry.name;
    vec![match entry.kind {
        Kind::Function | Kind::Aggregate => format!("{name}({list})"),
        Kind::Window => return over_windows(&format!("{name}({list})")),
        Kind::OrderedSetAggregate => format!("{name}() WITHIN GROUP (ORDER BY {list})"),
        Kind::Cast => {
            let target = &entry.arguments[1];
            let source = match entry.arguments[0].as_str() {
                "text" => match target.as_str() {
                    "smallint" | "integer" | "bigint" => "{integer text}".to_string(),
                    "real" | "double precision" => "{float text}".to_string(),
                    "character" | "character varying" => "{text}".to_string(),
                    "time without time zone" => "{time text}".to_string(),
                    "timestamp without time zone" | "timestamp with time zone" => {
                        "{timestamp text}".to_string()
                    }
                    "json" | "jsonb" => "{json text}".to_string(),
                    "numeric[]" => "{integer[] text}".to_string(),
                    other => format!("{{{other} text}}"),
                },
                other => format!("{{{other}}}"),
            };
            format!("CAST({source} AS {target})")
        }
        Kind::Construct => name.clone(),
        Kind::Operator => match arguments.as_slice() {
            [only] => format!("({name} {only})"),
            [left, right] => format!("({left} {name} {right})"),
            other => panic!("an operator of {other:?}"),
        },
    }]
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A template with each of these words in the place of `@`.
fn with<'a>(words: impl IntoIterator<Item = &'a &'a str>, template: &str) -> Vec<String> {
    words.into_iter().map(|word| template.replace('@', &quoted(word))).collect()
}

fn list(templates: &[&str]) -> Vec<String> {
    templates.iter().map(|t| t.to_string()).collect()
}

/// A call over frames of rows and of peers.
fn over_windows(call: &str) -> Vec<String> {
    vec![
        format!(
            "{call} OVER (PARTITION BY bag ORDER BY n ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)"
        ),
        format!("{call} OVER (PARTITION BY bag ORDER BY n DESC)"),
        format!(
            "{call} OVER (PARTITION BY bag ORDER BY n ROWS BETWEEN 2 FOLLOWING AND 3 FOLLOWING)"
        ),
    ]
}

/// Window functions that take their arguments in a way of their own.
fn window(entry: &Entry) -> Option<Vec<String>> {
    const PEERS: [&str; 8] = [
        "integer",
        "text",
        "numeric",
        "double precision",
        "interval",
        "timestamp with time zone",
        "boolean",
        "uuid",
    ];
    let name = &entry.name;
    let t = entry.arguments.first().map_or("integer", String::as_str);
    let ordered = |call: String| format!("{call} OVER (PARTITION BY bag ORDER BY {{{t}:2}}, n)");
    Some(match name.as_str() {
        "rank" | "dense_rank" | "percent_rank" | "cume_dist" => {
            let over = |t: &&str| format!("{name}() OVER (PARTITION BY bag ORDER BY {{{t}}} DESC)");
            PEERS.iter().map(over).collect()
        }
        "row_number" => {
            let over =
                |t: &&str| format!("row_number() OVER (PARTITION BY bag ORDER BY {{{t}}}, n)");
            PEERS.iter().map(over).collect()
        }
        "ntile" => list(&["ntile(3)", "ntile(100)", "ntile(1)"]).into_iter().map(ordered).collect(),
        "lag" | "lead" if entry.arguments.len() > 1 => {
            let default =
                if entry.arguments.len() > 2 { format!(", {{{t}:2}}") } else { String::new() };
            let call = |offset: &&str| ordered(format!("{name}({{{t}}}, {offset}{default})"));
            ["0", "2", "-1", "NULL::integer"].iter().map(call).collect()
        }
        "nth_value" => {
            let call = |n: &&str| over_windows(&format!("nth_value({{{t}}}, {n})"));
            ["1", "2", "0"].iter().flat_map(call).collect()
        }
        "count" if entry.arguments.is_empty() => over_windows("count(*)"),
        _ => return None,
    })
}

fn special(entry: &Entry) -> Option<Vec<String>> {
    let types: Vec<&str> = entry.arguments.iter().map(String::as_str).collect();
    let second = types.get(1).copied().unwrap_or_default();
    let first = types.first().copied().unwrap_or_default();
    let as_second = format!("{{{second}}}");
    if entry.kind == Kind::Window {
        return window(entry);
    }
    if entry.kind == Kind::Operator {
        return match (entry.name.as_str(), types.as_slice()) {
            ("~" | "~*" | "!~" | "!~*", [left, right]) if *right == "text" => {
                Some(with(&REGEXES, &format!("({{{left}}} {} @)", entry.name)))
            }
            ("~~" | "!~~" | "~~*" | "!~~*", [left, right]) if *right == "text" => {
                Some(vec![format!("({{{left}}} {} {{pattern:2}})", entry.name)])
            }
            ("->" | "->>", ["json" | "jsonb", "text"]) => {
                Some(with(&["a", "b", "", "c"], &format!("({{{first}}} {} @)", entry.name)))
            }
            ("->" | "->>", ["json" | "jsonb", "integer"]) => {
                Some(vec![format!("({{{first}}} {} {{small:2}})", entry.name)])
            }
            ("#>" | "#>>" | "#-", ["json" | "jsonb", _]) => Some(
                ["{a}", "{b,1,c}", "{}", "{a,d}", "{1}", "{-1}", "{b,-1}"]
                    .iter()
                    .map(|p| format!("({{{first}}} {} {})", entry.name, quoted(p)))
                    .collect(),
            ),
            ("-", ["jsonb", "text"]) => Some(with(&["a", "b", "zz"], "({jsonb} - @)")),
            ("-", ["jsonb", "text[]"]) => Some(list(&["({jsonb} - ARRAY['a', 'b'])"])),
            ("?", _) => Some(with(&["a", "b", "text"], "({jsonb} ? @)")),
            ("?|" | "?&", _) => Some(vec![format!("({{jsonb}} {} ARRAY['a', 'b'])", entry.name)]),
            ("<<" | ">>", _) => Some(vec![format!("({{{first}}} {} {{small:2}})", entry.name)]),
            _ => None,
        };
    }
    if entry.kind == Kind::OrderedSetAggregate {
        let value = entry.arguments.last().map(|t| format!("{{{t}}}")).unwrap_or_default();
        return Some(match (entry.name.as_str(), first) {
            ("mode", _) => vec![format!("mode() WITHIN GROUP (ORDER BY {value})")],
            ("percentile_cont" | "percentile_disc", "double precision") => {
                let of = |p: &&str| format!("{}({p}) WITHIN GROUP (ORDER BY {value})", entry.name);
                ["0", "0.25", "0.5", "0.999", "1", "1.5", "NULL::double precision"]
                    .iter()
                    .map(of)
                    .collect()
            }
            ("percentile_cont" | "percentile_disc", _) => {
                vec![format!(
                    "{}(ARRAY[0.1, 0.5, NULL, 1]) WITHIN GROUP (ORDER BY {value})",
                    entry.name
                )]
            }
            (_, "integer") => list(&["@(3) WITHIN GROUP (ORDER BY {integer})"])
                .iter()
                .map(|t| t.replace('@', &entry.name))
                .collect(),
            (_, "text") => vec![format!("{}('b') WITHIN GROUP (ORDER BY {{text}})", entry.name)],
            _ => vec![format!("{}(1.5) WITHIN GROUP (ORDER BY {{numeric}})", entry.name)],
        });
    }
    if entry.kind == Kind::Aggregate {
        return match (entry.name.as_str(), types.as_slice()) {
            ("count", []) => Some(list(&["count(*)"])),
            ("array_agg" | "json_agg" | "jsonb_agg", [t]) => {
                Some(vec![format!("{}({{{t}}} ORDER BY n)", entry.name)])
            }
            ("string_agg", ["text", _]) => Some(list(&[
                "string_agg({text}, ', ' ORDER BY n)",
                "string_agg({text}, {text:2} ORDER BY n)",
            ])),
            ("string_agg", _) => Some(list(&["string_agg({bytea}, {bytea:2} ORDER BY n)"])),
            ("json_object_agg" | "jsonb_object_agg", [t, _]) => {
                Some(vec![format!("{}({{{t}}}, {{{t}:2}} ORDER BY n)", entry.name)])
            }
            ("sum", [t]) | ("avg", [t]) | ("count", [t]) => Some(vec![
                format!("{}({{{t}}})", entry.name),
                format!("{}(DISTINCT {{{t}}})", entry.name),
                format!("{}({{{t}}}) FILTER (WHERE n % 2 = 0)", entry.name),
            ]),
            _ => None,
        };
    }
    if entry.kind != Kind::Function {
        return None;
    }
    Some(match (entry.name.as_str(), types.as_slice()) {
        ("date_part", _) => with(&FIELDS, &format!("date_part(@, {as_second})")),
        ("extract", _) => FIELDS.iter().map(|f| format!("extract({f} FROM {as_second})")).collect(),
        ("date_trunc", [_, _]) => with(&FIELDS, &format!("date_trunc(@, {as_second})")),
        ("date_trunc", _) => with(
            &["day", "hour", "week", "month", "year"],
            &format!("date_trunc(@, {as_second}, 'Europe/Berlin')"),
        )
        .into_iter()
        .chain(with(&ZONES, &format!("date_trunc('day', {as_second}, @)")))
        .collect(),
        ("date_bin", _) => with(
            &["15 minutes", "1 day", "7 days", "1 month", "-1 hour", "0.3 seconds"],
            &format!("date_bin(INTERVAL @, {as_second}, {{{second}:2}})"),
        ),
        ("timezone", ["text", _]) => with(&ZONES, &format!("{as_second} AT TIME ZONE @"))
            .into_iter()
            .chain(with(&ZONES[..1], &format!("timezone(@, {as_second})")))
            .collect(),
        ("timezone", _) => {
            with(&["2 hours", "-05:30"], &format!("{as_second} AT TIME ZONE INTERVAL @"))
        }
        ("to_char", [t, _]) => {
            let patterns: &[&str] = match *t {
                "integer" | "bigint" | "numeric" | "real" | "double precision" => &NUMBER_PATTERNS,
                _ => &TIME_PATTERNS,
            };
            with(patterns, &format!("to_char({{{t}}}, @)"))
        }
        ("to_date", _) => with(&PARSE_PATTERNS, "to_date({timestamp words}, @)"),
        ("to_timestamp", [_, _]) => with(&PARSE_PATTERNS, "to_timestamp({timestamp words}, @)"),
        ("to_number", _) => {
            with(&["999", "9G999D99", "S999", "999.99MI", "L99.99"], "to_number({number words}, @)")
        }
        ("encode", _) => with(&ENCODINGS, "encode({bytea}, @)"),
        ("decode", _) => with(&ENCODINGS, "decode({text}, @)"),
        ("normalize", _) => {
            list(&["normalize({text}, NFC)", "normalize({text}, NFKD)", "normalize({text})"])
        }
        ("is_normalized", _) => list(&["{text} IS NFC NORMALIZED", "{text} IS NORMALIZED"]),
        ("position", [t, _]) => vec![format!("position({{{t}:2}} IN {{{t}}})")],
        ("strpos", _) => list(&["strpos({text}, {text:2})"]),
        ("overlay", [t, _, _]) => {
            vec![format!("overlay({{{t}}} PLACING {{{t}:2}} FROM {{small:3}})")]
        }
        ("overlay", [t, ..]) => {
            vec![format!("overlay({{{t}}} PLACING {{{t}:2}} FROM {{small:3}} FOR {{small:4}})")]
        }
        ("substring", ["text", "text"]) => with(&REGEXES, "substring({text} FROM @)"),
        ("substring", ["text", "text", "text"]) => list(&[
            "substring({text} FROM 'a#\"%#\"c' FOR '#')",
            "substring({text} SIMILAR '%#\"o_b#\"%' ESCAPE '#')",
        ]),
        ("substring", [t, _]) => vec![
            format!("substring({{{t}}}, {{small:2}})"),
            format!("substring({{{t}}} FROM {{integer:2}})"),
        ],
        ("substring", [t, ..]) => vec![
            format!("substring({{{t}}}, {{small:2}}, {{small:3}})"),
            format!("substring({{{t}}} FROM {{small:2}} FOR {{integer:3}})"),
        ],
        ("substr", [t, _]) => vec![format!("substr({{{t}}}, {{integer:2}})")],
        ("substr", [t, ..]) => vec![format!("substr({{{t}}}, {{small:2}}, {{integer:3}})")],
        ("btrim", [t, _]) => {
            vec![format!("btrim({{{t}}}, {{{t}:2}})"), format!("trim(BOTH {{{t}:2}} FROM {{{t}}})")]
        }
        ("ltrim", [t, _]) => vec![
            format!("ltrim({{{t}}}, {{{t}:2}})"),
            format!("trim(LEADING {{{t}:2}} FROM {{{t}}})"),
        ],
        ("rtrim", [t, _]) => vec![
            format!("rtrim({{{t}}}, {{{t}:2}})"),
            format!("trim(TRAILING {{{t}:2}} FROM {{{t}}})"),
        ],
        ("btrim", [t]) => vec![format!("btrim({{{t}}})"), format!("trim({{{t}}})")],
        ("split_part", _) => {
            list(&["split_part({text}, ',', {small:2})", "split_part({text}, {text:2}, {small:3})"])
        }
        ("repeat", _) => list(&["repeat({text}, {small:2})"]),
        ("lpad" | "rpad", [_, _]) => vec![format!("{}({{text}}, {{small:2}})", entry.name)],
        ("lpad" | "rpad", _) => vec![format!("{}({{text}}, {{small:2}}, {{text:3}})", entry.name)],
        (
            "regexp_count"
            | "regexp_instr"
            | "regexp_like"
            | "regexp_match"
            | "regexp_matches"
            | "regexp_substr"
            | "regexp_split_to_array"
            | "regexp_split_to_table",
            types,
        ) => {
            let call = |pattern: &&str, flags: &str| {
                let mut arguments = vec!["{text}".to_string(), quoted(pattern)];
                for (n, t) in types.iter().enumerate().skip(2) {
                    arguments.push(match (*t, n) {
                        ("text", _) => quoted(flags),
                        (_, 2) => "1".to_string(),
                        (_, 3) => "{small:2}".to_string(),
                        (_, _) => "{small:3}".to_string(),
                    });
                }
                format!("{}({})", entry.name, arguments.join(", "))
            };
            let flags: &[&str] = match types.contains(&"text") && types[2..].contains(&"text") {
                true => &["i", "g", "n", "x", "z"],
                false => &[""],
            };
            let all = flags.iter().flat_map(|f| REGEXES.iter().map(move |p| (p, f)));
            all.enumerate()
                .filter(|(n, _)| flags.len() == 1 || n % 3 == 0)
                .map(|(_, (p, f))| call(p, f))
                .collect()
        }
        ("regexp_replace", types) => {
            let call = |pattern: &&str, flags: &str, to: &str| {
                let mut arguments = vec!["{text}".to_string(), quoted(pattern), quoted(to)];
                for (n, t) in types.iter().enumerate().skip(3) {
                    arguments.push(match (*t, n) {
                        ("text", _) => quoted(flags),
                        (_, 3) => "1".to_string(),
                        (_, _) => "{small:2}".to_string(),
                    });
                }
                format!("regexp_replace({})", arguments.join(", "))
            };
            REGEXES
                .iter()
                .flat_map(|p| [call(p, "g", "<\\&>"), call(p, "gi", "[\\1]"), call(p, "", "$1")])
                .collect()
        }
        ("starts_with", _) => list(&["starts_with({text}, {text:2})"]),
        ("string_to_array" | "string_to_table", [_, _]) => ["', '", "','", "NULL", "''", "'a'"]
            .iter()
            .map(|d| format!("{}({{text}}, {d})", entry.name))
            .collect(),
        ("string_to_array" | "string_to_table", _) => {
            ["','", "NULL"].iter().map(|d| format!("{}({{text}}, {d}, 'a')", entry.name)).collect()
        }
        ("array_to_string", [t, _]) => vec![format!("array_to_string({{{t}}}, ',')")],
        ("array_to_string", [t, ..]) => vec![
            format!("array_to_string({{{t}}}, ',', '*')"),
            format!("array_to_string({{{t}}}, {{text:2}}, {{text:3}})"),
        ],
        ("format", ["text"]) => list(&["format('plain')", "format('100%%')", "format({text})"]),
        ("format", ["text", rest @ ..]) => {
            let args: Vec<String> =
                rest.iter().enumerate().map(|(n, t)| format!("{{{t}:{}}}", n + 1)).collect();
            ["%s", "%I %L", "%1$s %1$L", "%10s|%-5s", "%%"]
                .iter()
                .map(|f| format!("format({}, {})", quoted(f), args.join(", ")))
                .collect()
        }
        ("json_build_object" | "jsonb_build_object", []) => vec![format!("{}()", entry.name)],
        ("concat_ws", ["text", rest @ ..]) => {
            let args: Vec<String> =
                rest.iter().enumerate().map(|(n, t)| format!("{{{t}:{}}}", n + 1)).collect();
            vec![
                format!("concat_ws(', ', {})", args.join(", ")),
                format!("concat_ws(NULL, {})", args.join(", ")),
            ]
        }
        ("generate_series", [a, ..]) if a.starts_with("timestamp") => {
            ["1 day", "1 month", "-1 hour", "0"]
                .iter()
                .map(|step| {
                    format!(
                        "generate_series({{{a}}}, {{{a}}} + INTERVAL '3 days', INTERVAL '{step}')"
                    )
                })
                .collect()
        }
        ("generate_series", [t, _]) => {
            vec![format!("generate_series(CAST({{small}} AS {t}), CAST({{small:2}} AS {t}))")]
        }
        ("generate_series", [t, ..]) => vec![format!(
            "generate_series(CAST({{small}} AS {t}), CAST({{small:2}} AS {t}), CAST({{small:3}} AS {t}))"
        )],
        ("generate_subscripts", [t, _]) => vec![format!("generate_subscripts({{{t}}}, 1)")],
        ("generate_subscripts", [t, ..]) => {
            vec![format!("generate_subscripts({{{t}}}, 1, {{boolean:2}})")]
        }
        ("array_fill", [t, _]) => vec![format!("array_fill({{{t}}}, ARRAY[{{small:2}}])")],
        ("array_fill", [t, ..]) => {
            vec![format!("array_fill({{{t}}}, ARRAY[{{small:2}}], ARRAY[1])")]
        }
        ("array_length" | "array_lower" | "array_upper" | "trim_array", [t, _]) => vec![
            format!("{}({{{t}}}, 1)", entry.name),
            format!("{}({{{t}}}, {{small:2}})", entry.name),
        ],
        ("array_position", [t, e, _]) => {
            vec![format!("array_position({{{t}}}, {{{e}:2}}, {{small:3}})")]
        }
        ("make_date", _) => list(&["make_date({year}, {month:2}, {day:3})"]),
        ("make_time", _) => list(&["make_time({hour}, {minute:2}, {second:3})"]),
        ("make_timestamp", _) => {
            list(&["make_timestamp({year}, {month:2}, {day:3}, {hour:4}, {minute:5}, {second:6})"])
        }
        ("make_timestamptz", types) => match types.len() {
            6 => list(&[
                "make_timestamptz({year}, {month:2}, {day:3}, {hour:4}, {minute:5}, {second:6})",
            ]),
            _ => list(&[
                "make_timestamptz({year}, {month:2}, {day:3}, {hour:4}, {minute:5}, {second:6}, 'Europe/Berlin')",
            ]),
        },
        ("make_interval", _) => list(&[
            "make_interval({small}, {small:2}, {small:3}, {small:4}, {small:5}, {small:6}, {second:7})",
            "make_interval(days => {small})",
        ]),
        ("jsonb_set" | "jsonb_insert", _) => ["{a}", "{b,0}", "{z}", "{b,1,c}"]
            .iter()
            .flat_map(|p| {
                [
                    format!("{}({{jsonb}}, '{p}', '\"new\"')", entry.name),
                    format!("{}({{jsonb}}, '{p}', '[1]', {{boolean:2}})", entry.name),
                ]
            })
            .collect(),
        ("jsonb_set_lax", _) => list(&[
            "jsonb_set_lax({jsonb}, '{a}', NULL, true, 'delete_key')",
            "jsonb_set_lax({jsonb}, '{a}', '1')",
        ]),
        (
            "json_extract_path"
            | "json_extract_path_text"
            | "jsonb_extract_path"
            | "jsonb_extract_path_text",
            _,
        ) => {
            vec![
                format!("{}({{{first}}}, 'a')", entry.name),
                format!("{}({{{first}}}, 'b', '1', 'c')", entry.name),
            ]
        }
        ("json_object" | "jsonb_object", _) if types.len() == 1 => {
            vec![format!("{}(ARRAY['a', {{text}}, 'b', {{text:2}}])", entry.name)]
        }
        ("parse_ident", _) => list(&["parse_ident({text})"]),
        ("width_bucket", [_, _, _, _]) => vec![
            format!("width_bucket({{{first}}}, 0, 10, 5)"),
            format!("width_bucket({{{first}}}, {{{first}:2}}, {{{first}:3}}, {{small:4}})"),
        ],
        ("width_bucket", ["integer", _]) => list(&["width_bucket({integer}, ARRAY[1, 3, 10])"]),
        ("get_bit", _) => list(&["get_bit({bytea}, CAST({small:2} AS BIGINT))"]),
        ("get_byte", _) => list(&["get_byte({bytea}, {small:2})"]),
        ("set_bit", _) => list(&["set_bit({bytea}, CAST({small:2} AS BIGINT), {small:3})"]),
        ("set_byte", _) => list(&["set_byte({bytea}, {small:2}, {integer:3})"]),
        ("overlaps", [a, b, c, d]) => {
            vec![format!("({{{a}}}, {{{b}:2}}) OVERLAPS ({{{c}:3}}, {{{d}:4}})")]
        }
        ("round" | "trunc", ["numeric", "integer"]) => vec![
            format!("{}({{numeric}}, 2)", entry.name),
            format!("{}({{numeric}}, 0)", entry.name),
            format!("{}({{numeric}}, -2)", entry.name),
            format!("{}({{numeric}}, {{small:2}})", entry.name),
        ],
        ("json_each" | "json_each_text" | "jsonb_each" | "jsonb_each_text", _) => return None,
        _ => return None,
    })
}
