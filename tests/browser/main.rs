//! The playground's page in a real browser. Its pictures are in the target folder, `tmp/playground-*.png`.
#![cfg(feature = "axum")]

mod driver;
#[allow(dead_code, reason = "a part is used here")]
#[path = "../http/playground.rs"]
mod playground;

use std::path::Path;

use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::driver::Browser;
use crate::playground::Playground;

/// A browser at the page of a playground.
struct Page {
    playground: Playground,
    browser: Browser,
}

impl std::ops::Deref for Page {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        &self.browser
    }
}

impl Page {
    async fn open(arguments: &[&str]) -> Self {
        let playground = Playground::start(arguments).await;
        let page = Self {
            playground,
            browser: Browser::start(),
        };
        page.again();
        page
    }

    fn again(&self) {
        self.browser
            .open(&format!("{}/_playground", self.playground.base));
        self.until("document.querySelectorAll('#told div').length > 0");
    }

    /// Waits for answers, so many in all.
    fn answered(&self, count: usize) {
        let lane = "document.querySelector('[data-lane=server]').dataset";
        self.until(&format!(
            "Number({lane}.allowed) + Number({lane}.refused) + Number({lane}.other) === {count}"
        ));
        self.until("unsettled.size === 0");
    }

    /// A count of a lane.
    fn count(&self, lane: &str, kind: &str) -> u64 {
        let count = self.get(&format!(
            "Number(document.querySelector('[data-lane={lane}]').dataset.{kind})"
        ));
        count.as_u64().expect("a count")
    }

    fn marks(&self, lane: &str, kind: &str) -> u64 {
        let marks = self.get(&format!(
            "document.querySelectorAll('[data-lane={lane}] .mark[data-kind={kind}]').length"
        ));
        marks.as_u64().expect("a count")
    }

    /// What the first gauge tells, the last answer's `r`, and how high it is drawn in proportion.
    fn level(&self) -> (u64, u64, f64) {
        self.until("document.getAnimations().length === 0");
        let level = self.get(
            "(() => {
                const gauge = document.querySelector('.gauge'), tank = gauge.querySelector('.tank');
                const r = document.querySelector('#fields').textContent.match(/ratelimit: \"[^\"]*\";r=(\\d+)/);
                const drawn = gauge.querySelector('.said').getBoundingClientRect().height / tank.clientHeight;
                return [Number(gauge.dataset.level), Number(r[1]), drawn];
            })()",
        );
        let number = |index: usize| level[index].as_u64().expect("a number");
        (number(0), number(1), level[2].as_f64().expect("a number"))
    }

    /// That the page said nothing against itself and asked nobody else.
    fn ends_well(self) {
        for entry in self.log("browser") {
            // The browser notes each rejection, and each quota that is none: they are what is shown here.
            let text = entry["message"].as_str().expect("text");
            let is_answer = entry["source"] == "network"
                && text.contains("the server responded with a status of 4");
            assert!(is_answer || entry["level"] != "SEVERE", "{entry}");
            assert!(entry["source"] != "security", "{entry}");
        }
        let mut asked = 0;
        for entry in self.log("performance") {
            let text = entry["message"].as_str().expect("text");
            let entry: Value = serde_json::from_str(text).expect("JSON");
            if entry["message"]["method"] == "Network.requestWillBeSent" {
                let request = &entry["message"]["params"]["request"];
                let url = request["url"].as_str().expect("text");
                if url.starts_with("chrome://") {
                    continue; // what the browser showed before
                }
                assert!(
                    url.starts_with(&self.playground.base) || url.starts_with("data:"),
                    "{url}"
                );
                asked += 1;
            }
        }
        assert!(asked > 1, "the page and its configuration at least");
    }
}

