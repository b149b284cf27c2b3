//! The same program made another way, to compare with: a search tree over the numbers, whose leaves return or jump to
//! the argument checks that seccompiler compiled.

use crate::arch::Arch;
use crate::profile::{Action, Condition, Profile, Row};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
/// What seccompiler is told to return where the next block should be tried: the profiles have no such action.
const NEXT_BLOCK: SeccompAction = SeccompAction::Trace(0);
const NEXT_BLOCK_RETURN: u32 = 0x7ff0_0000;

/// The kernel refuses longer programs.
const LENGTH_MAX: usize = 4096;

#[derive(Clone, PartialEq)]
enum Leaf {
    Return(Action),
    Check(usize),
}

/// Compiles one profile.
pub fn compile(profile: &Profile, arch: &Arch) -> Result<BpfProgram, String> {
    let mut checks: Vec<BpfProgram> = Vec::new();
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    for (number, rows) in profile.by_number() {
        let leaf = match rows.as_slice() {
            [row] if row.args.is_empty() => Leaf::Return(row.action.clone()),
            rows => {
                checks.push(check(number, rows, arch).map_err(|e| format!("{}: {e}", profile.name))?);
                Leaf::Check(checks.len() - 1)
            }
        };
        leaves.insert(number, leaf);
    }

    let mut program = vec![
        plain(LOAD, 4),
        sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: arch.audit },
        plain(RETURN, KILL_PROCESS),
        plain(LOAD, 0),
    ];
    let mut jumps = Vec::new();
    tree(&ranges(profile, arch, &leaves), &mut program, &mut jumps);

    let mut starts = Vec::new();
    for check in checks {
        starts.push(program.len());
        program.extend(check);
    }
    for (at, check) in jumps {
        program[at].k = u32::try_from(starts[check] - at - 1).expect("programs are short");
    }
    if program.len() >= LENGTH_MAX {
        return Err(format!("{}: {} instructions, the kernel takes {LENGTH_MAX}", profile.name, program.len()));
    }
    Ok(program)
}

/// Where each range of numbers begins and what becomes of it; neighbours differ.
fn ranges(profile: &Profile, arch: &Arch, leaves: &BTreeMap<u32, Leaf>) -> Vec<(u32, Leaf)> {
    let default = Leaf::Return(profile.default.clone());
    let mut all: Vec<(u32, Leaf)> = Vec::new();
    let mut next = 0;
    for (number, leaf) in leaves {
        if *number > next {
            all.push((next, default.clone()));
        }
        all.push((*number, leaf.clone()));
        next = number + 1;
    }
    all.push((next, default));
    all.push((arch.other_abi_from, Leaf::Return(profile.other_abi.clone())));
    all.dedup_by(|later, earlier| later.1 == earlier.1);
    all
}

fn size(ranges: &[(u32, Leaf)]) -> usize {
    match ranges.len() {
        1 => 1,
        n => {
            let low = size(&ranges[..n / 2]);
            1 + usize::from(low > 255) + low + size(&ranges[n / 2..])
        }
    }
}

fn tree(ranges: &[(u32, Leaf)], program: &mut BpfProgram, jumps: &mut Vec<(usize, usize)>) {
    if let [(_, leaf)] = ranges {
        match leaf {
            Leaf::Return(action) => program.push(plain(RETURN, seccomp_action(action).into())),
            Leaf::Check(check) => {
                jumps.push((program.len(), *check));
                program.push(plain(JUMP, 0));
            }
        }
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    match u8::try_from(size(low)) {
        Ok(over) => program.push(sock_filter { code: JUMP_AT_LEAST, jt: over, jf: 0, k: high[0].0 }),
        // A conditional jump reaches 255 instructions, an unconditional one reaches them all.
        Err(_) => {
            program.push(sock_filter { code: JUMP_AT_LEAST, jt: 0, jf: 1, k: high[0].0 });
            program.push(plain(JUMP, u32::try_from(size(low)).expect("programs are short")));
        }
    }
    tree(low, program, jumps);
    tree(high, program, jumps);
}

/// The argument checks of one call: one block a row. A block leads to the next where its row does not match.
fn check(number: u32, rows: &[&Row], arch: &Arch) -> Result<BpfProgram, String> {
    let mut program = BpfProgram::new();
    for (index, row) in rows.iter().enumerate() {
        if row.args.is_empty() {
            program.push(plain(RETURN, seccomp_action(&row.action).into()));
            continue;
        }
        let last = index + 1 == rows.len();
        let mismatch = match &row.otherwise {
            Some(action) => seccomp_action(action),
            None => NEXT_BLOCK,
        };
        assert!(!last || row.otherwise.is_some(), "checked when the profile was read");
        let rules = alternatives(&row.args).map_err(|e| e.to_string())?.into_iter().map(SeccompRule::new);
        let rules = rules.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let rules = BTreeMap::from([(i64::from(number), rules)]);
        let filter = SeccompFilter::new(rules, mismatch, seccomp_action(&row.action), arch.target);
        let mut block: BpfProgram = filter.and_then(TryInto::try_into).map_err(|e| e.to_string())?;
        let end = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            // seccompiler has one action for every mismatch; ours goes on where this block ends.
            if instruction.code == RETURN && instruction.k == NEXT_BLOCK_RETURN {
                *instruction = plain(JUMP, u32::try_from(end - at - 1).expect("programs are short"));
            }
        }
        program.extend(block);
    }
    Ok(program)
}

/// A row matches when each condition has one of its values: seccompiler takes that as a list of single values.
fn alternatives(args: &[Condition]) -> Result<Vec<Vec<SeccompCondition>>, BackendError> {
    let mut all: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for condition in args {
        let len = || if condition.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
        let op = || condition.mask.map_or(SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq);
        let values =
            condition.values.iter().map(|(_, value)| SeccompCondition::new(condition.arg, len(), op(), *value));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        all = all
            .iter()
            .flat_map(|done| values.iter().map(|value| [done, std::slice::from_ref(value)].concat()))
            .collect();
    }
    Ok(all)
}

fn seccomp_action(action: &Action) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno { number, .. } => SeccompAction::Errno(u32::from(*number)),
    }
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
