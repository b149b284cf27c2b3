//! The compiled profiles as Rust source.

use crate::profile::{Action, Condition, Profile, Row};
use seccompiler::sock_filter;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// One `Profile` constant; `policy::seccomp` includes it beside the types it names.
pub fn constant(identifier: &str, profile: &Profile, program: &[sock_filter]) -> String {
    let mut digest = Sha256::new();
    for instruction in program {
        digest.update(instruction.code.to_le_bytes());
        digest.update([instruction.jt, instruction.jf]);
        digest.update(instruction.k.to_le_bytes());
    }
    let sha256 = digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));

    let mut out = String::new();
    writeln!(out, "static {identifier}: Profile = Profile {{").unwrap();
    writeln!(out, "name: {:?}, summary: {:?}, sha256: {sha256:?},", profile.name, profile.summary).unwrap();
    writeln!(out, "default: {}, other_abi: {},", action(&profile.default), action(&profile.other_abi)).unwrap();
    writeln!(out, "record_default: {},", profile.record_default).unwrap();
    writeln!(out, "program: &[").unwrap();
    for sock_filter { code, jt, jf, k } in program {
        writeln!(out, "Instruction {{ code: {code:#x}, jt: {jt}, jf: {jf}, k: {k:#x} }},").unwrap();
    }
    writeln!(out, "],\nrows: &[").unwrap();
    for entry in &profile.rows {
        writeln!(out, "{},", row(entry)).unwrap();
    }
    writeln!(out, "],\n}};").unwrap();
    out
}

fn row(row: &Row) -> String {
    let syscalls =
        row.syscalls.iter().map(|(name, number)| format!("Syscall {{ name: {name:?}, number: {number} }}, "));
    let args = row.args.iter().map(condition);
    let otherwise = row.otherwise.as_ref().map_or("None".into(), |otherwise| format!("Some({})", action(otherwise)));
    format!(
        "Row {{ syscalls: &[{}], args: &[{}], action: {}, otherwise: {otherwise}, record: {}, file: {:?}, reason: {:?} }}",
        syscalls.collect::<String>(),
        args.collect::<String>(),
        action(&row.action),
        row.record,
        row.file,
        row.reason,
    )
}

fn condition(condition: &Condition) -> String {
    let Condition { arg, name, wide, mask, mask_name, values } = condition;
    let values = values.iter().map(|(name, value)| format!("Value {{ name: {name:?}, value: {value:#x} }}, "));
    let values = values.collect::<String>();
    format!(
        "Condition {{ arg: {arg}, name: {name:?}, wide: {wide}, mask: {mask:?}, mask_name: {mask_name:?}, \
         values: &[{values}] }}, "
    )
}

fn action(action: &Action) -> String {
    match action {
        Action::Allow => "Action::Allow".into(),
        Action::Errno { name, number } => format!("Action::Errno {{ name: {name:?}, number: {number} }}"),
    }
}
