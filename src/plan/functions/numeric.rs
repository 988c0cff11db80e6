//! Functions of decimals: exact, or with digits that no float has. Other numbers go to the inner function.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Decimal128Array, Decimal256Array, Int32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use num_bigint::{BigInt, Sign};

use super::decimal::{Digits, Numbers, PRECISION_MAX, average};
use crate::aggregate::{rounded_quotient, wide};

/// The digits behind the point of logarithms, powers and the like.
const SCALE: u8 = 20;
/// With how many digits more they are computed.
const GUARD: u32 = 30;
/// The digits before the point that a result may have.
const WHOLE: u8 = PRECISION_MAX - SCALE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NumericFunctionKind {
    Round,
    Sign,
    Sqrt,
    Exp,
    Ln,
    Log10,
    Log,
    Power,
    Div,
    Gcd,
    Lcm,
    Factorial,
    Scale,
    MinScale,
    TrimScale,
    WidthBucket,
}

const KINDS: [(NumericFunctionKind, &str, &[&str]); 16] = [
    (NumericFunctionKind::Round, "round", &[]),
    (NumericFunctionKind::Sign, "signum", &["sign"]),
    (NumericFunctionKind::Sqrt, "sqrt", &[]),
    (NumericFunctionKind::Exp, "exp", &[]),
    (NumericFunctionKind::Ln, "ln", &[]),
    (NumericFunctionKind::Log10, "log10", &[]),
    (NumericFunctionKind::Log, "log", &[]),
    (NumericFunctionKind::Power, "power", &["pow"]),
    (NumericFunctionKind::Div, "div", &[]),
    (NumericFunctionKind::Gcd, "gcd", &[]),
    (NumericFunctionKind::Lcm, "lcm", &[]),
    (NumericFunctionKind::Factorial, "factorial", &[]),
    (NumericFunctionKind::Scale, "scale", &[]),
    (NumericFunctionKind::MinScale, "min_scale", &[]),
    (NumericFunctionKind::TrimScale, "trim_scale", &[]),
    (NumericFunctionKind::WidthBucket, "width_bucket", &[]),
];

