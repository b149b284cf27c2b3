//! One attempt: room, pipes, Create and Exec in one go, output while it is written, and the end.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;

use super::admission::{Admission, Permit};
use super::aside::off_thread;
use super::call::CallError;
use super::conclusion::note;
use super::events::{Log, Stream};
use super::fair::Ask;
use super::finish::{SandboxFacts, ToolError};
use super::live::Entry;
use super::output::Captured;
use super::phases::Around;
use super::plan::{Job, Terms, in_contracts_unit};
use super::spool::{Line, Spool};
use super::streams::Streams;
use super::workspaces;
use crate::runtimes::python::RESULT_BYTES_MAX;
use crate::runtimes::{Gate, Runtime};
use crate::spec::{Denial, End, Enforced, Level, SandboxId, Usage, VolumeId, capped};
use crate::wire::client::{Client, ClientError, Exited, Hold, Monitor, Pending};
use crate::wire::{
    BuiltWire, Create, CreatedWire, Exec, LandlockWire, LifetimeWire, OutcomeWire, Refusal, Reply, Take, Verb, WhyWire,
    code,
};

/// Of a name that the engine or a guest shaped.
const SHOWN_CHARS_MAX: usize = 200;

/// What every attempt of a call shares.
pub(super) struct Attempt<'a> {
    pub monitor: &'a Monitor,
    pub admission: &'a Arc<Admission>,
    pub terms: &'a Terms,
    pub job: &'a Job,
    /// Of the whole call.
    pub deadline: Option<Instant>,
    pub entry: &'a Entry,
    /// Which of the call's attempts this is, from 1.
    pub number: u32,
    pub part: Part,
}

/// What of a call one command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// What the call is about, with others before or after it.
    Main,
    /// One of those others: nobody who follows the call is told of it.
    Side,
}

/// A sandbox was built.
pub(super) struct Ran {
    pub sandbox: SandboxFacts,
    /// `Err`: the command could not be placed into it.
    pub end: Result<End, ToolError>,
    pub stdout: Captured,
    pub stderr: Captured,
    pub result: Option<Vec<u8>>,
    pub around: Around,
}

/// A command that an earlier front started, as the engine tells of it.
pub(super) struct Adopted {
    pub client: Client,
    pub id: SandboxId,
    /// Its own: what would be planned now may be another.
    pub level: Level,
    pub built: BuiltWire,
    /// Of stdout, stderr and the result; none where the engine could not keep them.
    pub outputs: Vec<OwnedFd>,
    pub exited: Exited,
}

/// A sandbox that is there, and what came of its command's start.
struct Begun {
    level: Level,
    created: CreatedWire,
    exec: Result<Reply, ClientError>,
    ours: Ours,
}

/// The front's ends.
pub(super) struct Ours {
    pub stdin: Option<Sender>,
    /// None where the engine could not keep it.
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
    pub result: Option<Receiver>,
}

/// A sandbox on its way, or one that is there.
enum Launched {
    Building { created: Pending, started: Pending, ours: Ours },
    Taken { created: Box<CreatedWire>, landlock: Option<LandlockWire>, ours: Ours },
}

