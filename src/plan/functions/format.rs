//! Functions of any number of arguments of any type: `concat(…)`, `concat_ws(separator, …)`, `format(pattern, …)`,
//! `num_nulls(…)` and `num_nonnulls(…)`; `quote_literal` and `quote_nullable`; and `||` of texts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, binary_expr,
};

use super::limits::check_bytes;
use super::texts::{quoted_literal, quoted_name};
use super::written::Writer;

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |name: &'static str| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Variadic { name, signature }))
    };
    ["concat", "concat_ws", "format", "num_nulls", "num_nonnulls", QUOTED, QUOTED_NULL]
        .into_iter()
        .map(function)
        .collect()
}

/// `a || b` of texts, or of a text and the text of something else. NULL is unknown.
pub fn joined(left: Expr, right: Expr) -> Expr {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::new_from_impl(Variadic { name: JOINED, signature }).call(vec![left, right])
}

/// The operation as it was written, when the function stands for one.
pub fn written(function: &ScalarUDF, args: &[Expr]) -> Option<Expr> {
    match args {
        [left, right] if function.name() == JOINED => {
            Some(binary_expr(left.clone(), Operator::StringConcat, right.clone()))
        }
        _ => None,
    }
}

const JOINED: &str = "text_concat";
const QUOTED: &str = "quote_literal";
const QUOTED_NULL: &str = "quote_nullable";

struct Variadic {
    name: &'static str,
    signature: Signature,
}

by_name!(Variadic);

impl ScalarUDFImpl for Variadic {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types.first() {
            None => plan_err!("{} takes an argument", self.name),
            Some(_) if self.name.starts_with("quote_") && types.len() != 1 => {
                plan_err!("{} takes one argument", self.name)
            }
            Some(first)
                if ["concat_ws", "format"].contains(&self.name)
                    && !first.is_string()
                    && !first.is_null() =>
            {
                plan_err!("{} takes a text first", self.name)
            }
            _ => Ok(types.to_vec()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.name.starts_with("num_") { DataType::Int32 } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        if self.name.starts_with("num_") {
            let nulls = self.name == "num_nulls";
            let nullity: Vec<_> = arrays.iter().map(|array| array.logical_nulls()).collect();
            let count = |row: usize| {
                let is =
                    nullity.iter().filter(|n| n.as_ref().is_some_and(|n| n.is_null(row)) == nulls);
                is.count() as i32
            };
            let counts = Int32Array::from_iter_values((0..rows).map(count));
            return Ok(ColumnarValue::Array(Arc::new(counts)));
        }
        if self.name.starts_with("quote_") {
            let writer = Writer::new(&arrays[0], false)?;
            let text = |row: usize| -> Result<Option<String>> {
                Ok(match writer.text(row)? {
                    Some(text) => Some(quoted_literal(&text)),
                    None => (self.name == QUOTED_NULL).then(|| "NULL".to_string()),
                })
            };
            let texts = (0..rows).map(text).collect::<Result<StringArray>>()?;
            return Ok(ColumnarValue::Array(Arc::new(texts)));
        }
        if self.name != "format" {
            return Ok(ColumnarValue::Array(Arc::new(self.joined(&arrays, rows)?)));
        }
        let patterns = cast(&arrays[0], &DataType::Utf8)?;
        let patterns = patterns.as_string::<i32>();
        let writers: Vec<Writer> =
            arrays[1..].iter().map(|array| Writer::new(array, true)).collect::<Result<_>>()?;
        let text = |row: usize| match patterns.is_valid(row) {
            true => formatted(patterns.value(row), &writers, row).map(Some),
            false => Ok(None),
        };
        let texts = (0..rows).map(text).collect::<Result<StringArray>>()?;
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

impl Variadic {
    fn joined(&self, arrays: &[ArrayRef], rows: usize) -> Result<StringArray> {
        let writers: Vec<Writer> = arrays
            .iter()
            .map(|array| Writer::new(array, self.name != JOINED))
            .collect::<Result<_>>()?;
        let text = |row: usize| -> Result<Option<String>> {
            let (separator, from) = match self.name {
                "concat_ws" => match writers[0].text(row)? {
                    None => return Ok(None),
                    Some(separator) => (separator, 1),
                },
                _ => (String::new(), 0),
            };
            let mut out = String::new();
            let mut first = true;
            for writer in &writers[from..] {
                match writer.text(row)? {
                    Some(text) => {
                        if !first {
                            out.push_str(&separator);
                        }
                        first = false;
                        check_bytes(out.len().saturating_add(text.len()))?;
                        out.push_str(&text);
                    }
                    None if self.name == JOINED => return Ok(None),
                    None => {}
                }
            }
            Ok(Some(out))
        };
        (0..rows).map(text).collect()
    }
}

/// The rest of a format, which is read from behind a `%` on, and the number of the next argument.
struct Specifier<'a> {
    rest: &'a str,
    next: usize,
}

impl Specifier<'_> {
    fn number(&mut self) -> Result<Option<usize>> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        if end == 0 {
            return Ok(None);
        }
        let number = self.rest[..end].parse::<i32>();
        self.rest = &self.rest[end..];
        match number {
            Ok(number) => Ok(Some(number as usize)),
            Err(_) => exec_err!("number is out of range"),
        }
    }

    fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

fn argument(position: usize, writers: &[Writer], row: usize) -> Result<Option<String>> {
    match position.checked_sub(1).map(|at| writers.get(at)) {
        None => exec_err!("format specifies argument 0, but arguments are numbered from 1"),
        Some(None) => exec_err!("too few arguments for format()"),
        Some(Some(writer)) => writer.text(row),
    }
}

fn formatted(pattern: &str, writers: &[Writer], row: usize) -> Result<String> {
    let mut out = String::new();
    let mut at = Specifier { rest: pattern, next: 1 };
    while let Some(percent) = at.rest.find('%') {
        out.push_str(&at.rest[..percent]);
        at.rest = &at.rest[percent + 1..];
        if at.take('%') {
            out.push('%');
            continue;
        }
        let (mut position, mut left, mut width) = (None, false, 0_i64);
        let number = at.number()?;
        if number.is_some() && at.take('$') {
            position = number;
        } else if let Some(number) = number {
            width = number as i64;
        }
        if position.is_some() || number.is_none() {
            while at.take('-') {
                left = true;
            }
            if at.take('*') {
                let of = at.number()?;
                let of = match of {
                    Some(of) if at.take('$') => of,
                    Some(_) => return exec_err!("width argument position must be ended by \"$\""),
                    None => {
                        at.next += 1;
                        at.next - 1
                    }
                };
                width = match argument(of, writers, row)?.map(|text| text.parse::<i32>()) {
                    None => 0,
                    Some(Ok(width)) => width.into(),
                    Some(Err(_)) => return exec_err!("invalid width of format()"),
                };
            } else if let Some(number) = at.number()? {
                width = number as i64;
            }
        }
        let Some(kind) = at.rest.chars().next() else {
            return exec_err!("unterminated format() type specifier");
        };
        if !matches!(kind, 's' | 'I' | 'L') {
            return exec_err!("unrecognized format() type specifier \"{kind}\"");
        }
        at.rest = &at.rest[1..];
        let position = position.unwrap_or(at.next);
        let value = argument(position, writers, row)?;
        at.next = position + 1;
        let text = match (kind, value) {
            ('I', None) => {
                return exec_err!("null values cannot be formatted as an SQL identifier");
            }
            ('I', Some(text)) => quoted_name(&text),
            ('L', None) => "NULL".to_string(),
            ('L', Some(text)) => quoted_literal(&text),
            (_, text) => text.unwrap_or_default(),
        };
        let filling = (width.unsigned_abs() as usize).saturating_sub(text.chars().count());
        check_bytes(out.len().saturating_add(text.len()).saturating_add(filling))?;
        let spaces = " ".repeat(filling);
        match left || width < 0 {
            true => out.extend([text.as_str(), &spaces]),
            false => out.extend([spaces.as_str(), &text]),
        }
    }
    out.push_str(at.rest);
    Ok(out)
}
