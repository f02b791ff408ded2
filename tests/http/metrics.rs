//! The metrics of the example `prometheus`.

use crate::playground::Playground;

#[tokio::test]
async fn metrics_can_be_scraped() {
    let example = Playground::start_example("prometheus", &["127.0.0.1:0"]).await;
    let statuses = example.statuses(&["/"; 7]).await;
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    let export = example.request(http::Method::GET, "/export");
    let export = tokio::spawn(example.client.request(export));
    let scrape = async || {
        let answer = example.get("/metrics").await;
        assert_eq!(answer.status, 200);
        answer.body
    };
    let since = std::time::Instant::now();
    while !scrape()
        .await
        .contains("sluice_permits_in_use{permits=\"exports\"} 1\n")
    {
        assert!(since.elapsed() < crate::playground::TIMEOUT);
    }
    assert_eq!(example.get("/export").await.status, 429);
    assert_eq!(
        export.await.expect("no panic").expect("an answer").status(),
        200
    );
    let numbers = scrape().await;
    for line in [
        "# HELP sluice_decisions_total Decisions, by policy and outcome",
        "# TYPE sluice_decisions_total counter",
        "sluice_decisions_total{policy=\"per-ip\",outcome=\"allowed\"} 5",
        "sluice_decisions_total{policy=\"per-ip\",outcome=\"denied\"} 2",
        "sluice_decisions_total{policy=\"stricter\",outcome=\"allowed\"} 2",
        "sluice_decisions_total{policy=\"stricter\",outcome=\"shadow\"} 3",
        "sluice_permits_total{permits=\"exports\",outcome=\"allowed\"} 1",
        "sluice_permits_total{permits=\"exports\",outcome=\"denied\"} 1",
    ] {
        assert!(numbers.lines().any(|own| own == line), "{line}\n{numbers}");
    }
    assert!(!numbers.contains("127.0.0.1"), "no keys as labels");
}
