//! The build's own code: what the reader of profiles refuses, programs too large for short jumps, and that every program
//! decides as the one that seccompiler makes of the same rows.
#![cfg(target_arch = "x86_64")]

#[path = "../build/arch.rs"]
mod arch;
#[path = "support/bpf.rs"]
mod bpf;
#[path = "../build/names.rs"]
mod names;
#[allow(dead_code, reason = "names and reasons of rows are for the emitter, which is not tried here")]
#[path = "../build/profile.rs"]
mod profile;
#[path = "../build/program.rs"]
mod program;
#[path = "support/seccompiled.rs"]
mod seccompiled;

use profile::{Action, Condition, Profile, Row};
use serde_json::{Value, json};

fn arch() -> &'static arch::Arch {
    arch::for_target("x86_64").unwrap()
}

fn read(profile: &Value) -> Result<Profile, String> {
    let base = |name: &str| {
        let rows = json!([
            { "syscalls": ["read", "write"], "action": "allow", "reason": "Files." },
            { "syscalls": ["socket"], "action": "allow", "reason": "Sockets." },
        ]);
        (name == "base").then(|| with_rows("base", rows).to_string())
    };
    profile::read("seccomp/test.json", &profile.to_string(), arch(), &base)
}

fn with_rows(name: &str, rows: Value) -> Value {
    let errno = json!({ "errno": "ENOSYS" });
    json!({ "name": name, "summary": "A test.", "default": errno, "other_abi": errno, "rows": rows })
}

fn read_rows(rows: Value) -> Result<Profile, String> {
    read(&with_rows("test", rows))
}

/// A good row with one key replaced, after a row that is good.
fn mistake(key: &str, value: Value) -> String {
    let mut row = json!({
        "syscalls": ["socket"],
        "args": [{ "arg": 0, "name": "domain", "size": "int", "is": ["AF_UNIX"] }],
        "action": "allow",
        "otherwise": { "errno": "EPERM" },
        "reason": "Local sockets.",
    });
    let good = json!({ "syscalls": ["read"], "action": "allow", "reason": "Files." });
    assert!(read_rows(json!([good, row])).is_ok());
    row[key] = value;
    read_rows(json!([good, row])).expect_err(key)
}

#[test]
fn a_mistake_names_the_file_and_the_row() {
    let argument = |key: &str, value: Value| {
        let mut condition = json!({ "arg": 0, "name": "domain", "size": "int", "is": ["AF_UNIX"] });
        condition[key] = value;
        json!([condition])
    };
    for (key, value, complaint) in [
        ("syscalls", json!(["sockett"]), "unknown system call sockett"),
        ("syscalls", json!(["bind", "bind"]), "bind twice"),
        ("syscalls", json!([]), "names no system call"),
        ("reason", json!("  "), "the reason is empty"),
        ("reason", Value::Null, "invalid type: null"),
        ("resaon", json!("x"), "unknown field `resaon`"),
        ("action", json!("log"), "unknown variant `log`"),
        ("action", json!({ "errno": "EWRONG" }), "unknown error name EWRONG"),
        ("otherwise", json!("allow"), "otherwise says the same as action"),
        ("args", json!([]), "otherwise without args"),
        ("args", argument("arg", json!(6)), "no argument 6"),
        ("args", argument("is", json!([])), "lacks a name or values"),
        ("args", argument("is", json!(["AF_UNIXX"])), "unknown value AF_UNIXX"),
        ("args", argument("is", json!(["AF_UNIX", "1"])), "1 twice"),
        ("args", argument("is", json!(["0x100000000"])), "does not fit the low 32 bits"),
        ("args", argument("mask", json!("0x2")), "bits outside its mask"),
        ("args", argument("size", json!("short")), "unknown variant `short`"),
        ("args", argument("value", json!(1)), "unknown field `value`"),
        ("record", json!(true), "record is said only where it is false"),
        ("record", json!("no"), "invalid type"),
    ] {
        let message = mistake(key, value);
        assert!(message.starts_with("seccomp/test.json: row 2 ["), "{message}");
        assert!(message.contains(complaint), "{message}");
    }
    let missing = read_rows(json!([{ "syscalls": ["read"], "action": "allow" }])).unwrap_err();
    assert!(missing.contains("row 1 [\"read\"]: missing field `reason`"), "{missing}");
}

#[test]
fn rows_of_one_call_must_decide_every_case_once() {
    let args = json!([{ "arg": 0, "name": "fd", "size": "int", "is": ["0"] }]);
    let plain = json!({ "syscalls": ["read"], "action": "allow", "reason": "Files." });
    let mut conditional = plain.clone();
    conditional["args"] = args.clone();
    let twice = read_rows(json!([plain, plain])).unwrap_err();
    assert_eq!(twice, "seccomp/test.json: row 2: an earlier row already decides every read");
    assert!(read_rows(json!([plain, conditional])).unwrap_err().contains("row 2: an earlier row"));
    assert!(read_rows(json!([conditional])).unwrap_err().contains("no row says what becomes of read"));
    assert!(read_rows(json!([conditional, plain])).is_ok());
    conditional["args"] = json!([args[0], args[0]]);
    assert!(read_rows(json!([conditional, plain])).unwrap_err().contains("one argument has two conditions"));
}

