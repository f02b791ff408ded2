//! Measures several subjects in turns, so that a machine that speeds up or slows down affects all of them alike.
//!
//! A ratio is the median of the ratios of all rounds. It is far more stable than the ratio of two averages.

use std::time::{Duration, Instant};

/// A subject: its name, and a function that repeats its operation.
pub struct Subject<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Subject<'a> {
    /// An operation that runs on one thread.
    pub fn new(name: &'static str, mut operation: impl FnMut() + 'a) -> Self {
        let run = move |repetitions| {
            let start = Instant::now();
            for _ in 0..repetitions {
                operation();
            }
            start.elapsed()
        };
        let run = Box::new(run);
        Self { name, run }
    }

    /// A function that takes the time of that many operations itself.
    #[allow(dead_code)] // not every bench needs it
    pub fn timed(name: &'static str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        let run = Box::new(run);
        Self { name, run }
    }
}

/// The ns of one operation in each round, by subject.
pub struct Table(Vec<(&'static str, Vec<f64>)>);

/// Runs all subjects in turns.
#[allow(clippy::cast_precision_loss)]
pub fn measure(title: &str, rounds: usize, repetitions: u64, subjects: Vec<Subject<'_>>) -> Table {
    let mut subjects = subjects;
    let mut times: Vec<_> = subjects
        .iter()
        .map(|subject| (subject.name, Vec::with_capacity(rounds)))
        .collect();
    for _ in 0..rounds {
        for (subject, (_, times)) in subjects.iter_mut().zip(&mut times) {
            (subject.run)(repetitions / 10);
            times.push((subject.run)(repetitions).as_nanos() as f64 / repetitions as f64);
        }
    }
    println!("\n{title}\n{:44}{:>10}{:>10}", "", "least ns", "median ns");
    for (name, times) in &times {
        let sorted = sorted(times.clone());
        println!("  {name:42}{:10.1}{:10.1}", sorted[0], median(&sorted));
    }
    Table(times)
}

impl Table {
    fn times(&self, name: &str) -> &[f64] {
        let row = self.0.iter().find(|(known, _)| *known == name);
        &row.unwrap_or_else(|| panic!("no row is named {name:?}")).1
    }

    /// Prints the median ratio of `name` to `peer`, and whether it is at most `most`.
    #[allow(dead_code)]
    pub fn at_most(&self, most: f64, name: &str, peer: &str) {
        let ratios = self.times(name).iter().zip(self.times(peer));
        let ratio = median(&sorted(
            ratios.map(|(ours, theirs)| ours / theirs).collect(),
        ));
        verdict(
            ratio <= most,
            &format!("{name} / {peer} = {ratio:.2}, budget <= {most}"),
        );
    }

    /// Prints the median throughput of `name` relative to `peer`, and whether it is at least `least`.
    #[allow(dead_code)]
    pub fn at_least(&self, least: f64, name: &str, peer: &str) {
        let ratios = self.times(name).iter().zip(self.times(peer));
        let ratio = median(&sorted(
            ratios.map(|(ours, theirs)| theirs / ours).collect(),
        ));
        let text = format!("throughput of {name} / {peer} = {ratio:.2}, budget >= {least}");
        verdict(ratio >= least, &text);
    }

    /// Prints the ratio of the time that `name` adds to `base` to the time that `peer` adds, and whether it is at most
    /// `most`.
    #[allow(dead_code)]
    pub fn adds_at_most(&self, most: f64, name: &str, peer: &str, base: &str) {
        let rounds = self
            .times(name)
            .iter()
            .zip(self.times(peer))
            .zip(self.times(base));
        let ratios = rounds.map(|((ours, theirs), base)| (ours - base) / (theirs - base));
        let ratio = median(&sorted(ratios.collect()));
        let text = format!("added by {name} / by {peer} = {ratio:.2}, budget <= {most}");
        verdict(ratio <= most, &text);
    }

    /// Prints the time that `name` adds to `base`, and whether it is at most `most` ns.
    #[allow(dead_code)]
    pub fn adds_at_most_nanos(&self, most: f64, name: &str, base: &str) {
        let rounds = self.times(name).iter().zip(self.times(base));
        let added = median(&sorted(rounds.map(|(ours, base)| ours - base).collect()));
        verdict(
            added <= most,
            &format!("{name} adds {added:.0} ns, budget <= {most:.0}"),
        );
    }
}

fn verdict(passes: bool, text: &str) {
    println!("  {} {text}", if passes { "pass" } else { "FAIL" });
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
