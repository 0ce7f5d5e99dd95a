#![no_main]

#[path = "../vhost.rs"]
#[allow(dead_code)]
mod vhost;

libfuzzer_sys::fuzz_target!(|data: &[u8]| vhost::rings(data));
