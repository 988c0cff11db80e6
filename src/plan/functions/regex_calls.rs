//! Functions of regular expressions. `regex.rs` has translated their patterns and flags when they are called, and
//! has refused patterns of which PostgreSQL's longest match may be another one than the engine's first.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Builder, ListBuilder, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion_common::{Result, exec_err, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_functions::regex::compile_regex;

use super::limits::{check_bytes, check_elements};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Count,
    Instr,
    Substr,
    Match,
    Matches,
    Replace,
    SplitToArray,
    SplitToTable,
    Substring,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Count, "regexp_count"),
    (Kind::Instr, "regexp_instr"),
    (Kind::Substr, "regexp_substr"),
    (Kind::Match, "regexp_match"),
    (Kind::Matches, "regexp_matches"),
    (Kind::Replace, "regexp_replace"),
    (Kind::SplitToArray, "regexp_split_to_array"),
    (Kind::SplitToTable, "regexp_split_to_table"),
    (Kind::Substring, "regexp_substring"),
];

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    KINDS.iter().map(|(kind, name)| function(*kind, name)).collect()
}

fn function(kind: Kind, name: &'static str) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(RegexFunction { kind, name, signature }))
}

/// `substring(text FROM pattern)`
pub fn substring() -> Arc<ScalarUDF> {
    function(Kind::Substring, "regexp_substring")
}

/// The meaning of an argument behind the text and the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegexArgument {
    /// The text that is put in.
    Replacement,
    /// Flags, constant.
    Flags,
    /// From which character on, from 1.
    Start,
    /// Number of the match, from 1.
    Nth,
    /// 0: where it begins, 1: behind its end.
    End,
    /// Number of the group.
    Group,
}

/// The meanings of the arguments behind the text and the pattern; `None` for a call that PostgreSQL does not
/// have.
pub fn arguments(name: &str, count: usize, fourth_is_text: bool) -> Option<Vec<RegexArgument>> {
    use RegexArgument::{End, Flags, Group, Nth, Replacement, Start};
    let all: &[RegexArgument] = match name {
        "regexp_count" => &[Start, Flags],
        "regexp_instr" => &[Start, Nth, End, Flags, Group],
        "regexp_substr" => &[Start, Nth, Flags, Group],
        "regexp_match" | "regexp_matches" | "regexp_split_to_array" | "regexp_split_to_table" => {
            &[Flags]
        }
        "regexp_replace" if fourth_is_text => &[Replacement, Flags],
        "regexp_replace" => &[Replacement, Start, Nth, Flags],
        "regexp_substring" => &[],
        _ => return None,
    };
    all.get(..count.checked_sub(2)?).map(<[RegexArgument]>::to_vec)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RegexFunction {
    kind: Kind,
    name: &'static str,
    signature: Signature,
}

fn texts_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))
}

impl RegexFunction {
    fn arguments(&self, types: &[DataType]) -> Option<Vec<RegexArgument>> {
        let fourth_is_text = types.get(3).is_some_and(|t| t.is_string() || t.is_null());
        arguments(self.name, types.len(), fourth_is_text)
    }
}

impl ScalarUDFImpl for RegexFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let refused = || {
            let types: Vec<String> = types.iter().map(DataType::to_string).collect();
            plan_err!("there is no function {}({})", self.name, types.join(", "))
        };
        let Some(arguments) = self.arguments(types) else { return refused() };
        let mut all = vec![DataType::Utf8; 2];
        for argument in arguments {
            all.push(match argument {
                RegexArgument::Replacement | RegexArgument::Flags => DataType::Utf8,
                _ => DataType::Int64,
            });
        }
        let fits = |(given, to): (&DataType, &DataType)| {
            given.is_null() || given.is_string() == (*to == DataType::Utf8)
        };
        if types.iter().zip(&all).all(fits) { Ok(all) } else { refused() }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Count | Kind::Instr => DataType::Int32,
            Kind::Substr | Kind::Replace | Kind::Substring => DataType::Utf8,
            Kind::Match | Kind::SplitToArray | Kind::SplitToTable => texts_type(),
            Kind::Matches => DataType::List(Arc::new(Field::new("item", texts_type(), true))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let Some(arguments) = self.arguments(&types) else {
            return internal_err!("{} of arguments that it does not take", self.name);
        };
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let (texts, patterns) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let mut results = RegexColumnBuilder::new(self.kind);
        // The pattern is the same in each row.
        let mut compiled = None;
        for row in 0..rows {
            if arrays.iter().any(|array| array.is_null(row)) {
                results.push(RegexValue::Null)?;
                continue;
            }
            let pattern = patterns.value(row);
            let regex = match &mut compiled {
                Some((known, regex)) if known == pattern => regex,
                compiled => {
                    &mut compiled.insert((pattern.to_string(), compile_regex(pattern, None)?)).1
                }
            };
            let text = texts.value(row);
            let find = |at: usize| {
                let captures = regex.captures_at(text, at)?;
                Some(captures.iter().map(|part| part.map(|p| (p.start(), p.end()))).collect())
            };
            let groups = regex.captures_len() - 1;
            let search = Search::new(text, &find, groups, &arguments, &arrays[2..], row)?;
            results.push(search.answer(self.kind)?)?;
        }
        Ok(ColumnarValue::Array(results.finish()))
    }
}