#[tokio::test]
async fn a_burst_is_drawn_as_the_server_answered_it() {
    let page = Page::open(&["--quota", "6/week"]).await;
    assert_eq!(
        page.text("#silence"),
        "The server has said nothing yet: send a request."
    );
    assert!(page.get("document.querySelector('.gauge').dataset.level === undefined") == true);

    page.click("#one");
    page.answered(1);
    let (level, said, drawn) = page.level();
    assert_eq!((level, said), (5, 5));
    assert!((drawn - 5.0 / 6.0).abs() < 0.02, "{drawn}");
    assert_eq!(page.text("#silence"), "");
    assert!(page.text("#live").starts_with("Allowed: 200 OK"));
    assert_eq!(
        page.text("#fields"),
        "200 OK\nratelimit: \"default\";r=5\nratelimit-policy: \"default\";q=6;w=604800"
    );

    page.fill("#burst-size", "8");
    page.click("#burst");
    page.answered(9);
    assert_eq!(
        (
            page.count("server", "allowed"),
            page.count("server", "refused")
        ),
        (6, 3)
    );
    assert_eq!(
        (
            page.marks("server", "allowed"),
            page.marks("server", "refused")
        ),
        (6, 3)
    );
    // Answers come in any order; the next one is the last.
    page.click("#one");
    page.answered(10);
    let (level, said, drawn) = page.level();
    assert_eq!((level, said), (0, 0));
    assert!(drawn.abs() < 0.02, "{drawn}");
    assert!(page.text("#live").starts_with("Refused: 429"));
    assert!(page.text("#fields").contains("\nretry-after: "));

    // The same traffic in all lanes, one mark each, at the same place.
    for lane in [
        "token-bucket",
        "interval",
        "fixed-window",
        "sliding-window",
        "sliding-log",
    ] {
        assert_eq!(
            (page.count(lane, "allowed"), page.count(lane, "refused")),
            (6, 4),
            "{lane}"
        );
    }
    let aligned = page.get(
        "[...document.querySelectorAll('[data-lane=server] .mark')].every(mark =>
            document.querySelectorAll(`[data-request=\"${mark.dataset.request}\"][transform=\"${mark.getAttribute('transform')}\"]`).length === 6)",
    );
    assert_eq!(aligned, true);

    page.click("#clear");
    page.until("document.querySelectorAll('.mark').length === 0");
    page.ends_well();
}

#[tokio::test]
async fn the_level_rises_by_the_clock_and_the_server_agrees() {
    let page = Page::open(&["--quota", "2/4s burst 5"]).await;
    page.fill("#burst-size", "7");
    page.click("#burst");
    page.answered(7);
    assert!(page.count("server", "allowed") >= 5);
    // Hatched, above what was said.
    page.until("Number(document.querySelector('.gauge').dataset.guess) >= Number(document.querySelector('.gauge').dataset.level) + 1");
    page.until("!document.querySelector('.guess').hidden");
    assert!(
        page.text(".now").contains("by the clock"),
        "{}",
        page.text(".now")
    );
    page.until("Number(document.querySelector('.gauge').dataset.guess) === 5");
    assert_eq!(page.text(".now"), "full by now, by the clock");
    // What was said is still what was said.
    let (level, said, _) = page.level();
    assert_eq!(level, said);
    page.click("#one");
    page.answered(8);
    let (level, said, drawn) = page.level();
    assert_eq!((level, said), (4, 4));
    assert!((drawn - 0.8).abs() < 0.02, "{drawn}");
    page.ends_well();
}

#[tokio::test]
async fn a_steady_rate_goes_on_until_it_is_stopped() {
    let page = Page::open(&["--quota", "1000/day"]).await;
    page.fill("#rate", "10");
    page.fill("#cost", "3");
    page.click("#steady");
    assert_eq!(
        page.get("document.querySelector('#steady').ariaPressed"),
        "true"
    );
    page.until("Number(document.querySelector('[data-lane=server]').dataset.allowed) >= 4");
    page.click("#steady");
    assert_eq!(
        page.get("document.querySelector('#steady').ariaPressed"),
        "false"
    );
    page.until("unsettled.size === 0");
    let sent = page.get("requests.length").as_u64().expect("a number");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(page.get("requests.length"), sent);
    let (level, said, _) = page.level();
    // In a busy minute a token may have come back.
    assert!(
        level == said && (1000 - 3 * sent..=1001 - 3 * sent).contains(&level),
        "{level}, {said}"
    );
    page.ends_well();
}