/// The functions, each beside the one of its name that is known already.
pub fn functions(known: &dyn Fn(&str) -> Option<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let function = |(kind, name, aliases): &(NumericFunctionKind, &'static str, &[&str])| {
        let inner = known(name);
        let mut all: Vec<String> = aliases.iter().map(|alias| alias.to_string()).collect();
        all.extend(inner.iter().flat_map(|inner| inner.aliases().to_vec()));
        let signature = Signature::user_defined(Volatility::Immutable);
        let function = NumericFunction { kind: *kind, name, aliases: all, inner, signature };
        Arc::new(ScalarUDF::new_from_impl(function))
    };
    KINDS.iter().map(function).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NumericFunction {
    kind: NumericFunctionKind,
    name: &'static str,
    aliases: Vec<String>,
    inner: Option<Arc<ScalarUDF>>,
    signature: Signature,
}

impl NumericFunction {
    /// Whether arguments of these types make it one of decimals.
    fn takes(&self, types: &[DataType]) -> bool {
        let is_exact = |t: &DataType| t.is_decimal() || t.is_integer() || t.is_null();
        let all_exact = types.iter().all(is_exact);
        let counts = match self.kind {
            NumericFunctionKind::Round => 1..=2,
            NumericFunctionKind::Power
            | NumericFunctionKind::Div
            | NumericFunctionKind::Gcd
            | NumericFunctionKind::Lcm => 2..=2,
            NumericFunctionKind::Log => 1..=2,
            NumericFunctionKind::WidthBucket => 4..=4,
            _ => 1..=1,
        };
        let decimal = match self.kind {
            NumericFunctionKind::Factorial => types.iter().all(DataType::is_integer),
            NumericFunctionKind::Scale
            | NumericFunctionKind::MinScale
            | NumericFunctionKind::TrimScale
            | NumericFunctionKind::Div
            | NumericFunctionKind::WidthBucket => true,
            NumericFunctionKind::Log if types.len() == 2 => true,
            NumericFunctionKind::Round if types.len() == 2 => true,
            _ => types.iter().any(DataType::is_decimal),
        };
        counts.contains(&types.len()) && all_exact && decimal
    }

    fn output(&self, types: &[DataType], count: Option<i64>) -> Result<DataType> {
        let digits = |n: usize| match types.get(n).and_then(Digits::of) {
            Some(digits) => Ok(digits),
            None => internal_err!("{} takes decimals", self.name),
        };
        let of = digits(0)?;
        Ok(match self.kind {
            NumericFunctionKind::Round => {
                let scale = match count {
                    Some(count) => count.clamp(0, of.scale.into()) as u8,
                    None if types.len() == 1 => 0,
                    None => of.scale,
                };
                Digits { whole: of.whole.saturating_add(1), scale }.data_type(scale)
            }
            NumericFunctionKind::Sign => Digits { whole: 1, scale: 0 }.data_type(0),
            NumericFunctionKind::Sqrt => average(of.whole.div_ceil(2), of.scale),
            NumericFunctionKind::Exp
            | NumericFunctionKind::Ln
            | NumericFunctionKind::Log10
            | NumericFunctionKind::Log
            | NumericFunctionKind::Power => Digits { whole: WHOLE, scale: SCALE }.data_type(SCALE),
            NumericFunctionKind::Div => {
                Digits { whole: of.whole.saturating_add(digits(1)?.scale), scale: 0 }.data_type(0)
            }
            NumericFunctionKind::Gcd => of.both(digits(1)?).data_type(of.scale),
            NumericFunctionKind::Lcm => {
                let other = digits(1)?;
                let scale = of.scale.max(other.scale);
                let whole = of.whole.saturating_add(other.whole).saturating_add(scale);
                Digits { whole, scale }.data_type(scale)
            }
            NumericFunctionKind::Factorial => DataType::Decimal256(PRECISION_MAX, 0),
            NumericFunctionKind::TrimScale => of.data_type(of.scale),
            NumericFunctionKind::Scale
            | NumericFunctionKind::MinScale
            | NumericFunctionKind::WidthBucket => DataType::Int32,
        })
    }
}

impl ScalarUDFImpl for NumericFunction {
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
        if self.takes(types) {
            let fit = |(n, t): (usize, &DataType)| match (self.kind, n) {
                (NumericFunctionKind::Round, 1)
                | (NumericFunctionKind::WidthBucket, 3)
                | (NumericFunctionKind::Factorial, _) => DataType::Int64,
                _ if t.is_decimal() => t.clone(),
                _ => Digits::of(t).unwrap_or(Digits { whole: 19, scale: 0 }).data_type(0),
            };
            return Ok(types.iter().enumerate().map(fit).collect());
        }
        match &self.inner {
            Some(inner) => coerced_by(inner, types),
            None => {
                let types: Vec<String> = types.iter().map(DataType::to_string).collect();
                plan_err!("there is no function {}({})", self.name, types.join(", "))
            }
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.takes(types), &self.inner) {
            (false, Some(inner)) => inner.return_type(types),
            _ => self.output(types, None),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> =
            args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        if !self.takes(&types)
            && let Some(inner) = &self.inner
        {
            return inner.return_field_from_args(args);
        }
        let count = match args.scalar_arguments.get(1) {
            Some(Some(value)) => match value.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(count)) => count,
                _ => None,
            },
            _ => None,
        };
        Ok(Arc::new(Field::new(self.name, self.output(&types, count)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        if !self.takes(&types)
            && let Some(inner) = &self.inner
        {
            return inner.invoke_with_args(args);
        }
        let rows = args.number_rows;
        let output = args.return_field.data_type().clone();
        let arrays: Vec<ArrayRef> =
            args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<_>>()?;
        let numbers: Vec<Numbers> = arrays.iter().map(Numbers::new).collect::<Result<_>>()?;
        let scale = Digits::of(&output).map_or(0, |digits| u32::from(digits.scale));
        let value = |row: usize| -> Result<Option<BigInt>> {
            if arrays.iter().any(|array| array.is_null(row)) {
                return Ok(None);
            }
            let arguments: Vec<ScaledNumber> = numbers
                .iter()
                .map(|column| ScaledNumber {
                    value: column.wide(row),
                    scale: column.scale.unsigned_abs().into(),
                })
                .collect();
            self.value(&arguments, scale).map(Some)
        };
        let values = (0..rows).map(value).collect::<Result<Vec<Option<BigInt>>>>()?;
        Ok(ColumnarValue::Array(column(values, &output)?))
    }
}

/// As what a function takes arguments of these types.
fn coerced_by(function: &ScalarUDF, types: &[DataType]) -> Result<Vec<DataType>> {
    let fields: Vec<FieldRef> =
        types.iter().map(|t| Arc::new(Field::new("argument", t.clone(), true))).collect();
    let coerced = datafusion_expr::type_coercion::functions::fields_with_udf(&fields, function)?;
    Ok(coerced.iter().map(|field| field.data_type().clone()).collect())
}

fn column(values: Vec<Option<BigInt>>, output: &DataType) -> Result<ArrayRef> {
    let precision = match output {
        DataType::Decimal128(precision, _) | DataType::Decimal256(precision, _) => *precision,
        _ => 10,
    };
    let limit = BigInt::from(10).pow(precision.into());
    if values.iter().flatten().any(|value| value.magnitude() >= limit.magnitude()) {
        return exec_err!("numeric field overflow: the result is out of range of {output}");
    }
    Ok(match output {
        DataType::Decimal128(..) => {
            let narrow = values.into_iter().map(|v| v.and_then(|v| i128::try_from(v).ok()));
            Arc::new(narrow.collect::<Decimal128Array>().with_data_type(output.clone()))
        }
        DataType::Decimal256(..) => {
            let wide = values.iter().map(|v| v.as_ref().map(wide));
            Arc::new(wide.collect::<Decimal256Array>().with_data_type(output.clone()))
        }
        _ => {
            let narrow = values.into_iter().map(|v| v.and_then(|v| i32::try_from(v).ok()));
            cast(&narrow.collect::<Int32Array>(), output)?
        }
    })
}

/// `value · 10^-scale`
struct ScaledNumber {
    value: BigInt,
    scale: u32,
}

fn ten(power: u32) -> BigInt {
    BigInt::from(10).pow(power)
}

impl ScaledNumber {
    fn is_negative(&self) -> bool {
        self.value.sign() == Sign::Minus
    }

    fn is_zero(&self) -> bool {
        self.value.sign() == Sign::NoSign
    }

    /// The unscaled value at another scale, rounded half away from zero.
    fn at(&self, scale: u32) -> BigInt {
        match scale >= self.scale {
            true => &self.value * ten(scale - self.scale),
            false => rounded_quotient(&self.value, &ten(self.scale - scale)),
        }
    }

    /// The number, when it is whole.
    fn whole(&self) -> Option<BigInt> {
        let unit = ten(self.scale);
        (&self.value % &unit == BigInt::ZERO).then(|| &self.value / &unit)
    }

    /// About it.
    fn approximately(&self) -> f64 {
        let text = self.value.to_string();
        text.parse::<f64>().unwrap_or(f64::INFINITY) / 10_f64.powi(self.scale as i32)
    }
}

impl NumericFunction {
    /// The unscaled result at this scale.
    fn value(&self, of: &[ScaledNumber], scale: u32) -> Result<BigInt> {
        let x = &of[0];
        Ok(match self.kind {
            NumericFunctionKind::Round => {
                let count = of.get(1).map_or(0, |count| i64::try_from(&count.value).unwrap_or(0));
                let kept = count.clamp(-200, i64::from(x.scale));
                let down = (i64::from(x.scale) - kept) as u32;
                let rounded = rounded_quotient(&x.value, &ten(down));
                // `rounded` has `kept` digits behind the point, which may be a negative number.
                match i64::from(scale) - kept {
                    up if up >= 0 => rounded * ten(up as u32),
                    down => rounded_quotient(&rounded, &ten(down.unsigned_abs() as u32)),
                }
            }
            NumericFunctionKind::Sign => match x.value.sign() {
                Sign::Minus => BigInt::from(-1),
                Sign::NoSign => BigInt::ZERO,
                Sign::Plus => BigInt::from(1),
            },
            NumericFunctionKind::Sqrt => {
                if x.is_negative() {
                    return exec_err!("cannot take square root of a negative number");
                }
                let twice = (x.at(2 * scale.max(x.scale)) * 4_u8).sqrt();
                let root = (twice + 1_u8) / 2_u8;
                rounded_quotient(&root, &ten(scale.max(x.scale) - scale))
            }
            NumericFunctionKind::Exp => exp(&x.at(scale + GUARD + 40), scale + GUARD + 40, scale)?,
            NumericFunctionKind::Ln => fit(logarithm(x, scale + GUARD)?, scale + GUARD, scale),
            NumericFunctionKind::Log10 | NumericFunctionKind::Log if of.len() == 1 => {
                let by =
                    logarithm(&ScaledNumber { value: BigInt::from(10), scale: 0 }, scale + GUARD)?;
                let of = logarithm(x, scale + GUARD)?;
                rounded_quotient(&(of * ten(scale)), &by)
            }
            NumericFunctionKind::Log10 | NumericFunctionKind::Log => {
                let (base, of) = (logarithm(x, scale + GUARD)?, logarithm(&of[1], scale + GUARD)?);
                if base.sign() == Sign::NoSign {
                    return exec_err!("division by zero");
                }
                rounded_quotient(&(of * ten(scale)), &base)
            }
            NumericFunctionKind::Power => power(x, &of[1], scale)?,
            NumericFunctionKind::Div => {
                let y = &of[1];
                if y.is_zero() {
                    return exec_err!("division by zero");
                }
                let common = x.scale.max(y.scale);
                x.at(common) / y.at(common)
            }
            NumericFunctionKind::Gcd | NumericFunctionKind::Lcm => {
                let (a, b) = (x.at(scale), of[1].at(scale));
                let divisor = gcd(a.clone(), b.clone());
                match self.kind {
                    NumericFunctionKind::Gcd => divisor,
                    _ if divisor.sign() == Sign::NoSign => divisor,
                    _ => BigInt::from((a / divisor * b).magnitude().clone()),
                }
            }
            NumericFunctionKind::Factorial => {
                let n = i64::try_from(&x.value).unwrap_or(i64::MAX);
                match n {
                    ..0 => return exec_err!("factorial of a negative number is undefined"),
                    // The next one has more digits than a decimal.
                    58.. => return exec_err!("value overflows numeric format"),
                    n => (1..=n).map(BigInt::from).product(),
                }
            }
            NumericFunctionKind::Scale => BigInt::from(x.scale),
            NumericFunctionKind::MinScale => {
                let fits = |scale: &u32| &x.value % ten(x.scale - scale) == BigInt::ZERO;
                BigInt::from((0..=x.scale).find(fits).unwrap_or(x.scale))
            }
            NumericFunctionKind::TrimScale => x.value.clone(),
            NumericFunctionKind::WidthBucket => bucket(of)?,
        })
    }
}

fn gcd(mut a: BigInt, mut b: BigInt) -> BigInt {
    while b.sign() != Sign::NoSign {
        let rest = &a % &b;
        a = std::mem::replace(&mut b, rest);
    }
    BigInt::from(a.magnitude().clone())
}

fn fit(value: BigInt, from: u32, to: u32) -> BigInt {
    rounded_quotient(&value, &ten(from - to))
}

/// `2 · artanh(a / b)` with so many digits behind the point, for |a| < |b|.
fn twice_artanh(a: &BigInt, b: &BigInt, digits: u32) -> BigInt {
    let mut power = a * ten(digits) / b;
    let square = &power * &power / ten(digits);
    let (mut sum, mut n) = (power.clone(), 1_u32);
    while power.sign() != Sign::NoSign {
        power = power * &square / ten(digits);
        n += 2;
        sum += &power / n;
    }
    sum * 2
}

fn ln_2(digits: u32) -> BigInt {
    twice_artanh(&BigInt::from(1), &BigInt::from(3), digits)
}

/// The natural logarithm with so many digits behind the point.
fn logarithm(x: &ScaledNumber, digits: u32) -> Result<BigInt> {
    match x.value.sign() {
        Sign::NoSign => return exec_err!("cannot take logarithm of zero"),
        Sign::Minus => return exec_err!("cannot take logarithm of a negative number"),
        Sign::Plus => {}
    }
    // x = m · 2^e with m near 1, as a fraction a / b.
    let (mut a, mut b) = (x.value.clone(), ten(x.scale));
    let exponent = a.bits() as i64 - b.bits() as i64;
    match exponent >= 0 {
        true => b <<= exponent as usize,
        false => a <<= exponent.unsigned_abs() as usize,
    }
    let work = digits + 10;
    let value = twice_artanh(&(&a - &b), &(&a + &b), work) + ln_2(work) * exponent;
    Ok(fit(value, work, digits))
}

/// `e^x` of a number with so many digits behind the point.
fn exp(x: &BigInt, digits: u32, scale: u32) -> Result<BigInt> {
    let one = ten(digits);
    // Beyond it no decimal has the result.
    if *x > &one * 180 {
        return exec_err!("value overflows numeric format");
    }
    if *x < &one * -180 {
        return Ok(BigInt::ZERO);
    }
    let ln_2 = ln_2(digits);
    let exponent = rounded_quotient(x, &ln_2);
    let rest = x - &exponent * &ln_2;
    let (mut term, mut sum, mut n) = (one.clone(), one.clone(), 1_u32);
    while term.sign() != Sign::NoSign {
        term = term * &rest / &one / n;
        sum += &term;
        n += 1;
    }
    let exponent = i64::try_from(exponent).unwrap_or(0);
    let by = ten(digits - scale);
    Ok(match exponent >= 0 {
        true => rounded_quotient(&(sum << exponent as usize), &by),
        false => rounded_quotient(&sum, &(by << exponent.unsigned_abs() as usize)),
    })
}

fn power(x: &ScaledNumber, y: &ScaledNumber, scale: u32) -> Result<BigInt> {
    if y.is_zero() {
        return Ok(ten(scale));
    }
    if x.is_zero() {
        return match y.is_negative() {
            true => exec_err!("zero raised to a negative power is undefined"),
            false => Ok(BigInt::ZERO),
        };
    }
    let whole = y.whole();
    if x.is_negative() && whole.is_none() {
        return exec_err!(
            "a negative number raised to a non-integer power yields a complex result"
        );
    }
    // About how many digits stand before the point.
    let size = x.approximately().abs().log10() * y.approximately();
    if size > f64::from(WHOLE) + 1.0 {
        return exec_err!("value overflows numeric format");
    }
    if size < -f64::from(SCALE) - 2.0 {
        return Ok(BigInt::ZERO);
    }
    if let Some(n) = whole.as_ref().and_then(|n| i32::try_from(n).ok())
        && n.unsigned_abs() <= 1000
    {
        let (top, bottom) = (x.value.pow(n.unsigned_abs()), ten(x.scale).pow(n.unsigned_abs()));
        return Ok(match n > 0 {
            true => rounded_quotient(&(top * ten(scale)), &bottom),
            false => rounded_quotient(&(bottom * ten(scale)), &top),
        });
    }
    let positive =
        ScaledNumber { value: BigInt::from(x.value.magnitude().clone()), scale: x.scale };
    let digits = scale + GUARD + 60;
    let exponent = rounded_quotient(&(logarithm(&positive, digits)? * &y.value), &ten(y.scale));
    let value = exp(&exponent, digits, scale)?;
    let odd = whole.is_some_and(|n| n.bit(0));
    Ok(if x.is_negative() && odd { -value } else { value })
}

/// In which of `count` buckets between two bounds an operand is.
fn bucket(of: &[ScaledNumber]) -> Result<BigInt> {
    let [operand, low, high, count] = of else {
        return internal_err!("width_bucket has four arguments");
    };
    if count.value.sign() != Sign::Plus {
        return exec_err!("count must be greater than zero");
    }
    let scale = operand.scale.max(low.scale).max(high.scale);
    let (x, low, high) = (operand.at(scale), low.at(scale), high.at(scale));
    if low == high {
        return exec_err!("lower bound cannot equal upper bound");
    }
    let (since, range) =
        if low < high { (&x - &low, &high - &low) } else { (&low - &x, &low - &high) };
    let bucket = match since {
        since if since.sign() == Sign::Minus => BigInt::ZERO,
        since if since >= range => &count.value + 1,
        since => since * &count.value / range + 1,
    };
    match i32::try_from(&bucket) {
        Ok(_) => Ok(bucket),
        Err(_) => exec_err!("integer out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: i64, scale: u32) -> ScaledNumber {
        ScaledNumber { value: BigInt::from(value), scale }
    }

    #[test]
    fn logarithms_and_powers_have_twenty_digits() {
        let ln =
            |value, scale| fit(logarithm(&number(value, scale), 50).unwrap(), 50, 20).to_string();
        assert_eq!(ln(2, 0), "69314718055994530942");
        assert_eq!(ln(1, 4), "-921034037197618273607");
        let e = exp(&(BigInt::from(1) * ten(60)), 60, 20).unwrap();
        assert_eq!(e.to_string(), "271828182845904523536");
        let power = |x, y: ScaledNumber| power(&x, &y, 20).unwrap().to_string();
        assert_eq!(power(number(2, 0), number(5, 1)), "141421356237309504880");
        assert_eq!(power(number(-2, 0), number(-2, 0)), "25000000000000000000");
    }
}
