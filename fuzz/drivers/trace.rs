//! libFuzzer's way into `targets/trace.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::trace::run(data));
