//! From a profile's JSON to checked rows. Every mistake names the file and the row.

use crate::arch::Arch;
use crate::names;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Allow,
    Errno { name: String, number: u16 },
}

/// One argument and the values of it that match.
#[derive(Debug, Clone)]
pub struct Condition {
    pub arg: u8,
    pub name: String,
    /// The kernel reads all 64 bits of it; otherwise only the low 32 count.
    pub wide: bool,
    pub mask: Option<u64>,
    /// The mask as the profile writes it.
    pub mask_name: Option<String>,
    pub values: Vec<(String, u64)>,
}

/// One row, checked.
#[derive(Debug, Clone)]
pub struct Row {
    pub syscalls: Vec<(String, u32)>,
    pub args: Vec<Condition>,
    pub action: Action,
    pub otherwise: Option<Action>,
    /// What it refuses is told to whoever holds the filter's listener.
    pub record: bool,
    /// The profile in which it is written.
    pub file: String,
    pub reason: String,
}

impl Row {
    /// Whether some call gets an error from it.
    fn refuses(&self) -> bool {
        self.action != Action::Allow || self.otherwise.as_ref().is_some_and(|action| *action != Action::Allow)
    }
}

/// One profile, checked.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    pub summary: String,
    pub default: Action,
    /// As of a row; the answer to another ABI is never recorded.
    pub record_default: bool,
    pub other_abi: Action,
    pub rows: Vec<Row>,
}

impl Profile {
    /// The rows of each call, in the order in which they decide.
    pub fn by_number(&self) -> BTreeMap<u32, Vec<&Row>> {
        let mut map: BTreeMap<u32, Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            for (_, number) in &row.syscalls {
                map.entry(*number).or_default().push(row);
            }
        }
        map
    }

    /// A profile of another name in which one unconditional row replaces all that was said about its calls.
    pub fn derive(&self, name: &str, summary: &str, row: Row) -> Profile {
        let mut rows = without(&self.rows, &row.syscalls);
        rows.push(row);
        Profile { name: name.to_owned(), summary: summary.to_owned(), rows, ..self.clone() }
    }
}

