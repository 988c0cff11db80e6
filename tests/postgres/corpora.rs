//! Languages of their own inside SQL, each with a corpus: how values of types are written, regular expressions,
//! LIKE and SIMILAR TO, patterns of `to_char` and its inverses, the precedence of operators. Texts are in a table
//! `inputs`, by what they are for; patterns are constants, drawn from a grammar.

use super::rng::Rng;

/// A text that expressions are tried with.
pub struct Input {
    /// What it is for: the name of its corpus.
    pub corpus: &'static str,
    pub text: String,
}

/// Expressions over `t`, the texts of a corpus.
pub struct Corpus {
    pub inputs: &'static str,
    /// The type of the expressions' values.
    pub result: &'static str,
    pub expressions: Vec<String>,
}

const DATES: &[&str] = &[
    "2024-02-29",
    "2024-2-9",
    "20240229",
    "240229",
    "Feb 29 2024",
    "29 Feb 2024",
    "29-Feb-2024",
    "Feb-29-2024",
    "February 29, 2024",
    "2024 Feb 29",
    "2024-Feb-29",
    "02/29/2024",
    "2/9/24",
    "29.02.2024",
    "2024.060",
    "2024-060",
    "J2460370",
    "2024-02-30",
    "2023-02-29",
    "2024-13-01",
    "2024-00-10",
    "0001-01-01",
    "0044-03-15 BC",
    "99-01-08",
    "1999-Jan-08",
    "08-Jan-99",
    "Jan 8, 99 BC",
    "9999-12-31",
    "2024-02-29 AD",
    "Thu Feb 29 2024",
    "Thursday, 29 February 2024",
    "epoch",
    "2024/02/29",
    "2024-2-29",
    "24-2-9",
    "1/8/1999",
    "13/1/1999",
    "19990108",
    "990108",
    "1999.008",
    "J2451187",
    " 2024-02-29 ",
    "2024-02-29x",
    "",
    "x",
    "2024",
    "2024-02",
    "Sept 1 2024",
    "tues 2024-01-02",
    "2024-06-31",
    "10000-01-01",
    "2024-02-29-",
    "-2024-02-29",
    "2024--02-29",
    "12-31-1999",
];
const TIMES: &[&str] = &[
    "10:30",
    "10:30:15",
    "10:30:15.123456",
    "10:30:15.1234567",
    "1030",
    "103015",
    "103015.5",
    "10:30 PM",
    "10:30PM",
    "12:00 AM",
    "12:30 am",
    "13:00 PM",
    "0:30 PM",
    "10:30:60",
    "10:30:59.9999999",
    "24:00:00",
    "24:00:01",
    "25:00",
    "10:60",
    "00:00",
    "T10:30:15",
    "t1030",
    "allballs",
    "10",
    "10 PM",
    "noon",
    ":30",
    "10:",
    "10:30:",
    "10:3",
    "1:2:3",
    "10.5",
    "23:59:59.999999",
    "10:30:15,5",
    "4:05 a.m.",
];
const ZONES: &[&str] = &[
    "Z",
    " UTC",
    "+02",
    "+02:30",
    "+0230",
    " -08:00",
    " Europe/Berlin",
    " PST",
    " America/New_York",
    "-3",
    "+14:59",
    "+15:59",
    "+16:00",
    " zulu",
    " EST5EDT",
    " CEST",
    " MSK",
    "+02:30:15",
    " GMT+3",
    " europe/berlin",
    " Nowhere/Town",
];
const INTERVALS: &[&str] = &[
    "1 day",
    "1 days",
    "1d",
    "1 day 2 hours",
    "1 day 2 hours ago",
    "@ 1 minute",
    "@ 1 day ago",
    "P1Y2M3DT4H5M6S",
    "P1Y2M3DT4H5M6.5S",
    "P0001-02-03T04:05:06",
    "P1W",
    "PT36H",
    "P-1D",
    "-P1D",
    "P1.5D",
    "P",
    "PT",
    "P1Y2",
    "1-2",
    "-1-2",
    "1 2:03:04",
    "-1 2:03:04",
    "1 2:03",
    "1.5 months",
    "0.5 year",
    "1.5 years",
    "1 week",
    "1.5 weeks",
    "2 decades",
    "1 century",
    "1 millennium",
    "1 mil",
    "1.5 hours",
    "1:2",
    "1:2:3",
    "1:2:3.5",
    "10",
    "-10",
    "1.5",
    "1 mon -1 day",
    "3 days 04:05",
    "3 days -04:05",
    "-3 days +04:05",
    "1 fortnight",
    "1e3 seconds",
    "1e3",
    "99999 days",
    "9999999999 days",
    "1us",
    "5 ms",
    "5 milliseconds",
    "5 microsecond",
    "5 msec",
    "5 usec",
    ".5 day",
    "-.5s",
    "+3h",
    "3 h",
    "1 y 2 mons",
    "1year",
    "1 yr",
    "1 mon",
    "1 min",
    "1 m",
    "1 sec",
    "1 s",
    "1 second 1 second",
    "1 day 1 day",
    "day",
    "1 1 day",
    "1 day 10",
    "10 1 day",
    "1 hour 30",
    "0",
    "",
    " 1 day ",
    "1  day",
    "1day2hours",
    "1 day, 2 hours",
    "quarter",
    "1 quarter",
    "178000000 years",
    "1 dec",
    "1 c",
    "2 cent",
    "infinity",
    "epoch",
    "1 day ago 2 hours",
    "-1 day ago",
    "4:05:06.789",
    "1:60:00",
    "1:00:60",
    "100:00:00",
    "-0:30",
    "1 day -0:30",
    "1.123456789 s",
    "0.0000005 s",
    "0.0000015 s",
    "1.1 months",
    "1.05 months",
    "0.1 months",
    "2.3 years",
    "0.07 weeks",
    "1 12",
    "1 12:",
    "1 month 1.5 days",
    "2 hours 61 minutes",
];
const JSONS: &[&str] = &[
    "{\"a\":1}",
    " [1 , 2] ",
    "1e5",
    "1E+2",
    "-0",
    "0",
    "01",
    ".5",
    "1.",
    "1.50",
    "-",
    "+1",
    "\"\\u00e9\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\ude00\"",
    "\"\\u0000\"",
    "{a:1}",
    "{\"a\":1,}",
    "[1,]",
    "[,1]",
    "nul",
    "null",
    "true",
    "True",
    "NaN",
    "{\"a\":1,\"a\":2}",
    "{\"b\":1,\"a\":2,\"aa\":3}",
    "\"tab\t\"",
    "\"tab\\t\"",
    "\"\\/\"",
    "\"\\x\"",
    "[]",
    "{}",
    "",
    "  ",
    "\"unterminated",
    "{\"a\" : {\"b\" : [ ]}}",
    "1 2",
    "12345678901234567890.123",
    "1e400",
    "1e-400",
    "100000e-5",
    "\"é\"",
    "\"\\u00E9\\n\"",
    "{\"\":0}",
    "[[[[]]]]",
    "{\"a\":[1,{\"b\":null}]}",
    "{\"a\" 1}",
    "{1:2}",
    "[1 2]",
    "'a'",
    "\"a\" ",
    "{\"a\":1}}",
    "0.10",
    "1.0",
    "-1.5e3",
    "1e",
    "1e+",
    "--1",
    "\n{\n\"a\"\n:\n1\n}\n",
    "[1,2,3,[4,[5]]]",
    "\"\\\"\\\\\"",
];
const ARRAYS: &[&str] = &[
    "{}",
    "{1,2}",
    "{ 1 , 2 }",
    "{1,NULL}",
    "{1,null}",
    "{\"1\",2}",
    "{{1,2},{3,4}}",
    "{{1,2},{3}}",
    "[0:1]={1,2}",
    "[1:2]={1,2}",
    "{1,}",
    "{,}",
    "{,1}",
    " {1} ",
    "{1}x",
    "{1",
    "1}",
    "",
    "{a,b}",
    "{\"a\",\"b c\"}",
    "{a b, c }",
    "{\"NULL\",NULL}",
    "{\"\"}",
    "{\"a\\\"b\"}",
    "{a\\,b}",
    "{\"a,b\"}",
    "{{}}",
    "{{},{}}",
    "{1.5}",
    "{ }",
    "{\"a\"b}",
    "{a\"b\"}",
    "{-1,+2}",
    "{1;2}",
    "{\\\\}",
    "{é,ß}",
];
const NUMBERS: &[&str] = &[
    "1",
    "+1",
    "-1",
    " 1 ",
    "1 2",
    "1_000",
    "0x1F",
    "0b1",
    "0o7",
    "1e3",
    "1E3",
    "1e-3",
    "1e+3",
    ".5",
    "5.",
    "-.5e1",
    "NaN",
    "nan",
    "+NaN",
    "inf",
    "Inf",
    "-inf",
    "infinity",
    "-Infinity",
    "+Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "1e38",
    "3.5e38",
    "1e-46",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "2147483647",
    "2147483648",
    "-2147483649",
    "32767",
    "32768",
    "-32769",
    "--1",
    "- 1",
    "",
    " ",
    "1.5",
    "1,5",
    "e5",
    "1e",
    "1e+",
    "1.2.3",
    "0",
    "-0",
    "-0.0",
    "00012",
    "0.1",
    "0.30000000000000004",
    "123456789.123456789",
    "1\t",
    "\n1",
    "one",
    "1a",
    "١",
    "1.e2",
    "+.1",
    ".",
    "+",
    "4.9e-324",
    "1.7976931348623157e308",
    "1.8e308",
    "16777217",
    "0.000001",
    "1e15",
    "1e16",
    "123456789012345678",
];
const BOOLEANS: &[&str] = &[
    "t", "true", "TRUE", "tr", "tru", "True", "y", "yes", "ye", "YES", "on", "o", "of", "off",
    "ON", "1", "0", "01", "10", " true ", "f", "false", "fa", "fals", "n", "no", "NO", "2", "",
    " ", "truex", "yess", "null", "-1", "1.0",
];
const UUIDS: &[&str] = &[
    "0193a1b2-0000-7000-8000-000000000001",
    "0193A1B2-0000-7000-8000-00000000000F",
    "{0193a1b2-0000-7000-8000-000000000001}",
    "0193a1b2000070008000000000000001",
    "0193-a1b2-0000-7000-8000-0000-0000-0001",
    "{0193a1b2000070008000000000000001}",
    "0193a1b2-0000-7000-8000-00000000000",
    "0193a1b2-0000-7000-8000-0000000000011",
    "0193a1b2-0000-7000-8000-00000000000g",
    "",
    "{0193a1b2-0000-7000-8000-000000000001",
    "0193a1b2-0000-7000-8000-000000000001}",
    " 0193a1b2-0000-7000-8000-000000000001",
    "01-93a1b2-0000-7000-8000-000000000001",
    "0193a1b2--0000-7000-8000-000000000001",
    "0193a1b20000-7000-8000-000000000001",
];
const BYTES: &[&str] = &[
    "\\x00ff",
    "\\xFF",
    "\\x0",
    "\\x",
    "\\x 0 1",
    "\\x00 ff",
    "\\xzz",
    "abc",
    "\\\\",
    "\\000\\001",
    "\\377",
    "\\400",
    "\\0",
    "a\\\\b",
    "é",
    "",
    "\\",
    "\\X00",
    "x00",
    "\\x0011gg",
    "\\x\n00",
];
const SUBJECTS: &[&str] = &[
    "",
    "a",
    "b",
    "ab",
    "aab",
    "abab",
    "abc",
    "ABC",
    "aB1",
    "foo bar",
    "foobar",
    "a.b",
    "a_b",
    "a%b",
    "100%",
    "line\nbreak",
    "tab\tx",
    "é",
    "Straße",
    "  pad  ",
    "a\\b",
    "(a)",
    "a-b_c",
    "xyz123",
    "aaaa",
    "bbb",
    "abcabc",
    "a|b",
    "[x]",
    "日本",
];
const INSTANTS: &[&str] = &[
    "2024-02-29 00:00:00",
    "2024-02-29 13:45:06.789012",
    "1999-12-31 23:59:59.999999",
    "2000-01-01 12:00:00",
    "0001-01-01 00:00:00",
    "9999-12-31 11:59:59.5",
    "1970-01-01 00:00:01",
    "2021-01-03 09:08:07.06",
    "2020-12-31 22:10:00",
    "1582-10-15 03:00:00",
    "0099-07-04 15:16:17",
    "2024-11-05 10:00:00.1",
];
const AMOUNTS: &[&str] = &[
    "0",
    "1",
    "-1",
    "0.5",
    "-0.5",
    "12",
    "123.456",
    "-123.456",
    "1234567.89",
    "0.001",
    "99.995",
    "-99.995",
    "4999",
    "3999",
    "1000000",
    "0.05",
    "-0.004",
    "9.99",
    "12345",
];