#[test]
fn the_head_of_a_profile_is_checked() {
    let error = |change: &dyn Fn(&mut Value)| {
        let mut profile = with_rows("test", json!([]));
        change(&mut profile);
        read(&profile).unwrap_err()
    };
    assert!(error(&|profile| profile["name"] = json!("other")).contains("calls itself other"));
    assert!(error(&|profile| profile["summary"] = json!("")).contains("summary is empty"));
    assert!(error(&|profile| profile["colour"] = json!("red")).contains("unknown field `colour`"));
    assert!(error(&|profile| profile["default"] = Value::Null).contains("default is missing"));
    assert!(error(&|profile| profile["record"] = json!(true)).contains("record is said only where it is false"));
    assert!(error(&|profile| profile["extends"] = json!("base")).contains("come from base"));
    assert!(read(&json!({ "name": "test", "summary": "s", "extends": "no", "rows": [] })).is_err());
}

#[test]
fn an_extending_profile_replaces_calls_and_keeps_the_rest() {
    let row = json!({ "syscalls": ["write", "socket"], "action": { "errno": "EPERM" }, "reason": "Less." });
    let profile = read(&json!({ "name": "test", "summary": "s", "extends": "base", "rows": [row] })).unwrap();
    let calls: Vec<Vec<&str>> =
        profile.rows.iter().map(|row| row.syscalls.iter().map(|(name, _)| name.as_str()).collect()).collect();
    assert_eq!(calls, [vec!["read"], vec!["write", "socket"]]);
    let derived = profile.derive("other", "s", Row { syscalls: vec![("read".into(), 0)], ..profile.rows[1].clone() });
    assert_eq!((derived.name.as_str(), derived.rows.len()), ("other", 2));
    assert!(derived.by_number().values().all(|rows| rows.len() == 1 && rows[0].action != Action::Allow));
}

#[test]
fn what_is_refused_is_recorded_unless_the_profile_says_otherwise() {
    let row = |action: Value, record: Option<bool>| {
        let mut row = json!({ "syscalls": ["bind"], "action": action, "reason": "Names." });
        if let Some(record) = record {
            row["record"] = json!(record);
        }
        row
    };
    let refused = json!({ "errno": "EPERM" });
    let profile = read_rows(json!([row(refused.clone(), None)])).unwrap();
    assert!(profile.rows[0].record && profile.record_default);
    assert!(!read_rows(json!([row(refused.clone(), Some(false))])).unwrap().rows[0].record);
    assert!(!read_rows(json!([row(json!("allow"), None)])).unwrap().rows[0].record);
    let nothing = read_rows(json!([row(json!("allow"), Some(false))])).unwrap_err();
    assert!(nothing.contains("row 1 [\"bind\"]: record, where nothing is refused"), "{nothing}");

    // A whole profile that is not recorded says so once.
    let quiet = |rows: Value| {
        let mut profile = with_rows("test", rows);
        profile["record"] = json!(false);
        read(&profile)
    };
    let profile = quiet(json!([row(refused.clone(), None)])).unwrap();
    assert!(!profile.rows[0].record && !profile.record_default);
    assert!(quiet(json!([row(refused, Some(false))])).unwrap_err().contains("record is said twice"));
}

#[test]
fn only_described_architectures_build() {
    assert!(arch::for_target("aarch64").is_err_and(|message| message.contains("build/arch.rs")));
    assert_eq!(arch().number("read"), Some(0));
    assert_eq!(arch().number("mseal"), Some(462));
    assert_eq!(arch().number("file_setattr"), Some(469));
    // libc and seccompiler got their numbers apart from each other.
    for (name, number) in [("clone3", libc::SYS_clone3), ("rseq", libc::SYS_rseq), ("openat2", libc::SYS_openat2)] {
        assert_eq!(arch().number(name), u32::try_from(number).ok());
    }
}

