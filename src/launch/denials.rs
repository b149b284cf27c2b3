//! Pid 1 as the holder of the level's filter's listener: it answers each refused call with the profile's error, and counts.
//!
//! Who makes refused calls pays for them: the answers are work of a process in the sandbox's own cgroup, and the engine is
//! told at most so often. No memory of a caller is read and no call is ever let through, so nothing is decided here that a
//! caller could change meanwhile. While this process does something else, those calls wait; when it ends, they fail.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::channel::DeniedMessage;
use super::error::{LaunchError, Step};
use super::fault;
use crate::policy::seccomp::{Action, NUMBERS_MAX, OTHER_NUMBERS, OTHER_RULES, Profile, quiet};
use crate::spec::DENIALS_MAX;
use crate::sys::seccomp;

/// Counts that have only grown are told this often.
const NEWS_EVERY: Duration = Duration::from_millis(100);

/// Installs the level's filter; the listener, where the kernel gives one.
pub(super) fn install(profile: &Profile) -> Result<Option<OwnedFd>, LaunchError> {
    let with_listener = fault::at("listener").and_then(|()| seccomp::install_with_listener(profile.program));
    let installed = match with_listener {
        // A kernel that knows no listeners, or gives none: refused is refused all the same, and the reply says that nobody
        // counts.
        Err(_) => seccomp::install(&quiet(profile.program)).map(|()| None),
        result => result.map(Some),
    };
    installed.step("seccomp", profile.name)
}

/// A rule, or a call without a row, and how often it refused.
#[derive(Debug)]
struct Counted {
    rule: u16,
    number: u32,
    count: u64,
    told: u64,
}

#[derive(Debug)]
pub(super) struct Recorder {
    listener: OwnedFd,
    profile: &'static Profile,
    counted: Vec<Counted>,
    /// When the engine was told last.
    told_at: Option<Instant>,
}

impl Recorder {
    pub(super) fn new(listener: OwnedFd, profile: &'static Profile) -> Self {
        Self { listener, profile, counted: Vec::with_capacity(DENIALS_MAX), told_at: None }
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers one call; the listener must be readable.
    pub(super) fn answer(&mut self) -> io::Result<()> {
        let Some(asked) = seccomp::asked(self.listener())? else { return Ok(()) };
        let (action, rule) = self.profile.refusal(asked.number, &asked.args);
        let errno = match action {
            Action::Errno { number, .. } => number,
            // The program asks about nothing that it allows.
            Action::Allow => libc::EPERM as u16,
        };
        // One that was killed while it waited was refused nothing.
        if seccomp::answer(self.listener(), &asked, errno)?
            && let Some(rule) = rule
        {
            self.count(rule, asked.number);
        }
        Ok(())
    }

    fn count(&mut self, rule: u16, number: u32) {
        let known = |c: &Counted| c.rule == rule && c.number == number;
        if let Some(counted) = self.counted.iter_mut().find(|c| known(c)) {
            counted.count = counted.count.saturating_add(1);
            return;
        }
        let without_row = self.profile.named(rule, OTHER_NUMBERS).is_some();
        let of_rule = self.counted.iter().filter(|c| c.rule == rule).count();
        let (rule, number) = match self.counted.len() + 1 {
            room if room >= DENIALS_MAX => (OTHER_RULES, OTHER_NUMBERS),
            _ if without_row && of_rule >= NUMBERS_MAX => (rule, OTHER_NUMBERS),
            _ => (rule, number),
        };
        match self.counted.iter_mut().find(|c| c.rule == rule && c.number == number) {
            Some(counted) => counted.count = counted.count.saturating_add(1),
            None => self.counted.push(Counted { rule, number, count: 1, told: 0 }),
        }
    }

    /// When there is something to tell, `None` where there is nothing: what is new at once, the rest in its time.
    pub(super) fn news_in(&self) -> Option<Duration> {
        if self.counted.iter().any(|c| c.told == 0) {
            return Some(Duration::ZERO);
        }
        let grown = self.counted.iter().any(|c| c.told != c.count);
        grown.then(|| self.told_at.map_or(Duration::ZERO, |at| NEWS_EVERY.saturating_sub(at.elapsed())))
    }

    /// All that has changed since it was told last.
    pub(super) fn news(&mut self) -> Vec<DeniedMessage> {
        self.told_at = Some(Instant::now());
        let changed = self.counted.iter_mut().filter(|c| c.told != c.count);
        let tell = |c: &mut Counted| {
            c.told = c.count;
            DeniedMessage { rule: c.rule, number: c.number, count: c.count }
        };
        changed.map(tell).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::policy::seccomp::for_level;
    use crate::spec::Level;

    fn recorder() -> Recorder {
        Recorder::new(File::open("/dev/null").unwrap().into(), for_level(Level::Standard, true).unwrap())
    }

    fn told(recorder: &mut Recorder) -> Vec<(u16, u32, u64)> {
        recorder.news().iter().map(|d| (d.rule, d.number, d.count)).collect()
    }

    #[test]
    fn what_is_new_is_told_at_once_and_what_grows_in_its_time() {
        let mut recorder = recorder();
        assert_eq!(recorder.news_in(), None);
        recorder.count(3, 7);
        assert_eq!(recorder.news_in(), Some(Duration::ZERO));
        assert_eq!(told(&mut recorder), [(3, 7, 1)]);
        assert_eq!(recorder.news_in(), None);
        recorder.count(3, 7);
        let wait = recorder.news_in().unwrap();
        assert!(wait > Duration::ZERO && wait <= NEWS_EVERY, "{wait:?}");
        recorder.count(4, 7);
        assert_eq!(recorder.news_in(), Some(Duration::ZERO));
        assert_eq!(told(&mut recorder), [(3, 7, 2), (4, 7, 1)]);
        assert_eq!(told(&mut recorder), []);
    }

    #[test]
    fn a_record_is_bounded_and_loses_no_count() {
        let mut recorder = recorder();
        let (_, default) = recorder.profile.refusal(1000, &[0; 6]);
        let default = default.unwrap();
        for number in 1000..1100 {
            recorder.count(default, number);
        }
        let told = told(&mut recorder);
        assert_eq!(told.len(), NUMBERS_MAX + 1);
        assert_eq!(told[NUMBERS_MAX], (default, OTHER_NUMBERS, 100 - NUMBERS_MAX as u64));
        for rule in 0..200 {
            recorder.count(rule, 7);
            recorder.count(rule, 7);
        }
        assert_eq!(recorder.counted.len(), DENIALS_MAX);
        assert_eq!(recorder.counted.iter().map(|c| c.count).sum::<u64>(), 500);
        let last = &recorder.counted[DENIALS_MAX - 1];
        assert_eq!((last.rule, last.number), (OTHER_RULES, OTHER_NUMBERS));
    }

    #[test]
    fn counts_stay_at_their_most() {
        let mut recorder = recorder();
        recorder.count(0, 0);
        recorder.counted[0].count = u64::MAX;
        recorder.count(0, 0);
        assert_eq!(told(&mut recorder), [(0, 0, u64::MAX)]);
    }
}