#[tokio::test]
async fn waits_are_drawn_as_long_as_they_were() {
    let page = Page::open(&["--quota", "1/s", "--wait", "30"]).await;
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    assert_eq!(page.count("server", "allowed"), 4);
    let waits = page.get(
        "[...document.querySelectorAll('[data-lane=server] .mark')].map(mark => Number(mark.dataset.waited ?? 0)).sort((a, b) => a - b)",
    );
    let waits: Vec<u64> = serde_json::from_value(waits).expect("numbers");
    // A slow machine makes them longer, and the first ones shorter.
    assert!(waits[3] >= 1_500, "{waits:?}");
    assert!(page.count("server", "waited") >= 2, "{waits:?}");
    let tail = page.get(
        "Math.max(...[...document.querySelectorAll('[data-lane=server] .tail')].map(tail => Number(tail.getAttribute('x2')))) / perSecond",
    );
    let drawn = tail.as_f64().expect("a number") * 1_000.0;
    assert!(
        (drawn - f64::from(u32::try_from(waits[3]).expect("short"))).abs() < 2.0,
        "{drawn}"
    );
    page.picture("playground-waits");
    // The models do not wait.
    assert_eq!(
        page.count("token-bucket", "allowed") + page.count("token-bucket", "refused"),
        4
    );
    page.ends_well();
}

/// What the server itself says to these quotas.
async fn complaint(playground: &Playground, text: &str) -> String {
    let mut request = playground.request(Method::PUT, "/_playground/quota");
    *request.body_mut() = Full::from(text.to_owned());
    let answer = playground.send(request).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.field("content-type"),
        Some("text/plain; charset=utf-8")
    );
    answer.body
}

#[tokio::test]
async fn quota_is_replaced_or_the_server_returns_an_error() {
    let page = Page::open(&["--quota", "6/week", "--name", "try"]).await;
    page.click("#one");
    page.answered(1);
    for text in [
        "<img src=x onerror=\"document.title='made into HTML'\">",
        "often",
        "1/month",
        "",
        "<script>document.title='made into HTML'</script>: 5/s",
        "1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s",
    ] {
        page.fill("#text", text);
        page.click("#use");
        let why = complaint(&page.playground, text).await;
        let why = Value::from(why);
        page.until(&format!(
            "document.querySelector('#wrong').textContent === {why}"
        ));
        assert_eq!(
            page.get("document.querySelectorAll('main img, main script').length"),
            0
        );
        assert_eq!(page.get("document.title"), "tower-sluice playground");
    }
    // Nothing has changed, and what was said still stands.
    assert_eq!(page.level().0, 5);

    page.fill("#text", "3/week, fixed-window:20/week");
    page.click("#use");
    page.until("document.querySelectorAll('.gauge').length === 2");
    assert_eq!(page.text("#wrong"), "");
    assert!(page.text("#silence").contains("nothing under it yet"));
    page.click("#one");
    page.answered(2);
    assert!(
        page.text("#fields")
            .contains("\"try-1\";q=3;w=604800, \"try-2\";q=20;w=604800"),
        "{}",
        page.text("#fields")
    );
    assert_eq!(
        page.get("document.querySelector('[data-name=try-2]').dataset.level"),
        "19"
    );
    // The replay goes by the first of the new ones.
    page.fill("#burst-size", "5");
    page.click("#burst");
    page.answered(7);
    assert_eq!(page.count("sliding-log", "allowed"), 3);
    page.ends_well();
}

#[tokio::test]
async fn page_draws_only_server_data() {
    let mut page = Page::open(&["--quota", "6/week", "--key", "header:X-Api-Key"]).await;
    let silent = "document.querySelector('.gauge').classList.contains('silent') \
                  && document.querySelector('.gauge').dataset.level === undefined \
                  && document.querySelector('.said').getBoundingClientRect().height === 0 \
                  && document.querySelector('.guess').hidden";
    page.until(silent);
    page.click("#one");
    page.answered(1);
    assert_eq!(page.level().0, 5);

    // An answer without fields: the key is missing.
    page.fill("#key", "");
    page.click("#one");
    page.answered(2);
    page.until(silent);
    assert_eq!(
        page.text("#silence"),
        "The last answer (400) said nothing of what is left."
    );
    assert!(page.text("#fields").contains("(no rate-limit fields)"));
    page.fill("#key", "me");
    page.click("#one");
    page.answered(3);
    assert_eq!(page.level().0, 4);
    assert_eq!(page.marks("server", "other"), 1);
    assert_eq!(page.marks("token-bucket", "unasked"), 1);

    // No answer at all.
    page.playground.stop("-TERM").await;
    page.click("#one");
    page.answered(4);
    page.until(silent);
    assert!(
        page.text("#live").starts_with("No answer"),
        "{}",
        page.text("#live")
    );
}

