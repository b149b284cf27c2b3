//! The commands of one call that are run one after the other: files into a workspace, compiler, program, files out of it.
//!
//! Each is a sandbox of its own, built as every other one. All of a call's are admitted under one share, since no two of them
//! are up at once, and what they hand to each other lies in volumes that are gone with the call, however that ends.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::admission::Permit;
use super::call::CallError;
use super::conclusion::note;
use super::fair::Ask;
use super::files;
use super::finish::{Finished, ToolError};
use super::output::Captured;
use super::plan::{Job, Terms, clamp};
use super::run::{Attempt, Part, Ran, random};
use super::spool::Line;
use super::workspaces;
use crate::config::Config;
use crate::policy::table::resolve_limits;
use crate::runtimes::languages::Language;
use crate::runtimes::{Runtime, WORKSPACE, environment};
use crate::spec::{Clock, Level, LimitRequest, Outcome, Place, ScratchId, VolumeId, VolumeUse};
use crate::wire::client::Client;
use crate::wire::files::{Answer, Collected, FileRequest, Placed};
use crate::wire::{Reply, Verb};

/// Files that come back, and their bytes together.
const COLLECTED_MAX: u32 = 256;
const COLLECTED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What the code that moves files needs: it holds a piece at a time.
const FILES_MEMORY_BYTES: u64 = 64 << 20;
/// Moving a few files takes milliseconds.
const FILES_WALL_MS: u64 = 30_000;
/// A compiler's, unless the caller says.
const COMPILE_WALL_MS: u64 = 60_000;
/// Where code is put that lies in no volume: writable at every level.
const CODE_DIRECTORY: &str = "/tmp";
/// The sandbox before may still be on its way out when the next one is asked for.
const ROOM_WAIT: Duration = Duration::from_secs(5);
const GONE_POLL: Duration = Duration::from_millis(1);
const ROOM_POLL: Duration = Duration::from_millis(20);

/// Code in a language of the table, and what goes along with it.
#[derive(Debug, Clone)]
pub struct Source {
    pub language: &'static Language,
    pub args: Vec<String>,
    pub files: Vec<(Placed, Vec<u8>)>,
    /// Patterns of the files that are to come back.
    pub collect: Vec<String>,
    pub compile_timeout_ms: Option<u64>,
}

impl Source {
    /// Whether it leaves something where strict lets nothing be left; `named`: in a workspace that is kept.
    pub(super) fn writes(&self, named: bool) -> bool {
        !self.collect.is_empty() || (named && !self.files.is_empty())
    }
}

