//! `verify`: for each fence and level, something that works outside and is refused inside, tried on the live daemon.
//!
//! It speaks HTTP to the daemon as any caller does, runs the same probes outside as the control, and as root looks at
//! /proc. It touches nothing but sandboxes of its own and a temporary directory of its own, and stays on loopback.

mod fences;
mod finding;
mod hostview;
mod inside;
mod junit;
mod leftovers;
mod limits;
mod show;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use clap::builder::PossibleValuesParser;
use hyper::Method;
use serde_json::Value;

use self::fences::{FENCES, Host};
use self::finding::{Finding, LevelState, Report, Verdict};
use self::hostview::Held;
use self::inside::{Answer, Call, Probed, Run, Target};
use self::world::{Outside, World};
use super::client::{CliError, Client};
use super::out;
use crate::spec::Level;

/// Jobs under way at once. A job makes at most two calls at a time, so a daemon's other callers keep their turn.
const WORKERS: usize = 3;

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// Look at this level only, and fail where it can not be given; may be given several times
    #[arg(long, value_name = "LEVEL")]
    level: Vec<Level>,
    /// Look at this fence only; may be given several times
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(FENCES.iter().map(|f| f.id)), hide_possible_values = true)]
    fence: Vec<String>,
    /// Write the result as JUnit XML; `-` is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Do not fail for what is promised and could not be told
    #[arg(long)]
    allow_untested: bool,
}

/// 0: everything that is promised holds; 1: something does not, or could not be told.
pub(super) fn verify(socket: PathBuf, args: &VerifyArgs, as_json: bool) -> Result<u8, CliError> {
    let to_stdout = args.junit.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && as_json {
        return Err(CliError::Usage("--json and --junit - would both write to standard output".into()));
    }
    // Before the look, which takes seconds: where it can not be written there is nothing to look for.
    let mut file = match &args.junit {
        Some(path) if !to_stdout => {
            Some(File::create(path).map_err(|e| CliError::Usage(format!("--junit {}: {e}", path.display())))?)
        }
        _ => None,
    };
    let report = look(socket, args)?;
    if args.junit.is_some() {
        let xml = junit::xml(&report, args.allow_untested);
        match &mut file {
            Some(file) => file.write_all(xml.as_bytes()).map_err(CliError::Output)?,
            None => out(&xml)?,
        }
    }
    if as_json {
        out(&format!("{:#}\n", show::json(&report)))?;
    } else if !to_stdout {
        out(&show::text(&report))?;
    }
    Ok(u8::from(!report.holds(args.allow_untested)))
}

fn look(socket: PathBuf, args: &VerifyArgs) -> Result<Report, CliError> {
    let started = Instant::now();
    let client = Client::new(socket.clone())?;
    let capabilities = client.ask(Method::GET, "/api/v1/capabilities?versions=false", None)?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| CliError::Runtime(std::io::Error::other(e.to_string())))?;
    let nonce: String = random.iter().map(|b| format!("{b:02x}")).collect();
    let world = World::make(&nonce).map_err(CliError::Runtime)?;
    let host = Host {
        landlock_abi: capabilities["host"]["landlock_abi"].as_u64().unwrap_or_default(),
        memfd_noexec: capabilities["host"]["memfd_noexec"] == true,
        boottime: world::boottime(),
        hidden_dir: world.is_hidden(),
    };
    let run = Run {
        socket,
        host,
        world,
        nonce,
        as_root: nix::unistd::geteuid().is_root(),
        fences: args.fence.iter().cloned().collect(),
        started,
        sandboxes: Mutex::new(Vec::new()),
        capabilities,
    };
    let mut levels = wanted(&run.capabilities, &args.level);
    let mut found = Vec::new();
    let mut targets = Vec::new();
    for state in &mut levels {
        if let Some(target) = first_call(&run, &client, state, &mut found)? {
            targets.push(target);
        }
    }
    found.extend(looks(&run, &client, &targets)?);
    found.retain(|f| run.wants(f.fence));
    let selected = |id: &str| run.wants(id);
    let rows = Report::rows(&levels, &selected, &found);
    let kernel = run.capabilities["host"]["kernel"].as_str().unwrap_or_default().to_owned();
    Ok(Report { levels, rows, seconds: started.elapsed().as_secs_f64(), as_root: run.as_root, host, kernel })
}

