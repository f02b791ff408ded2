//! The playground's page in a real browser. Its pictures are in the target folder, `tmp/playground-*.png`.
#![cfg(feature = "axum")]

mod appearance;
mod controls;
mod drawing;
mod driver;
mod models;
#[allow(dead_code, reason = "a part is used here")]
#[path = "../http/playground.rs"]
mod playground;

use serde_json::Value;

use crate::driver::Browser;
use crate::playground::Playground;

/// A browser at the page of a playground.
pub(crate) struct Page {
    pub(crate) playground: Playground,
    pub(crate) browser: Browser,
}

impl std::ops::Deref for Page {
    type Target = Browser;

    fn deref(&self) -> &Browser {
        &self.browser
    }
}

impl Page {
    pub(crate) async fn open(arguments: &[&str]) -> Self {
        let playground = Playground::start(arguments).await;
        let page = Self {
            playground,
            browser: Browser::start(),
        };
        page.again();
        page
    }

    pub(crate) fn again(&self) {
        self.browser
            .open(&format!("{}/_playground", self.playground.base));
        self.until("document.querySelectorAll('#settings div').length > 0");
    }

    /// Waits until this many responses have arrived in total.
    pub(crate) fn answered(&self, count: usize) {
        let lane = "document.querySelector('[data-lane=server]').dataset";
        self.until(&format!(
            "Number({lane}.allowed) + Number({lane}.rejected) + Number({lane}.other) === {count}"
        ));
        self.until("unsettled.size === 0");
    }

    /// A count of a lane.
    pub(crate) fn count(&self, lane: &str, kind: &str) -> u64 {
        let count = self.get(&format!(
            "Number(document.querySelector('[data-lane={lane}]').dataset.{kind})"
        ));
        count.as_u64().expect("a count")
    }

    pub(crate) fn marks(&self, lane: &str, kind: &str) -> u64 {
        let marks = self.get(&format!(
            "document.querySelectorAll('[data-lane={lane}] .mark[data-kind={kind}]').length"
        ));
        marks.as_u64().expect("a count")
    }

    /// The level of the first gauge, the `r` of the last response, and the drawn height as a fraction.
    pub(crate) fn level(&self) -> (u64, u64, f64) {
        self.until("document.getAnimations().length === 0");
        let level = self.get(
            "(() => {
                const gauge = document.querySelector('.gauge'), tank = gauge.querySelector('.tank');
                const r = document.querySelector('#fields').textContent.match(/ratelimit: \"[^\"]*\";r=(\\d+)/);
                const drawn = gauge.querySelector('.reported').getBoundingClientRect().height / tank.clientHeight;
                return [Number(gauge.dataset.level), Number(r[1]), drawn];
            })()",
        );
        let number = |index: usize| level[index].as_u64().expect("a number");
        (number(0), number(1), level[2].as_f64().expect("a number"))
    }

    /// Checks that the page logged no error and sent no request to other servers.
    pub(crate) fn assert_no_errors(self) {
        for entry in self.log("browser") {
            // The browser logs each rejection, and each invalid quota. The tests cause these on purpose.
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
                    continue; // the start page of the browser
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
