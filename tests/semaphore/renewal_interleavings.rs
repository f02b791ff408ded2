//! Every interleaving of two runtimes that acquire and drop permits with leases. Time passes, and the first runtime may
//! stop, with or without the renewal task.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::semaphore::MemorySemaphore;
use tower_sluice::{Key, Permit, Semaphore, SemaphorePolicy};

const LEASE: Duration = Duration::from_secs(30);
/// One more step takes six times as long, and was tested once.
const LONGEST: usize = 5;
const MOST_HELD: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire(usize),
    Drop(usize),
    /// A sixth of the lease passes, and the remaining runtimes run.
    Pass,
    Run(usize),
    Stop,
}

const STEPS: [Step; 9] = [
    Step::Acquire(0),
    Step::Acquire(1),
    Step::Drop(0),
    Step::Drop(1),
    Step::Drop(2),
    Step::Pass,
    Step::Run(0),
    Step::Run(1),
    Step::Stop,
];

struct Fixture {
    clock: ManualClock,
    semaphore: Semaphore<MemorySemaphore<ManualClock>>,
    runtimes: [Option<Runtime>; 2],
    /// Each permit with the runtime that acquired it.
    held: Vec<Option<(usize, Permit)>>,
}

impl Fixture {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
        let memory = MemorySemaphore::builder().clock(clock.clone()).leases_end();
        let permits = SemaphorePolicy::new("exports", 9).with_lease(LEASE);
        let runtime = || Builder::new_current_thread().enable_time().build().ok();
        Self {
            clock,
            semaphore: Semaphore::new(permits, memory.build()),
            runtimes: [runtime(), runtime()],
            held: Vec::new(),
        }
    }

    fn is_possible(&self, step: Step) -> bool {
        match step {
            Step::Acquire(home) => self.held.len() < MOST_HELD && self.runtimes[home].is_some(),
            Step::Drop(number) => self.held.get(number).is_some_and(Option::is_some),
            Step::Pass => true,
            Step::Run(number) => self.runtimes[number].is_some(),
            Step::Stop => self.runtimes[0].is_some(),
        }
    }

    fn does(&mut self, step: Step) {
        match step {
            Step::Acquire(home) => {
                let Some(runtime) = &self.runtimes[home] else {
                    return;
                };
                let key = Key::from("ann");
                let permit = runtime.block_on(self.semaphore.try_acquire(&key, 1));
                self.held.push(Some((home, permit.expect("free"))));
            }
            Step::Drop(number) => self.held[number] = None,
            Step::Pass => {
                self.clock.advance(LEASE / 6);
                (0..2).for_each(|number| self.run(number));
                // Once more: the task may have moved to the other runtime.
                (0..2).for_each(|number| self.run(number));
            }
            Step::Run(number) => self.run(number),
            Step::Stop => self.runtimes[0] = None,
        }
    }

    fn run(&self, number: usize) {
        if let Some(runtime) = &self.runtimes[number] {
            runtime.block_on(async {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    /// Permits of remaining runtimes are kept, and dropped permits leave nothing.
    fn assert_sound(mut self) {
        for _ in 0..15 {
            self.does(Step::Pass);
        }
        for (home, permit) in self.held.iter().flatten() {
            assert!(self.runtimes[*home].is_none() || !permit.is_lost(), "lost");
        }
        self.held.clear();
        let memory = self.semaphore.backend();
        // A permit that a stopped runtime could not release ends with its lease.
        self.clock.advance(LEASE);
        let key = Key::from("ann");
        let Some(runtime) = &self.runtimes[1] else {
            return;
        };
        let permit = runtime.block_on(self.semaphore.try_acquire(&key, 9));
        drop(permit.expect("all are free"));
        assert_eq!((memory.held(), memory.keys()), (0, 0));
    }
}

fn try_steps(steps: &[Step]) -> bool {
    let mut fixture = Fixture::new();
    for step in steps {
        if !fixture.is_possible(*step) {
            return false;
        }
        fixture.does(*step);
    }
    fixture.assert_sound();
    true
}

#[test]
fn no_interleaving_loses_a_permit_of_a_living_runtime() {
    let mut tried = 0;
    let mut open = vec![vec![Step::Acquire(0)], vec![Step::Acquire(1)]];
    while let Some(steps) = open.pop() {
        tried += 1;
        if steps.len() == LONGEST {
            continue;
        }
        for step in STEPS {
            let more: Vec<Step> = steps.iter().copied().chain([step]).collect();
            match std::panic::catch_unwind(|| try_steps(&more)) {
                Ok(true) => open.push(more),
                Ok(false) => {}
                Err(_) => panic!("not sound: {more:?}"),
            }
        }
    }
    println!("{tried} orders");
    assert!(tried > 1_000);
}
