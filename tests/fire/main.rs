//! Exactness under load: 8 processes of 64 tasks each check 1 key or 1000 keys on one Redis as fast as they can. All
//! replies are judged by the rule and the server clock. No span admits an excess token, and no denial wastes an
//! available token. See [`exactness`] for the reasoning, which assumes nothing about speed.
//!
//! The test proves that it can fail. It must find the error of a limiter that does GET, then SET. It must also find one
//! changed record in a hundred of each good run.
//!
//! It has its own harness, since it starts itself again as the load processes. It knows the relevant options of
//! libtest.

mod exactness;
mod get_then_set;
mod load;
mod options;
mod process;
mod records;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use exactness::{Demand, Fault, Rule, Verdict};
use options::Options;
use process::{CHILD, Process};
use records::Check;
use support::redis::RedisServer;

const PROCESSES: usize = 8;
const TASKS: usize = 64;

/// Windows are short, so that a run contains four whole ones.
const WINDOW: u64 = 360_000;
/// Ends amid a window of the log, which begins with the first check.
const RUN: u64 = 4 * WINDOW + WINDOW / 2;
/// The last attempt takes 26 s. A machine that is still too busy cannot run the test.
const MOST_ATTEMPTS: u32 = 5;
const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

pub struct Scenario {
    name: &'static str,
    rule: Rule,
    load: Load,
    /// Costs are 1 to this, at random.
    costs: u64,
    target: Target,
}

#[derive(Clone, Copy)]
enum Load {
    OneKey,
    Keys(usize),
    /// This many keys, each of which every task checks once, all at the same time.
    Rounds(usize),
}

/// The target of the load.
#[derive(Clone, Copy)]
enum Target {
    /// Our backend. Zero turns the deny cache off.
    Backend { deny_cache: Duration },
    /// A limiter whose error must be found.
    NotAtomic,
}

const BACKEND: Target = Target::Backend {
    deny_cache: Duration::ZERO,
};

const fn one_key(name: &'static str, rule: Rule) -> Scenario {
    Scenario {
        name,
        rule,
        load: Load::OneKey,
        costs: 1,
        target: BACKEND,
    }
}

const fn keys(name: &'static str, rule: Rule) -> Scenario {
    Scenario {
        load: Load::Keys(1_000),
        ..one_key(name, rule)
    }
}

// Limits that any machine uses up: some thousand tokens in a run of some ten or hundred thousand checks. A bucket of
// one key never fills up in a run. Buckets of many keys refill their first token after half a second, so a pause wastes
// no tokens.
const TOKEN_BUCKET: Rule = Rule::TokenBucket {
    capacity: 3_000,
    refill: 600,
    period: SECOND,
};

const SCENARIOS: [Scenario; 16] = [
    one_key("token_bucket_on_one_key", TOKEN_BUCKET),
    one_key(
        "interval_bucket_on_one_key",
        Rule::IntervalBucket {
            capacity: 3_000,
            refill: 3,
            period: SECOND / 200,
        },
    ),
    one_key(
        "fixed_window_on_one_key",
        Rule::FixedWindow {
            limit: 500,
            window: WINDOW,
        },
    ),
    one_key(
        "sliding_window_on_one_key",
        Rule::SlidingWindow {
            limit: 500,
            window: WINDOW,
        },
    ),
    one_key(
        "sliding_log_on_one_key",
        Rule::SlidingLog {
            limit: 500,
            window: WINDOW,
        },
    ),
    Scenario {
        costs: 3,
        ..one_key("token_bucket_with_random_costs", TOKEN_BUCKET)
    },
    Scenario {
        costs: 3,
        ..one_key(
            "sliding_log_with_random_costs",
            Rule::SlidingLog {
                limit: 500,
                window: WINDOW,
            },
        )
    },
    Scenario {
        target: Target::Backend {
            deny_cache: Duration::from_secs(1),
        },
        ..one_key("token_bucket_with_deny_cache", TOKEN_BUCKET)
    },
    keys(
        "token_bucket_on_1000_keys",
        Rule::TokenBucket {
            capacity: 4,
            refill: 2,
            period: SECOND,
        },
    ),
    keys(
        "interval_bucket_on_1000_keys",
        Rule::IntervalBucket {
            capacity: 4,
            refill: 1,
            period: SECOND / 2,
        },
    ),
    keys(
        "fixed_window_on_1000_keys",
        Rule::FixedWindow {
            limit: 2,
            window: WINDOW,
        },
    ),
    keys(
        "sliding_window_on_1000_keys",
        Rule::SlidingWindow {
            limit: 2,
            window: WINDOW,
        },
    ),
    keys(
        "sliding_log_on_1000_keys",
        Rule::SlidingLog {
            limit: 2,
            window: WINDOW,
        },
    ),
    Scenario {
        load: Load::Rounds(20),
        ..one_key("of_1024_at_once_100_pass_in_20_rounds", HUNDRED)
    },
    Scenario {
        target: Target::NotAtomic,
        ..one_key("get_then_set_is_convicted_on_one_key", TOKEN_BUCKET)
    },
    Scenario {
        target: Target::NotAtomic,
        load: Load::Rounds(20),
        ..one_key("get_then_set_is_convicted_of_1024_at_once", HUNDRED)
    },
];

