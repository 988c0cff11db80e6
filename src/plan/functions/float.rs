//! Functions of floats that fail where PostgreSQL's do: outside of the function's domain, and where a finite
//! number becomes infinite or nothing.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::row::{Overload, Type, Value, function, overload};

/// Functions of one float.
const UNARY: [(&str, &[&str], fn(f64) -> Result<f64>); 33] = [
    ("acos", &[], |x| within(x, f64::acos)),
    ("acosd", &[], |x| within(x, acosd)),
    ("acosh", &[], |x| if x < 1.0 { out_of_range() } else { Ok(x.acosh()) }),
    ("asin", &[], |x| within(x, f64::asin)),
    ("asind", &[], |x| within(x, asind)),
    ("asinh", &[], |x| Ok(if x == 0.0 { x } else { x.asinh() })),
    ("atan", &[], |x| Ok(x.atan())),
    ("atand", &[], |x| Ok(atand(x))),
    ("atanh", &[], atanh),
    ("cbrt", &[], |x| Ok(x.cbrt())),
    ("cos", &[], |x| finite(x, f64::cos)),
    ("cosd", &[], |x| finite(x, cosd)),
    ("cosh", &[], |x| Ok(x.cosh())),
    ("cot", &[], |x| finite(x, |x| 1.0 / x.tan())),
    ("cotd", &[], |x| finite(x, cotd)),
    ("degrees", &[], |x| overflowing(x, x.to_degrees())),
    ("exp", &[], exp),
    ("ln", &[], |x| logarithm(x, f64::ln)),
    ("log", &[], |x| logarithm(x, f64::log10)),
    ("log10", &[], |x| logarithm(x, f64::log10)),
    ("radians", &[], |x| Ok(x.to_radians())),
    ("round", &[], |x| Ok(x.round_ties_even())),
    ("signum", &["sign"], |x| Ok(if x.is_nan() || x == 0.0 { 0.0 } else { x.signum() })),
    ("sin", &[], |x| finite(x, f64::sin)),
    ("sind", &[], |x| finite(x, sind)),
    ("sinh", &[], |x| Ok(x.sinh())),
    ("sqrt", &[], |x| {
        if x < 0.0 {
            exec_err!("cannot take square root of a negative number")
        } else {
            Ok(x.sqrt())
        }
    }),
    ("tan", &[], |x| finite(x, f64::tan)),
    ("tand", &[], |x| finite(x, tand)),
    ("tanh", &[], |x| Ok(x.tanh())),
    ("trunc", &[], |x| Ok(x.trunc())),
    ("ceil", &["ceiling"], |x| Ok(x.ceil())),
    ("floor", &[], |x| Ok(x.floor())),
];

/// Functions whose namesakes of DataFusion stay for other types.
const OF_DECIMALS_TOO: [&str; 4] = ["round", "trunc", "ceil", "floor"];

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    UNARY
        .iter()
        .filter(|(name, ..)| !OF_DECIMALS_TOO.contains(name))
        .map(|(name, aliases, _)| {
            let aliases = aliases.iter().map(|alias| alias.to_string()).collect();
            Arc::new(ScalarUDF::new_from_impl(Unary::new(name, aliases, None)))
        })
        .chain([
            function("width_bucket", &[], WIDTH_BUCKET, None),
            Arc::new(ScalarUDF::new_from_impl(Binary::new("power", "pow", power))),
            Arc::new(ScalarUDF::new_from_impl(Binary::new("atan2", "", |y, x| Ok(y.atan2(x))))),
            Arc::new(ScalarUDF::new_from_impl(Binary::new("atan2d", "", |y, x| {
                Ok(y.atan2(x) / 1.0_f64.atan() * 45.0)
            }))),
        ])
        .collect()
}

