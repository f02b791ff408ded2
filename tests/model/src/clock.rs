use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use shuttle::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tower_sluice::clock::{Clock, Timestamp};

/// A clock that a thread of the model advances. Other threads may run at each reading.
#[derive(Clone)]
pub(crate) struct ModelClock(Arc<Shared>);

struct Shared {
    now: AtomicU64,
    sleepers: Mutex<Vec<Waker>>,
}

impl ModelClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            now: AtomicU64::new(1_000_000),
            sleepers: Mutex::default(),
        }))
    }

    pub(crate) fn micros(&self) -> u64 {
        self.0.now.load(SeqCst)
    }

    pub(crate) fn advance(&self, micros: u64) {
        self.0.now.fetch_add(micros, SeqCst);
        let sleepers = std::mem::take(&mut *self.0.sleepers.lock().expect("no panic"));
        sleepers.into_iter().for_each(Waker::wake);
    }
}

impl Clock for ModelClock {
    type Sleep = Sleep;

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros())
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Sleep {
            clock: self.clone(),
            deadline,
        }
    }
}

pub(crate) struct Sleep {
    clock: ModelClock,
    deadline: Timestamp,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before the reading: an advance in between wakes this waiter.
        self.clock
            .0
            .sleepers
            .lock()
            .expect("no panic")
            .push(cx.waker().clone());
        if self.clock.now() >= self.deadline {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
