//! A thousand in sequence and a hundred at once leave nothing behind.

use sandkeep::wire::*;

use crate::ledger::Ledger;
use crate::support::*;
use crate::{machine, outside};

/// Of the engine, between its 100th call and its 1,000th (on a slow machine its 6th and its 60th).
const GROWTH_KIB_MAX: u64 = 4096;

#[test]
fn a_thousand_in_sequence_leave_nothing() {
    if !machine::expect("root") || !machine::nothing_waits() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    front.run(LevelWire::Standard, "true");
    let before = Ledger::of(&engine, &[]);
    let mut ids = Vec::new();
    let mut at_tenth = 0;
    let calls = machine::times(1000, 60);
    for n in 1..=calls {
        let id = random_id();
        ids.push(id.to_string());
        // Among them some that are refused, killed, and never used.
        match n % 50 {
            7 => {
                front.created(&id, LevelWire::Standard);
                assert_eq!(front.call(Verb::Destroy { id: id.to_string() }), Reply::Done);
                front.wait_reaped(&id);
            }
            8 => {
                let running = front.start_as(create(&id, LevelWire::Strict), exec(&id, "sleep 60"));
                let why = WhyWire::Caller;
                assert_eq!(front.call(Verb::Signal { id: running.id.to_string(), why }), Reply::Done);
                front.wait_exited(&id);
                front.wait_reaped(&id);
            }
            _ => {
                let mut exec = exec(&id, "");
                exec.argv = vec!["true".into()];
                let ran = front.run_as(create(&id, LevelWire::Standard), exec);
                assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
            }
        }
        if n == calls / 10 {
            at_tenth = outside::rss_kib(engine.pid());
        }
    }
    let at_end = outside::rss_kib(engine.pid());
    before.balances(&engine, &ids, "a thousand sandboxes");
    assert!(at_end <= at_tenth + GROWTH_KIB_MAX, "{at_tenth} KiB, then {at_end} KiB");
}

#[test]
fn a_hundred_at_once_leave_nothing() {
    if !machine::expect("root") || !machine::nothing_waits() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    front.run(LevelWire::Standard, "true");
    let before = Ledger::of(&engine, &[]);
    let mut running = Vec::new();
    let mut uids = std::collections::BTreeSet::new();
    let at_once = machine::times(100, 20);
    for n in 0..at_once {
        let id = random_id();
        let mut create = create(&id, if n % 2 == 0 { LevelWire::Standard } else { LevelWire::Strict });
        create.limits.memory_bytes = Some(32 << 20);
        create.limits.wall_ms = Some(300_000);
        let script = if n % 4 == 0 { "exec sleep 600" } else { "echo $$; read -t 0.2 < /dev/zero; exit 5" };
        let one = front.start_as(create, Exec { wall_ms: 300_000, ..exec(&id, script) });
        uids.insert(one.created.enforced.uid);
        running.push(one);
    }
    assert_eq!(uids.len(), at_once, "a uid for each");
    let ids: Vec<String> = running.iter().map(|r| r.id.to_string()).collect();
    for one in running.iter().step_by(4) {
        let why = WhyWire::Caller;
        assert_eq!(front.call(Verb::Signal { id: one.id.to_string(), why }), Reply::Done);
    }
    for (n, one) in running.into_iter().enumerate() {
        let end = front.wait_exited(&one.id);
        let expected = if n % 4 == 0 { OutcomeWire::KilledByCaller } else { OutcomeWire::Exited { code: 5 } };
        assert_eq!(end.outcome, expected);
        front.wait_reaped(&one.id);
    }
    before.balances(&engine, &ids, "a hundred at once");
}
