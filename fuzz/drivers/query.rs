//! libFuzzer's way into `targets/query.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::query::run(data));
