//! The distance of floats.

/// The distance of two numbers in floats: 0 where they are equal, 1 where they are neighbours.
pub fn ulps(a: f64, b: f64) -> u64 {
    let ordered = |x: f64| {
        let bits = x.to_bits() as i64;
        if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}
