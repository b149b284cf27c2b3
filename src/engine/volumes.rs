//! Volumes in use: who opened them, which sandboxes have them, and when they are put away again.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::sandbox::{ConnectionKey, Sandbox, Sender};
use super::states::State;
use crate::backend::volume::{Job, Task, Told, VolumeLimits, Volumes};
use crate::policy::volume::{VolumePlan, volume as plan_for};
use crate::policy::{FILES, plan::Plan};
use crate::spec::{OwnerName, VolumeId, VolumeSize, VolumeUse};
use crate::wire::{Create, Open, Refusal, Reply, VOLUMES_MAX, VolumeWire, WORKSPACES_PAGE, WorkspaceWire};

/// A workspace that nobody has used for so long is put away.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Volumes that are open at once; the one that was idle longest makes room.
const OPEN_MAX: usize = 512;
/// Processes for volumes at once. Openings beyond wait their turn.
const JOBS_MAX: usize = 8;
/// What one scratch volume may hold.
const SCRATCH: VolumeLimits =
    VolumeLimits { bytes: 128 << 20, files: 16_384, each_owner: u32::MAX, total_bytes: u64::MAX };
/// Scratch volumes of one connection.
const SCRATCH_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for a process to open it.
    Wanted,
    Opening,
    Open,
    /// Being put away.
    Closing,
    /// Being removed for good.
    Removing,
}

#[derive(Debug)]
struct Volume {
    stage: Stage,
    mount: Option<PathBuf>,
    size: VolumeSize,
    /// Sandboxes that have it.
    users: u32,
    idle_since: Instant,
    /// Of a scratch volume: it goes with this connection.
    owner: Option<ConnectionKey>,
    /// Who waits for it to be open, and whether it may be made.
    waiting: Vec<(Sender, Option<u64>)>,
    /// Whom to tell once it is removed, or to be removed when its last user is gone.
    doomed: Option<Option<Sender>>,
}

/// A volume of a sandbox, from its Create on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub volume: VolumeId,
    pub plan: VolumePlan,
}

#[derive(Debug)]
pub(super) struct Table {
    volumes: Option<Volumes>,
    limits: VolumeLimits,
    /// Scratch volumes lie in memory; else they are images, as workspaces are.
    in_memory: bool,
    table: BTreeMap<VolumeId, Volume>,
    jobs: HashMap<u64, (Job, VolumeId)>,
    next_mount: u64,
}

impl Table {
    /// `volumes`: none on a host that can have none.
    pub fn new(volumes: Option<Volumes>, limits: VolumeLimits, in_memory: bool) -> Self {
        Self { volumes, limits, in_memory, table: BTreeMap::new(), jobs: HashMap::new(), next_mount: 0 }
    }

    pub fn set_limits(&mut self, limits: VolumeLimits) {
        self.limits = limits;
    }

    /// When something is to be put away, if nothing else happens.
    pub fn next_time(&self) -> Option<Instant> {
        self.table.values().filter(|v| v.is_idle()).map(|v| v.idle_since + IDLE_MAX).min()
    }

    /// Takes everything away.
    pub fn close(self) {
        if let Some(volumes) = self.volumes
            && let Err(e) = volumes.close()
        {
            tracing::warn!(error = %e, "volumes are left to the kernel to be put away");
        }
    }

    fn new_mount(&mut self) -> std::io::Result<PathBuf> {
        let volumes = self.volumes.as_ref().ok_or(std::io::ErrorKind::Unsupported)?;
        self.next_mount += 1;
        volumes.mount_point(self.next_mount)
    }
}

impl Volume {
    fn is_idle(&self) -> bool {
        self.stage == Stage::Open && self.users == 0 && self.owner.is_none() && self.doomed.is_none()
    }
}

