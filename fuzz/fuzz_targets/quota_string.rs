#![no_main]

#[path = "../../tests/fuzz_targets/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each target uses one function")]
mod fuzz_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::quota_string(data));