/// The levels to look at, and why some can not be.
fn wanted(capabilities: &Value, asked: &[Level]) -> Vec<LevelState> {
    let of = |level: &Level| {
        let told = capabilities["levels"].as_array().into_iter().flatten().find(|l| l["level"] == level.name());
        let unavailable = match told {
            None => "the daemon does not know it".to_owned(),
            Some(told) if told["available"] == true => String::new(),
            Some(told) => {
                let missing = told["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
                told["refused"].as_str().map_or_else(|| missing.collect::<Vec<_>>().join("; "), str::to_owned)
            }
        };
        LevelState { level: *level, unavailable, degraded: Vec::new(), explicit: !asked.is_empty() }
    };
    let levels: BTreeSet<Level> = if asked.is_empty() { Level::ALL.into() } else { asked.iter().copied().collect() };
    levels.iter().map(of).collect()
}

/// Whether a sandbox of the level can be built at all, and what its reply says of itself.
fn first_call(
    run: &Run,
    client: &Client,
    state: &mut LevelState,
    found: &mut Vec<Finding>,
) -> Result<Option<Target>, CliError> {
    if !state.unavailable.is_empty() {
        return Ok(None);
    }
    let level = state.level;
    let told = run.capabilities["levels"].as_array().into_iter().flatten().find(|l| l["level"] == level.name());
    let limits = told.map_or(Value::Null, |l| l["limits"].clone());
    let mut target = Target { level, degraded: Vec::new(), limits };
    let call = Call { command: "true", stdin: None, timeout: 60.0, limits: &[], id: None };
    match run.call(client, &target, &call)? {
        Ok(reply) => {
            let degraded = reply["sandbox"]["degraded"].as_array().into_iter().flatten();
            target.degraded = degraded.filter_map(Value::as_str).map(str::to_owned).collect();
            state.degraded.clone_from(&target.degraded);
            let ok = reply["outcome"]["exit_code"] == 0;
            found.push(Finding::of("launch", level, "true", ok, "exit 0", reply["outcome"].to_string()));
            of_enforced(run, level, &reply["sandbox"]["enforced"], found);
            Ok(Some(target))
        }
        Err(problem) => {
            not_built(level, &problem, found);
            Ok(None)
        }
    }
}

fn not_built(level: Level, problem: &str, found: &mut Vec<Finding>) {
    found.push(Finding::of("launch", level, "true", false, "a sandbox", problem));
    // seccomp(2): EACCES is the answer to a process that has neither no_new_privs nor CAP_SYS_ADMIN.
    let without = problem.starts_with("setup_failed:") && problem.contains(": seccomp ");
    if without && problem.ends_with("Permission denied") {
        let got = format!("the kernel took no filter from a process that may still gain privileges: {problem}");
        found.push(Finding::of("no-new-privs", level, "the level's filter can be installed", false, "a sandbox", got));
    }
    let failed: Vec<&str> = found.iter().filter(|f| f.level == level).map(|f| f.fence).collect();
    for fence in FENCES.iter().filter(|f| !failed.contains(&f.id)) {
        let why = Verdict::Untested("no sandbox could be built".into());
        found.push(Finding::without(fence.id, level, "true", why));
    }
}

/// What a reply tells to a caller who is not root, too.
fn of_enforced(run: &Run, level: Level, enforced: &Value, found: &mut Vec<Finding>) {
    let mut add = |fence, check: &str, expected: String, got: String| {
        let ok = expected == got;
        found.push(Finding::of(fence, level, check, ok, expected, got));
    };
    add("no-new-privs", "no_new_privs in the reply", "true".into(), enforced["no_new_privs"].to_string());
    add("capabilities", "bounding set in the reply", "[]".into(), enforced["capabilities"]["bounding"].to_string());
    add("capabilities", "effective set in the reply", "[]".into(), enforced["capabilities"]["effective"].to_string());
    let abi = run.host.landlock_abi;
    let private = level != Level::Minimal;
    let parts = [
        (abi >= 3, "truncate"),
        (private && abi >= 4, "tcp"),
        (private && abi >= 6, "scope_signal"),
        (private && abi >= 6, "scope_abstract_unix"),
    ];
    let added: Vec<&str> = parts.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let landlock = &enforced["landlock"];
    add("landlock", "status in the reply", "\"full\"".into(), landlock["status"].to_string());
    add("landlock", "ABI in the reply", abi.to_string(), landlock["abi"].to_string());
    add("landlock", "rights added in the reply", Value::from(added).to_string(), landlock["added"].to_string());
}

/// One piece of work on one level, or on none.
#[derive(Clone, Copy)]
enum Job {
    /// The probes outside.
    Outside,
    Probes(usize),
    Limit(usize, usize),
    Control(usize),
    Survivors(usize),
}

/// What the jobs brought.
#[derive(Default)]
struct Brought {
    found: Vec<Finding>,
    outside: Option<Outside>,
    probed: Vec<(usize, Probed)>,
    controls: Vec<(usize, Answer)>,
    error: Option<CliError>,
}

fn looks(run: &Run, client: &Client, targets: &[Target]) -> Result<Vec<Finding>, CliError> {
    let mut found = Vec::new();
    let mut held = Held::default();
    let mut before = None;
    // One after the other and first of all: they tell the engine, and probes then look for what they leave.
    if run.wants_any(&hostview::SEEN) || run.wants_any(&["leftovers", "end-of-call"]) {
        for (n, target) in targets.iter().enumerate() {
            let seen = hostview::look(run, client, target)?;
            found.extend(seen.findings);
            held.engine = held.engine.or(seen.engine);
            held.cgroup_parent = held.cgroup_parent.or(seen.cgroup_parent);
            if let (0, Some(engine), true) = (n, held.engine, run.wants("leftovers")) {
                before = leftovers::before(client, engine)?;
            }
        }
    }
    let mut brought = work(run, jobs(run, targets), targets);
    if let Some(error) = brought.error.take() {
        return Err(error);
    }
    for (n, control) in &brought.controls {
        let level = targets[*n].level;
        let mut of_level: Vec<Finding> = brought.found.extract_if(.., |f| f.level == level).collect();
        limits::judge(&mut of_level, control);
        brought.found.append(&mut of_level);
    }
    found.append(&mut brought.found);
    if let Some(outside) = &brought.outside {
        for (n, probed) in &brought.probed {
            found.extend(run.judge(&targets[*n], probed, outside));
        }
    }
    if run.wants("leftovers") {
        found.extend(leftovers::after(run, client, targets, held.cgroup_parent.as_deref(), before.as_ref())?);
    }
    Ok(found)
}

/// The long ones first.
fn jobs(run: &Run, targets: &[Target]) -> VecDeque<Job> {
    let mut jobs = VecDeque::new();
    if targets.is_empty() {
        return jobs;
    }
    let all = 0..targets.len();
    if !run.probes().is_empty() {
        jobs.push_back(Job::Outside);
        jobs.extend(all.clone().map(Job::Probes));
    }
    let wanted = |limit: &limits::Limit| run.wants(limit.fence);
    if limits::LIMITS.iter().any(wanted) {
        jobs.extend(all.clone().map(Job::Control));
    }
    for (n, _) in limits::LIMITS.iter().enumerate().filter(|(n, l)| wanted(l) && l.leads(*n)) {
        jobs.extend(all.clone().map(|target| Job::Limit(target, n)));
    }
    if run.wants("end-of-call") {
        jobs.extend(all.map(Job::Survivors));
    }
    jobs
}

fn work(run: &Run, jobs: VecDeque<Job>, targets: &[Target]) -> Brought {
    let queue = Mutex::new(jobs);
    let brought = Mutex::new(Brought::default());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let client = run.client();
                while let Some(job) = take() {
                    let result = match &client {
                        Ok(client) => one(run, client, targets, job),
                        Err(_) => Err(CliError::Runtime(std::io::Error::other("no runtime for a worker"))),
                    };
                    let mut brought = brought.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(add) => add(&mut brought),
                        Err(error) => {
                            // Nobody is there to be asked any more.
                            queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                            brought.error.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    brought.into_inner().unwrap_or_else(PoisonError::into_inner)
}

type Add = Box<dyn FnOnce(&mut Brought) + Send>;

fn one(run: &Run, client: &Client, targets: &[Target], job: Job) -> Result<Add, CliError> {
    Ok(match job {
        Job::Outside => {
            let outside = run.world.outside(&run.probes());
            Box::new(|b| b.outside = Some(outside))
        }
        Job::Probes(n) => {
            let probed = run.probe(client, &targets[n])?;
            Box::new(move |b| b.probed.push((n, probed)))
        }
        Job::Limit(n, limit) => {
            let found = limits::LIMITS[limit].run(run, client, &targets[n])?;
            Box::new(|b| b.found.extend(found))
        }
        Job::Control(n) => {
            let answer = limits::control(run, client, &targets[n])?;
            Box::new(move |b| b.controls.push((n, answer)))
        }
        Job::Survivors(n) => {
            let found = leftovers::survivors(run, client, &targets[n])?;
            Box::new(|b| b.found.extend(found))
        }
    })
}