const REGEX_ATOMS: &[&str] = &[
    "a",
    "b",
    "ab",
    ".",
    "[ab]",
    "[^a]",
    "[a-c]",
    "[[:digit:]]",
    "[[:space:]]",
    "\\d",
    "\\w",
    "\\s",
    "\\D",
    "\\W",
    "(a|b)",
    "(?:ab)",
    "(a)",
    "(b|c)?",
    "x",
    "é",
    "\\.",
    "\\\\",
    "[.]",
    "[]a]",
    "[a\\]]",
    "()",
];
const REGEX_QUANTIFIERS: &[&str] =
    &["", "", "", "", "*", "+", "?", "{2}", "{1,}", "{1,2}", "{0}", "*?", "+?", "??", "{1,2}?"];
const REGEX_WHOLE: &[&str] = &[
    "^@$",
    "^@",
    "@$",
    "(?i)@",
    "(?:@)|b",
    "@|a",
    "(@)\\1",
    "\\m@",
    "@\\M",
    "\\y@\\y",
    "\\A@",
    "@\\Z",
    "a(?=@)",
    "a(?!@)",
    "(?<=a)@",
    "(?x) @ # note",
    "(?n)^@$",
    "***=@",
    "(?q)@",
    "@{",
    "[@",
    "(@",
    "@)",
    "*@",
    "\\u0061@",
    "\\x61",
    "(?s)@.",
    "\\Y@",
];
const LIKE_PARTS: &[&str] =
    &["a", "b", "%", "_", "\\%", "\\_", "\\\\", "\\a", "é", "ab", "A", "", "%%", "\\"];
