use std::fmt;
use std::sync::Arc;

/// The most quotas that one policy can have.
pub(crate) const MAX_QUOTAS: usize = 8;

/// What one request spends, in tokens: any `u64`, the same of every quota of the policy or each its own.
///
/// A cost of 0 looks and spends nothing. A cost above a limit is denied for good: no wait makes it pass.
///
/// It takes 16 bytes. One number needs no allocation; several share one among all clones. Two costs are equal if they
/// charge the same to every quota.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cost(Tokens);

/// In the shortest form, so that equal costs are equal values.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Tokens {
    Same(u64),
    /// At least two numbers, of which the last two differ.
    Each(Arc<[u64]>),
}

const _: () = assert!(size_of::<Cost>() == 16);

impl Cost {
    /// Looks and spends nothing.
    pub const ZERO: Self = Self::new(0);
    /// One token, the default.
    pub const ONE: Self = Self::new(1);

    /// `tokens` from every quota of the policy.
    #[must_use]
    #[inline]
    pub const fn new(tokens: u64) -> Self {
        Self(Tokens::Same(tokens))
    }

    /// A cost for each quota of the policy, in order of declaration, say `[1, bytes]`: 1 to 8 of them. The last one
    /// also holds for any further quotas; a cost of 0 looks at that quota only.
    #[must_use]
    pub fn each<const N: usize>(tokens: [u64; N]) -> Self {
        const {
            assert!(
                N > 0 && N <= MAX_QUOTAS,
                "a policy has 1 to 8 quotas, and so have its costs"
            )
        };
        Self::of_slice(&tokens)
    }

    /// What the quota at `index` is charged.
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
    /// Drops numbers at the end that repeat the one before them.
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

    /// What `tokens` says for each of `quotas` quotas.
    pub(crate) fn from_fn(quotas: usize, tokens: impl Fn(usize) -> u64) -> Self {
        let len = quotas.clamp(1, MAX_QUOTAS);
        let mut each = [0; MAX_QUOTAS];
        for (index, place) in each.iter_mut().enumerate().take(len) {
            *place = tokens(index);
        }
        Self::of_slice(&each[..len])
    }

    /// What `f` makes of both costs of each of `quotas` quotas.
    pub(crate) fn with(&self, other: &Self, quotas: usize, f: impl Fn(u64, u64) -> u64) -> Self {
        Self::from_fn(quotas, |index| f(self.get(index), other.get(index)))
    }

    /// Whether nothing is spent from any quota.
    pub(crate) fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::ONE
    }
}

/// The only conversion from an integer: with a second one, a literal such as `1` would have no type.
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
    fn the_last_cost_holds_for_further_quotas() {
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