#[tokio::test]
async fn server_without_rate_limit_fields_is_reported() {
    let page = Page::open(&["--quota", "2/week", "--header-format", "none"]).await;
    let none = "This server sends no rate-limit fields (--header-format none): nobody but it knows what is left.";
    assert_eq!(page.text("#silence"), none);
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    assert_eq!(page.text("#silence"), none);
    assert!(page.get("document.querySelector('.gauge').dataset.level === undefined") == true);
    assert_eq!(
        page.get("document.querySelector('.said').getBoundingClientRect().height"),
        0
    );
    assert!(
        page.text("#fields")
            .contains("429 Too Many Requests\nretry-after: ")
    );
    assert!(!page.text("#fields").contains("ratelimit"));
    page.picture("playground-no-fields");
    // Whether it allowed is seen nevertheless.
    assert_eq!(
        (
            page.marks("server", "allowed"),
            page.marks("server", "refused")
        ),
        (2, 2)
    );
    page.ends_well();
}

#[tokio::test]
async fn shadow_policy_is_shown_as_shadow() {
    let page = Page::open(&["--quota", "2/week", "--shadow"]).await;
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    let reported = page.text("#silence");
    assert!(reported.contains("not enforced"), "{reported}");
    assert_eq!(page.marks("server", "allowed"), 4);
    assert_eq!(page.marks("token-bucket", "refused"), 2);
    assert!(page.text("#fields").contains("x-ratelimit-shadow: default"));
    page.ends_well();
}

#[tokio::test]
async fn playground_accepts_a_typed_key() {
    for key in ["header:x-tenant", "bearer", "cookie:sid", "query:tenant"] {
        let page = Page::open(&["--quota", "1/week", "--key", key]).await;
        for (tenant, answers) in [("ann", 2), ("bob", 3)] {
            page.fill("#key", tenant);
            page.fill("#burst-size", if tenant == "ann" { "2" } else { "1" });
            page.click("#burst");
            page.answered(answers);
        }
        let marks = ["allowed", "refused"].map(|kind| page.marks("server", kind));
        assert_eq!(marks, [2, 1], "{key}");
        page.ends_well();
    }
}

#[tokio::test]
async fn permits_in_use_are_drawn_and_held() {
    let page = Page::open(&["--quota", "100/week", "--in-flight", "2"]).await;
    page.fill("#hold-time", "60");
    page.click("#hold");
    page.until("document.querySelector('#permits').dataset.used === '1'");
    page.click("#hold");
    page.until("document.querySelector('#permits').dataset.used === '2'");
    assert_eq!(
        page.get("document.querySelectorAll('#slots .used').length"),
        2
    );
    page.click("#one");
    page.answered(3);
    assert!(
        page.text("#live")
            .starts_with("Refused, too many in flight: 429"),
        "{}",
        page.text("#live")
    );
    // It was charged nothing, and the models are not asked.
    assert_eq!(page.marks("sliding-log", "unasked"), 1);
    assert_eq!(
        page.get("document.querySelector('.gauge').dataset.level"),
        "98"
    );
    page.again();
    page.fill("#hold-time", "0.1");
    // Those that were held end with their page, a little later.
    page.until("(document.querySelector('#one').click(), document.querySelector('#permits').dataset.used === '1')");
    page.until("open.size === 0 && document.querySelector('#permits').dataset.ended === '1'");
    assert_eq!(
        page.get("document.querySelectorAll('#slots .ended').length"),
        1
    );
    page.ends_well();
}

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";

