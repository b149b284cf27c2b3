//! The seam: whatever bytes a front sends, decoding neither panics nor allocates without bound, and what decodes
//! encodes to the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandkeep::spec::{LimitRequest, SandboxId};
use sandkeep::wire::{FromMonitor, LifetimeWire, Request, Verb, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = decode::<Request>(bytes) {
        let again = encode(&request).expect("what fitted into a packet fits again");
        assert_eq!(decode::<Request>(&again).as_ref(), Ok(&request));
        match &request.verb {
            Verb::Create(create) => {
                let _ = create.id.parse::<SandboxId>();
                let _ = LimitRequest::from(create.limits);
            }
            Verb::Exec(exec) => {
                for fds in 0..12 {
                    let _ = exec.command(fds, LifetimeWire::Call);
                    let _ = exec.command(fds, LifetimeWire::Detached);
                }
            }
            _ => {}
        }
    }
    if let Ok(message) = decode::<FromMonitor>(bytes) {
        let again = encode(&message).expect("what fitted into a packet fits again");
        assert_eq!(decode::<FromMonitor>(&again), Ok(message));
    }
});
