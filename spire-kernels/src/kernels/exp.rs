//! Vectorisable exponential and error functions.

/// Adding 1.5 · 2²³ rounds to the nearest integer n, and leaves n in the lowest bits. So these bits, shifted to the place of
/// the exponent and added there, multiply by 2ⁿ.
const ROUND: f32 = 12_582_912.0;

/// The number of bits below a float's exponent.
const MANTISSA: u32 = 23;

/// `eˣ` for x clamped to \[-87, 88\], within 2 units in the last place.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    // ln 2 is split into two parts to keep precision in the difference.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = polynomial(r, [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
    let fraction = p.mul_add(r * r, r) + 1.0;
    f32::from_bits(fraction.to_bits().wrapping_add(rounded.to_bits() << MANTISSA))
}

/// `2ˣ` for x of at most 127, raised to -125 if it is smaller, within one unit in the last place. NaN stays NaN.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Not `max`, which returns the other number for NaN.
    let x = if x < -125.0 { -125.0 } else { x };
    let rounded = x + ROUND;
    let rest = x - (rounded - ROUND);
    // The polynomial of degree 6 with the least relative error on [-0.5, 0.5], 2e-9 before rounding.
    let fraction = polynomial(
        rest,
        [1.534_581_2e-4, 1.339_993_1e-3, 9.618_489e-3, 5.550_328_6e-2, 0.240_226_46, std::f32::consts::LN_2, 1.0],
    );
    f32::from_bits(fraction.to_bits().wrapping_add(rounded.to_bits() << MANTISSA))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, with an absolute error below 1.5e-7 (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = 1.0 / 0.327_591_1_f32.mul_add(x.abs(), 1.0);
    let p = polynomial(t, [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6]);
    (1.0 - p * t * exp(-x * x)).copysign(x)
}

/// Coefficients from the highest power down (Horner's scheme).
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = 0.0_f32;
    for coefficient in coefficients {
        sum = sum.mul_add(x, coefficient);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_agree_with_those_of_double_precision() {
        for step in -8_700..=8_800_i16 {
            let x = f32::from(step) / 100.0;
            assert!((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs() < 2.5e-7, "e^{x}: {}", exp(x));
        }
        for step in -12_500..=12_700_i16 {
            let x = f32::from(step) / 100.0;
            assert!((f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs() < 1.2e-7, "2^{x}: {}", exp2(x));
        }
        assert_eq!((exp2(0.0), exp2(-3.0), exp2(f32::NEG_INFINITY)), (1.0, 0.125, exp2(-125.0)));
        assert!(exp(f32::NAN).is_nan() && exp2(f32::NAN).is_nan());
    }
}