#[tokio::test]
async fn playground_works_by_keyboard() {
    let page = Page::open(&[
        "--quota",
        "100/week",
        "--in-flight",
        "2",
        "--key",
        "header:x-api-key",
    ])
    .await;
    let mut met = Vec::new();
    for _ in 0..16 {
        page.press(TAB);
        let focus = page
            .get("document.activeElement.id")
            .as_str()
            .expect("an id")
            .to_owned();
        if focus.is_empty() {
            continue;
        }
        let ring = page.get("getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth");
        assert_eq!(ring, "solid3px", "{focus}");
        let named = page.get("(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim() !== '' || !!document.activeElement.ariaLabel");
        assert_eq!(named, true, "{focus}");
        match &*focus {
            "one" => page.press(ENTER),
            "burst" | "steady" | "hold" => page.press(SPACE),
            "cost" | "burst-size" | "hold-time" | "rate" => page.press("2"),
            _ => {}
        }
        if focus == "steady" {
            page.until("requests.length > 61");
            page.press(SPACE);
        }
        met.push(focus);
        if met.last().is_some_and(|last| last == "use") {
            break;
        }
    }
    for id in [
        "key",
        "cost",
        "one",
        "burst-size",
        "burst",
        "rate",
        "steady",
        "hold-time",
        "hold",
        "clear",
        "text",
        "use",
    ] {
        assert!(met.iter().any(|met| met == id), "{id} of {met:?}");
    }
    page.until("unsettled.size === 0");
    assert!(
        page.get("Number(document.querySelector('[data-lane=server]').dataset.allowed)")
            .as_u64()
            >= Some(1)
    );
    assert_eq!(page.get("timer === null"), true);
    page.fill("#text", "7/week");
    page.press(ENTER);
    page.until("document.querySelector('.gauge .mono').textContent === '7/week'");
    page.ends_well();
}

/// The smallest contrast of texts to what is behind them, and where.
const CONTRAST: &str = "
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (; element; element = element.parentElement) {
            const [r, g, b, a = 1] = rgb(getComputedStyle(element).backgroundColor);
            if (a > 0) return [r, g, b];
        }
    };
    let worst = [99, ''];
    for (const element of document.querySelectorAll('h1, h2, h3, p, dt, dd, label, button, input, li, pre, code, strong')) {
        if (!element.checkVisibility() || !(element.textContent || element.value) || element.disabled) continue;
        const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < worst[0]) worst = [contrast, element.outerHTML];
    }
    return worst;";

