//! Files that come from a caller and go to one without being held: operations on a workspace whose content streams.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::call::{CallError, Context};
use super::execute::Service;
use super::fair::Ask;
use super::finish::ToolError;
use super::level;
use super::plan::{Job, WorkspaceNeed};
use super::principal::Principal;
use super::run::{destroy, errno_text, random};
use super::workspaces::{self, Writing};
use crate::policy::table::{resolve_limits, table};
use crate::runtimes::environment;
use crate::spec::{LimitRequest, SandboxId, WorkspaceName, capped};
use crate::wire::client::{Client, ClientError, Exited, News};
use crate::wire::files::{ANSWER_BYTES_MAX, Answer, FileRequest};
use crate::wire::{Create, Exec, LifetimeWire, OutcomeWire, Refusal, Reply, Verb, WhyWire, from_bytes};

/// What the code inside needs: it holds a piece at a time.
const MEMORY_BYTES: u64 = 64 << 20;
/// Taken from a pipe at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// The engine tells the end of an operation whose time is over by itself.
const END_GRACE: Duration = Duration::from_secs(15);

/// Why an operation on files was not done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Call(#[from] CallError),
    /// With the codes of the tools for files.
    #[error("{}", .0.message)]
    Files(ToolError),
}

/// An operation under way in a sandbox. Dropping it ends it.
pub struct Transfer {
    client: Client,
    id: SandboxId,
    exited: Exited,
    stdin: Option<Sender>,
    stdout: Receiver,
    result: Receiver,
    wall: Duration,
    ended: bool,
    /// Until nothing of it can be written any more.
    _writing: Option<Writing>,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.ended {
            destroy(self.client.clone(), self.id.clone());
        }
    }
}

impl Service {
    /// Begins `request` on the workspace `name` of `principal`.
    pub async fn transfer(
        self: &Arc<Self>,
        principal: &Principal,
        name: &WorkspaceName,
        request: &FileRequest,
    ) -> Result<Transfer, CallError> {
        let config = self.config();
        let level = level::effective(&Context::default(), principal, None, config.levels)?;
        let Job { runtime, code, cwd, workspace, .. } = super::files::job(request, Vec::new());
        let most = table(level);
        let limits = LimitRequest {
            memory_bytes: Some(MEMORY_BYTES),
            wall_ms: Some(most.wall_ms.most.min(config.ceilings.wall_ms)),
            file_size_bytes: Some(most.file_size_bytes.most.min(config.ceilings.file_size_bytes)),
            ..LimitRequest::default()
        };
        let resolved = resolve_limits(level, &limits, &config.ceilings)
            .map_err(|_| CallError::Internal("the limits of an operation on files".into()))?;
        let used = workspaces::wanted(workspace, level, &principal.name, Some(name))?;
        let used = used.ok_or_else(|| CallError::Internal("an operation on files without a workspace".into()))?;
        let writing =
            (workspace != WorkspaceNeed::Always { read_only: true }).then(|| self.changes.writing(&used.volume));
        let mut client = self.monitor.client().await.map_err(CallError::EngineUnavailable)?;
        let ask = Ask { memory_bytes: resolved.memory_bytes, text_bytes: 0 };
        let permit = self.admission.admit(&principal.name, ask, client.capacity(), None).await?;
        if !client.is_alive() {
            client = self.monitor.client().await.map_err(CallError::EngineUnavailable)?;
        }
        workspaces::open(&client, &used.volume).await?;
        let id = SandboxId::from_random(random()?);
        let exited = client.watch(id.as_str(), Box::new(permit)).map_err(CallError::EngineUnavailable)?;
        let wall = Duration::from_millis(resolved.wall_ms);
        let pipes = Pipes::new(&code, runtime).map_err(|e| CallError::Internal(format!("pipes: {e}")))?;
        let (argv, theirs) = (pipes.argv, pipes.theirs);
        let (stdin, stdout, result) = (Some(pipes.stdin), pipes.stdout, pipes.result);
        let transfer = Transfer { client, id, exited, stdin, stdout, result, wall, ended: false, _writing: writing };
        let create = Verb::Create(Create {
            id: transfer.id.as_str().to_owned(),
            level: level.into(),
            runtime: runtime.name().to_owned(),
            volumes: vec![used.into()],
            limits: limits.into(),
            lifetime: LifetimeWire::Call,
        });
        let exec = Verb::Exec(Exec {
            id: transfer.id.as_str().to_owned(),
            argv,
            env: environment(&[], &[]),
            cwd,
            wall_ms: resolved.wall_ms,
        });
        let client = &transfer.client;
        let created = client.send(create, &[]).await.map_err(CallError::EngineUnavailable)?;
        let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let started = client.send(exec, &fds).await.map_err(CallError::EngineUnavailable)?;
        drop(theirs);
        match created.reply().await.map_err(CallError::EngineUnavailable)? {
            Reply::Created(_) => {}
            Reply::Refused(refusal) => {
                client.unwatch(transfer.id.as_str());
                let mut transfer = transfer;
                transfer.ended = true;
                return Err(launch_refused(refusal));
            }
            _ => return Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Create" })),
        }
        match started.reply().await.map_err(CallError::EngineUnavailable)? {
            Reply::Started { .. } => Ok(transfer),
            Reply::Refused(refusal) => Err(launch_refused(refusal)),
            _ => Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Exec" })),
        }
    }
}

