//! What a sandbox's pid 1 really is, asked of the kernel at the end of its set-up, and what that must be.

use nix::sys::prctl;
use nix::unistd;
use serde::{Deserialize, Serialize};

use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use crate::policy::plan::{Namespace, Plan};
use crate::spec::Level;
use crate::sys::cred;
use crate::sys::process::Arguments;

/// Read back by pid 1 after its last step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Inode of each namespace of the plan, in the plan's order.
    pub namespaces: Vec<u64>,
    /// Real, effective and saved, as seen inside.
    pub uids: [u32; 3],
    pub gids: [u32; 3],
    pub groups: u32,
    pub effective: Vec<String>,
    pub permitted: u32,
    pub inheritable: u32,
    pub ambient: u32,
    pub bounding: Vec<u32>,
    pub no_new_privs: bool,
    pub securebits: u64,
    pub dumpable: bool,
    pub seccomp_mode: u64,
    /// Pid 1 holds the listener of its filter.
    pub denials_recorded: bool,
    pub loopback_up: Option<bool>,
}

/// The engine's own namespaces, which a sandbox's must differ from, and what of the engine a fork must not show.
#[derive(Debug, Clone)]
pub struct EngineView {
    inodes: Vec<(Namespace, u64)>,
    pub(super) arguments: Arguments,
}

const ALL: [Namespace; 8] = [
    Namespace::User,
    Namespace::Pid,
    Namespace::Mount,
    Namespace::Net,
    Namespace::Ipc,
    Namespace::Uts,
    Namespace::Cgroup,
    Namespace::Time,
];

impl EngineView {
    pub fn read() -> Result<Self, LaunchError> {
        let mut inodes = Vec::new();
        for namespace in ALL {
            match inode(namespace) {
                Ok(inode) => inodes.push((namespace, inode)),
                // A kernel without time namespaces has no such link.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).step("read namespaces", namespace.name()),
            }
        }
        let arguments = Arguments::find().step("read namespaces", "arguments")?;
        Ok(Self { inodes, arguments })
    }

    fn differs(&self, namespace: Namespace, inode: u64) -> bool {
        self.inodes.iter().any(|&(n, own)| n == namespace && own != inode)
    }
}

/// From the link's text, such as `net:[4026531840]`: to follow it would make an inode for it.
fn inode(namespace: Namespace) -> std::io::Result<u64> {
    let link = std::fs::read_link(format!("/proc/self/ns/{}", namespace.proc_name()))?;
    let number = link.to_str().and_then(|text| text.split_once(":[")?.1.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| std::io::Error::other(format!("{} is no namespace", link.display())))
}

/// The part of a report that later steps make unreadable: /proc/self/ns needs a dumpable process.
pub(super) fn read_namespaces(plan: &Plan) -> Result<Vec<u64>, LaunchError> {
    plan.namespaces.iter().map(|&n| inode(n).step("read back", n.name())).collect()
}

/// Asks the kernel about the calling process.
pub(super) fn read(
    namespaces: Vec<u64>,
    loopback_up: Option<bool>,
    denials_recorded: bool,
) -> Result<Report, LaunchError> {
    let uids = unistd::getresuid().step("read back", "uids")?;
    let gids = unistd::getresgid().step("read back", "gids")?;
    let sets = cred::capability_sets().step("read back", "capabilities")?;
    let bits = |set: u64| (0..u64::BITS).filter(move |bit| set & 1 << bit != 0);
    Ok(Report {
        namespaces,
        uids: [uids.real, uids.effective, uids.saved].map(|u| u.as_raw()),
        gids: [gids.real, gids.effective, gids.saved].map(|g| g.as_raw()),
        groups: cred::group_count().step("read back", "groups")?,
        effective: bits(sets.effective).map(capability).collect(),
        permitted: sets.permitted.count_ones(),
        inheritable: sets.inheritable.count_ones(),
        ambient: sets.ambient.count_ones(),
        bounding: bits(sets.bounding).collect(),
        no_new_privs: prctl::get_no_new_privs().step("read back", "no_new_privs")?,
        securebits: cred::securebits().step("read back", "securebits")?,
        dumpable: prctl::get_dumpable().step("read back", "dumpable")?,
        seccomp_mode: cred::seccomp_mode().step("read back", "seccomp")?,
        denials_recorded,
        loopback_up,
    })
}

/// The name of a capability, where it has one here.
pub fn capability(number: u32) -> String {
    let known = caps::all().into_iter().find(|c| u32::from(c.index()) == number);
    known.map_or(format!("CAP_{number}"), |c| c.to_string())
}

/// Compares `report` with what `plan` says must be. Run twice: by pid 1 before it says Ready, and by the engine on what
/// arrived, because the engine believes no process that will run foreign code.
///
/// The error's target names the fence that is not up.
pub fn verify(report: &Report, plan: &Plan, id: u32, engine: &EngineView) -> Result<(), LaunchError> {
    let expect = |ok: bool, what: &str| {
        let failed = || std::io::Error::other("what was read back is not what was asked for");
        if ok { Ok(()) } else { Err(failed()).step("verify", what) }
    };
    expect(report.namespaces.len() == plan.namespaces.len(), "namespaces")?;
    for (&namespace, &inode) in plan.namespaces.iter().zip(&report.namespaces) {
        let left_out = match namespace {
            Namespace::Net => dropped(Fence::NetNamespace),
            Namespace::Ipc => dropped(Fence::IpcNamespace),
            Namespace::Uts => dropped(Fence::UtsNamespace),
            _ => false,
        };
        expect(left_out || engine.differs(namespace, inode), namespace.name())?;
    }
    expect(report.uids == [id; 3], "uid")?;
    expect(report.gids == [id; 3], "gid")?;
    expect(report.groups == 0, "groups")?;
    if !dropped(Fence::Capabilities) {
        let none = report.effective.is_empty() && report.permitted == 0;
        expect(none && report.inheritable == 0 && report.ambient == 0, "capabilities")?;
        expect(report.bounding.is_empty(), "bounding set")?;
        expect(report.securebits == cred::SECUREBITS_LOCKED, "securebits")?;
    }
    expect(report.no_new_privs || dropped(Fence::NoNewPrivs), "no_new_privs")?;
    expect(!report.dumpable || dropped(Fence::Dumpable), "dumpable")?;
    expect(report.seccomp_mode == 2 || dropped(Fence::Seccomp), "seccomp")?;
    if plan.level != Level::Minimal && !dropped(Fence::NetNamespace) {
        expect(report.loopback_up == Some(true), "loopback")?;
    }
    Ok(())
}
