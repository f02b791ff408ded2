use std::fmt;

/// The most quotas that one policy can have.
pub(crate) const MAX_QUOTAS: usize = 8;

/// What one request spends, in tokens: `0 ..= 4294967295`, the same of every quota of the policy or each its own.
///
/// A cost of 0 looks and spends nothing. A cost above a limit is refused for good: no wait makes it pass.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cost {
    each: [u32; MAX_QUOTAS],
    len: u8,
}

impl Cost {
    /// Looks and spends nothing.
    pub const ZERO: Self = Self::new(0);
    /// One token, the default.
    pub const ONE: Self = Self::new(1);

    /// `tokens` from every quota of the policy.
    #[must_use]
    #[inline]
    pub const fn new(tokens: u32) -> Self {
        let mut each = [0; MAX_QUOTAS];
        each[0] = tokens;
        Self { each, len: 1 }
    }

    /// A cost for each quota of the policy, in order of declaration, say `[1, bytes]`: 1 to 8 of them. The last one also
    /// holds for any further quotas; a cost of 0 looks at that quota only.
    #[must_use]
    #[inline]
    pub const fn each<const N: usize>(tokens: [u32; N]) -> Self {
        const {
            assert!(
                N > 0 && N <= MAX_QUOTAS,
                "a policy has 1 to 8 quotas, and so have its costs"
            )
        };
        let mut each = [0; MAX_QUOTAS];
        let mut index = 0;
        while index < N {
            each[index] = tokens[index];
            index += 1;
        }
        // Checked above: at most 8.
        #[allow(clippy::cast_possible_truncation)]
        Self { each, len: N as u8 }
    }

    /// What the quota at `index` is charged.
    #[must_use]
    #[inline]
    pub const fn of(&self, index: usize) -> u32 {
        let last = self.len as usize - 1;
        self.each[if index < last { index } else { last }]
    }
}

impl Cost {
    /// What `tokens` says for each of `quotas` quotas.
    pub(crate) fn of_each(quotas: usize, tokens: impl Fn(usize) -> u32) -> Self {
        let len = quotas.clamp(1, MAX_QUOTAS);
        let mut each = [0; MAX_QUOTAS];
        for (index, place) in each.iter_mut().enumerate().take(len) {
            *place = tokens(index);
        }
        // At most 8.
        #[allow(clippy::cast_possible_truncation)]
        let len = len as u8;
        Self { each, len }
    }

    /// What `f` makes of both costs of each of `quotas` quotas.
    pub(crate) fn with(self, other: Self, quotas: usize, f: impl Fn(u32, u32) -> u32) -> Self {
        Self::of_each(quotas, |index| f(self.of(index), other.of(index)))
    }

    /// Whether nothing is spent from any quota.
    pub(crate) fn is_zero(&self) -> bool {
        self.each[..usize::from(self.len)]
            .iter()
            .all(|tokens| *tokens == 0)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self::ONE
    }
}

impl From<u32> for Cost {
    #[inline]
    fn from(tokens: u32) -> Self {
        Self::new(tokens)
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cost")
            .field(&&self.each[..usize::from(self.len)])
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cost_holds_for_further_quotas() {
        assert_eq!([0, 1, 7].map(|index| Cost::new(3).of(index)), [3, 3, 3]);
        assert_eq!(
            [0, 1, 2, 9].map(|index| Cost::each([1, 0, 4096]).of(index)),
            [1, 0, 4096, 4096]
        );
        assert_eq!(format!("{:?}", Cost::each([1, 2])), "Cost([1, 2])");
    }
}
