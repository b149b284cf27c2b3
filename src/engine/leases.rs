//! Host uids, one a sandbox. A uid comes back into use as late as possible and only when nothing carries it.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use super::claim::{Claim, FILE};
use crate::policy::{LEASE_FIRST_DEFAULT, LEASE_SLICES};
use crate::spec::{LeaseChecks, LeaseState};

/// A range of uids that this engine alone leases.
#[derive(Debug)]
pub struct Leases {
    first: u32,
    count: u32,
    /// Offsets below it have been leased before.
    fresh: u32,
    /// Given back, oldest first.
    free: VecDeque<u32>,
    /// Number of the slice of the default range; 0 for a configured one.
    slice: u32,
    /// Held for the life of the engine.
    _claim: Claim,
}

/// The range can not be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("uids {first} to {last} overlap {with}")]
    Overlap { first: u32, last: u32, with: String },
    #[error("uids from {first} are leased by another engine on this host")]
    Taken { first: u32 },
    #[error("all {LEASE_SLICES} slices of the default uid range are leased by other engines on this host")]
    AllTaken,
    #[error("uid range: {0}")]
    Io(#[from] std::io::Error),
}

/// systemd's uids for DynamicUser= and for containers (its UIDS-GIDS.md).
const RESERVED: [(u32, u32, &str); 2] =
    [(61_184, 65_519, "systemd's DynamicUser range"), (524_288, 1_879_048_191, "systemd's container range")];

impl Leases {
    /// Claims the configured range, or a free slice of the default one: that of the engine before (`next` is the uid
    /// after the last that it leased), since the slice names the cgroup subtree that is swept, else the first.
    pub fn claim(first: Option<u32>, count: u32, next: Option<u32>) -> Result<Self, LeaseError> {
        let file = Path::new(FILE);
        if let Some(first) = first {
            check_range(first, count)?;
            let claim = Claim::take(file, first, count)?.ok_or(LeaseError::Taken { first })?;
            return Ok(Self::new(first, count, 0, claim));
        }
        let earlier = next.and_then(|n| n.checked_sub(LEASE_FIRST_DEFAULT + 1)).map(|offset| offset / 65_536);
        for slice in earlier.filter(|&s| s < LEASE_SLICES).into_iter().chain(0..LEASE_SLICES) {
            let first = LEASE_FIRST_DEFAULT + slice * 65_536;
            let count = count.min(65_536);
            check_range(first, count)?;
            if let Some(claim) = Claim::take(file, first, count)? {
                return Ok(Self::new(first, count, slice, claim));
            }
        }
        Err(LeaseError::AllTaken)
    }

    fn new(first: u32, count: u32, slice: u32, claim: Claim) -> Self {
        Self { first, count, fresh: 0, free: VecDeque::new(), slice, _claim: claim }
    }

    pub fn slice(&self) -> u32 {
        self.slice
    }