impl Attempt<'_> {
    pub(super) async fn run(&self) -> Result<Ran, CallError> {
        let (client, permit) = self.room(self.ask()).await?;
        self.run_in(client, Box::new(permit)).await
    }

    /// Waits for a share of what there is.
    pub(super) async fn room(&self, ask: Ask) -> Result<(Client, Permit), CallError> {
        let mut cancel = self.entry.cancel.subscribe();
        let room = async {
            let client = self.monitor.client().await.map_err(CallError::EngineUnavailable)?;
            let permit = self.admission.admit(&self.entry.owner, ask, client.capacity(), self.deadline).await?;
            // The engine may have been restarted while this call waited.
            let client = if client.is_alive() {
                client
            } else {
                self.monitor.client().await.map_err(CallError::EngineUnavailable)?
            };
            Ok::<_, CallError>((client, permit))
        };
        tokio::select! {
            biased;
            why = cancelled(&mut cancel) => Err(ended(why)),
            room = room => room,
        }
    }

    /// With a share of what there is, which is held until nothing of the sandbox is left.
    pub(super) async fn run_in(&self, client: Client, share: Hold) -> Result<Ran, CallError> {
        let mut cancel = self.entry.cancel.subscribe();
        let id = SandboxId::from_random(random()?);
        let wall_ms = self.wall_ms()?;
        let building = || Line::Building {
            attempt: self.number,
            sandbox: id.to_string(),
            instance: client.instance(),
            memory_bytes: self.terms.limits.memory_bytes,
        };
        self.note(building).await?;
        for used in &self.terms.volumes {
            // Whoever needs a scratch volume has opened it.
            if matches!(used.volume, VolumeId::Workspace { .. }) {
                workspaces::open(&client, &used.volume).await?;
            }
        }
        let mut exited = client.watch(id.as_str(), share).map_err(CallError::EngineUnavailable)?;
        self.entry.building(&id);
        let launched = tokio::select! {
            biased;
            why = cancelled(&mut cancel) => Err(ended(why)),
            launched = self.launch(&client, &id, wall_ms) => launched,
        };
        let launched = match launched {
            Ok(launched) => launched,
            Err(error) => {
                destroy(client, id);
                return Err(error);
            }
        };
        let wall = Duration::from_millis(wall_ms);
        self.until_cancelled(&client, &id, self.converse(&client, &id, launched, &mut exited, wall)).await
    }

    /// Takes up again a command that an earlier front started.
    pub(super) async fn adopt(&self, adopted: Adopted) -> Result<Ran, CallError> {
        let Adopted { client, id, level, built, outputs, mut exited } = adopted;
        self.entry.building(&id);
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().map(Receiver::from_owned_fd).transpose().map_err(no_descriptors);
        let ours = Ours { stdin: None, stdout: next()?, stderr: next()?, result: next()? };
        let wall = Duration::from_millis(built.created.limits.wall_ms);
        let exec = Ok(Reply::Started { landlock: built.landlock });
        let begun = Begun { level, created: built.created, exec, ours };
        let conversation = self.attend(&client, &id, begun, &mut exited, wall);
        self.until_cancelled(&client, &id, conversation).await
    }

    /// The rest of a conversation; who cancels it kills the command, and the rest goes its usual way.
    async fn until_cancelled(
        &self,
        client: &Client,
        id: &SandboxId,
        conversation: impl Future<Output = Result<Ran, CallError>>,
    ) -> Result<Ran, CallError> {
        let mut cancel = self.entry.cancel.subscribe();
        let mut conversation = pin!(conversation);
        let why = tokio::select! {
            biased;
            why = cancelled(&mut cancel) => why,
            ran = &mut conversation => return ran,
        };
        // Follows Create and Exec on the same socket, so the engine knows the sandbox.
        let _lost = client.send(Verb::Signal { id: id.as_str().to_owned(), why }, &[]).await;
        conversation.await
    }

    /// Tells who follows, once for each rule; whoever goes on after a restart tells no other events.
    pub(super) async fn tell_denial(&self, denial: Denial) {
        let Some(log) = self.log().filter(|log| log.is_news(&denial)) else { return };
        let line = || Line::Denied { attempt: self.number, denial: denial.clone().into() };
        match self.note(line).await {
            Ok(()) => log.denied(denial),
            Err(_) => {
                tracing::warn!(sandbox = ?self.entry.sandbox(), "a denial can not be kept: the reply alone tells of it")
            }
        }
    }

    /// Where a stream is kept: in memory, and of a run that outlives the daemon on disk, where it goes on with what is there.
    async fn captured(&self, name: &'static str, most: usize) -> Captured {
        let captured = Captured::new(most);
        let Some(spool) = self.spool().cloned() else { return captured };
        let number = self.number;
        match off_thread(move || spool.stream(number, name)).await {
            Some(Ok((spooled, content))) => captured.kept_in(spooled, content),
            Some(Err(error)) => {
                tracing::warn!(%error, "output can not be kept over a restart");
                captured
            }
            None => captured,
        }
    }

    fn spool(&self) -> Option<&Spool> {
        self.entry.spool.as_ref().filter(|_| self.part == Part::Whole)
    }

    fn log(&self) -> Option<&Arc<Log>> {
        self.entry.log.as_ref().filter(|_| self.part != Part::Side)
    }

    /// Parts of a call are not taken up again by a later front.
    async fn note(&self, line: impl FnOnce() -> Line) -> Result<(), CallError> {
        if self.part == Part::Whole { note(self.entry, line).await } else { Ok(()) }
    }

    pub(super) fn ask(&self) -> Ask {
        let job = self.job;
        let env: usize = self.terms.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        Ask { memory_bytes: self.terms.limits.memory_bytes, text_bytes: job.code.len() + job.stdin.len() + env }
    }

    /// What is left for this command.
    fn wall_ms(&self) -> Result<u64, CallError> {
        let own = self.terms.limits.wall_ms;
        let Some(deadline) = self.deadline else { return Ok(own) };
        match deadline.saturating_duration_since(Instant::now()).as_millis() as u64 {
            0 => Err(CallError::AtCapacity {
                what: "the call's time was over before it could start".into(),
                retry_after: None,
            }),
            left => Ok(own.min(left)),
        }
    }

    /// Takes a sandbox in which the command is up already, where one waits and this call asks for nothing that it has not;
    /// else has one built.
    async fn launch(&self, client: &Client, id: &SandboxId, wall_ms: u64) -> Result<Launched, CallError> {
        if client.builds_ahead()
            && self.spool().is_none()
            && self.terms.is_plain
            && Runtime::ALL.contains(&self.job.runtime)
            && self.terms.volumes.is_empty()
            && let Some(launched) = self.take(client, id, wall_ms).await?
        {
            return Ok(launched);
        }
        self.build(client, id, wall_ms).await
    }

    async fn take(&self, client: &Client, id: &SandboxId, wall_ms: u64) -> Result<Option<Launched>, CallError> {
        let take = Verb::Take(Take {
            id: id.as_str().to_owned(),
            level: self.terms.level.into(),
            runtime: self.job.runtime.name().to_owned(),
            limits: self.terms.request.into(),
            wall_ms,
        });
        let reply = client.send(take, &[]).await.map_err(CallError::EngineUnavailable)?.reply_with_descriptors().await;
        match reply.map_err(CallError::EngineUnavailable)? {
            (Reply::Taken { created, landlock }, fds) => {
                let ours = self.ends(fds).map_err(no_descriptors)?;
                Ok(Some(Launched::Taken { created, landlock, ours }))
            }
            (Reply::Refused(Refusal::NoneWaiting), _) => Ok(None),
            (Reply::Refused(refusal), _) => {
                client.unwatch(id.as_str());
                Err(self.refused(refusal))
            }
            _ => Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Take" })),
        }
    }

    /// What came with a sandbox that was taken; its command goes on with the code.
    fn ends(&self, fds: Vec<OwnedFd>) -> io::Result<Ours> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| io::Error::other("the engine passed too few descriptors"));
        let (stdin, stdout, stderr) = (next()?, next()?, next()?);
        let gate = Gate { line: next()?, code: next()? };
        let ours = Ours {
            // An empty input ends here, before the gate is opened.
            stdin: Some(stdin).filter(|_| !self.job.stdin.is_empty()).map(Sender::from_owned_fd).transpose()?,
            stdout: Some(Receiver::from_owned_fd(stdout)?),
            stderr: Some(Receiver::from_owned_fd(stderr)?),
            result: fds.next().map(Receiver::from_owned_fd).transpose()?,
        };
        gate.open(&self.job.code)?;
        Ok(ours)
    }

    /// Sends Create and Exec without waiting between them.
    async fn build(&self, client: &Client, id: &SandboxId, wall_ms: u64) -> Result<Launched, CallError> {
        let job = self.job;
        let (ours, theirs, argv, runtime) = self.prepare().map_err(no_descriptors)?;
        let create = Verb::Create(Create {
            id: id.as_str().to_owned(),
            level: self.terms.level.into(),
            runtime: runtime.to_owned(),
            volumes: self.terms.volumes.iter().map(|used| used.clone().into()).collect(),
            limits: self.terms.request.into(),
            lifetime: if self.spool().is_some() { LifetimeWire::Detached } else { LifetimeWire::Call },
        });
        let exec = Verb::Exec(Exec {
            id: id.as_str().to_owned(),
            argv,
            env: self.terms.env.clone(),
            cwd: job.cwd.clone(),
            wall_ms,
        });
        let created = client.send(create, &[]).await.map_err(CallError::EngineUnavailable)?;
        let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let started = client.send(exec, &fds).await.map_err(CallError::EngineUnavailable)?;
        // `theirs` closes here: from now on only the sandbox holds those ends.
        Ok(Launched::Building { created, started, ours })
    }

    fn prepare(&self) -> io::Result<(Ours, Vec<OwnedFd>, Vec<String>, &'static str)> {
        let job = self.job;
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
        let ((stdin_read, stdin_write), (stdout_read, stdout_write), (stderr_read, stderr_write)) =
            (pipe()?, pipe()?, pipe()?);
        let invocation = match &job.started {
            Some(started) => started.invocation(&job.code)?,
            None => job.runtime.invocation(&job.code)?,
        };
        let outlives = self.spool().is_some();
        // Nobody may be there to write what is left of it, so of a run that outlives the front the whole of it goes along.
        let stdin_read = if outlives && !job.stdin.is_empty() { code::sealed(&job.stdin)? } else { stdin_read };
        let mut theirs = vec![stdin_read, stdout_write, stderr_write];
        theirs.extend(invocation.extra);
        if outlives {
            // The engine has them for the next front.
            let result = invocation.result.as_ref().map_or_else(|| pipe().map(|(read, _)| read), OwnedFd::try_clone)?;
            theirs.extend([stdout_read.try_clone()?, stderr_read.try_clone()?, result]);
        }
        let ours = Ours {
            // An empty input ends at once.
            stdin: if outlives || job.stdin.is_empty() { None } else { Some(Sender::from_owned_fd(stdin_write)?) },
            stdout: Some(Receiver::from_owned_fd(stdout_read)?),
            stderr: Some(Receiver::from_owned_fd(stderr_read)?),
            result: invocation.result.map(Receiver::from_owned_fd).transpose()?,
        };
        Ok((ours, theirs, invocation.argv, invocation.runtime))
    }

    async fn converse(
        &self,
        client: &Client,
        id: &SandboxId,
        launched: Launched,
        exited: &mut Exited,
        wall: Duration,
    ) -> Result<Ran, CallError> {
        let (created, exec, ours) = match launched {
            Launched::Taken { created, landlock, ours } => (*created, Ok(Reply::Started { landlock }), ours),
            Launched::Building { created, started, ours } => match created.reply().await {
                Ok(Reply::Created(created)) => (*created, started.reply().await, ours),
                Ok(Reply::Refused(refusal)) => {
                    client.unwatch(id.as_str());
                    return Err(self.refused(refusal));
                }
                other => return Err(fault(client, id, "Create", other)),
            },
        };
        if let Ok(Reply::Started { landlock }) = &exec {
            let (attempt, created, landlock) = (self.number, Box::new(created.clone()), landlock.clone());
            if let Err(error) = self.note(|| Line::Started { attempt, created, landlock }).await {
                destroy(client.clone(), id.clone());
                return Err(error);
            }
            if let Some(log) = self.log() {
                log.started(self.number, Some(id.clone()));
            }
        }
        self.attend(client, id, Begun { level: self.terms.level, created, exec, ours }, exited, wall).await
    }

    /// From the reply to Exec to the end of the command.
    async fn attend(
        &self,
        client: &Client,
        id: &SandboxId,
        begun: Begun,
        exited: &mut Exited,
        wall: Duration,
    ) -> Result<Ran, CallError> {
        let Begun { level, created, exec, ours } = begun;
        let mut enforced = Enforced::from(created.enforced);
        let started = Instant::now();
        let kept = usize::try_from(created.limits.output_bytes.min(self.terms.limits.output_bytes)).unwrap_or(0);
        let log = self.log();
        // What the project's own code writes is no output of a command's.
        let told = log.filter(|_| self.job.runtime != Runtime::Files);
        let mut stdout = self.captured("stdout", kept).await.told(told, Stream::Stdout);
        let mut stderr = self.captured("stderr", kept).await.told(log, Stream::Stderr);
        let mut document = self.captured("result", RESULT_BYTES_MAX).await;
        let end = match exec {
            Ok(Reply::Started { landlock }) => {
                enforced.landlock = landlock.map(Into::into);
                self.entry.started();
                let streams = Streams {
                    attempt: self,
                    client,
                    id,
                    stdout: &mut stdout,
                    stderr: &mut stderr,
                    document: &mut document,
                };
                let end = streams.until_end(ours, exited, started, wall).await;
                for denial in end.denials.iter().flatten() {
                    self.tell_denial(denial.clone()).await;
                }
                Ok(end)
            }
            Ok(Reply::Refused(Refusal::CommandFailed { step, target, errno })) => {
                destroy(client.clone(), id.clone());
                Err(misplaced(&step, &target, errno)?)
            }
            // Its time was over, or it was ended, between two steps of its start: that is its end, and no failed set-up.
            Ok(Reply::Refused(Refusal::Ended { outcome })) => {
                let usage = Usage { wall_us: started.elapsed().as_micros() as u64, ..Usage::default() };
                Ok(End { outcome: outcome.into(), limits_hit: Vec::new(), usage, denials: None })
            }
            Ok(Reply::Refused(refusal)) => {
                destroy(client.clone(), id.clone());
                return Err(self.refused(refusal));
            }
            other => return Err(fault(client, id, "Exec", other)),
        };
        let degraded = created.degraded.iter().take(64).map(|d| capped(d, SHOWN_CHARS_MAX * 2)).collect();
        let sandbox = SandboxFacts { id: id.clone(), level, degraded, enforced };
        Ok(Ran { sandbox, end, stdout, stderr, result: document.into_document(), around: Around::default() })
    }

    fn refused(&self, refusal: Refusal) -> CallError {
        match refusal {
            Refusal::LevelUnavailable { missing } => CallError::LevelUnavailable {
                level: self.terms.level,
                missing: missing.iter().map(|m| capped(m, SHOWN_CHARS_MAX)).collect(),
            },
            Refusal::LimitRefused { field, most } => {
                let most = in_contracts_unit(&field, most);
                CallError::Request(vec![super::Violation::new(
                    format!("/context/limits/{}", capped(&field, SHOWN_CHARS_MAX)),
                    format!("is greater than the engine's maximum of {most}"),
                )])
            }
            Refusal::AtCapacity { what } => CallError::AtCapacity {
                what: capped(&what, SHOWN_CHARS_MAX),
                retry_after: Some(Duration::from_secs(1)),
            },
            Refusal::SetupFailed { step, target, errno } => CallError::SetupFailed {
                step: capped(&step, SHOWN_CHARS_MAX),
                target: capped(&target, SHOWN_CHARS_MAX),
                reason: errno_text(errno),
            },
            Refusal::Draining => CallError::Draining,
            Refusal::Ended { outcome: OutcomeWire::KilledByShutdown } => CallError::Draining,
            Refusal::Ended { .. } => CallError::Ended,
            refusal @ (Refusal::UnknownVolume
            | Refusal::VolumeBusy { .. }
            | Refusal::TooManyVolumes { .. }
            | Refusal::VolumeFailed { .. }) => workspaces::refused(refusal),
            Refusal::UnknownRuntime => CallError::MissingToolchain {
                program: format!("{:?}", self.job.runtime).to_lowercase(),
                reason: "the engine does not know this runtime".into(),
            },
            other @ (Refusal::CommandFailed { .. }
            | Refusal::UnknownSandbox
            | Refusal::WrongState { .. }
            | Refusal::NoneWaiting
            | Refusal::Protocol { .. }) => CallError::Internal(format!("the engine refused: {other:?}")),
        }
    }
}

