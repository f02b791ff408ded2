use std::any::Any;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::OnceLock;

/// Values of modules on higher floors, one for each type.
///
/// It is a list that only grows. It has one entry for each module that stores a value: at most two today. A lookup takes
/// no lock.
#[derive(Default)]
pub(crate) struct TypedSlots {
    first: OnceLock<Box<Entry>>,
}

struct Entry {
    value: Box<dyn Slot>,
    next: OnceLock<Box<Entry>>,
}

/// A value that does not change whether its owner is unwind safe.
pub(crate) trait Slot: Any + Send + Sync + UnwindSafe + RefUnwindSafe {}

impl<T: Any + Send + Sync + UnwindSafe + RefUnwindSafe> Slot for T {}

impl TypedSlots {
    /// Returns the value of type `T`. The first call creates it with `make`.
    pub(crate) fn get_or_insert_with<T: Slot>(&self, make: impl FnOnce() -> T) -> &T {
        let mut make = Some(make);
        let mut link = &self.first;
        loop {
            let entry = link.get_or_init(|| {
                // At most one entry of a lookup is new. It holds a `T`, and the lookup ends.
                let value: Box<dyn Slot> = match make.take() {
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
        let slots = TypedSlots::default();
        assert_eq!(*slots.get_or_insert_with(|| 7_u32), 7);
        assert_eq!(*slots.get_or_insert_with(|| "text"), "text");
        assert_eq!(*slots.get_or_insert_with(|| 8_u64), 8);
        assert_eq!(
            *slots.get_or_insert_with(|| -> u32 { panic!("made twice") }),
            7
        );
        assert_eq!(
            *slots.get_or_insert_with(|| -> &str { panic!("made twice") }),
            "text"
        );
    }

    #[test]
    fn threads_that_race_get_the_same_values() {
        let slots = TypedSlots::default();
        let addresses = |slots: &TypedSlots| {
            let first = std::ptr::from_ref(slots.get_or_insert_with(|| 1_u8)).addr();
            (
                first,
                std::ptr::from_ref(slots.get_or_insert_with(|| 2_u16)).addr(),
            )
        };
        let seen: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| addresses(&slots))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        assert!(seen.iter().all(|pair| *pair == seen[0]));
    }
}