#[tokio::test]
async fn page_is_readable_in_both_themes_at_any_width() {
    let page = Page::open(&[
        "--quota",
        "5/10s burst 12",
        "--quota",
        "fixed-window:60/minute",
        "--name",
        "try",
        "--in-flight",
        "3",
    ])
    .await;
    let mut sent = 0;
    let mut burst = |count: usize| {
        page.fill("#burst-size", &count.to_string());
        page.click("#burst");
        sent += count;
        page.answered(sent);
    };
    for (count, pause) in [(5, 1_500), (4, 2_500), (9, 4_000), (2, 3_000)] {
        burst(count);
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
    page.fill("#hold-time", "60");
    page.click("#hold");
    std::thread::sleep(std::time::Duration::from_millis(1_000));
    page.click("#one");
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    // The picture follows.
    let drawn =
        "Math.abs(document.querySelector('.track').getBoundingClientRect().width - width) < 1";
    // For the README: small.
    page.look(1_250, 0.8, "light");
    page.until(drawn);
    page.picture("playground");
    page.fill("#text", "10 a day");
    page.click("#use");
    page.until("document.querySelector('#wrong').textContent !== ''");
    for width in [1_400, 400] {
        for theme in ["light", "dark"] {
            page.look(width, 1.0, theme);
            page.until(drawn);
            page.picture(&format!("playground-{theme}-{width}"));
            let case = format!("{theme} at {width}");
            let fits = page.get("document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(fits, true, "{case}");
            let beyond = page.get(
                "[...document.querySelectorAll('main *')].filter(element => !element.closest('svg')
                    && element.getBoundingClientRect().right > innerWidth).map(element => element.outerHTML)",
            );
            assert_eq!(beyond, json!([]), "{case}");
            let worst = page.run(CONTRAST, Value::Null);
            assert!(worst[0].as_f64() >= Some(4.5), "{case}: {worst}");
        }
    }
    page.ends_well();
}

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    let text = std::fs::read_to_string(path).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

/// Plays vectors through a model; each answer that differs is told.
const PLAY: &str = "
    const [name, vectors] = arguments[0];
    return vectors.flatMap(({ name: vector, limit, steps }) => {
        const numbers = { capacity: limit.capacity, refill: limit.refill, limit: limit.limit, period: limit.period_us ?? limit.window_us };
        for (const key in numbers) if (numbers[key] !== undefined) numbers[key] = BigInt(numbers[key]);
        const decide = models[name](numbers);
        return steps.flatMap(({ at_us, cost, expect }, index) => {
            const allowed = decide(BigInt(at_us), BigInt(cost));
            return allowed === expect.allowed ? [] : [`${name}: ${vector}, step ${index}: ${allowed}`];
        });
    });";

#[tokio::test]
async fn the_models_decide_as_the_algorithms_do() {
    let page = Page::open(&[]).await;
    for (model, file) in [
        ("token-bucket", "token_bucket.json"),
        ("interval", "token_bucket_interval.json"),
        ("fixed-window", "fixed_window.json"),
        ("sliding-window", "sliding_counter.json"),
        ("sliding-log", "sliding_log.json"),
    ] {
        let file = vectors(file);
        let vectors = file["vectors"].as_array().expect("vectors");
        // The page only checks, by a clock that does not go back and with windows where they usually are.
        let plain = vectors.iter().filter(|vector| {
            let settings = vector["limit"].as_object().expect("numbers").keys();
            let usual = |key: &String| {
                ["capacity", "refill", "period_us", "limit", "window_us"].contains(&&**key)
            };
            let steps = vector["steps"].as_array().expect("steps");
            let goes_back = vector["tags"]
                .as_array()
                .is_some_and(|tags| tags.contains(&"clock_back".into()));
            // The server rounds a rate that does not fit into its integers; the page does not.
            let fits = !["units_do_not_fit", "most_tokens"]
                .map(Value::from)
                .contains(&vector["name"]);
            fits && !goes_back
                && settings.into_iter().all(usual)
                && steps.iter().all(|step| step["op"].is_null())
        });
        let plain: Vec<_> = plain.collect();
        assert!(plain.len() > 10, "{model}: {}", plain.len());
        let wrong = page.run(PLAY, json!([model, plain]));
        assert_eq!(wrong, json!([]));
    }
    page.ends_well();
}

#[tokio::test]
async fn the_fields_of_every_format_are_read() {
    let page = Page::open(&[]).await;
    let file = vectors("ratelimit_headers.json");
    let mut read = 0;
    for case in file["cases"].as_array().expect("cases") {
        let format = match case["format"].as_str().expect("a format") {
            "draft-11" => "draft11",
            "draft-07" => "draft07",
            "draft-06" => "draft06",
            "x-ratelimit-epoch" => "x-epoch",
            "x-ratelimit-delta" => "x-delta",
            "none" => "none",
            _ => continue,
        };
        if !case["existing"].is_null() {
            continue; // of which layer they speak is told elsewhere
        }
        let said = page.run(
            "const [format, fields, now] = arguments[0], date = new Date(now / 1000).toUTCString();
             return read(format, name => name === 'date' ? date : fields.find(field => field[0] === name)?.[1] ?? null);",
            json!([format, case["expect"]["headers"], case["now_us"]]),
        );
        let said = said.as_array().expect("a list");
        let results = case["results"].as_array().expect("results");
        let denied = results.iter().any(|result| result["allowed"] == false);
        if format == "none" {
            assert!(said.is_empty(), "{case}: {said:?}");
            continue;
        }
        // A rejection names those that reject; the older formats name one of all.
        let reported = results
            .iter()
            .zip(case["policies"].as_array().expect("policies"));
        let reported: Vec<_> = reported
            .filter(|(result, _)| !denied || result["allowed"] == false)
            .collect();
        if format == "draft11" {
            assert_eq!(said.len(), reported.len(), "{case}");
        }
        for item in said {
            let matching = reported.iter().any(|(result, policy)| {
                let named = item["name"].is_null() || item["name"] == policy["name"];
                let limit = [&policy["limit"], &policy["capacity"]];
                named && item["left"] == result["remaining"] && limit.contains(&&item["limit"])
            });
            assert!(matching, "{case}: {item}");
            read += 1;
        }
        assert!(!said.is_empty(), "{case}");
    }
    assert!(read > 20, "{read}");
    page.ends_well();
}
