//! A plan in words, for `sandkeep explain` and for the snapshots that hold the table of levels.

use std::fmt::Write;

use super::plan::{Ask, PathAccess, Plan, Rules, TopLevel, plan};
use super::seccomp;
use crate::config::Config;
use crate::spec::{HostFacts, Level, LimitRequest};

/// What a host with a merged /usr and built-in defaults plans with.
pub(super) fn rules() -> Rules {
    let link = |name: &str| TopLevel::Link { name: name.into(), target: format!("usr/{name}") };
    let directory = |name: &str| TopLevel::Directory { name: name.into() };
    Rules {
        ceilings: Config::default().ceilings,
        allow_degraded: false,
        runtime_directories: Vec::new(),
        box_id: super::BOX_ID_DEFAULT,
        top_level: vec![
            link("bin"),
            link("lib"),
            link("lib64"),
            link("sbin"),
            directory("dev"),
            directory("etc"),
            directory("home"),
            directory("opt"),
            directory("proc"),
            directory("root"),
            directory("run"),
            directory("srv"),
            directory("sys"),
            directory("tmp"),
            directory("usr"),
            directory("var"),
        ],
    }
}

/// The plan of `level` on a host that lacks nothing, with built-in defaults.
pub fn explain(level: Level) -> String {
    let ask = Ask { level, limits: LimitRequest::default() };
    match plan(&ask, &rules(), &HostFacts::complete()) {
        Ok(plan) => describe(&plan),
        Err(super::plan::Refusal::Unavailable { missing }) => {
            format!(
                "level {level}: not available\n{}",
                missing.iter().fold(String::new(), |s, m| s + "  missing: " + m + "\n")
            )
        }
        Err(super::plan::Refusal::Limits(limits)) => format!("level {level}: limits out of range: {limits:?}\n"),
    }
}

fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String can not fail.
    let _ = write_plan(&mut out, plan);
    out
}

fn write_plan(out: &mut String, plan: &Plan) -> std::fmt::Result {
    let l = &plan.limits;
    writeln!(out, "level {} ({})", plan.level, plan.level.backend().name())?;
    let names: Vec<_> = plan.namespaces.iter().map(|n| n.name()).collect();
    if names.contains(&"user") {
        writeln!(out, "  uid and gid inside   {}", plan.box_id)?;
        writeln!(out, "  uid and gid outside  leased, one a sandbox")?;
    } else {
        writeln!(out, "  uid and gid          leased, one a sandbox")?;
    }
    writeln!(out, "  namespaces           {}", names.join(" "))?;
    let network = if names.contains(&"net") { "none (an empty network namespace)" } else { "the host's" };
    writeln!(out, "  network              {network}")?;
    writeln!(out, "  capabilities         none; bounding set empty, securebits locked, no_new_privs")?;
    let files = match (names.contains(&"user"), plan.memfd_noexec) {
        (true, true) => "refused (seccomp, user.max_*_namespaces = 0); memfd_noexec = 2",
        (true, false) => "refused (seccomp, user.max_*_namespaces = 0)",
        (false, _) => "refused (seccomp)",
    };
    writeln!(out, "  new namespaces       {files}")?;
    if let Some(profile) = seccomp::for_level(plan.seccomp.level, plan.seccomp.memfd) {
        writeln!(out, "  seccomp              {}, {} rows", profile.name, profile.rows.len())?;
    }
    writeln!(out, "mounts (all nosuid)")?;
    for m in &plan.mounts {
        let access = if m.read_only { "ro" } else { "rw" };
        let exec = if m.no_exec { "noexec" } else { "exec" };
        writeln!(out, "  {:<12} {access} {exec:<6} {}", m.target, m.kind)?;
    }
    for (name, target) in &plan.links {
        writeln!(out, "  {name:<12} -> {target}")?;
    }
    writeln!(out, "  masked       {}", plan.masked.join(" "))?;
    match &plan.landlock {
        None => writeln!(out, "Landlock: none")?,
        Some(landlock) => {
            writeln!(out, "Landlock, at least ABI {}", landlock.floor_abi)?;
            for rule in &landlock.rules {
                let access = match rule.access {
                    PathAccess::Read => "read",
                    PathAccess::ReadExecute => "read, execute",
                    PathAccess::ReadWrite => "read, write",
                    PathAccess::ReadWriteExecute => "read, write, execute",
                    PathAccess::WriteFile => "write to existing files",
                };
                writeln!(out, "  {:<12} {access}", rule.path)?;
            }
            let added = [
                (landlock.truncate, "truncation (ABI 3)"),
                (landlock.tcp, "TCP bind and connect refused (ABI 4)"),
                (landlock.scopes, "signals and abstract sockets (ABI 6)"),
            ];
            for (_, what) in added.iter().filter(|(on, _)| *on) {
                writeln!(out, "  added        {what}")?;
            }
        }
    }
    writeln!(out, "limits")?;
    let mib = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
    writeln!(out, "  memory       {}, swap 0, the whole group dies", mib(l.memory_bytes))?;
    writeln!(out, "  cpu          {} % of one core, {} ms", l.cpu_centipercent / 100, l.cpu_time_ms)?;
    writeln!(out, "  wall         {} ms", l.wall_ms)?;
    writeln!(out, "  processes    {}", l.pids)?;
    writeln!(out, "  one file     {}", mib(l.file_size_bytes))?;
    writeln!(out, "  open files   {}", l.open_files)?;
    writeln!(out, "  output kept  {} KiB a stream", l.output_bytes / 1024)?;
    match l.network_requests {
        Some(most) => writeln!(out, "  requests     {most}")?,
        None => writeln!(out, "  requests     not counted")?,
    }
    for line in &plan.degraded {
        writeln!(out, "degraded: {line}")?;
    }
    Ok(())
}
