//! What was found of a host, as JSON: the same for `GET /api/v1/capabilities` and for `sandkeep doctor` without a daemon.

use schemars::JsonSchema;
use serde::Serialize;

use crate::policy::doctor::{self, Finding, Status};
use crate::spec::{HostChecks, Level};
use crate::wire::FactsWire;

/// One thing that was tried.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Check")]
pub(super) struct CheckBody {
    /// Stable over versions.
    id: String,
    title: String,
    #[schemars(extend("enum" = Status::ALL.map(Status::name)))]
    status: &'static str,
    /// What was tried and what came of it.
    found: String,
    needed_by: String,
    /// Levels that can not be given because of it.
    costs: Vec<&'static str>,
    /// Levels that are given with something weaker in its place.
    degrades: Vec<&'static str>,
    /// A command or a setting.
    fix: Option<String>,
}

/// What the kernel gives.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Host")]
pub(super) struct HostBody {
    kernel: String,
    user_namespaces: bool,
    proc_mountable: bool,
    time_namespaces: bool,
    cgroup2: bool,
    controllers: Vec<String>,
    seccomp: bool,
    landlock_abi: u32,
    overlay: bool,
    idmapped_mounts: bool,
    memfd_noexec: bool,
}

/// Every finding, judged as the engine that told `facts` plans.
pub(super) fn checks(facts: &FactsWire) -> Vec<CheckBody> {
    let found = doctor::findings(&HostChecks::from(facts.checks.clone()), facts.allow_degraded);
    found.iter().map(finding).collect()
}

pub(super) fn finding(f: &Finding) -> CheckBody {
    let names = |levels: &[Level]| levels.iter().map(|level| level.name()).collect();
    CheckBody {
        id: f.id.clone(),
        title: f.title.clone(),
        status: f.status.name(),
        found: f.found.clone(),
        needed_by: f.needed_by.clone(),
        costs: names(&f.costs),
        degrades: names(&f.degrades),
        fix: f.fix.clone(),
    }
}

/// The facts by themselves.
pub(super) fn host(facts: &FactsWire) -> HostBody {
    HostBody {
        kernel: format!("{}.{}", facts.kernel_major, facts.kernel_minor),
        user_namespaces: facts.user_namespaces,
        proc_mountable: facts.proc_mountable,
        time_namespaces: facts.time_namespaces,
        cgroup2: facts.cgroup2,
        controllers: facts.controllers.clone(),
        seccomp: facts.seccomp,
        landlock_abi: facts.landlock_abi,
        overlay: facts.overlay,
        idmapped_mounts: facts.idmapped_mounts,
        memfd_noexec: facts.memfd_noexec,
    }
}
