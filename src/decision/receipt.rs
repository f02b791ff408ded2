use smallvec::SmallVec;

use crate::quota::Cost;

/// What an allowed check charged to its key, worth a refund to that key of at most that, once.
///
/// It is not `Clone`: what has been given back is taken off it ([`Limiter::refund`](crate::Limiter::refund)).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without its receipt a charge cannot be given back"]
pub struct Receipt {
    pub(crate) charges: SmallVec<[ChargePart; 2]>,
}

/// One quota's part of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChargePart {
    /// The identity of the quota that was charged (its low half: a receipt only meets quotas of its own policy).
    pub(crate) quota: u32,
    /// The [`ChargePosition`] in two parts: together they would take 8 bytes more.
    number: u32,
    at: i64,
    pub(crate) tokens: u64,
}

const _: () = assert!(size_of::<ChargePart>() == 24);

/// Where in the state a charge lies: the start of its window, or the time and number of its log entry. Buckets:
/// nowhere.
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
    /// The most that is still to be given back: the largest of its quotas' charges, in tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.charges
            .iter()
            .map(|charge| charge.tokens)
            .max()
            .unwrap_or(0)
    }

    /// What it is still worth, from each quota.
    pub(crate) fn cost(&self) -> Cost {
        let tokens = |index: usize| self.charges.get(index).map_or(0, |part| part.tokens);
        Cost::from_fn(self.charges.len(), tokens)
    }

    /// Takes up to `cost` of each quota off this receipt: what is returned can be refunded, what is left stays.
    pub fn take(&mut self, cost: Cost) -> Self {
        let mut taken = self.charges.clone();
        for (index, (own, part)) in self.charges.iter_mut().zip(&mut taken).enumerate() {
            part.tokens = own.tokens.min(cost.get(index));
            own.tokens -= part.tokens;
        }
        Self { charges: taken }
    }
}
