//! The models of the page agree with the algorithms, and it reads every header format.

use std::path::Path;

use serde_json::{Value, json};

use crate::Page;

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    let text = std::fs::read_to_string(path).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

/// Runs vectors through a model, and returns each decision that differs.
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
async fn models_decide_like_the_algorithms() {
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
        // The page only checks, with a clock that never moves back, and with aligned windows.
        let plain = vectors.iter().filter(|vector| {
            let settings = vector["limit"].as_object().expect("numbers").keys();
            let usual = |key: &String| {
                ["capacity", "refill", "period_us", "limit", "window_us"].contains(&&**key)
            };
            let steps = vector["steps"].as_array().expect("steps");
            let goes_back = vector["tags"]
                .as_array()
                .is_some_and(|tags| tags.contains(&"clock_back".into()));
            // The server rounds a rate that exceeds its integers. The page does not.
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
    page.assert_no_errors();
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
            continue; // nested fields are tested elsewhere
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
        // A rejection names the quotas that reject. Older formats name one of all quotas.
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
    page.assert_no_errors();
}