/// The places of a match and its groups.
type Match = Vec<Option<(usize, usize)>>;

/// One row's text, and what is asked about it.
struct Search<'a> {
    text: &'a str,
    find: &'a dyn Fn(usize) -> Option<Match>,
    groups: usize,
    replacement: &'a str,
    global: bool,
    start: i64,
    nth: Option<i64>,
    end: i64,
    group: i64,
}

enum RegexValue {
    Null,
    Number(i64),
    Text(String),
    Texts(Vec<Option<String>>),
    Many(Vec<Vec<Option<String>>>),
}

impl<'a> Search<'a> {
    fn new(
        text: &'a str,
        find: &'a dyn Fn(usize) -> Option<Match>,
        groups: usize,
        arguments: &[RegexArgument],
        arrays: &'a [ArrayRef],
        row: usize,
    ) -> Result<Self> {
        let mut search = Search {
            text,
            find,
            groups,
            replacement: "",
            global: false,
            start: 1,
            nth: None,
            end: 0,
            group: 0,
        };
        for (argument, array) in arguments.iter().zip(arrays) {
            let number = || array.as_primitive::<Int64Type>().value(row);
            match argument {
                RegexArgument::Replacement => {
                    search.replacement = array.as_string::<i32>().value(row);
                }
                RegexArgument::Flags => {
                    search.global = array.as_string::<i32>().value(row).contains('g');
                }
                RegexArgument::Start => search.start = number(),
                RegexArgument::Nth => search.nth = Some(number()),
                RegexArgument::End => search.end = number(),
                RegexArgument::Group => search.group = number(),
            }
        }
        let invalid =
            |name: &str, value: i64| exec_err!("invalid value for parameter \"{name}\": {value}");
        if search.start <= 0 {
            return invalid("start", search.start);
        }
        if !(0..=1).contains(&search.end) {
            return invalid("endoption", search.end);
        }
        if search.group < 0 {
            return invalid("subexpr", search.group);
        }
        Ok(search)
    }

    /// Each match in turn, from the character on at which the search starts.
    fn each(&self, mut with: impl FnMut(&Match) -> Result<bool>) -> Result<()> {
        let mut places = self.text.char_indices().map(|(at, _)| at).chain([self.text.len()]);
        let Some(mut at) = places.nth(self.start as usize - 1) else { return Ok(()) };
        while let Some(found) = (self.find)(at) {
            let Some((from, to)) = found[0] else { break };
            if !with(&found)? {
                break;
            }
            at = match from == to {
                true => match self.text[to..].chars().next() {
                    Some(c) => to + c.len_utf8(),
                    None => break,
                },
                false => to,
            };
        }
        Ok(())
    }

    fn part(&self, place: Option<(usize, usize)>) -> Option<String> {
        place.map(|(from, to)| self.text[from..to].to_string())
    }

    /// The groups of a match, or all of it where there are none.
    fn parts(&self, found: &Match) -> Vec<Option<String>> {
        match found.len() {
            1 => vec![self.part(found[0])],
            _ => found[1..].iter().map(|place| self.part(*place)).collect(),
        }
    }

    fn answer(&self, kind: Kind) -> Result<RegexValue> {
        match kind {
            Kind::Count => {
                let mut count = 0;
                self.each(|_| {
                    count += 1;
                    Ok(true)
                })?;
                Ok(RegexValue::Number(count))
            }
            Kind::Instr | Kind::Substr => self.nth(kind),
            Kind::Match | Kind::Substring => {
                let mut answer = RegexValue::Null;
                self.each(|found| {
                    answer = match kind {
                        Kind::Match => RegexValue::Texts(self.parts(found)),
                        _ => {
                            let place = if self.groups > 0 { found[1] } else { found[0] };
                            self.part(place).map_or(RegexValue::Null, RegexValue::Text)
                        }
                    };
                    Ok(false)
                })?;
                Ok(answer)
            }
            Kind::Matches => {
                let mut all = Vec::new();
                self.each(|found| {
                    all.push(self.parts(found));
                    check_elements(all.len())?;
                    Ok(self.global)
                })?;
                Ok(RegexValue::Many(all))
            }
            Kind::Replace => self.replaced(),
            Kind::SplitToArray | Kind::SplitToTable => {
                let (mut parts, mut from, mut last) = (Vec::new(), 0, 0);
                self.each(|found| {
                    if let Some((begin, end)) = found[0] {
                        if begin < self.text.len() && end > last {
                            parts.push(self.part(Some((from, begin))));
                            from = end;
                            check_elements(parts.len())?;
                        }
                        last = end;
                    }
                    Ok(true)
                })?;
                parts.push(self.part(Some((from, self.text.len()))));
                Ok(RegexValue::Texts(parts))
            }
        }
    }