const SIMILAR_PARTS: &[&str] = &[
    "a",
    "b",
    "%",
    "_",
    "(a|b)",
    "[ab]",
    "[^a]",
    "a*",
    "b+",
    "(ab)?",
    "a{2}",
    "b{1,2}",
    "|",
    "\\%",
    ".",
    "^",
    "$",
    "[[:alpha:]]",
    "(a%)*",
    "x{0,}",
];
const TIME_PARTS: &[&str] = &[
    "YYYY",
    "YYY",
    "YY",
    "Y",
    "Y,YYY",
    "IYYY",
    "IY",
    "I",
    "MM",
    "Mon",
    "MON",
    "mon",
    "Month",
    "MONTH",
    "month",
    "DD",
    "DDD",
    "D",
    "ID",
    "IDDD",
    "Day",
    "DAY",
    "day",
    "Dy",
    "DY",
    "dy",
    "W",
    "WW",
    "IW",
    "CC",
    "J",
    "Q",
    "RM",
    "rm",
    "HH",
    "HH12",
    "HH24",
    "MI",
    "SS",
    "MS",
    "US",
    "FF1",
    "FF2",
    "FF3",
    "FF4",
    "FF5",
    "FF6",
    "SSSS",
    "SSSSS",
    "AM",
    "am",
    "A.M.",
    "p.m.",
    "PM",
    "BC",
    "bc",
    "B.C.",
    "AD",
    "TZ",
    "tz",
    "TZH",
    "TZM",
    "OF",
    "FMDD",
    "FMMonth",
    "FMHH24",
    "DDth",
    "DDTH",
    "FMDDth",
    "YYYYth",
    "TMMonth",
    "TMDay",
    "\"text\"",
    "\"q\\\"q\"",
    "x",
    "é",
    "\\\"",
    "FX",
];
const TIME_GLUE: &[&str] = &["", "", "-", " ", ":", "/", ".", ", ", "T"];
const NUMBER_PARTS: &[&str] = &[
    "9", "9", "99", "0", "00", "999", "9,9", "G9", ".9", ".99", "D9", ".00", "S", "MI", "PR", "SG",
    "PL", "FM", "TH", "th", "V9", "EEEE", "RN", "rn", "L", "\"x\"", " ", "$", "-",
];
const PARSED_PARTS: &[&str] = &[
    "YYYY", "MM", "DD", "HH24", "MI", "SS", "Mon", "Month", "DDD", "YY", "US", "MS", "HH12", "AM",
    "FMMM", "FMDD", "Dy", "Day", "J", "Q", "WW", "IYYY", "IW", "ID", "SSSSS", "RM", "FX", "CC",
    "Y,YYY",
];
const OPERATORS: &[&str] = &[
    "^",
    "*",
    "/",
    "%",
    "+",
    "-",
    "&",
    "|",
    "#",
    "<<",
    ">>",
    "||",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "AND",
    "OR",
    "IS DISTINCT FROM",
    "IS NOT DISTINCT FROM",
    "IN",
    "BETWEEN",
    "LIKE",
    "IS",
    "NOT IN",
    "::",
];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// So many of these, joined.
fn some(rng: &mut Rng, parts: &[&str], most: u64) -> String {
    (0..1 + rng.below(most)).map(|_| rng.pick(parts)).collect()
}

