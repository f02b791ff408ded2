use std::fmt;
use std::sync::Arc;

/// The most quotas of a policy.
pub(crate) const MAX_QUOTAS: usize = 8;

/// The tokens that one request spends: any `u64`, one number for all quotas of the policy or one for each.
///
/// A cost of 0 spends nothing and reads the state. A cost above a limit can never be allowed.
///
/// A cost takes 16 bytes. One number needs no allocation; clones of several numbers share one. Two costs are equal if
/// they charge the same to every quota.
///
/// ```
/// use tower_sluice::Cost;
///
/// assert_eq!(Cost::from(3), Cost::new(3));
/// let cost = Cost::each([1, 4_096]); // a request, and its bytes
/// assert_eq!((cost.get(0), cost.get(1)), (1, 4_096));
/// ```
///
/// Guide: [costs](crate::_guide::costs).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cost(Tokens);

/// The shortest form, so that equal costs compare as equal.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Tokens {
    Same(u64),
    /// At least two numbers, of which the last two differ.
    Each(Arc<[u64]>),
}

const _: () = assert!(size_of::<Cost>() == 16);

impl Cost {
    /// Spends nothing and reads the state.
    pub const ZERO: Self = Self::new(0);
    /// One token. This is the default.
    pub const ONE: Self = Self::new(1);

    /// Creates a cost of `tokens` for every quota of the policy.
    ///
    /// ```
    /// use tower_sluice::Cost;
    ///
    /// assert_eq!(Cost::from(5), Cost::new(5));
    /// ```
    #[must_use]
    #[inline]
    pub const fn new(tokens: u64) -> Self {
        Self(Tokens::Same(tokens))
    }

    /// Creates a cost with a number for each quota, in the order of the policy, for example `[1, bytes]`.
    ///
    /// Takes 1 to 8 numbers; another count does not compile. The last number also applies to further quotas. A 0 reads
    /// the state of its quota.
    ///
    /// ```
    /// use tower_sluice::Cost;
    ///
    /// let upload = Cost::each([1, 4_000_000]); // 1 request, 4,000,000 bytes
    /// assert_eq!(upload.get(1), 4_000_000);
    /// ```
    #[must_use]
    pub fn each<const N: usize>(tokens: [u64; N]) -> Self {
        const {
            assert!(
                N > 0 && N <= MAX_QUOTAS,
                "a cost has 1 to 8 numbers, as a policy has 1 to 8 quotas"
            )
        };
        Self::of_slice(&tokens)
    }

    /// Returns the tokens that the quota at `index` is charged.
    ///
    /// ```
    /// use tower_sluice::Cost;
    ///
    /// let cost = Cost::each([1, 4_096]);
    /// assert_eq!(cost.get(7), 4_096); // the last number applies to further quotas
    /// ```
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        match &self.0 {
            Tokens::Same(tokens) => *tokens,
            Tokens::Each(each) => each.get(index).or(each.last()).copied().unwrap_or(0),
        }
    }
}

impl Cost {
    /// Creates a cost without the numbers at the end that repeat the one before them.
    fn of_slice(mut tokens: &[u64]) -> Self {
        while let [.., before, last] = tokens
            && before == last
        {
            tokens = &tokens[..tokens.len() - 1];
        }
        match tokens {
            [] => Self::ZERO,
            [same] => Self::new(*same),
            each => Self(Tokens::Each(each.into())),
        }
    }

    /// Creates a cost with the number `tokens(index)` for each of `quotas` quotas.
    pub(crate) fn from_fn(quotas: usize, tokens: impl Fn(usize) -> u64) -> Self {
        if quotas > MAX_QUOTAS {
            // The policy has several scopes.
            let each: Vec<u64> = (0..quotas).map(tokens).collect();
            return Self::of_slice(&each);
        }
        let len = quotas.max(1);
        let mut each = [0; MAX_QUOTAS];
        for (index, place) in each.iter_mut().enumerate().take(len) {
            *place = tokens(index);
        }
        Self::of_slice(&each[..len])
    }

    /// Combines both costs by `f`, for each of `quotas` quotas.
    pub(crate) fn with(&self, other: &Self, quotas: usize, f: impl Fn(u64, u64) -> u64) -> Self {
        Self::from_fn(quotas, |index| f(self.get(index), other.get(index)))
    }

    /// Returns whether the cost is one number, for every quota.
    #[inline]
    pub(crate) fn is_uniform(&self) -> bool {
        matches!(self.0, Tokens::Same(_))
    }

    /// Returns whether the cost is 0 for every quota.
    pub(crate) fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::ONE
    }
}

/// There is no conversion from other integers, because a literal such as `1` would then have no type.
impl From<u64> for Cost {
    #[inline]
    fn from(tokens: u64) -> Self {
        Self::new(tokens)
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple("Cost");
        match &self.0 {
            Tokens::Same(tokens) => tuple.field(tokens),
            Tokens::Each(each) => tuple.field(each),
        };
        tuple.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_cost_applies_to_further_quotas() {
        assert_eq!([0, 1, 7].map(|index| Cost::new(3).get(index)), [3, 3, 3]);
        assert_eq!(
            [0, 1, 2, 9].map(|index| Cost::each([1, 0, 4096]).get(index)),
            [1, 0, 4096, 4096]
        );
        assert_eq!(format!("{:?}", Cost::each([1, 2])), "Cost([1, 2])");
        assert_eq!(
            format!("{:?}", Cost::new(u64::MAX)),
            "Cost(18446744073709551615)"
        );
    }

    #[test]
    fn costs_that_charge_the_same_are_equal() {
        assert_eq!(Cost::each([3, 3, 3]), Cost::new(3));
        assert_eq!(Cost::each([1, 3, 3]), Cost::each([1, 3]));
        assert_ne!(Cost::each([3, 1]), Cost::new(3));
        assert_ne!(Cost::each([1, 3]), Cost::each([1, 3, 1]));
        assert!(Cost::each([0, 0]).is_zero());
        assert!(!Cost::each([0, 1]).is_zero());
    }
}