    fn nth(&self, kind: Kind) -> Result<RegexValue> {
        let nth = self.nth.unwrap_or(1);
        if nth <= 0 {
            return exec_err!("invalid value for parameter \"n\": {nth}");
        }
        let mut place = None;
        let mut count = 0;
        self.each(|found| {
            count += 1;
            if count == nth {
                place = usize::try_from(self.group).ok().and_then(|group| *found.get(group)?);
            }
            Ok(count < nth)
        })?;
        Ok(match (kind, place) {
            (Kind::Instr, None) => RegexValue::Number(0),
            (Kind::Instr, Some((from, to))) => {
                let at = if self.end == 1 { to } else { from };
                RegexValue::Number(self.text[..at].chars().count() as i64 + 1)
            }
            (_, place) => self.part(place).map_or(RegexValue::Null, RegexValue::Text),
        })
    }

    fn replaced(&self) -> Result<RegexValue> {
        let nth = match self.nth {
            Some(nth) if nth < 0 => return exec_err!("invalid value for parameter \"n\": {nth}"),
            Some(nth) => nth,
            None if self.global => 0,
            None => 1,
        };
        let (mut out, mut copied, mut count) = (String::new(), 0, 0);
        self.each(|found| {
            count += 1;
            if nth > 0 && count != nth {
                return Ok(true);
            }
            if let Some((from, to)) = found[0] {
                out.push_str(&self.text[copied..from]);
                self.push_replacement(&mut out, found);
                check_bytes(out.len())?;
                copied = to;
            }
            Ok(nth == 0)
        })?;
        out.push_str(&self.text[copied..]);
        check_bytes(out.len())?;
        Ok(RegexValue::Text(out))
    }

    /// With what `\1` and `\&` stand for.
    fn push_replacement(&self, out: &mut String, found: &Match) {
        let mut chars = self.replacement.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            let group = match chars.next() {
                Some('&') => 0,
                Some(digit @ '1'..='9') => digit as usize - '0' as usize,
                Some('\\') | None => {
                    out.push('\\');
                    continue;
                }
                Some(other) => {
                    out.extend(['\\', other]);
                    continue;
                }
            };
            if let Some(Some((from, to))) = found.get(group) {
                out.push_str(&self.text[*from..*to]);
            }
        }
    }
}

enum RegexColumnBuilder {
    Numbers(Int32Builder),
    Texts(Vec<Option<String>>),
    Lists(ListBuilder<StringBuilder>),
    Many(ListBuilder<ListBuilder<StringBuilder>>),
}

impl RegexColumnBuilder {
    fn new(kind: Kind) -> Self {
        let texts = || {
            ListBuilder::new(StringBuilder::new()).with_field(Field::new(
                "item",
                DataType::Utf8,
                true,
            ))
        };
        match kind {
            Kind::Count | Kind::Instr => RegexColumnBuilder::Numbers(Int32Builder::new()),
            Kind::Substr | Kind::Replace | Kind::Substring => RegexColumnBuilder::Texts(Vec::new()),
            Kind::Matches => RegexColumnBuilder::Many(
                ListBuilder::new(texts()).with_field(Field::new("item", texts_type(), true)),
            ),
            _ => RegexColumnBuilder::Lists(texts()),
        }
    }

    fn push(&mut self, answer: RegexValue) -> Result<()> {
        let append = |lists: &mut ListBuilder<StringBuilder>, items: Vec<Option<String>>| {
            items.into_iter().for_each(|item| lists.values().append_option(item));
            lists.append(true);
        };
        match (self, answer) {
            (RegexColumnBuilder::Numbers(numbers), RegexValue::Number(number)) => {
                match i32::try_from(number) {
                    Ok(number) => numbers.append_value(number),
                    Err(_) => return exec_err!("integer out of range"),
                }
            }
            (RegexColumnBuilder::Numbers(numbers), _) => numbers.append_null(),
            (RegexColumnBuilder::Texts(texts), RegexValue::Text(text)) => texts.push(Some(text)),
            (RegexColumnBuilder::Texts(texts), _) => texts.push(None),
            (RegexColumnBuilder::Lists(lists), RegexValue::Texts(items)) => append(lists, items),
            (RegexColumnBuilder::Lists(lists), _) => lists.append_null(),
            (RegexColumnBuilder::Many(lists), RegexValue::Many(all)) => {
                all.into_iter().for_each(|items| append(lists.values(), items));
                lists.append(true);
            }
            (RegexColumnBuilder::Many(lists), _) => lists.append_null(),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            RegexColumnBuilder::Numbers(mut numbers) => Arc::new(numbers.finish()),
            RegexColumnBuilder::Texts(texts) => {
                Arc::new(texts.into_iter().collect::<StringArray>())
            }
            RegexColumnBuilder::Lists(mut lists) => Arc::new(lists.finish()),
            RegexColumnBuilder::Many(mut lists) => Arc::new(lists.finish()),
        }
    }
}
