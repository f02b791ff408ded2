//! The page is readable in each theme at any width.

use serde_json::{Value, json};

use crate::Page;

/// The smallest contrast between texts and their background, and its element.
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
    // The drawing has the new width.
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
    page.assert_no_errors();
}
