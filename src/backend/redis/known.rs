//! The scripts that a server is known to have. Any other script is sent as `EVAL`: its text costs less than the round
//! trip of an `EVALSHA` that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::script::Script;

const WORDS: usize = Script::COUNT.div_ceil(64);

/// The scripts that the server of one connection has.
#[derive(Debug, Default)]
pub(super) struct KnownScripts {
    bits: [AtomicU64; WORDS],
    /// The number of flushes that `bits` has seen.
    seen: AtomicU64,
    /// The number of flushes, shared by all connections of a backend.
    flushes: Arc<AtomicU64>,
}

// Relaxed: a known script that is missed costs its text. A forgotten script costs a round trip.
impl KnownScripts {
    pub(super) fn new(flushes: &Arc<AtomicU64>) -> Self {
        Self {
            bits: Default::default(),
            seen: AtomicU64::new(flushes.load(Relaxed)),
            flushes: Arc::clone(flushes),
        }
    }

    pub(super) fn has(&self, script: &Script) -> bool {
        let (word, bit) = place(script);
        self.seen.load(Relaxed) == self.flushes.load(Relaxed)
            && self.bits[word].load(Relaxed) & bit != 0
    }

    /// Notes that the server has run this script.
    pub(super) fn add(&self, script: &Script) {
        let flushes = self.flushes.load(Relaxed);
        if self.seen.swap(flushes, Relaxed) != flushes {
            self.bits.iter().for_each(|word| word.store(0, Relaxed));
        }
        let (word, bit) = place(script);
        self.bits[word].fetch_or(bit, Relaxed);
    }

    /// Notes that the server has lost its scripts. All connections lead to the same server.
    pub(super) fn forget_all(&self) {
        self.flushes.fetch_add(1, Relaxed);
    }
}

fn place(script: &Script) -> (usize, u64) {
    let index = script.index();
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::super::packed_quotas::Algorithms;
    use super::super::script::ScriptKind;
    use super::*;

    #[test]
    fn flush_makes_every_connection_forget_its_scripts() {
        let scripts = || {
            let bits = [1, 31].map(Algorithms::from_bits);
            let tasks = [ScriptKind::Check, ScriptKind::Reset];
            let all = tasks.map(|task| bits.map(|bits| Script::get(task, bits)));
            all.into_iter().flatten().chain([Script::semaphore()])
        };
        let flushes = Arc::default();
        let (one, two) = (KnownScripts::new(&flushes), KnownScripts::new(&flushes));
        for (position, script) in scripts().enumerate() {
            assert!(!one.has(script));
            one.add(script);
            two.add(script);
            let known = scripts().filter(|script| one.has(script)).count();
            assert_eq!(known, position + 1);
        }
        one.forget_all();
        assert!(!scripts().any(|script| one.has(script) || two.has(script)));
        let first = scripts().next().expect("a script");
        two.add(first);
        assert_eq!(scripts().filter(|script| two.has(script)).count(), 1);
        assert!(!one.has(first));
    }
}
