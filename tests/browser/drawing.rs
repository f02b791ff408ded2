//! The page draws what the server answered.

use crate::Page;

#[tokio::test]
async fn burst_is_drawn_as_the_server_decided() {
    let page = Page::open(&["--quota", "6/week"]).await;
    assert_eq!(
        page.text("#notice"),
        "Send a request to see the remaining tokens."
    );
    assert!(page.get("document.querySelector('.gauge').dataset.level === undefined") == true);

    page.click("#one");
    page.answered(1);
    let (level, reported, drawn) = page.level();
    assert_eq!((level, reported), (5, 5));
    assert!((drawn - 5.0 / 6.0).abs() < 0.02, "{drawn}");
    assert_eq!(page.text("#notice"), "");
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
            page.count("server", "rejected")
        ),
        (6, 3)
    );
    assert_eq!(
        (
            page.marks("server", "allowed"),
            page.marks("server", "rejected")
        ),
        (6, 3)
    );
    // Responses come in any order. The next one is the last.
    page.click("#one");
    page.answered(10);
    let (level, reported, drawn) = page.level();
    assert_eq!((level, reported), (0, 0));
    assert!(drawn.abs() < 0.02, "{drawn}");
    assert!(page.text("#live").starts_with("Rejected: 429"));
    assert!(page.text("#fields").contains("\nretry-after: "));

    // The same traffic in all lanes, one mark each, at the same position.
    for lane in [
        "token-bucket",
        "interval",
        "fixed-window",
        "sliding-window",
        "sliding-log",
    ] {
        assert_eq!(
            (page.count(lane, "allowed"), page.count(lane, "rejected")),
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
    page.assert_no_errors();
}

#[tokio::test]
async fn the_level_rises_by_the_clock_and_the_server_agrees() {
    let page = Page::open(&["--quota", "2/4s burst 5"]).await;
    page.fill("#burst-size", "7");
    page.click("#burst");
    page.answered(7);
    assert!(page.count("server", "allowed") >= 5);
    // The estimate is hatched, above the reported level.
    page.until("Number(document.querySelector('.gauge').dataset.estimate) >= Number(document.querySelector('.gauge').dataset.level) + 1");
    page.until("!document.querySelector('.estimate').hidden");
    assert!(
        page.text(".now").contains("(estimated)"),
        "{}",
        page.text(".now")
    );
    page.until("Number(document.querySelector('.gauge').dataset.estimate) === 5");
    assert_eq!(page.text(".now"), "full by now (estimated)");
    // The reported level is unchanged.
    let (level, reported, _) = page.level();
    assert_eq!(level, reported);
    page.click("#one");
    page.answered(8);
    let (level, reported, drawn) = page.level();
    assert_eq!((level, reported), (4, 4));
    assert!((drawn - 0.8).abs() < 0.02, "{drawn}");
    page.assert_no_errors();
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
    let (level, reported, _) = page.level();
    // On a busy machine a token may have been refilled.
    assert!(
        level == reported && (1000 - 3 * sent..=1001 - 3 * sent).contains(&level),
        "{level}, {reported}"
    );
    page.assert_no_errors();
}

#[tokio::test]
async fn waits_are_drawn_at_their_length() {
    let page = Page::open(&["--quota", "1/s", "--wait", "30"]).await;
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    assert_eq!(page.count("server", "allowed"), 4);
    let waits = page.get(
        "[...document.querySelectorAll('[data-lane=server] .mark')].map(mark => Number(mark.dataset.waited ?? 0)).sort((a, b) => a - b)",
    );
    let waits: Vec<u64> = serde_json::from_value(waits).expect("numbers");
    // A slow machine makes later waits longer, and the first ones shorter.
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
        page.count("token-bucket", "allowed") + page.count("token-bucket", "rejected"),
        4
    );
    page.assert_no_errors();
}

#[tokio::test]
async fn page_draws_only_server_data() {
    let mut page = Page::open(&["--quota", "6/week", "--key", "header:X-Api-Key"]).await;
    let unknown = "document.querySelector('.gauge').classList.contains('unknown') \
                  && document.querySelector('.gauge').dataset.level === undefined \
                  && document.querySelector('.reported').getBoundingClientRect().height === 0 \
                  && document.querySelector('.estimate').hidden";
    page.until(unknown);
    page.click("#one");
    page.answered(1);
    assert_eq!(page.level().0, 5);

    // A response without fields: the key is missing.
    page.fill("#key", "");
    page.click("#one");
    page.answered(2);
    page.until(unknown);
    assert_eq!(
        page.text("#notice"),
        "The last response (400) has no rate-limit fields."
    );
    assert!(page.text("#fields").contains("(no rate-limit fields)"));
    page.fill("#key", "me");
    page.click("#one");
    page.answered(3);
    assert_eq!(page.level().0, 4);
    assert_eq!(page.marks("server", "other"), 1);
    assert_eq!(page.marks("token-bucket", "skipped"), 1);

    // No response at all.
    page.playground.stop("-TERM").await;
    page.click("#one");
    page.answered(4);
    page.until(unknown);
    assert!(
        page.text("#live").starts_with("No response"),
        "{}",
        page.text("#live")
    );
}

#[tokio::test]
async fn shadow_policy_is_shown_as_shadow() {
    let page = Page::open(&["--quota", "2/week", "--shadow"]).await;
    page.fill("#burst-size", "4");
    page.click("#burst");
    page.answered(4);
    let reported = page.text("#notice");
    assert!(reported.contains("not enforced"), "{reported}");
    assert_eq!(page.marks("server", "allowed"), 4);
    assert_eq!(page.marks("token-bucket", "rejected"), 2);
    assert!(page.text("#fields").contains("x-ratelimit-shadow: default"));
    page.assert_no_errors();
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
            .starts_with("Rejected, too many in flight: 429"),
        "{}",
        page.text("#live")
    );
    // It was charged nothing, and the models did not decide.
    assert_eq!(page.marks("sliding-log", "skipped"), 1);
    assert_eq!(
        page.get("document.querySelector('.gauge').dataset.level"),
        "98"
    );
    page.again();
    page.fill("#hold-time", "0.1");
    // Held permits end with their page, a little later.
    page.until("(document.querySelector('#one').click(), document.querySelector('#permits').dataset.used === '1')");
    page.until("open.size === 0 && document.querySelector('#permits').dataset.ended === '1'");
    assert_eq!(
        page.get("document.querySelectorAll('#slots .ended').length"),
        1
    );
    page.assert_no_errors();
}
