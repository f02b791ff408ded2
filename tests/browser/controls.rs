//! The controls of the page.

use http::Method;
use http_body_util::Full;
use serde_json::Value;

use crate::Page;
use crate::playground::Playground;

/// The server's own error for these quotas.
async fn server_error(playground: &Playground, text: &str) -> String {
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
        let why = server_error(&page.playground, text).await;
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
    // Nothing has changed, and the last level still stands.
    assert_eq!(page.level().0, 5);

    page.fill("#text", "3/week, fixed-window:20/week");
    page.click("#use");
    page.until("document.querySelectorAll('.gauge').length === 2");
    assert_eq!(page.text("#wrong"), "");
    assert!(page.text("#notice").contains("The quota has changed"));
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
    // The replay uses the first of the new quotas.
    page.fill("#burst-size", "5");
    page.click("#burst");
    page.answered(7);
    assert_eq!(page.count("sliding-log", "allowed"), 3);
    page.assert_no_errors();
}

#[tokio::test]
async fn server_without_rate_limit_fields_is_reported() {
    let page = Page::open(&["--quota", "2/week", "--header-format", "none"]).await;
    let none = "This server sends no rate-limit fields (--header-format none), so the remaining tokens are unknown.";
    assert_eq!(page.text("#notice"), none);
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    assert_eq!(page.text("#notice"), none);
    assert!(page.get("document.querySelector('.gauge').dataset.level === undefined") == true);
    assert_eq!(
        page.get("document.querySelector('.reported').getBoundingClientRect().height"),
        0
    );
    assert!(
        page.text("#fields")
            .contains("429 Too Many Requests\nretry-after: ")
    );
    assert!(!page.text("#fields").contains("ratelimit"));
    page.picture("playground-no-fields");
    // The decision is still visible.
    assert_eq!(
        (
            page.marks("server", "allowed"),
            page.marks("server", "rejected")
        ),
        (2, 2)
    );
    page.assert_no_errors();
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
        let marks = ["allowed", "rejected"].map(|kind| page.marks("server", kind));
        assert_eq!(marks, [2, 1], "{key}");
        page.assert_no_errors();
    }
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
    page.assert_no_errors();
}
