//! Replies as tables. Every string is escaped: a guest or another caller may have shaped it.

use serde_json::Value;

use crate::spec::capped;

const CELL_CHARS_MAX: usize = 80;

/// `value` for a cell.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => capped(text, CELL_CHARS_MAX),
        other => capped(&other.to_string(), CELL_CHARS_MAX),
    }
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    std::iter::once(head).chain(rows).map(|row| line(&row)).collect()
}

fn rows(list: &Value, keys: &[&str]) -> Vec<Vec<String>> {
    let row = |item: &Value| keys.iter().map(|key| text(&item[*key])).collect();
    list.as_array().into_iter().flatten().map(row).collect()
}

pub(super) fn tools(reply: &Value) -> String {
    table(&["NAME", "VERSION", "DESCRIPTION"], rows(&reply["tools"], &["name", "version", "description"]))
}

pub(super) fn executions(reply: &Value) -> String {
    table(
        &["EXECUTION", "TOOL", "LEVEL", "STATE", "SECONDS", "PRINCIPAL"],
        rows(&reply["executions"], &["execution_id", "tool_name", "level", "state", "age_seconds", "principal"]),
    )
}

pub(super) fn capabilities(reply: &Value) -> String {
    let sentence = |value: &Value| {
        let parts: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
        if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
    };
    let level = |l: &Value| {
        let why = if l["refused"].is_null() { sentence(&l["missing"]) } else { text(&l["refused"]) };
        let available = if l["available"] == true { "yes" } else { "no" };
        vec![text(&l["level"]), available.into(), why, sentence(&l["degraded"])]
    };
    let language = |l: &Value| {
        let programs = l["programs"].as_array().into_iter().flatten();
        let told = |p: &Value| match p["available"] == true {
            true if p["version"].is_null() => text(&p["program"]),
            true => text(&p["version"]),
            false => format!("no {} (package {})", text(&p["program"]), text(&p["package"])),
        };
        vec![text(&l["name"]), programs.map(told).collect::<Vec<_>>().join("; ")]
    };
    let languages = reply["languages"].as_array().into_iter().flatten().map(language).collect();
    let levels = reply["levels"].as_array().into_iter().flatten().map(level).collect();
    format!(
        "kernel {}, Landlock ABI {}\nsearch engines: {}\n\n{}\n{}\n{}",
        text(&reply["host"]["kernel"]),
        text(&reply["host"]["landlock_abi"]),
        sentence(&reply["search_engines"]),
        table(&["LEVEL", "AVAILABLE", "WHY NOT", "DEGRADED"], levels),
        table(&["RUNTIME", "PROGRAM"], rows(&reply["runtimes"], &["name", "program"])),
        table(&["LANGUAGE", "VERSION"], languages),
    )
}

pub(super) fn workspaces(reply: &Value) -> String {
    let columns = ["name", "used_bytes", "size_bytes", "files_used", "in_use", "created_at"];
    table(&["NAME", "USED", "SIZE", "FILES", "IN USE", "CREATED"], rows(&reply["workspaces"], &columns))
}

pub(super) fn files(reply: &Value) -> String {
    let list = table(
        &["KIND", "MODE", "BYTES", "MODIFIED", "PATH"],
        rows(&reply["entries"], &["kind", "mode", "size_bytes", "modified", "path"]),
    );
    if reply["truncated"] == true { format!("{list}… and more\n") } else { list }
}

pub(super) fn unpacked(reply: &Value) -> String {
    let mut told = format!("{} entries, {} bytes\n", text(&reply["entries"]), text(&reply["bytes_written"]));
    for skipped in reply["skipped"].as_array().into_iter().flatten() {
        told += &format!("left out ({}): {}\n", text(&skipped["reason"]), text(&skipped["path"]));
    }
    match reply["more_skipped"].as_u64() {
        None | Some(0) => told,
        Some(more) => told + &format!("left out: {more} more\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_lines_up_and_escapes() {
        let reply = json!({ "tools": [{ "name": "a\u{1b}[2J", "version": "1", "description": null }] });
        assert_eq!(tools(&reply), "NAME        VERSION  DESCRIPTION\na\\u{1b}[2J  1        -\n");
    }
}