/// What is run around the job's own command.
#[derive(Debug)]
pub(super) struct Phases {
    place: Option<(Terms, Job)>,
    compile: Option<(Terms, Job)>,
    collect: Option<(Terms, Job)>,
    /// The file that the code was put into: it does not come back.
    code_file: Option<&'static str>,
    /// The workspace goes with the call.
    scratch: bool,
    read_only: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Around {
    pub compiled: Option<Compiled>,
    pub collected: Option<Result<Files, ToolError>>,
}

impl Around {
    /// Bytes that are still to be made text of.
    pub(super) fn bytes(&self) -> usize {
        self.collected.as_ref().and_then(|found| found.as_ref().ok()).map_or(0, |files| files.bytes.len())
    }
}

/// The end of a compiler.
#[derive(Debug)]
pub struct Compiled {
    pub stdout: String,
    pub stderr: String,
    pub outcome: Option<Outcome>,
    pub wall_us: u64,
    /// There is nothing to run: its end is the call's.
    pub is_the_end: bool,
}

/// Files that came back.
#[derive(Debug, Default)]
pub struct Files {
    pub files: Vec<Collected>,
    /// Their contents, one behind the other.
    pub bytes: Vec<u8>,
    pub truncated: bool,
}

/// Makes `job` the command that runs its source. Returns what else is to be run; `None` where that command is all.
pub(super) fn plan(
    job: &mut Job,
    (level, memory_bytes): (Level, u64),
    named: bool,
    config: &Config,
) -> Result<Option<Phases>, CallError> {
    let Some(source) = &mut job.source else { return Ok(None) };
    // They are the phases' from here on.
    let (mut files, collect) = (std::mem::take(&mut source.files), std::mem::take(&mut source.collect));
    let Source { language, args, compile_timeout_ms, .. } = source.as_ref();
    let (language, compile_timeout_ms) = (*language, *compile_timeout_ms);
    let placed = !files.is_empty();
    let is_there = placed && !named;
    let directory = if is_there { WORKSPACE } else { CODE_DIRECTORY };
    let code_path = format!("{directory}/{}", language.file);
    let started = language.run.command(&code_path, is_there, args, memory_bytes);
    job.runtime = Runtime::Toolchain(started.toolchain);
    job.env.extend(started.env.iter().cloned());
    job.started = Some(started);
    if !placed && collect.is_empty() && language.compile.is_none() {
        return Ok(None);
    }
    let code = if is_there || language.compile.is_some() { std::mem::take(&mut job.code) } else { Vec::new() };
    let compile = match &language.compile {
        None => None,
        Some(step) => {
            let request = LimitRequest {
                memory_bytes: Some(step.memory_mb << 20).filter(|bytes| *bytes > 0),
                pids: Some(step.pids).filter(|pids| *pids > 0),
                wall_ms: Some(compile_timeout_ms.unwrap_or(COMPILE_WALL_MS)),
                ..LimitRequest::default()
            };
            let mut terms = terms(level, request, config)?;
            let started = step.command(&code_path, is_there, &[], terms.limits.memory_bytes);
            terms.env = environment(&config.host.runtime_directories, &started.env);
            let code = if is_there { Vec::new() } else { code.clone() };
            let runtime = Runtime::Toolchain(started.toolchain);
            Some((terms, Job { started: Some(started), ..Job::new(runtime, code) }))
        }
    };
    let own = || {
        let request = LimitRequest {
            memory_bytes: Some(FILES_MEMORY_BYTES),
            wall_ms: Some(FILES_WALL_MS),
            output_bytes: Some(COLLECTED_BYTES_MAX),
            ..LimitRequest::default()
        };
        let mut terms = terms(level, request, config)?;
        terms.env = environment(&[], &[]);
        Ok::<_, CallError>(terms)
    };
    let mut place = None;
    if placed {
        if is_there {
            // Last: whatever else is of this name, the code is what runs.
            let bytes = code.len() as u64;
            files.push((Placed { path: language.file.to_owned(), bytes, executable: false }, code));
        }
        let (names, contents): (Vec<Placed>, Vec<Vec<u8>>) = files.into_iter().unzip();
        place = Some((own()?, files::job(&FileRequest::Place { files: names }, contents.concat())));
    }
    let collect = match collect.is_empty() {
        true => None,
        false => {
            let terms = own()?;
            let bytes_max = COLLECTED_BYTES_MAX.min(terms.limits.output_bytes);
            // One more: that of the code.
            let files_max = COLLECTED_MAX + u32::from(is_there);
            let request = FileRequest::Collect { patterns: collect, files_max, bytes_max };
            Some((terms, files::job(&request, Vec::new())))
        }
    };
    let scratch = !named && (placed || collect.is_some());
    let read_only = matches!(level, Level::Strict | Level::Maximum);
    let code_file = is_there.then_some(language.file);
    Ok(Some(Phases { place, compile, collect, code_file, scratch, read_only }))
}

/// With as much of `request` as this level and this host have.
fn terms(level: Level, mut request: LimitRequest, config: &Config) -> Result<Terms, CallError> {
    clamp(&mut request, level, config, &LimitRequest::default());
    let limits = resolve_limits(level, &request, &config.ceilings)
        .map_err(|_| CallError::Internal("the limits of a part of a call".into()))?;
    Ok(Terms { env: Vec::new(), is_plain: false, level, request, limits, volumes: Vec::new() })
}

/// A volume that goes with its call.
struct Scratch {
    client: Client,
    id: VolumeId,
}

impl Scratch {
    async fn open(client: &Client) -> Result<Self, CallError> {
        let scratch = Self { client: client.clone(), id: VolumeId::Scratch(ScratchId::from_random(random()?)) };
        workspaces::open(client, &scratch.id).await?;
        Ok(scratch)
    }

    fn at(&self, place: Place, read_only: bool) -> VolumeUse {
        VolumeUse { volume: self.id.clone(), place, read_only }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (client, volume) = (self.client.clone(), self.id.clone());
        // Outside a runtime the connection is about to end, and the volume with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            match client.call(Verb::Close { volume: volume.clone().into() }).await {
                // It may never have come to be.
                Ok(Reply::Done | Reply::Refused(crate::wire::Refusal::UnknownVolume)) => {}
                Err(crate::wire::client::ClientError::Lost) => {}
                other => tracing::warn!(%volume, ?other, "a scratch volume was not closed"),
            }
        });
    }
}

