#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spelt_fuzz::respond::engine_answer(data));