    pub fn first(&self) -> u32 {
        self.first
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Goes on where an earlier engine stopped: `next` is the uid after the last that it leased.
    pub fn resume(&mut self, next: u32) {
        if next > self.first && next < self.first + self.count {
            // What was leased before counts as given back long ago; it is checked before it is leased again.
            self.fresh = next - self.first;
            self.free = (0..self.fresh).collect();
        }
    }

    /// The next uid, or `None` where every one is in use or still carried by something.
    pub fn take(&mut self) -> Option<u32> {
        if self.fresh < self.count {
            self.fresh += 1;
            return Some(self.first + self.fresh - 1);
        }
        for _ in 0..self.free.len() {
            let offset = self.free.pop_front()?;
            if !carried(self.first + offset) {
                return Some(self.first + offset);
            }
            self.free.push_back(offset);
        }
        None
    }

    /// Gives `uid` back. Its sandbox is gone: no process, namespace or mount of it is left.
    pub fn give_back(&mut self, uid: u32) {
        self.free.push_back(uid - self.first);
    }

    /// How many may still be had, those that something still carries among them.
    pub fn available(&self) -> usize {
        (self.count - self.fresh) as usize + self.free.len()
    }

    /// How many are out.
    #[cfg(test)]
    pub fn in_use(&self) -> u32 {
        self.fresh - self.free.len() as u32
    }

    /// The uid after the last that was leased for the first time, for [`Leases::resume`].
    pub fn next(&self) -> u32 {
        self.first + self.fresh
    }
}

/// What [`Leases::claim`] would find, without taking anything: the configured range, or the first free slice.
pub fn survey(first: Option<u32>, count: u32) -> LeaseChecks {
    let look = |first: u32, count: u32| match check_range(first, count) {
        Err(LeaseError::Overlap { with, .. }) => LeaseState::Overlaps { with: with.chars().take(128).collect() },
        Err(_) => LeaseState::Failed { errno: libc::EIO },
        Ok(()) => match Claim::is_held(Path::new(FILE), first, count) {
            Ok(true) => LeaseState::Taken,
            Ok(false) => LeaseState::Free,
            Err(e) => LeaseState::Failed { errno: e.raw_os_error().unwrap_or(libc::EIO) },
        },
    };
    if let Some(first) = first {
        return LeaseChecks { first, count, state: look(first, count) };
    }
    let count = count.min(65_536);
    for first in (0..LEASE_SLICES).map(|slice| LEASE_FIRST_DEFAULT + slice * 65_536) {
        match look(first, count) {
            LeaseState::Taken => {}
            state => return LeaseChecks { first, count, state },
        }
    }
    LeaseChecks { first: LEASE_FIRST_DEFAULT, count, state: LeaseState::AllTaken }
}

/// Whether a key or a process still belongs to `uid`. IPC objects and mounts went with their namespaces.
fn carried(uid: u32) -> bool {
    let users = fs::read_to_string("/proc/key-users").unwrap_or_default();
    let with_keys = users.lines().filter_map(|l| l.split(':').next()?.trim().parse::<u32>().ok()).any(|u| u == uid);
    let with_processes = || {
        procfs::process::all_processes().is_ok_and(|all| all.flatten().any(|p| p.uid().is_ok_and(|owner| owner == uid)))
    };
    with_keys || with_processes()
}

fn check_range(first: u32, count: u32) -> Result<(), LeaseError> {
    let last = first + (count - 1);
    let overlap = |from: u32, to: u32, with: String| {
        if from <= last && to >= first { Err(LeaseError::Overlap { first, last, with }) } else { Ok(()) }
    };
    for (from, to, what) in RESERVED {
        overlap(from, to, what.to_owned())?;
    }
    for (name, uid) in fields("/etc/passwd", 2) {
        overlap(uid, uid, format!("user {name}"))?;
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let mut parts = line.split(':');
            let (Some(name), Some(from), Some(many)) = (parts.next(), parts.next(), parts.next()) else { continue };
            if let (Ok(from), Ok(many)) = (from.parse::<u32>(), many.trim().parse::<u32>())
                && many > 0
            {
                overlap(from, from.saturating_add(many - 1), format!("{file}'s range of {name}"))?;
            }
        }
    }
    Ok(())
}

fn fields(file: &str, index: usize) -> Vec<(String, u32)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let entry = |line: &str| {
        let parts: Vec<&str> = line.split(':').collect();
        Some((parts.first()?.to_string(), parts.get(index)?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(count: u32) -> Leases {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(&dir.path().join("leases"), 0, 1).unwrap().unwrap();
        Leases::new(2_000_000_000, count, 0, claim)
    }

    #[test]
    fn oldest_first_and_never_two_at_once() {
        let mut l = leases(3);
        let (a, b, c) = (l.take().unwrap(), l.take().unwrap(), l.take().unwrap());
        assert_eq!((a, b, c), (2_000_000_000, 2_000_000_001, 2_000_000_002));
        assert_eq!((l.take(), l.in_use()), (None, 3));
        l.give_back(b);
        l.give_back(a);
        assert_eq!((l.take(), l.take(), l.take()), (Some(b), Some(a), None));
    }

    #[test]
    fn a_new_engine_goes_on_after_the_last_one() {
        let mut l = leases(10);
        l.resume(2_000_000_004);
        assert_eq!((l.take(), l.in_use()), (Some(2_000_000_004), 1));
        let mut l = leases(10);
        l.resume(5);
        assert_eq!(l.take(), Some(2_000_000_000));
    }

    #[test]
    fn ranges_of_others_are_refused() {
        assert!(matches!(check_range(65_000, 64), Err(LeaseError::Overlap { .. })));
        assert!(matches!(check_range(600_000, 64), Err(LeaseError::Overlap { .. })));
        assert!(check_range(LEASE_FIRST_DEFAULT, 65_536).is_ok());
    }

    #[test]
    fn a_range_is_claimed_once() {
        let first = 1_999_000_000;
        let state = || survey(Some(first), 64).state;
        assert_eq!(state(), LeaseState::Free);
        let held = Leases::claim(Some(first), 64, None).unwrap();
        assert!(matches!(Leases::claim(Some(first), 64, None), Err(LeaseError::Taken { .. })));
        assert_eq!(state(), LeaseState::Taken);
        drop(held);
        assert_eq!(state(), LeaseState::Free);
        assert!(Leases::claim(Some(first), 64, None).is_ok());
        assert!(matches!(survey(Some(600_000), 64).state, LeaseState::Overlaps { .. }));
    }
}
