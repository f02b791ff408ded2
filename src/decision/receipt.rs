use smallvec::SmallVec;

use crate::quota::Cost;

/// The tokens that an allowed check charged to a key. They can be refunded to the same key once.
///
/// A receipt is not `Clone`, and a refund consumes it ([`Limiter::refund`](crate::Limiter::refund)). Use
/// [`take`](Self::take) to refund a part.
///
/// ```
/// use tower_sluice::{Cost, Key, Limiter, MemoryBackend, Policy, Quota};
///
/// let limiter = Limiter::new(Policy::new("pages", Quota::per_hour(10)), MemoryBackend::new());
/// let mut receipt = limiter.check_now(&Key::from("ann"), 5).receipt.expect("allowed");
/// let part = receipt.take(Cost::new(2));
/// assert_eq!((part.tokens(), receipt.tokens()), (2, 3));
/// ```
///
/// Guide: [costs](crate::_guide::costs).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a charge cannot be refunded without its receipt"]
pub struct Receipt {
    pub(crate) charges: SmallVec<[ChargePart; 2]>,
}

/// One quota's part of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChargePart {
    /// The low half of the quota's identity. That is enough: a receipt is only compared with quotas of its own policy.
    pub(crate) quota: u32,
    /// The number of the [`ChargePosition`]. Nested in this struct, the position would take 8 bytes more.
    number: u32,
    at: i64,
    pub(crate) tokens: u64,
}

const _: () = assert!(size_of::<ChargePart>() == 24);

/// The position of a charge in the state: the start of its window, or the time and number of its log entry. Charges of
/// buckets have no position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChargePosition {
    pub(crate) at: i64,
    pub(crate) number: u32,
}

impl ChargePart {
    #[inline]
    pub(crate) const fn new(quota: u32, tokens: u64, position: ChargePosition) -> Self {
        let ChargePosition { at, number } = position;
        Self {
            quota,
            number,
            at,
            tokens,
        }
    }

    pub(crate) const fn position(&self) -> ChargePosition {
        ChargePosition {
            at: self.at,
            number: self.number,
        }
    }
}

impl Receipt {
    /// Returns the tokens that can be refunded: the largest charge of its quotas.
    ///
    /// See the example of [`Receipt`].
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.charges
            .iter()
            .map(|charge| charge.tokens)
            .max()
            .unwrap_or(0)
    }

    /// Returns the tokens that can be refunded to each quota.
    pub(crate) fn cost(&self) -> Cost {
        let tokens = |index: usize| self.charges.get(index).map_or(0, |part| part.tokens);
        Cost::from_fn(self.charges.len(), tokens)
    }

    /// Splits off up to `cost` of each quota. The returned part can be refunded by itself; the rest stays in this
    /// receipt.
    ///
    /// See the example of [`Receipt`].
    pub fn take(&mut self, cost: Cost) -> Self {
        let mut taken = self.charges.clone();
        for (index, (own, part)) in self.charges.iter_mut().zip(&mut taken).enumerate() {
            part.tokens = own.tokens.min(cost.get(index));
            own.tokens -= part.tokens;
        }
        Self { charges: taken }
    }
}