/// Ends the wait for a cancel only when there is one.
pub(super) async fn cancelled(cancel: &mut watch::Receiver<Option<WhyWire>>) -> WhyWire {
    loop {
        if let Some(why) = *cancel.borrow_and_update() {
            return why;
        }
        if cancel.changed().await.is_err() {
            // The sender lives in the entry that this attempt borrows.
            std::future::pending::<()>().await;
        }
    }
}

pub(super) fn ended(why: WhyWire) -> CallError {
    match why {
        WhyWire::Shutdown => CallError::Draining,
        WhyWire::Caller | WhyWire::Disconnect | WhyWire::OutputLimit => CallError::Ended,
    }
}

/// A conversation that went wrong before the command was known to run.
fn fault(client: &Client, id: &SandboxId, verb: &'static str, got: Result<Reply, ClientError>) -> CallError {
    destroy(client.clone(), id.clone());
    match got {
        Err(error) => CallError::EngineUnavailable(error),
        Ok(_) => CallError::EngineUnavailable(ClientError::Unexpected { verb }),
    }
}

/// Sees to it that nothing is left of a sandbox that will not be used.
pub(super) fn destroy(client: Client, id: SandboxId) {
    tokio::spawn(async move {
        match client.call(Verb::Destroy { id: id.as_str().to_owned() }).await {
            // It never was, or is gone: no Reaped will come.
            Ok(Reply::Refused(Refusal::UnknownSandbox)) => client.unwatch(id.as_str()),
            Ok(_) | Err(ClientError::Lost) => {}
            Err(error) => tracing::warn!(%error, sandbox = %id, "sandbox could not be destroyed"),
        }
    });
}

/// The place or the program of the command is not there. A missing program is no result: the tool can not work here.
fn misplaced(step: &str, target: &str, errno: i32) -> Result<ToolError, CallError> {
    let target = capped(target, SHOWN_CHARS_MAX);
    if step != "chdir" {
        return Err(CallError::MissingToolchain { program: target, reason: errno_text(errno) });
    }
    let code = match Errno::from_raw(errno) {
        Errno::EACCES | Errno::EPERM => "permission_denied",
        _ => "not_found",
    };
    Ok(ToolError::new(code, format!("working directory {target}: {}", errno_text(errno))))
}

pub(super) fn errno_text(errno: i32) -> String {
    Errno::from_raw(errno).desc().to_owned()
}

fn no_descriptors(error: io::Error) -> CallError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
            CallError::AtCapacity { what: format!("the daemon: {error}"), retry_after: Some(Duration::from_secs(1)) }
        }
        _ => CallError::Internal(format!("pipes and code: {error}")),
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], CallError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CallError::Internal(format!("no random bytes: {e}")))?;
    Ok(bytes)
}