impl Attempt<'_> {
    /// The job's command, with the others where there are any.
    pub(super) async fn run_all(&self, phases: Option<&Phases>) -> Result<Ran, CallError> {
        if let Some(source) = &self.job.source {
            self.toolchains_are_there(source.language).await?;
        }
        match phases {
            None => self.run().await,
            Some(phases) => self.run_phases(phases).await,
        }
    }

    async fn toolchains_are_there(&self, language: &Language) -> Result<(), CallError> {
        let client = self.monitor.client().await.map_err(CallError::EngineUnavailable)?;
        let Reply::Facts(facts) = client.call(Verb::Probe).await.map_err(CallError::EngineUnavailable)? else {
            return Err(CallError::Internal("the engine told something else than its facts".into()));
        };
        let there = |name: &str| facts.runtimes.iter().any(|r| r.name == name && r.program.is_some());
        match language.toolchains().into_iter().find(|t| !there(t.name)) {
            None => Ok(()),
            Some(missing) => Err(CallError::MissingToolchain {
                program: missing.program.to_owned(),
                reason: format!("this host has none; in Debian it is in the package {}", missing.package),
            }),
        }
    }

    async fn run_phases(&self, phases: &Phases) -> Result<Ran, CallError> {
        // None of it is taken up again: a later front tells that it was interrupted.
        note(self.entry, || Line::Answering).await?;
        let steps = [&phases.place, &phases.compile, &phases.collect];
        let of = |terms: &Terms, job: &Job| (terms.limits.memory_bytes, job.code.len() + job.stdin.len());
        let others = steps.into_iter().flatten().map(|(terms, job)| of(terms, job));
        let own = self.ask();
        let ask = others.fold(own, |ask, (memory_bytes, text)| Ask {
            memory_bytes: ask.memory_bytes.max(memory_bytes),
            text_bytes: ask.text_bytes + text,
        });
        let (client, share) = self.room(ask).await?;
        let share = Arc::new(share);
        let workspace = if phases.scratch { Some(Scratch::open(&client).await?) } else { None };
        let program = if phases.compile.is_some() { Some(Scratch::open(&client).await?) } else { None };
        let named = self.terms.volumes.iter().find(|used| used.place == Place::Workspace);
        let at_workspace = |read_only: bool| -> Option<VolumeUse> {
            let own = workspace.as_ref().map(|scratch| scratch.at(Place::Workspace, read_only));
            own.or_else(|| named.map(|used| VolumeUse { read_only, ..used.clone() }))
        };

        if let Some((terms, job)) = &phases.place {
            let volumes = at_workspace(false).into_iter().collect();
            let ran = self.part(&client, &share, terms, volumes, job, Part::Side).await?;
            match answered(ran) {
                (ran, Ok(_)) => drop(ran),
                (ran, Err(_)) if !matches!(ran.end.as_ref().map(|e| &e.outcome), Ok(Outcome::Exited { .. })) => {
                    return Ok(ran);
                }
                (ran, Err(error)) => return Ok(Ran { end: Err(error), ..ran }),
            }
        }
        let mut before = None;
        if let Some((terms, job)) = &phases.compile {
            let volumes = at_workspace(true)
                .filter(|_| phases.place.is_some() || named.is_some())
                .into_iter()
                .chain(program.as_ref().map(|scratch| scratch.at(Place::Program, false)))
                .collect();
            let mut ran = self.part(&client, &share, terms, volumes, job, Part::Side).await?;
            let over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            if let (Ok(end), true) = (&mut ran.end, over)
                && end.outcome == (Outcome::Exited { code: 0 })
            {
                end.outcome = Outcome::TimedOut { clock: Clock::Wall };
            }
            let outcome = ran.end.as_ref().ok().map(|end| end.outcome.clone());
            let is_the_end = outcome != Some(Outcome::Exited { code: 0 });
            let usage = ran.end.as_ref().map(|end| end.usage).unwrap_or_default();
            let (stdout, stderr) = (std::mem::replace(&mut ran.stdout, Captured::new(0)), ran.stderr);
            let (stdout, stderr) = (stdout.into_text().0, stderr.into_text().0);
            let compiled = Compiled { stdout, stderr, outcome, wall_us: usage.wall_us, is_the_end };
            ran.stderr = Captured::new(0);
            if is_the_end {
                return Ok(Ran { around: Around { compiled: Some(compiled), collected: None }, ..ran });
            }
            before = Some((compiled, usage.cpu_us, ran.sandbox));
        }
        let volumes: Vec<VolumeUse> = at_workspace(phases.read_only)
            .into_iter()
            .chain(program.as_ref().map(|scratch| scratch.at(Place::Program, true)))
            .collect();
        let ran = self.part(&client, &share, self.terms, volumes, self.job, Part::Main).await;
        let mut ran = match (ran, &before) {
            // The compiler's product: no fault of the host's, and something ran.
            (Err(CallError::MissingToolchain { program, reason }), Some((.., sandbox)))
                if program.starts_with(Place::Program.path()) =>
            {
                let error = ToolError::new("not_executable", format!("what was compiled is no program: {reason}"));
                let (stdout, stderr, around) = (Captured::new(0), Captured::new(0), Around::default());
                Ran { sandbox: sandbox.clone(), end: Err(error), stdout, stderr, result: None, around }
            }
            (ran, _) => ran?,
        };
        if let Some((compiled, cpu_us, _)) = before {
            if let Ok(end) = &mut ran.end {
                end.usage.cpu_us += cpu_us;
            }
            ran.around.compiled = Some(compiled);
        }
        if let Some((terms, job)) = &phases.collect {
            let killed = matches!(ran.end.as_ref().map(|end| &end.outcome), Ok(Outcome::Killed { .. }));
            if !killed {
                let volumes = at_workspace(true).into_iter().collect();
                let collected = self.part(&client, &share, terms, volumes, job, Part::Side).await;
                ran.around.collected = Some(found(collected, phases.code_file));
            }
        }
        Ok(ran)
    }

    /// One command of several.
    async fn part(
        &self,
        client: &Client,
        share: &Arc<Permit>,
        terms: &Terms,
        volumes: Vec<VolumeUse>,
        job: &Job,
        part: Part,
    ) -> Result<Ran, CallError> {
        let terms = Terms { volumes, is_plain: false, ..terms.clone() };
        let attempt = Attempt { terms: &terms, job, part, ..*self };
        let asked = Instant::now();
        // The one before has its part of the share until nothing of it is left. Two at once would take room that others
        // were promised.
        while Arc::strong_count(share) > 1 && asked.elapsed() < ROOM_WAIT && attempt.has_time() {
            tokio::time::sleep(GONE_POLL).await;
        }
        loop {
            match attempt.run_in(client.clone(), Box::new(Arc::clone(share))).await {
                Err(CallError::AtCapacity { .. }) if asked.elapsed() < ROOM_WAIT && attempt.has_time() => {
                    tokio::time::sleep(ROOM_POLL).await;
                }
                ran => return ran,
            }
        }
    }

    fn has_time(&self) -> bool {
        self.deadline.is_none_or(|deadline| Instant::now() < deadline) && self.entry.cancel.borrow().is_none()
    }
}