const WIDTH_BUCKET: &[Overload] =
    &[overload(&[Type::Double, Type::Double, Type::Double, Type::Int], Type::Int, |row| {
        let (x, low, high) = (row.double(0), row.double(1), row.double(2));
        let count = row.int(3);
        if count <= 0 {
            return exec_err!("count must be greater than zero");
        }
        if x.is_nan() || low.is_nan() || high.is_nan() {
            return exec_err!("operand, lower bound, and upper bound cannot be NaN");
        }
        if low.is_infinite() || high.is_infinite() {
            return exec_err!("lower and upper bounds must be finite");
        }
        if low == high {
            return exec_err!("lower bound cannot equal upper bound");
        }
        let up = low < high;
        let (before, behind) = if up { (x < low, x >= high) } else { (x > low, x <= high) };
        if before {
            return Ok(Value::Int(0));
        }
        if behind {
            return Ok(Value::Int(count + 1));
        }
        let range = high - low;
        let part = match range.is_finite() {
            true => count as f64 * (x - low) / range,
            false => count as f64 * ((x / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)),
        };
        Ok(Value::Int(part as i64 + 1))
    })];

/// Checks that a number becomes a float. For a decimal PostgreSQL's result is a decimal, with digits that no
/// float has.
fn double(name: &str, data_type: &DataType) -> Result<()> {
    match data_type {
        t if t.is_decimal() => {
            plan_err!("{name} of a DECIMAL is not supported: CAST it to DOUBLE PRECISION")
        }
        t if t.is_numeric() || t.is_null() => Ok(()),
        t => plan_err!("{name} takes numbers, not {t}"),
    }
}

fn power(x: f64, y: f64) -> Result<f64> {
    if y == 0.0 || x == 1.0 {
        return Ok(1.0);
    }
    if x.is_nan() || y.is_nan() {
        return Ok(f64::NAN);
    }
    if x == 0.0 && y < 0.0 {
        return exec_err!("zero raised to a negative power is undefined");
    }
    if x < 0.0 && y.is_finite() && y.fract() != 0.0 {
        return exec_err!(
            "a negative number raised to a non-integer power yields a complex result"
        );
    }
    let value = x.powf(y);
    if x.is_finite() && y.is_finite() {
        overflowing(x, value)?;
        if value == 0.0 && x != 0.0 {
            return exec_err!("value out of range: underflow");
        }
    }
    Ok(value)
}

/// A function of two floats.
struct Binary {
    name: &'static str,
    aliases: Vec<String>,
    of: fn(f64, f64) -> Result<f64>,
    signature: Signature,
}