fn failed(step: &str, e: &std::io::Error) -> Refusal {
    Refusal::VolumeFailed { step: step.into(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
}

impl Monitor {
    /// Parses a name that only a broken front can get wrong.
    fn volume_id(&mut self, from: ConnectionKey, seq: u32, volume: VolumeWire) -> Option<VolumeId> {
        match VolumeId::try_from(volume) {
            Ok(volume) => Some(volume),
            Err(e) => {
                self.violation(from, seq, &format!("a volume's name {e}"));
                None
            }
        }
    }

    pub(super) fn open_volume(&mut self, from: ConnectionKey, seq: u32, open: Open) {
        let Open { volume, create, bytes } = open;
        let Some(volume) = self.volume_id(from, seq, volume) else { return };
        if self.stopping.is_some() {
            return self.refuse(from, seq, Refusal::Draining);
        }
        if self.volumes.volumes.is_none() {
            return self.refuse(from, seq, failed("host", &std::io::Error::from_raw_os_error(libc::ENODEV)));
        }
        let most = if matches!(volume, VolumeId::Scratch(_)) { SCRATCH.bytes } else { self.volumes.limits.bytes };
        let bytes = bytes.unwrap_or(most);
        if bytes > most || bytes < 1 << 20 {
            return self.refuse(from, seq, Refusal::LimitRefused { field: "bytes".into(), most });
        }
        let create = (create || matches!(volume, VolumeId::Scratch(_))).then_some(bytes);
        let sender = Sender { connection: from, seq };
        match self.volumes.table.get_mut(&volume) {
            Some(v) if matches!(volume, VolumeId::Scratch(_)) || v.doomed.is_some() => {
                let users = v.users;
                self.refuse(from, seq, Refusal::VolumeBusy { users });
            }
            Some(Volume { stage: Stage::Open, .. }) => self.answer_opened(&volume, sender, false),
            Some(v) => v.waiting.push((sender, create)),
            None => self.begin_open(volume, sender, create),
        }
    }

    fn begin_open(&mut self, volume: VolumeId, sender: Sender, create: Option<u64>) {
        let is_scratch = matches!(volume, VolumeId::Scratch(_));
        let table = &self.volumes.table;
        let own = table.values().filter(|v| v.owner == Some(sender.connection)).count();
        if is_scratch && own >= SCRATCH_MAX {
            return self.refuse(sender.connection, sender.seq, Refusal::TooManyVolumes { most: SCRATCH_MAX as u32 });
        }
        if table.len() >= OPEN_MAX {
            // Room comes with the one that is put away; who asks again finds it.
            if let Some(oldest) = self.longest_idle() {
                self.put_away(&oldest);
            }
            let what = format!("{OPEN_MAX} volumes are open");
            return self.refuse(sender.connection, sender.seq, Refusal::AtCapacity { what });
        }
        let entry = Volume {
            stage: Stage::Wanted,
            mount: None,
            size: VolumeSize::default(),
            users: 0,
            idle_since: Instant::now(),
            owner: is_scratch.then_some(sender.connection),
            waiting: vec![(sender, create)],
            doomed: None,
        };
        self.volumes.table.insert(volume.clone(), entry);
        if is_scratch && self.volumes.in_memory {
            return self.open_in_memory(&volume, create.unwrap_or(SCRATCH.bytes));
        }
        self.start_jobs();
    }

    fn open_in_memory(&mut self, volume: &VolumeId, bytes: u64) {
        let limits = VolumeLimits { bytes, ..SCRATCH };
        let made = self.volumes.new_mount().map_err(|e| failed("mount point", &e)).and_then(|mount| {
            let volumes = self.volumes.volumes.as_ref().ok_or(Refusal::UnknownVolume)?;
            let size = volumes.scratch(&mount, &limits).map_err(|e| failed(e.step, &e.source))?;
            Ok((mount, size))
        });
        match made {
            Ok((mount, size)) => self.is_open(volume, mount, size, true),
            Err(refusal) => self.is_gone(volume, refusal),
        }
    }

    /// Gives the processes that there may be something to do.
    fn start_jobs(&mut self) {
        while self.volumes.jobs.len() < JOBS_MAX {
            let wanted = self.volumes.table.iter().find(|(_, v)| v.stage == Stage::Wanted).map(|(id, _)| id.clone());
            let Some(volume) = wanted else { return };
            let create = self.volumes.table.get(&volume).and_then(|v| v.waiting.iter().find_map(|(_, create)| *create));
            let limits = if matches!(volume, VolumeId::Scratch(_)) { SCRATCH } else { self.volumes.limits };
            let mount = match self.volumes.new_mount() {
                Ok(mount) => mount,
                Err(e) => {
                    self.is_gone(&volume, failed("mount point", &e));
                    continue;
                }
            };
            if let Some(v) = self.volumes.table.get_mut(&volume) {
                v.mount = Some(mount.clone());
                v.stage = Stage::Opening;
            }
            let task = Task::Open { volume: volume.clone(), mount, create: create.map(|bytes| (bytes, limits)) };
            self.start_job(volume, &task);
        }
    }

    fn start_job(&mut self, volume: VolumeId, task: &Task) {
        let key = self.key();
        let Some(volumes) = &self.volumes.volumes else { return };
        let started = volumes.start(task).and_then(|job| self.watch_job(key, &job).map(|()| job));
        match started {
            Ok(job) => drop(self.volumes.jobs.insert(key, (job, volume))),
            Err(e) => {
                tracing::error!(volume = %volume, error = %e, "no process for a volume");
                self.job_told(&volume, Told::Failed { step: "process".into(), errno: libc::EAGAIN });
            }
        }
    }

    /// A process for a volume has told how it ended.
    pub(super) fn job_ended(&mut self, key: u64) {
        let Some((job, volume)) = self.volumes.jobs.remove(&key) else { return };
        self.unwatch_job(&job);
        let told = job.told();
        self.job_told(&volume, told);
        self.start_jobs();
    }

    fn job_told(&mut self, volume: &VolumeId, told: Told) {
        let Some(v) = self.volumes.table.get_mut(volume) else { return };
        match (v.stage, told) {
            (Stage::Opening, Told::Opened { size, made }) => {
                let mount = v.mount.clone().unwrap_or_default();
                self.is_open(volume, mount, size.into(), made);
            }
            (Stage::Opening, Told::TooMany) => {
                let most = self.volumes.limits.each_owner;
                self.is_gone(volume, Refusal::TooManyVolumes { most });
            }
            (Stage::Opening, Told::Failed { step, errno }) => {
                if let Some(mount) = &v.mount {
                    // Nothing is mounted there.
                    let _ = std::fs::remove_dir(mount);
                }
                let refusal = match (step.as_str(), errno) {
                    ("open", libc::ENOENT) => Refusal::UnknownVolume,
                    ("room", libc::ENOSPC) => {
                        Refusal::AtCapacity { what: "the room for workspaces on the disk".into() }
                    }
                    _ => {
                        tracing::error!(volume = %volume, step, errno, "a volume can not be opened");
                        Refusal::VolumeFailed { step, errno }
                    }
                };
                self.is_gone(volume, refusal);
            }
            (Stage::Closing, Told::Closed) => {
                v.mount = None;
                if v.waiting.is_empty() {
                    self.volumes.table.remove(volume);
                } else {
                    v.stage = Stage::Wanted;
                }
            }
            (Stage::Removing, Told::Closed) => {
                let gone = self.volumes.table.remove(volume);
                if let Some(sender) = gone.and_then(|v| v.doomed).flatten() {
                    self.reply(sender.connection, sender.seq, Reply::Done, Vec::new());
                }
            }
            (Stage::Closing | Stage::Removing, Told::Failed { step, errno }) => {
                tracing::warn!(volume = %volume, step, errno, "a volume can not be put away");
                // Still mounted where it was, unless it never was.
                v.stage = Stage::Open;
                v.idle_since = Instant::now();
                let was_mounted = v.mount.is_some();
                let doomed = v.doomed.take().flatten();
                let waiting = std::mem::take(&mut v.waiting);
                if !was_mounted {
                    self.volumes.table.remove(volume);
                }
                if let Some(sender) = doomed {
                    let refusal = match errno {
                        libc::ENOENT => Refusal::UnknownVolume,
                        _ => Refusal::VolumeFailed { step, errno },
                    };
                    self.refuse(sender.connection, sender.seq, refusal);
                }
                for (sender, _) in waiting {
                    self.answer_opened(volume, sender, false);
                }
            }
            (stage, told) => tracing::error!(volume = %volume, ?stage, ?told, "a process told what it was not asked"),
        }
    }

    fn is_open(&mut self, volume: &VolumeId, mount: PathBuf, size: VolumeSize, made: bool) {
        let Some(v) = self.volumes.table.get_mut(volume) else { return };
        v.stage = Stage::Open;
        v.mount = Some(mount);
        v.size = size;
        v.idle_since = Instant::now();
        for (number, (sender, _)) in std::mem::take(&mut v.waiting).into_iter().enumerate() {
            self.answer_opened(volume, sender, made && number == 0);
        }
        self.settle(volume);
    }

    /// It could not be opened.
    fn is_gone(&mut self, volume: &VolumeId, refusal: Refusal) {
        let Some(v) = self.volumes.table.remove(volume) else { return };
        for (sender, _) in v.waiting {
            self.refuse(sender.connection, sender.seq, refusal.clone());
        }
    }

    fn answer_opened(&mut self, volume: &VolumeId, sender: Sender, made: bool) {
        let Some(v) = self.volumes.table.get_mut(volume) else {
            return self.refuse(sender.connection, sender.seq, Refusal::UnknownVolume);
        };
        v.idle_since = Instant::now();
        let size = v.mount.as_deref().zip(self.volumes.volumes.as_ref());
        let size = size.and_then(|(mount, volumes)| volumes.size_at(mount, volume).ok()).unwrap_or(v.size);
        self.reply(sender.connection, sender.seq, Reply::Opened { size: size.into(), made }, Vec::new());
    }

    /// The volumes of `create`, marked as used, or why it can not have them.
    pub(super) fn hold_volumes(&mut self, create: &Create, plan: &Plan) -> Result<Vec<Held>, Refusal> {
        let mut held: Vec<Held> = Vec::new();
        for wanted in &create.volumes {
            let protocol = |what: &str| Refusal::Protocol { what: what.into() };
            let wanted = VolumeUse::try_from(wanted.clone()).map_err(|_| protocol("a volume's name"))?;
            let plan = plan_for(plan.level, &wanted, create.runtime == FILES).map_err(|e| protocol(&e.to_string()))?;
            if held.len() == VOLUMES_MAX || held.iter().any(|h| h.plan.place == plan.place) {
                return Err(protocol("two volumes for one place"));
            }
            match self.volumes.table.get(&wanted.volume) {
                Some(v) if v.stage == Stage::Open && v.doomed.is_none() => {}
                Some(v) if v.doomed.is_some() => return Err(Refusal::VolumeBusy { users: v.users }),
                _ => return Err(Refusal::UnknownVolume),
            }
            held.push(Held { volume: wanted.volume, plan });
        }
        for one in &held {
            if let Some(v) = self.volumes.table.get_mut(&one.volume) {
                v.users += 1;
            }
        }
        Ok(held)
    }

    /// A sandbox that had them is gone.
    pub(super) fn release_volumes(&mut self, held: &[Held]) {
        for one in held {
            if let Some(v) = self.volumes.table.get_mut(&one.volume) {
                v.users -= 1;
                v.idle_since = Instant::now();
                self.settle(&one.volume);
            }
        }
    }

    /// Mounts the volumes of `key`, in which no command has run, into it. What was mounted is read back.
    pub(super) fn give_volumes(&mut self, key: u64) -> Result<(), Refusal> {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return Err(Refusal::UnknownSandbox) };
        if sandbox.volumes.is_empty() {
            return Ok(());
        }
        let mut reports = Vec::new();
        for one in &sandbox.volumes {
            let mount = self.volumes.table.get(&one.volume).and_then(|v| v.mount.as_deref());
            let mount = mount.ok_or(Refusal::UnknownVolume)?;
            let given = self.backend.give(&sandbox.live, &sandbox.plan, mount, &one.plan);
            reports.push(given.map_err(|e| Refusal::SetupFailed {
                errno: e.errno(),
                step: e.step.into(),
                target: e.target,
            })?);
        }
        if let Some(enforced) = &mut sandbox.enforced {
            enforced.volumes = reports;
        }
        Ok(())
    }

    pub(super) fn close_volume(&mut self, from: ConnectionKey, seq: u32, volume: VolumeWire) {
        let Some(volume) = self.volume_id(from, seq, volume) else { return };
        match self.volumes.table.get_mut(&volume) {
            Some(v) if v.owner == Some(from) => {
                v.doomed = Some(Some(Sender { connection: from, seq }));
                self.settle(&volume);
            }
            _ => self.refuse(from, seq, Refusal::UnknownVolume),
        }
    }

    pub(super) fn remove_volume(&mut self, from: ConnectionKey, seq: u32, volume: VolumeWire) {
        let Some(volume) = self.volume_id(from, seq, volume) else { return };
        if matches!(volume, VolumeId::Scratch(_)) {
            return self.violation(from, seq, "Remove of a scratch volume");
        }
        // The dead may still hold it.
        while self.bury_one() {}
        let ends = |s: &Sandbox| s.state == State::Ending || !s.volumes.iter().any(|held| held.volume == volume);
        let in_use = !self.sandboxes.values().all(ends);
        let sender = Sender { connection: from, seq };
        match self.volumes.table.get_mut(&volume) {
            Some(v) if v.doomed.is_some() || in_use || !v.waiting.is_empty() => {
                let users = v.users;
                self.refuse(from, seq, Refusal::VolumeBusy { users });
            }
            Some(v) => {
                v.doomed = Some(Some(sender));
                self.settle(&volume);
            }
            None => {
                let entry = Volume {
                    stage: Stage::Removing,
                    mount: None,
                    size: VolumeSize::default(),
                    users: 0,
                    idle_since: Instant::now(),
                    owner: None,
                    waiting: Vec::new(),
                    doomed: Some(Some(sender)),
                };
                self.volumes.table.insert(volume.clone(), entry);
                let task = Task::Close { mount: None, image: Some(volume.clone()) };
                self.start_job(volume, &task);
            }
        }
    }

    /// Goes on with one that is to go, where nothing is in the way any more.
    fn settle(&mut self, volume: &VolumeId) {
        let Some(v) = self.volumes.table.get_mut(volume) else { return };
        if v.doomed.is_none() || v.users > 0 || v.stage != Stage::Open {
            return;
        }
        v.stage = Stage::Removing;
        let mount = v.mount.clone();
        let is_scratch = matches!(volume, VolumeId::Scratch(_));
        if is_scratch && self.volumes.in_memory {
            let dropped =
                mount.as_deref().zip(self.volumes.volumes.as_ref()).map(|(m, volumes)| volumes.drop_scratch(m));
            let told = match dropped {
                Some(Err(e)) => Told::Failed { step: "unmount".into(), errno: e.raw_os_error().unwrap_or(libc::EIO) },
                _ => Told::Closed,
            };
            return self.job_told(volume, told);
        }
        let image = (!is_scratch).then(|| volume.clone());
        self.start_job(volume.clone(), &Task::Close { mount, image });
    }

    fn longest_idle(&self) -> Option<VolumeId> {
        let idle = self.volumes.table.iter().filter(|(_, v)| v.is_idle());
        idle.min_by_key(|(_, v)| v.idle_since).map(|(id, _)| id.clone())
    }

    /// One that was idle for too long.
    pub(super) fn tend_volumes(&mut self, now: Instant) {
        while let Some(volume) = self.longest_idle()
            && self.volumes.jobs.len() < JOBS_MAX
            && self.volumes.table.get(&volume).is_some_and(|v| v.idle_since + IDLE_MAX <= now)
        {
            self.put_away(&volume);
        }
    }

    fn put_away(&mut self, volume: &VolumeId) {
        let Some(v) = self.volumes.table.get_mut(volume).filter(|v| v.is_idle()) else { return };
        v.stage = Stage::Closing;
        let task = Task::Close { mount: v.mount.clone(), image: None };
        self.start_job(volume.clone(), &task);
    }

    /// The connection is gone, and with it whoever knew its scratch volumes.
    pub(super) fn orphan_volumes(&mut self, connection: ConnectionKey) {
        let owned = self.volumes.table.iter().filter(|(_, v)| v.owner == Some(connection));
        let owned: Vec<VolumeId> = owned.map(|(id, _)| id.clone()).collect();
        for volume in owned {
            if let Some(v) = self.volumes.table.get_mut(&volume) {
                v.doomed.get_or_insert(None);
            }
            self.settle(&volume);
        }
    }

    pub(super) fn list_workspaces(&mut self, from: ConnectionKey, seq: u32, owner: &str, after: Option<String>) {
        let Ok(owner) = owner.parse::<OwnerName>() else {
            return self.violation(from, seq, "an owner's name");
        };
        let Some(volumes) = &self.volumes.volumes else {
            return self.reply(from, seq, Reply::Workspaces { entries: Vec::new(), more: false }, Vec::new());
        };
        let all = match volumes.list(&owner) {
            Ok(all) => all,
            Err(e) => return self.refuse(from, seq, failed("list", &e)),
        };
        let mut entries = Vec::new();
        let mut more = false;
        for (name, size, created_ms) in
            all.into_iter().filter(|(n, ..)| after.as_deref().is_none_or(|a| n.as_str() > a))
        {
            if entries.len() == WORKSPACES_PAGE {
                more = true;
                break;
            }
            let id = VolumeId::Workspace { owner: owner.clone(), name: name.clone() };
            let open = self.volumes.table.get(&id).filter(|v| v.stage == Stage::Open);
            let now = open.and_then(|v| volumes.size_at(v.mount.as_deref()?, &id).ok());
            let users = open.map_or(0, |v| v.users);
            let size = now.unwrap_or(size).into();
            entries.push(WorkspaceWire { name: name.as_str().to_owned(), size, users, created_ms });
        }
        self.reply(from, seq, Reply::Workspaces { entries, more }, Vec::new());
    }
}