/// What the code that moves files said.
fn answered(ran: Ran) -> (Ran, Result<(Answer, Vec<u8>), ToolError>) {
    let Ran { stdout, stderr, end, .. } = ran;
    let (bytes, _) = stdout.into_bytes();
    let (outcome, refused) = match &end {
        Ok(end) => (Some(end.outcome.clone()), None),
        Err(refused) => (None, Some(refused.clone())),
    };
    let finished = Finished {
        outcome,
        refused,
        stdout: String::new(),
        raw: None,
        stderr: stderr.into_text().0,
        note: Value::Null,
        result: ran.result,
        around: Around::default(),
    };
    let answer = files::answered(&finished).map(|answer| (answer, bytes));
    let (stdout, stderr, around) = (Captured::new(0), Captured::new(0), Around::default());
    (Ran { sandbox: ran.sandbox, end, stdout, stderr, result: None, around }, answer)
}

/// The files, without that of the code.
fn found(collected: Result<Ran, CallError>, code_file: Option<&str>) -> Result<Files, ToolError> {
    let ran = collected.map_err(|error| ToolError::new("not_collected", error.to_string()))?;
    let (Answer::Collected { files, truncated }, bytes) = answered(ran).1? else { return Err(files::unexpected()) };
    let mut found = Files { truncated, ..Files::default() };
    let mut rest = bytes.as_slice();
    for file in files {
        let length = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        let Some((content, further)) = rest.split_at_checked(length) else {
            found.truncated = true;
            break;
        };
        rest = further;
        if Some(file.path.as_str()) != code_file {
            found.bytes.extend_from_slice(content);
            found.files.push(file);
        }
    }
    Ok(found)
}
