//! What all failures have in common: nothing hangs, nothing panics, and requests get what was chosen for them.

use std::sync::{Mutex, Once};
use std::time::Duration;

use tokio::time::timeout;

/// No test takes longer: what hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Panics outside of tests: in the backend's own tasks, where nobody else would notice.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs a test that must neither hang nor make anything panic.
pub(crate) async fn guarded<F: Future<Output = ()>>(test: F) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info
                .location()
                .is_none_or(|at| !at.file().starts_with("tests/"))
            {
                let mut panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
                panics.push(info.to_string());
            }
            usual(info);
        }));
    });
    timeout(PATIENCE, test).await.expect("nothing hangs");
    let panics = PANICS.lock().unwrap_or_else(|lock| lock.into_inner());
    assert!(panics.is_empty(), "{panics:#?}");
}
