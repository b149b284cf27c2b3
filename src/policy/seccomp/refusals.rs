//! The refusals of a profile that are recorded: a number for each, and how it is named to callers.

use super::{Action, Condition, MINIMAL, Profile, Row, Syscall};

/// In place of a rule's number: all rules that found no room in a record.
pub const OTHER_RULES: u16 = u16::MAX;
/// In place of a call's number: all calls without a row that found no room in a record.
pub const OTHER_NUMBERS: u32 = u32::MAX;
/// Calls without a row that a record tells apart: their numbers are the caller's to choose.
pub const NUMBERS_MAX: usize = 16;

/// More values than these say less than their number.
const VALUES_SHOWN: usize = 4;

/// A call that a row refuses, where its conditions hold (`matched`) or where they do not.
#[derive(Clone, Copy)]
struct Refusal {
    row: &'static Row,
    call: Syscall,
    matched: bool,
}

impl Profile {
    /// In an order that is the same for everybody who has this build.
    fn refusals(&self) -> impl Iterator<Item = Refusal> {
        let of_row = |row: &'static Row| {
            let denies = |action: Option<Action>| action.is_some_and(|action| action != Action::Allow);
            let branches = [(true, denies(Some(row.action))), (false, denies(row.otherwise))];
            let branches = branches.into_iter().filter(|(_, denies)| *denies && row.record);
            branches.flat_map(move |(matched, _)| row.syscalls.iter().map(move |&call| Refusal { row, call, matched }))
        };
        self.rows.iter().flat_map(of_row)
    }

    /// The number of the rule for calls without a row; those of rows lie below.
    fn rule_of_default(&self) -> u16 {
        self.refusals().count() as u16
    }

    /// What a native call gets, and the number of the rule under which that is recorded, where it is.
    pub fn refusal(&self, number: u32, args: &[u64; 6]) -> (Action, Option<u16>) {
        let (action, row) = self.decide(number, args);
        let Some(row) = row else {
            return (action, self.record_default.then(|| self.rule_of_default()));
        };
        let matched = row.args.iter().all(|condition| condition.holds(args[usize::from(condition.arg)]));
        let is = |r: &Refusal| std::ptr::eq(r.row, row) && r.matched == matched && r.call.number == number;
        (action, self.refusals().position(|r| is(&r)).map(|rule| rule as u16))
    }

    /// The rule and the call in words; `None` where no recorded refusal has these numbers.
    pub fn named(&self, rule: u16, number: u32) -> Option<(String, String)> {
        let default = self.rule_of_default();
        if rule == OTHER_RULES {
            return Some((format!("seccomp/{}.json: other rules", self.name), "all further ones together".into()));
        }
        if rule == default && self.record_default {
            let call = match call_of(number) {
                _ if number == OTHER_NUMBERS => "all further ones together".to_owned(),
                // A row would have decided it.
                Some(_) if self.rows.iter().any(|row| row.syscalls.iter().any(|s| s.number == number)) => return None,
                Some(call) => call.name.to_owned(),
                None => format!("system call {number}"),
            };
            return Some((format!("seccomp/{}.json: default", self.name), call));
        }
        let refusal = self.refusals().nth(rule.into()).filter(|refusal| refusal.call.number == number)?;
        Some((format!("seccomp/{}.json: {}", refusal.row.file, refusal.call.name), refusal.detail()))
    }
}

/// Minimal names every call that any profile names.
fn call_of(number: u32) -> Option<&'static Syscall> {
    MINIMAL.rows.iter().flat_map(|row| row.syscalls).find(|call| call.number == number)
}

impl Refusal {
    /// The call, and what about it the row refuses where that is not all of it.
    fn detail(&self) -> String {
        let name = self.call.name;
        match (self.row.args, self.matched) {
            ([], _) => name.to_owned(),
            ([one], matched) => format!("{name} ({})", words(one, matched)),
            (all, true) => {
                let all: Vec<String> = all.iter().map(|condition| words(condition, true)).collect();
                format!("{name} ({})", all.join(", "))
            }
            (all, false) => {
                let all: Vec<String> = all.iter().map(|condition| words(condition, false)).collect();
                format!("{name} ({})", all.join(" or "))
            }
        }
    }
}

fn words(condition: &Condition, holds: bool) -> String {
    let Condition { name, mask_name, values, .. } = condition;
    let not = if holds { "" } else { " not" };
    if let (Some(mask), [zero]) = (mask_name, values)
        && zero.value == 0
    {
        let mask = mask.replace('|', ", ");
        return if holds { format!("{name} has none of {mask}") } else { format!("{name} has one of {mask}") };
    }
    match values {
        [one] => format!("{name} is{not} {}", one.name),
        few if few.len() <= VALUES_SHOWN => {
            let few: Vec<&str> = few.iter().map(|value| value.name).collect();
            format!("{name} is{not} one of {}", few.join(", "))
        }
        many => format!("{name} is{not} one of {} that the row names", many.len()),
    }
}
