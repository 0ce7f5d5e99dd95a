#![no_main]

#[path = "../vhost.rs"]
#[allow(dead_code, reason = "the other target has its own function there")]
mod vhost;

libfuzzer_sys::fuzz_target!(|data: &[u8]| vhost::messages(data));