fn launch_refused(refusal: Refusal) -> CallError {
    match refusal {
        Refusal::SetupFailed { step, target, errno } => {
            CallError::SetupFailed { step: capped(&step, 200), target: capped(&target, 200), reason: errno_text(errno) }
        }
        Refusal::LevelUnavailable { missing } => CallError::LevelUnavailable {
            level: crate::spec::Level::Standard,
            missing: missing.iter().map(|m| capped(m, 200)).collect(),
        },
        Refusal::Ended { outcome: OutcomeWire::KilledByShutdown } => CallError::Draining,
        Refusal::Ended { .. } => CallError::Ended,
        other => workspaces::refused(other),
    }
}

struct Pipes {
    stdin: Sender,
    stdout: Receiver,
    result: Receiver,
    theirs: Vec<OwnedFd>,
    argv: Vec<String>,
}

impl Pipes {
    fn new(code: &[u8], runtime: crate::runtimes::Runtime) -> io::Result<Self> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
        let ((stdin_read, stdin), (stdout, stdout_write), (_unread, stderr)) = (pipe()?, pipe()?, pipe()?);
        let invocation = runtime.invocation(code)?;
        let result = invocation.result.ok_or_else(|| io::Error::other("no result"))?;
        let mut theirs = vec![stdin_read, stdout_write, stderr];
        theirs.extend(invocation.extra);
        Ok(Self {
            stdin: Sender::from_owned_fd(stdin)?,
            stdout: Receiver::from_owned_fd(stdout)?,
            result: Receiver::from_owned_fd(result)?,
            theirs,
            argv: invocation.argv,
        })
    }
}

impl Transfer {
    /// Content of a length that nobody told, as it comes; `framed`: a file's, in pieces, so that one that is cut short is
    /// none. False once the other end takes no more: [`Transfer::answer`] tells why.
    pub async fn send(&mut self, bytes: &[u8], framed: bool) -> bool {
        let Some(stdin) = &mut self.stdin else { return false };
        for piece in bytes.chunks(CHUNK_BYTES).filter(|piece| !piece.is_empty()) {
            if framed && stdin.write_all(&(piece.len() as u32).to_le_bytes()).await.is_err() {
                return false;
            }
            if stdin.write_all(piece).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The content has come to its end.
    pub async fn sent(&mut self, framed: bool) {
        if framed && let Some(stdin) = &mut self.stdin {
            // Where nobody takes it the answer tells why.
            let _broken_pipe = stdin.write_all(&0u32.to_le_bytes()).await;
        }
        self.stdin = None;
    }

    /// The content will not come to its end: nothing of it may stay. Returns when that is so.
    pub async fn abandon(mut self) {
        let signal = Verb::Signal { id: self.id.as_str().to_owned(), why: WhyWire::Disconnect };
        // Where the connection is lost, the sandbox ends with it.
        let _lost = self.client.send(signal, &[]).await;
        // The end of standard input comes after that of the code that reads it.
        self.end().await;
    }

    /// Bytes of the output; none at its end.
    pub async fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        self.stdout.read_buf(&mut chunk).await?;
        Ok(chunk)
    }

    async fn end(&mut self) -> Option<OutcomeWire> {
        let end = async {
            loop {
                match self.exited.next().await {
                    Ok(News::Denied(_)) => {}
                    Ok(News::Ended(end)) => break Some(end.outcome),
                    Err(_) => break None,
                }
            }
        };
        let end = tokio::time::timeout(self.wall + END_GRACE, end).await.ok().flatten();
        self.ended = end.is_some();
        end
    }

    /// What came of it. Nothing more is sent, and what was not read of the output is not wanted.
    pub async fn answer(mut self) -> Result<Answer, TransferError> {
        self.stdin = None;
        let mut bytes = Vec::new();
        let mut result = (&mut self.result).take(ANSWER_BYTES_MAX as u64 + 1);
        let read = tokio::time::timeout(self.wall + END_GRACE, result.read_to_end(&mut bytes)).await;
        let outcome = self.end().await;
        match (read, from_bytes(&bytes)) {
            (Ok(Ok(_)), Ok(Answer::Failed(fault))) => Err(TransferError::Files(super::files::error(&fault))),
            (Ok(Ok(_)), Ok(answer)) => Ok(answer),
            _ => {
                let outcome = outcome.map(crate::spec::Outcome::from);
                Err(TransferError::Files(match outcome {
                    Some(crate::spec::Outcome::DiskLimit) => {
                        ToolError::new("too_large", "the file would be larger than one file may be")
                    }
                    Some(crate::spec::Outcome::TimedOut { .. }) => {
                        ToolError::new("timed_out", "the operation's time was over before its end")
                    }
                    Some(crate::spec::Outcome::Killed { .. }) => return Err(CallError::Draining.into()),
                    _ => return Err(CallError::Internal("an operation on files ended without an answer".into()).into()),
                }))
            }
        }
    }
}
