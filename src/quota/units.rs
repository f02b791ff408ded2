//! Rates as two integers: a token is `per_token` grains, and a microsecond refills `per_micro` grains.

/// The largest capacity in grains. Debts reach twice this number, and are exact in a double.
pub(crate) const MOST_GRAINS: u64 = 1 << 52;

/// A refill rate in grains; `per_micro / per_token` is the rate in tokens per microsecond, in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Units {
    pub(crate) per_micro: Divisor,
    pub(crate) per_token: Divisor,
}

/// A divisor with its inverse, because a multiplication takes a third of the time of a division.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Divisor {
    number: u64,
    /// `floor((2^64 - 1) / number)`
    inverse: u64,
}

impl Divisor {
    const fn new(number: u64) -> Self {
        Self {
            number,
            inverse: u64::MAX / number,
        }
    }

    #[inline]
    pub(crate) const fn get(self) -> u64 {
        self.number
    }

    /// Returns the quotient and the remainder of a `dividend` below 2^60. The inverse is too small by less than one
    /// part in 2^64, so that the product is exact or one too small.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    const fn divide(self, dividend: u64) -> (u64, u64) {
        debug_assert!(dividend < 1 << 60);
        let quotient = ((dividend as u128 * self.inverse as u128) >> 64) as u64;
        let rest = dividend - quotient * self.number;
        // Computed without a branch, which could not be predicted.
        let short = (rest >= self.number) as u64;
        (quotient + short, rest - short * self.number)
    }

    #[inline]
    pub(crate) const fn floor(self, dividend: u64) -> u64 {
        self.divide(dividend).0
    }

    #[inline]
    pub(crate) const fn ceil(self, dividend: u64) -> u64 {
        let (quotient, rest) = self.divide(dividend);
        quotient + (rest > 0) as u64
    }
}

impl Units {
    /// Returns `refill / period` in lowest terms if `capacity` tokens fit into [`MOST_GRAINS`]. Otherwise returns the
    /// largest smaller fraction that fits, so that the rate is never faster. `None` if that fraction is 0.
    pub(crate) const fn new(capacity: u64, refill: u64, period: u64) -> Option<Self> {
        let divisor = gcd(refill, period);
        let (per_micro, per_token) = (refill / divisor, period / divisor);
        let most = MOST_GRAINS / capacity;
        let (per_micro, per_token) = if per_token <= most {
            (per_micro, per_token)
        } else {
            largest_below(per_micro, per_token, most)
        };
        if per_micro == 0 {
            return None;
        }
        let (per_micro, per_token) = (Divisor::new(per_micro), Divisor::new(per_token));
        Some(Self {
            per_micro,
            per_token,
        })
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Returns the largest fraction not above `n / d` whose denominator is at most `most`, where `d > most`.
///
/// It walks down the Stern-Brocot tree (Graham, Knuth, Patashnik, Concrete Mathematics, §4.5) and takes all steps of
/// one direction at once. `low <= n / d < high` are neighbours, and the next fraction between them is their mediant.
const fn largest_below(n: u64, d: u64, most: u64) -> (u64, u64) {
    let (n, d, most) = (n as u128, d as u128, most as u128);
    let mut low = (n / d, 1_u128);
    let mut high = (n / d + 1, 1_u128);
    // The start is one step to the right of 0/1 and 1/0. From here on, `most` bounds every denominator.
    loop {
        // low + k × high stays at or below n/d while (low.0 + k × high.0) × d <= n × (low.1 + k × high.1)
        let room = (most - low.1) / high.1;
        let fits = (n * low.1 - low.0 * d) / (high.0 * d - n * high.1);
        let steps = if fits < room { fits } else { room };
        low = (low.0 + steps * high.0, low.1 + steps * high.1);
        if low.1 + high.1 > most {
            break;
        }
        // high + k × low stays above n/d; low is strictly below it, as n/d itself has too large a denominator
        let below = n * low.1 - low.0 * d;
        let room = (most - high.1) / low.1;
        let fits = (high.0 * d - n * high.1 - 1) / below;
        let steps = if fits < room { fits } else { room };
        high = (high.0 + steps * low.0, high.1 + steps * low.1);
        if low.1 + high.1 > most {
            break;
        }
    }
    // Both are at most the arguments, which were u64.
    #[allow(clippy::cast_possible_truncation)]
    {
        (low.0 as u64, low.1 as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::MOST_TOKENS;
    use super::*;

    proptest! {
        #[test]
        fn fraction_is_the_largest_of_its_size(n in 1_u64..300, d in 1_u64..3_000, most in 1_u64..200) {
            let divisor = gcd(n, d);
            let (n, d) = (n / divisor, d / divisor);
            prop_assume!(d > most);
            let found = largest_below(n, d, most);
            let best = (1..=most)
                .map(|q| (n * q / d, q))
                .max_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)).then(b.1.cmp(&a.1)))
                .expect("most is at least 1");
            prop_assert_eq!(found, best);
        }
    }

    proptest! {
        #[test]
        fn dividing_by_the_inverse_is_exact(dividend in 0_u64..1 << 60, number in 1..=u64::MAX, shift in 0_u32..60) {
            let (dividend, number) = (dividend >> shift, (number >> shift).max(1));
            let divisor = Divisor::new(number);
            prop_assert_eq!(divisor.floor(dividend), dividend / number);
            prop_assert_eq!(divisor.ceil(dividend), dividend.div_ceil(number));
            let multiple = dividend / number * number;
            prop_assert_eq!(divisor.divide(multiple), (dividend / number, 0));
        }
    }

    #[test]
    fn periods_above_142_years_have_no_units() {
        let longest = Units::new(1, 1, MOST_GRAINS)
            .map(|units| (units.per_micro.get(), units.per_token.get()));
        assert_eq!(longest, Some((1, MOST_GRAINS)));
        assert_eq!(Units::new(1, 1, MOST_GRAINS + 1), None);
        assert_eq!(Units::new(MOST_TOKENS, 1, u64::MAX), None);
    }
}
