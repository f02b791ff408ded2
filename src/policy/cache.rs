use std::any::Any;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::OnceLock;

/// The values that other modules derive from a policy, one for each type.
///
/// It is a list that only grows. It has one entry for each module that derives a value: two today. A lookup takes no
/// lock.
#[derive(Default)]
pub(super) struct Cache {
    first: OnceLock<Box<Entry>>,
}

struct Entry {
    value: Box<dyn Derived>,
    next: OnceLock<Box<Entry>>,
}

/// A value that does not change whether a policy is unwind safe.
pub(crate) trait Derived: Any + Send + Sync + UnwindSafe + RefUnwindSafe {}

impl<T: Any + Send + Sync + UnwindSafe + RefUnwindSafe> Derived for T {}

impl Cache {
    /// Returns the value of type `T`. The first call creates it with `make`.
    pub(super) fn get_or_insert_with<T: Derived>(&self, make: impl FnOnce() -> T) -> &T {
        let mut make = Some(make);
        let mut link = &self.first;
        loop {
            let entry = link.get_or_init(|| {
                // At most one entry of a lookup is new. It holds a `T`, and the lookup ends.
                let value: Box<dyn Derived> = match make.take() {
                    Some(make) => Box::new(make()),
                    None => Box::new(()),
                };
                let next = OnceLock::new();
                Box::new(Entry { value, next })
            });
            let value: &dyn Any = &*entry.value;
            if let Some(value) = value.downcast_ref() {
                return value;
            }
            link = &entry.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_one_value_made_once() {
        let cache = Cache::default();
        assert_eq!(*cache.get_or_insert_with(|| 7_u32), 7);
        assert_eq!(*cache.get_or_insert_with(|| "text"), "text");
        assert_eq!(*cache.get_or_insert_with(|| 8_u64), 8);
        assert_eq!(
            *cache.get_or_insert_with(|| -> u32 { panic!("made twice") }),
            7
        );
        assert_eq!(
            *cache.get_or_insert_with(|| -> &str { panic!("made twice") }),
            "text"
        );
    }

    #[test]
    fn threads_that_race_get_the_same_values() {
        let cache = Cache::default();
        let addresses = |cache: &Cache| {
            let first = std::ptr::from_ref(cache.get_or_insert_with(|| 1_u8)).addr();
            (
                first,
                std::ptr::from_ref(cache.get_or_insert_with(|| 2_u16)).addr(),
            )
        };
        let seen: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| addresses(&cache))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert!(seen.iter().all(|pair| *pair == seen[0]));
    }
}