const HUNDRED: Rule = Rule::TokenBucket {
    capacity: 100,
    refill: 1,
    period: DAY,
};

impl Scenario {
    const fn keys(&self) -> usize {
        match self.load {
            Load::OneKey => 1,
            Load::Keys(keys) | Load::Rounds(keys) => keys,
        }
    }

    const fn tasks(&self) -> usize {
        match self.load {
            Load::Rounds(_) => 1_024 / PROCESSES,
            _ => TASKS,
        }
    }

    const fn is_cached(&self) -> bool {
        matches!(self.target, Target::Backend { deny_cache } if !deny_cache.is_zero())
    }

    /// Whether each process checks in the end until it is denied.
    const fn is_closed(&self) -> bool {
        matches!(
            (self.load, self.target),
            (Load::OneKey, Target::Backend { .. })
        )
    }

    /// A busy machine may delay checks or replies. Then the run is repeated, with all times twice as long.
    fn run(&self) -> Result<String, String> {
        let server = RedisServer::start();
        let mut why = String::new();
        for attempt in 0..MOST_ATTEMPTS {
            let slower = 1 << attempt;
            let (checks, run) = match self.run_load(&server, slower) {
                Ok(fired) => fired,
                Err(error) => {
                    why = error;
                    continue;
                }
            };
            let verdict = match (self.judge(&checks, run, slower), self.target) {
                (Err(Fault::TooMuch(what)), Target::NotAtomic) => return Ok(what),
                (Ok(verdict), _) if verdict.saturated => verdict,
                (Ok(_), _) => {
                    why = "the demand has paused".to_owned();
                    continue;
                }
                (Err(Fault::Slow), _) => {
                    why = Fault::Slow.to_string();
                    continue;
                }
                (Err(fault), _) => return Err(fault.to_string()),
            };
            if matches!(self.target, Target::NotAtomic) {
                return Err("nothing was noticed".to_owned());
            }
            self.must_detect_changed_records(&checks, run, slower)?;
            let Verdict {
                admitted,
                due,
                most,
                ..
            } = verdict;
            return Ok(format!(
                "{} checks, {admitted} admitted, {due} were due, {most} by the clock",
                checks.len()
            ));
        }
        Err(format!("no run can be judged; the last one: {why}"))
    }

    fn judge(&self, checks: &[Check], run: (u64, u64), slower: u64) -> Result<Verdict, Fault> {
        let pause = match self.load {
            Load::OneKey => WINDOW / 6 * slower,
            _ => WINDOW / 6 * 5 * slower,
        };
        let rule = self.rule.slower(slower);
        let mut by_key = vec![Vec::new(); self.keys()];
        for check in checks {
            by_key[check.key as usize].push(*check);
        }
        let (mut total, mut paused) = (Verdict::default(), 0);
        for checks in &by_key {
            let verdict = rule.judge(checks, Demand { run, pause })?;
            total.admitted += verdict.admitted;
            total.due += verdict.due;
            total.of += verdict.of;
            total.most += verdict.most;
            paused += usize::from(!verdict.saturated);
        }
        total.saturated = paused * 100 <= by_key.len();
        if let Load::OneKey = self.load {
            // Times are known well enough to detect a waste of one in a thousand.
            total.saturated &= total.of * 999 <= total.due * 1_000;
        }
        Ok(total)
    }