/// So many different texts.
fn drawn(count: usize, seed: u64, mut draw: impl FnMut(&mut Rng) -> String) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let mut all: Vec<String> = Vec::new();
    while all.len() < count {
        let one = draw(&mut rng);
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

fn regex(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..1 + rng.below(3) {
        text.push_str(rng.pick(REGEX_ATOMS));
        text.push_str(rng.pick(REGEX_QUANTIFIERS));
    }
    match rng.one_in(2) {
        true => rng.pick(REGEX_WHOLE).replace('@', &text),
        false => text,
    }
}

fn moment(rng: &mut Rng) -> String {
    let between = rng.pick(&[" ", " ", " ", "T", "  ", ", ", ""]);
    let zone = if rng.one_in(2) { rng.pick(ZONES) } else { "" };
    match rng.below(8) {
        0 => format!("{}{zone}", rng.pick(DATES)),
        1 => format!("{}{zone} {}", rng.pick(TIMES), rng.pick(DATES)),
        _ => format!("{}{between}{}{zone}", rng.pick(DATES), rng.pick(TIMES)),
    }
}

fn clock(rng: &mut Rng) -> String {
    let zone = if rng.one_in(3) { rng.pick(ZONES) } else { "" };
    format!("{}{zone}", rng.pick(TIMES))
}

/// The texts of all corpora.
pub fn inputs() -> Vec<Input> {
    let lists: [(&'static str, &[&str]); 12] = [
        ("date", DATES),
        ("interval", INTERVALS),
        ("json", JSONS),
        ("array", ARRAYS),
        ("number", NUMBERS),
        ("boolean", BOOLEANS),
        ("uuid", UUIDS),
        ("bytea", BYTES),
        ("text", SUBJECTS),
        ("instant", INSTANTS),
        ("amount", AMOUNTS),
        ("operand", &["1", "2", "3", "0", "-2", "7"]),
    ];
    let listed = lists.into_iter().flat_map(|(corpus, texts)| {
        texts.iter().map(move |text| Input { corpus, text: text.to_string() })
    });
    let moments = drawn(300, 1, moment).into_iter();
    let clocks = drawn(120, 2, clock).into_iter();
    listed
        .chain(moments.map(|text| Input { corpus: "moment", text }))
        .chain(clocks.map(|text| Input { corpus: "clock", text }))
        .collect()
}

fn corpus(inputs: &'static str, result: &'static str, expressions: Vec<String>) -> Corpus {
    Corpus { inputs, result, expressions }
}

/// A cast of the texts to a type.
fn cast(inputs: &'static str, result: &'static str) -> Corpus {
    corpus(inputs, result, vec![format!("CAST(t AS {result})")])
}

/// A template with each of these constants in the place of `@`.
fn each(patterns: &[String], template: &str) -> Vec<String> {
    patterns.iter().map(|pattern| template.replace('@', &quoted(pattern))).collect()
}

/// Every second of these from the `n`-th on.
fn halves(all: &[String], n: usize) -> Vec<String> {
    all.iter().skip(n).step_by(2).cloned().collect()
}

pub fn all() -> Vec<Corpus> {
    let mut all = vec![
        cast("date", "date"),
        cast("clock", "time without time zone"),
        cast("moment", "timestamp without time zone"),
        cast("moment", "timestamp with time zone"),
        cast("moment", "date"),
        cast("interval", "interval"),
        cast("json", "json"),
        cast("json", "jsonb"),
        cast("array", "integer[]"),
        cast("array", "text[]"),
        cast("number", "smallint"),
        cast("number", "integer"),
        cast("number", "bigint"),
        cast("number", "numeric"),
        cast("number", "real"),
        cast("number", "double precision"),
        cast("boolean", "boolean"),
        cast("uuid", "uuid"),
        cast("bytea", "bytea"),
    ];
    let regexes = drawn(160, 3, regex);
    all.extend([
        corpus("text", "boolean", each(&regexes, "t ~ @")),
        corpus("text", "boolean", each(&halves(&regexes, 0), "t ~* @")),
        corpus("text", "text", each(&regexes, "regexp_replace(t, @, '[\\&|\\1]', 'g')")),
        corpus("text", "text[]", each(&halves(&regexes, 1), "regexp_match(t, @)")),
        corpus("text", "text", each(&halves(&regexes, 0), "substring(t FROM @)")),
        corpus("text", "text[]", each(&halves(&regexes, 1), "regexp_split_to_array(t, @)")),
    ]);
    let likes = drawn(80, 4, |rng| some(rng, LIKE_PARTS, 4));
    let similar = drawn(100, 5, |rng| some(rng, SIMILAR_PARTS, 3));
    all.extend([
        corpus("text", "boolean", each(&likes, "t LIKE @")),
        corpus("text", "boolean", each(&halves(&likes, 0), "t ILIKE @")),
        corpus("text", "boolean", each(&halves(&likes, 1), "t NOT LIKE @ ESCAPE 'a'")),
        corpus("text", "boolean", each(&similar, "t SIMILAR TO @")),
    ]);
    let times = drawn(160, 6, |rng| {
        (0..1 + rng.below(4))
            .map(|_| format!("{}{}", rng.pick(TIME_PARTS), rng.pick(TIME_GLUE)))
            .collect()
    });
    let numbers = drawn(160, 7, |rng| some(rng, NUMBER_PARTS, 5));
    let parsed = drawn(120, 8, |rng| {
        (0..2 + rng.below(3))
            .map(|_| format!("{}{}", rng.pick(PARSED_PARTS), rng.pick(TIME_GLUE)))
            .collect()
    });
    all.extend([
        corpus("instant", "text", each(&times, "to_char(CAST(t AS TIMESTAMP), @)")),
        corpus(
            "instant",
            "text",
            each(&halves(&times, 0), "to_char(CAST(t AS TIMESTAMP) AT TIME ZONE 'UTC', @)"),
        ),
        corpus("amount", "text", each(&numbers, "to_char(CAST(t AS NUMERIC(12,3)), @)")),
        corpus(
            "amount",
            "text",
            each(&halves(&numbers, 0), "to_char(CAST(t AS DOUBLE PRECISION), @)"),
        ),
        corpus(
            "amount",
            "text",
            each(
                &halves(&numbers, 1),
                "to_char(CAST(round(CAST(t AS NUMERIC(12,3))) AS INTEGER), @)",
            ),
        ),
        corpus(
            "instant",
            "timestamp with time zone",
            each(&parsed, "to_timestamp(to_char(CAST(t AS TIMESTAMP), @), @)"),
        ),
        corpus(
            "instant",
            "date",
            each(&halves(&parsed, 0), "to_date(to_char(CAST(t AS TIMESTAMP), @), @)"),
        ),
        corpus("moment", "timestamp with time zone", each(&parsed[..24], "to_timestamp(t, @)")),
    ]);
    all.push(corpus("operand", "text", precedence()));
    all
}

/// Two operators one after the other, over integers and booleans. Most make no sense; PostgreSQL says which.
fn precedence() -> Vec<String> {
    let int = ["CAST(t AS INTEGER)", "2", "3", "-t::integer", "- 2"];
    let truth = ["(t::integer > 1)", "true", "NOT false", "t IS NULL"];
    drawn(900, 9, |rng| {
        let operand = |rng: &mut Rng| match rng.below(3) {
            0 => rng.pick(&truth),
            _ => rng.pick(&int),
        };
        let mut text = operand(rng).to_string();
        for _ in 0..2 {
            let operator = rng.pick(OPERATORS);
            let right = match operator {
                "IN" | "NOT IN" => "(1, 2, 4)".to_string(),
                "BETWEEN" => format!("1 AND {}", operand(rng)),
                "LIKE" => "'1%'".to_string(),
                "IS" => rng.pick(&["NULL", "NOT NULL", "TRUE", "NOT FALSE", "UNKNOWN"]).to_string(),
                "::" => rng.pick(&["bigint", "text", "boolean", "numeric(6,2)"]).to_string(),
                _ => operand(rng).to_string(),
            };
            text = format!("{text} {operator} {right}");
        }
        format!("CAST(({text}) AS TEXT)")
    })
}
