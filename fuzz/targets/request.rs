//! A request body: whatever bytes a caller sends, decoding and checking neither panics nor grows without bound.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sandkeep::api::http::decode_for_fuzzing(bytes));
