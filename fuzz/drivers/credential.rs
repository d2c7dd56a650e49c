//! libFuzzer's way into `targets/credential.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::credential::run(data));
