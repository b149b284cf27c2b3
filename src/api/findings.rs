//! What was found of a host, as JSON: the same for `GET /api/v1/capabilities` and for `sandkeep doctor` without a daemon.

use serde_json::{Value, json};

use crate::policy::doctor::{self, Finding};
use crate::spec::{HostChecks, Level};
use crate::wire::FactsWire;

/// Every finding, judged as the engine that told `facts` plans.
pub(super) fn checks(facts: &FactsWire) -> Vec<Value> {
    let found = doctor::findings(&HostChecks::from(facts.checks.clone()), facts.allow_degraded);
    found.iter().map(finding).collect()
}

pub(super) fn finding(f: &Finding) -> Value {
    let names = |levels: &[Level]| levels.iter().map(|level| level.name()).collect::<Vec<_>>();
    json!({
        "id": f.id,
        "title": f.title,
        "status": f.status.name(),
        "found": f.found,
        "needed_by": f.needed_by,
        "costs": names(&f.costs),
        "degrades": names(&f.degrades),
        "fix": f.fix,
    })
}

/// The facts by themselves.
pub(super) fn host(facts: &FactsWire) -> Value {
    json!({
        "kernel": format!("{}.{}", facts.kernel_major, facts.kernel_minor),
        "user_namespaces": facts.user_namespaces,
        "proc_mountable": facts.proc_mountable,
        "time_namespaces": facts.time_namespaces,
        "cgroup2": facts.cgroup2,
        "controllers": facts.controllers,
        "seccomp": facts.seccomp,
        "landlock_abi": facts.landlock_abi,
        "overlay": facts.overlay,
        "idmapped_mounts": facts.idmapped_mounts,
        "memfd_noexec": facts.memfd_noexec,
    })
}
