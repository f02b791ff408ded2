//! The picture of the algorithms in the guide: one traffic, decided by each algorithm. To draw it again:
//! `SLUICE_UPDATE=1 cargo test --test properties picture`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tower_sluice::algorithm::{self, State};
use tower_sluice::clock::Timestamp;
use tower_sluice::{Cost, Policy, Quota};

/// A multiple of ten seconds, so that a window begins here.
const START: u64 = 1_800_000_000_000_000;
const WINDOW: Duration = Duration::from_secs(10);
const LIMIT: u64 = 10;
/// In seconds.
const SPAN: u64 = 30;

// In pixels.
const LABEL: u64 = 210;
const SECOND: u64 = 18;
const ROW: u64 = 44;
const BAR: u64 = 26;
const SHORT: u64 = 8;

/// In milliseconds: a burst, one more on each side of an edge, a steady second half, and a last burst.
fn requests() -> Vec<u64> {
    let burst =
        |start: u64, count: u64, step: u64| (0..count).map(move |index| start + index * step);
    burst(1_000, 4, 150)
        .chain(burst(8_200, 11, 150))
        .chain(burst(10_100, 11, 150))
        .chain(burst(14_000, 16, 400))
        .chain(burst(25_000, 14, 150))
        .collect()
}

fn drawn() -> String {
    let rows = [
        ("token bucket", Quota::token_bucket(LIMIT, LIMIT, WINDOW)),
        (
            "interval bucket",
            Quota::interval_bucket(LIMIT, LIMIT, WINDOW),
        ),
        ("fixed window", Quota::fixed_window(LIMIT, WINDOW)),
        ("sliding window", Quota::sliding_window(LIMIT, WINDOW)),
        ("sliding log", Quota::sliding_log(LIMIT, WINDOW)),
    ];
    let requests = requests();
    let (width, bottom) = (LABEL + SPAN * SECOND + 24, 16 + rows.len() as u64 * ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" width=\"100%\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"currentColor\">\n\
         <title>The same requests under five algorithms</title>\n",
        bottom + 24
    );
    let x = |millis: u64| LABEL as f64 + (millis * SECOND) as f64 / 1_000.0;
    for second in (0..=SPAN).step_by(10) {
        let x = x(second * 1_000);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"8\" y2=\"{bottom}\" stroke=\"currentColor\" \
             stroke-opacity=\"0.4\" stroke-dasharray=\"3 3\"/>\n\
             <text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            bottom + 16
        );
    }
    for (row, (name, quota)) in (0..).zip(rows) {
        let policy = Policy::new("picture", quota);
        let mut states: [Option<State>; 1] = [None];
        let floor = 16 + row * ROW + BAR + 8;
        let mut allowed = 0;
        let mut bars = String::new();
        for millis in &requests {
            let now = Timestamp::from_micros(START + millis * 1_000);
            let reply = algorithm::check(&policy, &mut states, now, Cost::ONE);
            let (height, color) = match reply.decision.is_allowed() {
                true => (BAR, "#2e9e5b"),
                false => (SHORT, "#d1495b"),
            };
            allowed += u64::from(reply.decision.is_allowed());
            let _ = writeln!(
                bars,
                "<rect x=\"{:.1}\" y=\"{}\" width=\"2\" height=\"{height}\" fill=\"{color}\"/>",
                x(*millis),
                floor - height
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"{}\">{name}</text>\n<text x=\"0\" y=\"{}\" fill-opacity=\"0.7\">{allowed} of {} \
             allowed</text>\n{bars}<line x1=\"{LABEL}\" x2=\"{}\" y1=\"{floor}\" y2=\"{floor}\" \
             stroke=\"currentColor\" stroke-opacity=\"0.4\"/>",
            floor - 14,
            floor + 2,
            requests.len(),
            width - 24
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
fn picture_of_the_algorithms_shows_their_decisions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/guide/algorithms.svg");
    let drawn = drawn();
    if std::env::var_os("SLUICE_UPDATE").is_some() {
        fs::write(&path, &drawn).expect("a writable file");
    }
    let kept = fs::read_to_string(&path).expect("a readable file");
    assert!(
        kept == drawn,
        "{} is old: see the head of this file",
        path.display()
    );
}