fn without(rows: &[Row], replaced: &[(String, u32)]) -> Vec<Row> {
    let mut kept = rows.to_vec();
    for row in &mut kept {
        row.syscalls.retain(|call| !replaced.contains(call));
    }
    kept.retain(|row| !row.syscalls.is_empty());
    kept
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    name: String,
    summary: String,
    #[serde(default)]
    extends: Option<String>,
    #[serde(default)]
    default: Option<RawAction>,
    #[serde(default)]
    other_abi: Option<RawAction>,
    #[serde(default)]
    record: Option<bool>,
    // Parsed one by one, so that a mistake in one can be named by its number.
    rows: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    syscalls: Vec<String>,
    action: RawAction,
    #[serde(default)]
    args: Vec<RawCondition>,
    #[serde(default)]
    otherwise: Option<RawAction>,
    #[serde(default)]
    record: Option<bool>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAction {
    Allow,
    Errno(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    arg: u8,
    name: String,
    size: Size,
    #[serde(default)]
    mask: Option<String>,
    is: Vec<String>,
}

/// How much of the register the kernel looks at.
#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Size {
    Int,
    Long,
}

/// Reads one profile; `base` finds the text of the one it extends.
pub fn read(file: &str, text: &str, arch: &Arch, base: &dyn Fn(&str) -> Option<String>) -> Result<Profile, String> {
    let raw: RawProfile = serde_json::from_str(text).map_err(|e| format!("{file}: {e}"))?;
    if file.rsplit('/').next() != Some(&format!("{}.json", raw.name)) {
        return Err(format!("{file}: the profile calls itself {}", raw.name));
    }
    if raw.summary.trim().is_empty() {
        return Err(format!("{file}: the summary is empty"));
    }
    if raw.record == Some(true) {
        return Err(format!("{file}: record is said only where it is false"));
    }
    let record = raw.record.is_none();
    let rows = raw.rows.into_iter().enumerate().map(|(index, value)| {
        let mut row = row(file, index + 1, value, arch)?;
        if !record && row.record != row.refuses() {
            return Err(format!(
                "{file}: row {}: nothing of this profile is recorded: record is said twice",
                index + 1
            ));
        }
        row.record &= record;
        row.file.clone_from(&raw.name);
        Ok(row)
    });
    let own = rows.collect::<Result<Vec<Row>, String>>()?;
    check_order(file, &own)?;

    let at_top = |action: Option<RawAction>, key: &str| match action {
        Some(action) => checked_action(action).map_err(|e| format!("{file}: {key}: {e}")),
        None => Err(format!("{file}: {key} is missing")),
    };
    let Some(extends) = raw.extends else {
        let default = at_top(raw.default, "default")?;
        let other_abi = at_top(raw.other_abi, "other_abi")?;
        let record_default = record && default != Action::Allow;
        return Ok(Profile { name: raw.name, summary: raw.summary, default, record_default, other_abi, rows: own });
    };
    if raw.default.is_some() || raw.other_abi.is_some() || raw.record.is_some() {
        return Err(format!("{file}: default, other_abi and record come from {extends}"));
    }
    let base_text = base(&extends).ok_or_else(|| format!("{file}: extends the unknown profile {extends}"))?;
    let base = read(&format!("seccomp/{extends}.json"), &base_text, arch, &|_| None)?;
    let replaced: Vec<_> = own.iter().flat_map(|row| row.syscalls.iter().cloned()).collect();
    let mut rows = without(&base.rows, &replaced);
    rows.extend(own);
    Ok(Profile { name: raw.name, summary: raw.summary, rows, ..base })
}

fn row(file: &str, number: usize, value: serde_json::Value, arch: &Arch) -> Result<Row, String> {
    let calls = value.get("syscalls").map(ToString::to_string).unwrap_or_default();
    let at = |e: String| format!("{file}: row {number} {calls}: {e}");
    let raw: RawRow = serde_json::from_value(value).map_err(|e| at(e.to_string()))?;

    if raw.reason.trim().is_empty() {
        return Err(at("the reason is empty".into()));
    }
    if raw.syscalls.is_empty() {
        return Err(at("names no system call".into()));
    }
    let mut syscalls = Vec::new();
    for name in raw.syscalls {
        let number = arch.number(&name).ok_or_else(|| at(format!("unknown system call {name}")))?;
        if syscalls.iter().any(|(known, _)| *known == name) {
            return Err(at(format!("{name} twice")));
        }
        syscalls.push((name, number));
    }
    let action = checked_action(raw.action).map_err(at)?;
    let otherwise = raw.otherwise.map(checked_action).transpose().map_err(at)?;
    let args = raw.args.into_iter().map(condition).collect::<Result<Vec<_>, String>>().map_err(at)?;
    if args.is_empty() && otherwise.is_some() {
        return Err(at("otherwise without args never applies".into()));
    }
    if otherwise.as_ref() == Some(&action) {
        return Err(at("otherwise says the same as action".into()));
    }
    if args.iter().map(|condition| condition.arg).collect::<BTreeSet<_>>().len() != args.len() {
        return Err(at("one argument has two conditions".into()));
    }
    let mut row = Row { syscalls, args, action, otherwise, record: false, file: String::new(), reason: raw.reason };
    row.record = match raw.record {
        Some(true) => return Err(at("record is said only where it is false".into())),
        Some(false) if !row.refuses() => return Err(at("record, where nothing is refused".into())),
        Some(false) => false,
        None => row.refuses(),
    };
    Ok(row)
}

fn checked_action(raw: RawAction) -> Result<Action, String> {
    match raw {
        RawAction::Allow => Ok(Action::Allow),
        RawAction::Errno(name) => match names::errno(&name) {
            Some(number) => Ok(Action::Errno { name, number }),
            None => Err(format!("unknown error name {name}")),
        },
    }
}

fn condition(raw: RawCondition) -> Result<Condition, String> {
    let number = |text: &str| names::value(text).ok_or_else(|| format!("unknown value {text}"));
    let wide = raw.size == Size::Long;
    let mask = raw.mask.as_deref().map(number).transpose()?;
    let mask_name = raw.mask.clone();
    if raw.arg > 5 {
        return Err(format!("a call has no argument {}", raw.arg));
    }
    if raw.is.is_empty() || raw.name.trim().is_empty() {
        return Err(format!("argument {} lacks a name or values", raw.arg));
    }
    let mut values: Vec<(String, u64)> = Vec::new();
    for text in raw.is {
        let value = number(&text)?;
        if values.iter().any(|(_, known)| *known == value) {
            return Err(format!("{text} twice"));
        }
        if value & !mask.unwrap_or(u64::MAX) != 0 {
            return Err(format!("{text} has bits outside its mask"));
        }
        if !wide && (value > u64::from(u32::MAX) || mask.unwrap_or(0) > u64::from(u32::MAX)) {
            return Err(format!("{text} does not fit the low 32 bits"));
        }
        values.push((text, value));
    }
    Ok(Condition { arg: raw.arg, name: raw.name, wide, mask, mask_name, values })
}

/// For each call: rows decide in order, and the last one decides everything that is left.
fn check_order(file: &str, rows: &[Row]) -> Result<(), String> {
    let mut settled: BTreeMap<&str, bool> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        for (name, _) in &row.syscalls {
            let settles = row.args.is_empty() || row.otherwise.is_some();
            if settled.insert(name, settles) == Some(true) {
                return Err(format!("{file}: row {}: an earlier row already decides every {name}", index + 1));
            }
        }
    }
    match settled.iter().find(|(_, settled)| !**settled) {
        Some((name, _)) => Err(format!("{file}: no row says what becomes of {name} when no condition holds")),
        None => Ok(()),
    }
}