#[test]
fn a_tree_too_wide_for_short_jumps_still_finds_every_leaf() {
    let errno = |name: &str| Action::Errno { name: name.into(), number: names::errno(name).unwrap() };
    let row = |number: u32| Row {
        syscalls: vec![(format!("call{number}"), number)],
        args: if number.is_multiple_of(50) {
            let value = u64::from(number) << 32 | 7;
            let values = vec![("v".into(), value)];
            vec![Condition { arg: 5, name: "a".into(), wide: true, mask: None, mask_name: None, values }]
        } else {
            Vec::new()
        },
        action: if number.is_multiple_of(2) { Action::Allow } else { errno("EINVAL") },
        otherwise: number.is_multiple_of(50).then(|| errno("EPERM")),
        record: false,
        file: "wide".into(),
        reason: "x".into(),
    };
    let profile = Profile {
        name: "wide".into(),
        summary: "s".into(),
        default: errno("ENOSYS"),
        record_default: false,
        other_abi: errno("EPERM"),
        rows: (10..1200).filter(|number| number % 7 != 0).map(row).collect(),
    };
    let compiled = program::compile(&profile, arch()).unwrap();
    let steps: Vec<_> = compiled.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    let run = |number: u32, last: u64| bpf::run(&steps, bpf::AUDIT_ARCH_X86_64, number, &[0, 0, 0, 0, 0, last]);
    let error = |number: i32| bpf::ERRNO | number as u32;
    for number in 0..1300 {
        let expected = match number {
            _ if !(10..1200).contains(&number) || number % 7 == 0 => error(libc::ENOSYS),
            _ if number % 50 == 0 => {
                assert_eq!(run(number, u64::from(number) << 32 | 7), bpf::ALLOW);
                // A wide condition minds the upper half.
                assert_eq!(run(number, 7), error(libc::EPERM));
                continue;
            }
            _ if number % 2 == 0 => bpf::ALLOW,
            _ => error(libc::EINVAL),
        };
        assert_eq!(run(number, 0), expected, "{number}");
    }
    assert_eq!(run(0x4000_0000, 0), error(libc::EPERM));
    assert_eq!(bpf::run(&steps, 0x4000_0003, 20, &[0; 6]), bpf::KILL_PROCESS);

    let longer = Profile { rows: (10..4000).map(row).collect(), ..profile };
    assert!(program::compile(&longer, arch()).unwrap_err().contains("the kernel takes 4096"));
}

/// Every register that some row looks at: each value that matches, its neighbours, single bits turned, bits outside the
/// mask, and all of them with dirt above the low 32 bits. Every combination of them.
fn registers(rows: &[&Row]) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    for arg in 0..6_u8 {
        let mut tries = std::collections::BTreeSet::from([0]);
        let conditions = || rows.iter().flat_map(|row| &row.args).filter(|condition| condition.arg == arg);
        for condition in conditions() {
            for (_, value) in &condition.values {
                let outside = !condition.mask.unwrap_or(u64::MAX) & 0xffff_ffff;
                tries.extend([*value, value | outside, value.wrapping_add(1), value.wrapping_sub(1)]);
                if rows.len() == 1 {
                    tries.extend((0..64).map(|bit| value ^ (1 << bit)));
                }
            }
        }
        tries.extend(tries.clone().into_iter().map(|value| value ^ 0xdead_beef_0000_0000));
        if conditions().next().is_some() {
            let with = |args: &[u64; 6], value: u64| {
                let mut args = *args;
                args[usize::from(arg)] = value;
                args
            };
            all = all.iter().flat_map(|args| tries.iter().map(move |value| with(args, *value))).collect();
        }
    }
    all
}

#[test]
fn every_program_decides_as_the_one_that_seccompiler_makes() {
    let text = |name: &str| std::fs::read_to_string(format!("seccomp/{name}.json")).ok();
    let mut compared = 0_u64;
    for name in ["minimal", "standard", "strict", "workload"] {
        let profile = profile::read(&format!("seccomp/{name}.json"), &text(name).unwrap(), arch(), &text).unwrap();
        let steps = |program: Vec<seccompiler::sock_filter>| -> Vec<_> {
            program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
        };
        let ours = steps(program::compile(&profile, arch()).unwrap());
        let theirs = steps(seccompiled::compile(&profile, arch()).unwrap());
        let is_short = ours.len() * 2 < theirs.len() || name == "workload" && ours.len() < theirs.len();
        assert!(is_short, "{name}: {} of {} instructions", ours.len(), theirs.len());
        let rows = profile.by_number();
        // The native numbers, their x32 twins, and the borders of what a number can be.
        let numbers =
            (0..1024).chain(0x4000_0000..0x4000_0400).chain([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
        for number in numbers {
            let tries = registers(rows.get(&(number & !0x4000_0000)).map_or(&[][..], |rows| rows));
            for (at, args) in tries.iter().enumerate() {
                // The other architectures never reach the rows: the first few registers have to do.
                let foreign = [0x4000_0003, 0xc000_00b7, 0x4000_003e, 0].into_iter().filter(|_| at < 2);
                for audit in foreign.chain([bpf::AUDIT_ARCH_X86_64]) {
                    let (ours, theirs) = (bpf::run(&ours, audit, number, args), bpf::run(&theirs, audit, number, args));
                    // seccompiler knows no listeners: there the error is returned at once.
                    let ours = if ours & !0xffff == bpf::USER_NOTIF { bpf::ERRNO | ours & 0xffff } else { ours };
                    assert_eq!(ours, theirs, "{name} {audit:#x} {number:#x} {args:x?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100_000, "{compared}");
}