    /// The same records, with one token in a hundred more or less, must fail.
    fn must_detect_changed_records(
        &self,
        checks: &[Check],
        run: (u64, u64),
        slower: u64,
    ) -> Result<(), String> {
        let permits = checks
            .iter()
            .filter(|check| check.allowed && check.cost <= self.costs);
        let doctored: HashSet<_> = permits.step_by(100).map(std::ptr::from_ref).collect();
        let is_doctored = |check: &&Check| doctored.contains(&std::ptr::from_ref(*check));
        let more = checks.iter().chain(checks.iter().filter(is_doctored));
        let more: Vec<_> = more.copied().collect();
        if !matches!(self.judge(&more, run, slower), Err(Fault::TooMuch(_))) {
            return Err("1 % more permits would not be noticed".to_owned());
        }
        let fewer = checks.iter().filter(|check| !is_doctored(check));
        let fewer: Vec<_> = fewer.copied().collect();
        if !matches!(self.judge(&fewer, run, slower), Err(Fault::Wasted(_))) {
            return Err("1 % fewer permits would not be noticed".to_owned());
        }
        Ok(())
    }

    /// All checks of all processes, and the server clock before the first and after the last.
    fn run_load(
        &self,
        server: &RedisServer,
        slower: u64,
    ) -> Result<(Vec<Check>, (u64, u64)), String> {
        let mut processes = (0..PROCESSES)
            .map(|number| Process::start(&server.url(), self.name, slower, number))
            .collect::<Result<Vec<_>, _>>()?;
        for process in &mut processes {
            process.wait_until_ready()?;
        }
        let (before, since) = (clock_of(server)?, Instant::now());
        let start = load::now() + 30_000;
        let end = start + RUN * slower;
        for process in &mut processes {
            process.order(&format!("{start} {end}\n"))?;
        }
        let mut checks = Vec::new();
        for process in processes {
            checks.extend(process.report()?);
        }
        let after = clock_of(server)?;
        let (passed, by_clock) = (
            since.elapsed(),
            Duration::from_micros(after.abs_diff(before)),
        );
        if after < before || passed.abs_diff(by_clock) > Duration::from_millis(20) {
            return Err("the clock of this machine was set during the run".to_owned());
        }
        Ok((checks, (before, after)))
    }
}

/// The server clock, which must be that of this machine: the processes read it too.
fn clock_of(server: &RedisServer) -> Result<u64, String> {
    let earliest = load::now();
    let (seconds, micros): (u64, u64) = server.get(&["TIME"]);
    let (time, latest) = (seconds * SECOND + micros, load::now());
    if (earliest..=latest).contains(&time) {
        Ok(time)
    } else {
        Err(format!(
            "the server's clock says {time}, not {earliest} to {latest}"
        ))
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == CHILD).is_some() {
        return match load::child(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let options = Options::parse(args);
    let wanted = SCENARIOS.iter().filter(|scenario| options.wants(scenario));
    let mut failed = 0;
    for scenario in wanted.clone() {
        if options.list {
            println!("{}: test", scenario.name);
            continue;
        }
        print!("test {} ... ", scenario.name);
        let _ = std::io::stdout().flush();
        let since = Instant::now();
        let (word, what) = match scenario.run() {
            Ok(what) => ("ok", what),
            Err(why) => {
                failed += 1;
                ("FAILED", why)
            }
        };
        println!("{word} ({what}; {:.1} s)", since.elapsed().as_secs_f64());
    }
    let count = wanted.count();
    if options.list {
        println!("\n{count} tests, 0 benchmarks");
    } else {
        println!("\n{} of {count} scenarios held", count - failed);
    }
    ExitCode::from(u8::from(failed > 0))
}
