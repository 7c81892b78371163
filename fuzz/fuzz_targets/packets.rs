//! Sequences of packets through the packet core: see `proxy_testkit::packets::fuzz`.
#![no_main]

use proxy_testkit::packets::fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::run(data));
