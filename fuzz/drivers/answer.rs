//! libFuzzer's way into `targets/answer.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::answer::run(data));
