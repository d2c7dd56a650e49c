//! libFuzzer's way into `targets/path.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::path::run(data));
