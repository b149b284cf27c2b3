//! Why a controller is not in a `cgroup.controllers`.

use std::fs;
use std::path::Path;

use super::cgroup::told;
use crate::spec::ControllerState;

/// Of a controller that `directory` does not offer.
pub(super) fn why_absent(name: &str, directory: &Path) -> ControllerState {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let offered = || ControllerState::NotOffered { directory: told(&directory.display().to_string()) };
    match row(&table, name) {
        Some(Row { hierarchy, .. }) if hierarchy != 0 => ControllerState::V1 { mount: v1_mount(name) },
        Some(Row { enabled: false, .. }) => ControllerState::SwitchedOff,
        Some(_) => offered(),
        // Kernels without cgroup v1 leave the table empty: only one that lists others can say that this one is missing.
        None if table.lines().all(|line| line.starts_with('#')) => offered(),
        None => ControllerState::NotBuilt,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// 0: cgroup v2, or none yet.
    hierarchy: u32,
    enabled: bool,
}

/// The line of `name` in /proc/cgroups: name, hierarchy, number of cgroups, enabled.
fn row(table: &str, name: &str) -> Option<Row> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    let mut fields = line.split_whitespace().skip(1);
    let hierarchy = fields.next()?.parse().ok()?;
    Some(Row { hierarchy, enabled: fields.nth(1)? != "0" })
}

fn v1_mount(name: &str) -> Option<String> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    let found = mounts.into_iter().find(|m| m.fs_type == "cgroup" && m.super_options.contains_key(name))?;
    Some(told(&found.mount_point.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t0\t26\t0\npids\t0\t1\t1\n";

    #[test]
    fn the_table_tells_owners_and_what_is_switched_off() {
        assert_eq!(row(TABLE, "cpu"), Some(Row { hierarchy: 1, enabled: true }));
        assert_eq!(row(TABLE, "memory"), Some(Row { hierarchy: 0, enabled: false }));
        assert_eq!(row(TABLE, "pids"), Some(Row { hierarchy: 0, enabled: true }));
        assert_eq!(row(TABLE, "cpuset"), None);
    }
}
