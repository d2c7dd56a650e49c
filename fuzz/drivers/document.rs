//! libFuzzer's way into `targets/document.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::document::run(data));
