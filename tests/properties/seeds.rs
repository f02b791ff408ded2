//! The seeds of the fuzz targets, and each input that a fuzz run has found.

use std::fs;
use std::path::Path;

use crate::fuzz_targets;

/// Calls `target` with each file in its folder, and returns their number.
fn replay(name: &str, target: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/seeds")
        .join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        println!("{}", path.display());
        target(&fs::read(&path).expect("a readable file"));
        count += 1;
    }
    count
}

#[test]
fn seeds_of_the_fuzz_targets_keep_their_promises() {
    type Target = fn(&[u8]);
    let mut targets: Vec<(&str, Target)> = vec![
        ("quota_string", fuzz_targets::quota_string),
        ("forwarded", fuzz_targets::forwarded),
        ("networks", fuzz_targets::networks),
        ("cookie", fuzz_targets::cookie),
    ];
    #[cfg(feature = "redis")]
    targets.push(("stored_state", fuzz_targets::stored_state));
    #[cfg(feature = "serde")]
    targets.push(("policy_serde", fuzz_targets::policy_serde));
    for (name, target) in targets {
        assert!(replay(name, target) > 0, "{name} has no seeds");
    }
}
