//! libFuzzer's way into `targets/template.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::template::run(data));