impl Binary {
    fn new(name: &'static str, alias: &str, of: fn(f64, f64) -> Result<f64>) -> Self {
        let aliases = if alias.is_empty() { Vec::new() } else { vec![alias.to_string()] };
        Binary { name, aliases, of, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

by_name!(Binary);

impl ScalarUDFImpl for Binary {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 2 {
            return plan_err!("{} takes two numbers", self.name);
        }
        // Beside a float a decimal is one.
        if !types.iter().any(DataType::is_floating) {
            types.iter().try_for_each(|of| double(self.name, of))?;
        }
        Ok(vec![DataType::Float64; 2])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (left, right) =
            (cast(&arrays[0], &DataType::Float64)?, cast(&arrays[1], &DataType::Float64)?);
        let pairs =
            left.as_primitive::<Float64Type>().iter().zip(right.as_primitive::<Float64Type>());
        let of = |(a, b): (Option<f64>, Option<f64>)| match (a, b) {
            (Some(a), Some(b)) => (self.of)(a, b).map(Some),
            _ => Ok(None),
        };
        Ok(ColumnarValue::Array(Arc::new(pairs.map(of).collect::<Result<Float64Array>>()?)))
    }
}

/// The function for floats, and the inner one for everything else.
pub fn beside(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match OF_DECIMALS_TOO.iter().find(|name| **name == inner.name()) {
        Some(name) => {
            let mut aliases = inner.aliases().to_vec();
            let ours = UNARY.iter().find(|(known, ..)| known == name);
            aliases.extend(
                ours.iter().flat_map(|(_, aliases, _)| aliases.iter().map(|a| a.to_string())),
            );
            Arc::new(ScalarUDF::new_from_impl(Unary::new(name, aliases, Some(inner))))
        }
        None => inner,
    }
}

fn out_of_range<T>() -> Result<T> {
    exec_err!("input is out of range")
}

/// The function's value for a number from -1 to 1; others are out of range.
fn within(x: f64, of: fn(f64) -> f64) -> Result<f64> {
    if x.is_nan() || (-1.0..=1.0).contains(&x) { Ok(of(x)) } else { out_of_range() }
}

fn finite(x: f64, of: fn(f64) -> f64) -> Result<f64> {
    if x.is_infinite() { out_of_range() } else { Ok(of(x)) }
}

fn overflowing(x: f64, value: f64) -> Result<f64> {
    if value.is_infinite() && x.is_finite() {
        return exec_err!("value out of range: overflow");
    }
    Ok(value)
}

fn logarithm(x: f64, of: fn(f64) -> f64) -> Result<f64> {
    if x == 0.0 {
        return exec_err!("cannot take logarithm of zero");
    }
    if x < 0.0 {
        return exec_err!("cannot take logarithm of a negative number");
    }
    Ok(of(x))
}

fn exp(x: f64) -> Result<f64> {
    let value = overflowing(x, x.exp())?;
    if value == 0.0 && x.is_finite() {
        return exec_err!("value out of range: underflow");
    }
    Ok(value)
}

fn atanh(x: f64) -> Result<f64> {
    match x {
        x if x.is_nan() => Ok(x),
        1.0 => Ok(f64::INFINITY),
        -1.0 => Ok(f64::NEG_INFINITY),
        x if x == 0.0 => Ok(x),
        x if x.abs() < 1.0 => Ok(x.atanh()),
        _ => out_of_range(),
    }
}

// In degrees, exact at the multiples of 30 and 45 where the result is.

fn acosd(x: f64) -> f64 {
    if x >= 0.0 { acosd_positive(x) } else { 90.0 + asind_positive(-x) }
}

fn asind(x: f64) -> f64 {
    if x >= 0.0 { asind_positive(x) } else { -asind_positive(-x) }
}

/// `asind` of a number from 0 to 1: scaled so that one half gives 30.
fn asind_positive(x: f64) -> f64 {
    if x <= 0.5 {
        x.asin() / 0.5_f64.asin() * 30.0
    } else {
        90.0 - x.acos() / 0.5_f64.acos() * 60.0
    }
}

fn acosd_positive(x: f64) -> f64 {
    if x <= 0.5 {
        90.0 - x.asin() / 0.5_f64.asin() * 30.0
    } else {
        x.acos() / 0.5_f64.acos() * 60.0
    }
}

fn atand(x: f64) -> f64 {
    x.atan() / 1.0_f64.atan() * 45.0
}

/// `sind` of an angle from 0 to 30.
fn sind_small(x: f64) -> f64 {
    x.to_radians().sin() / 30.0_f64.to_radians().sin() / 2.0
}

/// `cosd` of an angle from 0 to 60.
fn cosd_small(x: f64) -> f64 {
    let one_minus = 1.0 - x.to_radians().cos();
    let of_sixty = 1.0 - 60.0_f64.to_radians().cos();
    1.0 - one_minus / of_sixty / 2.0
}

fn sind_quadrant(x: f64) -> f64 {
    if x <= 30.0 { sind_small(x) } else { cosd_small(90.0 - x) }
}

fn cosd_quadrant(x: f64) -> f64 {
    if x <= 60.0 { cosd_small(x) } else { sind_small(90.0 - x) }
}

fn sind(x: f64) -> f64 {
    let mut sign = 1.0;
    let mut x = x % 360.0;
    if x < 0.0 {
        (x, sign) = (-x, -sign);
    }
    if x > 180.0 {
        (x, sign) = (360.0 - x, -sign);
    }
    if x > 90.0 {
        x = 180.0 - x;
    }
    sign * sind_quadrant(x)
}

fn cosd(x: f64) -> f64 {
    let mut sign = 1.0;
    let mut x = (x % 360.0).abs();
    if x > 180.0 {
        x = 360.0 - x;
    }
    if x > 90.0 {
        (x, sign) = (180.0 - x, -sign);
    }
    sign * cosd_quadrant(x)
}

/// The tangent's quadrant and sign, with the quotient of sine and cosine in it.
fn quotient(x: f64, of: fn(f64) -> f64) -> f64 {
    let mut sign = 1.0;
    let mut x = x % 360.0;
    if x < 0.0 {
        (x, sign) = (-x, -sign);
    }
    if x > 180.0 {
        (x, sign) = (360.0 - x, -sign);
    }
    if x > 90.0 {
        (x, sign) = (180.0 - x, -sign);
    }
    let value = sign * of(x);
    if value == 0.0 { 0.0 } else { value }
}

fn tand(x: f64) -> f64 {
    let of =
        |x: f64| sind_quadrant(x) / cosd_quadrant(x) / (sind_quadrant(45.0) / cosd_quadrant(45.0));
    quotient(x, of)
}

fn cotd(x: f64) -> f64 {
    let of =
        |x: f64| cosd_quadrant(x) / sind_quadrant(x) / (cosd_quadrant(45.0) / sind_quadrant(45.0));
    quotient(x, of)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Unary {
    name: &'static str,
    aliases: Vec<String>,
    /// The function that computes other types than floats.
    inner: Option<Arc<ScalarUDF>>,
    signature: Signature,
}

impl Unary {
    fn new(name: &'static str, aliases: Vec<String>, inner: Option<Arc<ScalarUDF>>) -> Self {
        let signature = match &inner {
            Some(inner) => inner.signature().clone(),
            None => Signature::user_defined(Volatility::Immutable),
        };
        Unary { name, aliases, inner, signature }
    }
}

impl ScalarUDFImpl for Unary {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match &self.inner {
            Some(inner) => inner.coerce_types(types),
            None => {
                let [of] = types else {
                    return plan_err!("{} takes one number", self.name);
                };
                double(self.name, of)?;
                Ok(vec![DataType::Float64])
            }
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (&self.inner, types) {
            (Some(inner), types) if !is_float(types) => inner.return_type(&self.widened(types)),
            _ => Ok(DataType::Float64),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        if let Some(inner) = &self.inner
            && !is_float(&types)
        {
            let widened = self.widened(&types);
            if widened == types {
                return inner.invoke_with_args(args);
            }
            let rows = args.number_rows;
            let values: Vec<ColumnarValue> = args
                .args
                .iter()
                .zip(&widened)
                .map(|(value, to)| value.cast_to(to, None))
                .collect::<Result<_>>()?;
            let arg_fields =
                widened.iter().map(|t| Arc::new(Field::new("argument", t.clone(), true))).collect();
            return inner.invoke_with_args(ScalarFunctionArgs {
                args: values,
                arg_fields,
                number_rows: rows,
                ..args
            });
        }
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let values = cast(&arrays[0], &DataType::Float64)?;
        let of = UNARY.iter().find(|(name, ..)| *name == self.name).map(|(_, _, of)| *of);
        let Some(of) = of else { return exec_err!("{} is no function of floats", self.name) };
        let values = values.as_primitive::<Float64Type>();
        let results = values.iter().map(|value| value.map(of).transpose());
        Ok(ColumnarValue::Array(Arc::new(results.collect::<Result<Float64Array>>()?)))
    }
}

impl Unary {
    /// With one digit more, where the next integer may need it.
    fn widened(&self, types: &[DataType]) -> Vec<DataType> {
        let wide = |t: &DataType| match t {
            DataType::Decimal128(precision, scale)
                if matches!(self.name, "ceil" | "floor") && *precision < 38 =>
            {
                DataType::Decimal128(precision + 1, *scale)
            }
            t => t.clone(),
        };
        types.iter().map(wide).collect()
    }
}

/// Whether a function is one of a single float.
fn is_float(types: &[DataType]) -> bool {
    matches!(types, [DataType::Float16 | DataType::Float32 | DataType::Float64])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_in_degrees_are_exact_where_the_result_is() {
        assert_eq!(sind(30.0), 0.5);
        assert_eq!(cosd(60.0), 0.5);
        assert_eq!(tand(45.0), 1.0);
        assert_eq!(asind(0.5), 30.0);
        assert_eq!(acosd(0.5), 60.0);
        assert_eq!(atand(1.0), 45.0);
    }
}
