//! The rules of permits as a simple model.

use std::collections::BTreeMap;

use crate::properties::{Action, KEPT, Step};
#[cfg(not(feature = "redis"))]
use crate::property::Coverage;
#[cfg(feature = "redis")]
use crate::support::property::Coverage;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) is_allowed: bool,
    /// µs; `None` for never.
    pub(crate) retry_after: Option<i64>,
    pub(crate) remaining: u64,
    pub(crate) reset_after: i64,
    pub(crate) lasting: Vec<bool>,
    pub(crate) in_front: u32,
}

/// The rules of a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) leases_end: bool,
    /// Whether a waiter sees the waiters of other processes.
    pub(crate) has_line: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) arrived: i64,
    pub(crate) weight: u32,
    pub(crate) capacity: u32,
    pub(crate) forgotten: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The weight, and the end of the lease.
    pub(crate) held: BTreeMap<u8, (u32, i64)>,
    pub(crate) queue: BTreeMap<u8, Place>,
}

impl Model {
    pub(crate) fn reported(&self, rules: Rules, now: i64, step: &Step) -> Reported {
        let lasts = |end: i64| !rules.leases_end || end > now;
        let live: u64 = self
            .held
            .values()
            .filter(|(_, end)| lasts(*end))
            .map(|held| u64::from(held.0))
            .sum();
        let last = self.held.values().map(|held| held.1).max().unwrap_or(now);
        Reported {
            is_allowed: true,
            retry_after: Some(0),
            remaining: u64::from(step.capacity).saturating_sub(live),
            reset_after: (last - now).clamp(0, step.lease),
            lasting: Vec::new(),
            in_front: 0,
        }
    }

    /// The weight that must be released or admitted first. `None` if enough permits are free.
    pub(crate) fn missing(&self, weight: u32, front: u32, capacity: u32) -> Option<i64> {
        let live: i64 = self.held.values().map(|held| i64::from(held.0)).sum();
        let missing = live + i64::from(front) + i64::from(weight) - i64::from(capacity);
        (missing > 0).then_some(missing)
    }

    /// When this much weight has expired, or all of it.
    pub(crate) fn freed(&self, missing: i64, now: i64) -> i64 {
        let mut ends: Vec<_> = self
            .held
            .values()
            .map(|(weight, end)| (*end, i64::from(*weight)))
            .collect();
        ends.sort_unstable();
        let (mut freed, mut last) = (0, now);
        for (end, weight) in ends {
            if freed < missing {
                (freed, last) = (freed + weight, end);
            }
        }
        (last - now).max(1)
    }

    /// The weight of the waiters in front, which are served first.
    pub(crate) fn front(&mut self, now: i64, id: u8, arrived: i64, capacity: u32) -> u32 {
        self.queue.retain(|other, place| {
            *other == id || (place.forgotten > now && place.forgotten <= now + KEPT)
        });
        let came_before = |(other, place): &(&u8, &Place)| {
            **other != id && (place.arrived, **other) < (arrived, id)
        };
        let may_enter = |(_, place): &(&u8, &Place)| {
            // A waiter of a smaller capacity does not block a waiter of a larger one.
            place.capacity >= capacity || self.missing(place.weight, 0, place.capacity).is_none()
        };
        let front = self.queue.iter().filter(came_before).filter(may_enter);
        front.map(|(_, place)| place.weight).sum()
    }

    pub(crate) fn apply(
        &mut self,
        rules: Rules,
        now: i64,
        step: &Step,
        coverage: &Coverage,
    ) -> Reported {
        let (capacity, latest) = (step.capacity, now + step.lease);
        if rules.leases_end && !matches!(step.does, Action::Peek) {
            self.held.retain(|_, held| held.1 > now);
            for held in self.held.values_mut() {
                held.1 = held.1.min(latest);
            }
        }
        let renew = |held: &mut BTreeMap<u8, (u32, i64)>, id: u8| {
            held.get_mut(&id).map(|held| held.1 = latest).is_some()
        };
        match &step.does {
            Action::Peek => self.reported(rules, now, step),
            Action::Renew(ids) => {
                let lasting = ids.iter().map(|id| renew(&mut self.held, *id)).collect();
                let reported = self.reported(rules, now, step);
                Reported {
                    lasting,
                    ..reported
                }
            }
            Action::Release(id) => {
                let lasting = vec![self.held.remove(id).is_some()];
                self.queue.remove(id);
                let reported = self.reported(rules, now, step);
                Reported {
                    lasting,
                    ..reported
                }
            }
            Action::Acquire { id, weight } | Action::Wait { id, weight, .. } => {
                if renew(&mut self.held, *id) {
                    coverage.note("again");
                    return self.reported(rules, now, step);
                }
                if *weight == 0 {
                    return self.reported(rules, now, step);
                }
                if *weight > capacity {
                    coverage.note("never");
                    let reported = self.reported(rules, now, step);
                    return Reported {
                        is_allowed: false,
                        retry_after: None,
                        ..reported
                    };
                }
                let (mut in_front, mut arrived) = (0, now);
                let stands = rules.has_line && matches!(step.does, Action::Wait { .. });
                if let (true, Action::Wait { waited, .. }) = (stands, &step.does) {
                    arrived = now - waited;
                    arrived = self
                        .queue
                        .get(id)
                        .map_or(arrived, |place| arrived.min(place.arrived));
                    in_front = self.front(now, *id, arrived, capacity);
                    if in_front > 0 {
                        coverage.note("behind others");
                    }
                }
                let Some(missing) = self.missing(*weight, in_front, capacity) else {
                    coverage.note("given");
                    self.held.insert(*id, (*weight, latest));
                    if stands {
                        self.queue.remove(id);
                    }
                    let reported = self.reported(rules, now, step);
                    return Reported {
                        in_front,
                        ..reported
                    };
                };
                coverage.note("denied");
                let retry_after = Some(self.freed(missing, now));
                if stands {
                    let (weight, forgotten) = (*weight, now + KEPT);
                    self.queue.insert(
                        *id,
                        Place {
                            arrived,
                            weight,
                            capacity,
                            forgotten,
                        },
                    );
                }
                let reported = self.reported(rules, now, step);
                Reported {
                    is_allowed: false,
                    retry_after,
                    in_front,
                    ..reported
                }
            }
        }
    }
}
