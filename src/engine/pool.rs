//! How many sandboxes are built ahead of calls, and of which kinds. The table of those that wait; no I/O.
//!
//! A kind is a level, with or without a command that is up already. How many of a kind should wait follows demand: a call
//! that found none raises the number by half and one, five seconds in which some were never needed lower it by half of
//! these. So a burst is paid for once, and a quiet service keeps its floor.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config;
use crate::spec::{Command, Level};

/// What waits for the default level, so that even a first call finds one.
const FLOOR: u32 = 2;
/// How often the numbers are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A sandbox that waited for so long is built anew: what it was built from may have changed unseen.
pub(super) const AGE_MAX: Duration = Duration::from_secs(600);
/// After a build that failed; doubled for each further one in a row.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What one that waits takes until one was measured: the sum of its processes' own pages and what the kernel holds for it.
const BYTES_PLAIN: u64 = 2 * 1024 * 1024;
const BYTES_WARM: u64 = 16 * 1024 * 1024;

/// Sandboxes of one kind are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub level: Level,
    /// Of the command that is up, where one is.
    pub runtime: Option<String>,
}

/// A command that may be started ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    pub runtime: String,
    pub command: Command,
    pub result: bool,
}

#[derive(Debug)]
struct Class {
    kind: Kind,
    /// Complete, oldest first; the monitor's keys.
    waiting: VecDeque<u64>,
    /// On their way.
    coming: u32,
    floor: u32,
    want: u32,
    /// The fewest that waited since the last look.
    low: u32,
    failures: u32,
    paused_until: Option<Instant>,
    bytes: u64,
}

impl Class {
    fn has(&self) -> u32 {
        self.waiting.len() as u32 + self.coming
    }

    fn note_low(&mut self) {
        self.low = self.low.min(self.waiting.len() as u32);
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    settings: config::Pool,
    /// A front has said what it wants ahead.
    asked: bool,
    prepared: Vec<Prepared>,
    classes: Vec<Class>,
    next_look: Option<Instant>,
}

impl Pool {
    pub fn new(settings: config::Pool) -> Self {
        Self { settings, asked: false, prepared: Vec::new(), classes: Vec::new(), next_look: None }
    }

    pub fn is_enabled(&self) -> bool {
        self.settings.enabled
    }

    /// Takes over what a front wants ahead. Returns whether that changed anything, and the keys of those that wait for
    /// nothing any more. Where it did, none that is on its way is expected any more.
    pub fn prepare(&mut self, prepared: Vec<Prepared>, now: Instant) -> (bool, Vec<u64>) {
        let stale: Vec<String> =
            self.prepared.iter().filter(|old| !prepared.contains(old)).map(|old| old.runtime.clone()).collect();
        self.prepared = prepared;
        self.asked = true;
        self.next_look.get_or_insert(now + LOOK_EVERY);
        let dropped = self.forget(|kind| kind.runtime.as_ref().is_some_and(|runtime| stale.contains(runtime)));
        if !stale.is_empty() {
            self.forget_coming();
        }
        let runtimes: Vec<Option<String>> =
            [None].into_iter().chain(self.prepared.iter().map(|p| Some(p.runtime.clone()))).collect();
        for runtime in runtimes {
            let class = self.class(Kind { level: Level::Standard, runtime });
            class.floor = FLOOR;
            class.want = class.want.max(FLOOR);
        }
        (!stale.is_empty(), dropped)
    }

    fn forget_coming(&mut self) {
        self.classes.iter_mut().for_each(|class| class.coming = 0);
    }

    /// Forgets everything that waits or is on its way: what it was built from has changed. Returns the keys of what waits.
    pub fn renew(&mut self, settings: config::Pool) -> Vec<u64> {
        self.settings = settings;
        self.forget_coming();
        let mut keys = Vec::new();
        for class in &mut self.classes {
            keys.extend(class.waiting.drain(..));
            class.low = 0;
        }
        keys
    }

    fn forget(&mut self, which: impl Fn(&Kind) -> bool) -> Vec<u64> {
        let mut keys = Vec::new();
        self.classes.retain_mut(|class| {
            let gone = which(&class.kind);
            if gone {
                keys.extend(class.waiting.drain(..));
            }
            !gone
        });
        keys
    }

    pub fn prepared(&self, runtime: &str) -> Option<&Prepared> {
        self.prepared.iter().find(|p| p.runtime == runtime)
    }

    fn class(&mut self, kind: Kind) -> &mut Class {
        let at = self.classes.iter().position(|c| c.kind == kind).unwrap_or_else(|| {
            let bytes = if kind.runtime.is_some() { BYTES_WARM } else { BYTES_PLAIN };
            self.classes.push(Class {
                kind,
                waiting: VecDeque::new(),
                coming: 0,
                floor: 0,
                want: 0,
                low: 0,
                failures: 0,
                paused_until: None,
                bytes,
            });
            self.classes.len() - 1
        });
        &mut self.classes[at]
    }

    /// The oldest that waits, for a call that is there; `fits` is asked of it first. A call that no sandbox of its kind
    /// would fit is no demand for more of them.
    pub fn take(&mut self, kind: &Kind, fits: impl Fn(u64) -> bool) -> Option<u64> {
        if !self.settings.enabled || !self.asked {
            return None;
        }
        let most = self.settings.waiting_max;
        let class = self.class(kind.clone());
        if class.waiting.front().is_some_and(|key| !fits(*key)) {
            return None;
        }
        let taken = class.waiting.pop_front();
        class.note_low();
        if taken.is_none() {
            class.want = (class.want + class.want / 2 + 1).min(most);
        }
        taken
    }

    /// The kind of which one is missing most, if one may be built now.
    pub fn wanted(&self, now: Instant) -> Option<Kind> {
        if !self.settings.enabled || !self.asked {
            return None;
        }
        let all: u32 = self.classes.iter().map(Class::has).sum();
        let bytes = self.bytes();
        let may = |c: &&Class| {
            c.has() < c.want
                && c.paused_until.is_none_or(|until| until <= now)
                && bytes + c.bytes <= self.settings.memory_bytes
        };
        if all >= self.settings.waiting_max {
            return None;
        }
        // By the share that is there already; in thousandths, to compare whole numbers.
        self.classes.iter().filter(may).min_by_key(|c| c.has() * 1000 / c.want).map(|c| c.kind.clone())
    }

    /// Whether so few wait that the next calls may find none: then building is not put off.
    pub fn is_low(&self, now: Instant) -> bool {
        let may_come = |c: &&Class| c.paused_until.is_none_or(|until| until <= now);
        self.classes.iter().filter(may_come).any(|c| c.has() * 2 < c.want)
    }

    /// What those that wait or are on their way take, by what was measured.
    pub fn bytes(&self) -> u64 {
        self.classes.iter().map(|c| u64::from(c.has()) * c.bytes).sum()
    }

    /// One that can be done without, of the kind of which most wait.
    pub fn spare(&mut self) -> Option<u64> {
        let class = self.classes.iter_mut().max_by_key(|c| c.waiting.len())?;
        let spare = class.waiting.pop_front();
        class.note_low();
        spare
    }

    /// When, after `now`, there may be something to build although nothing happens; a look that is due is due at once.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        if !self.settings.enabled || !self.asked {
            return None;
        }
        let paused = self.classes.iter().filter(|c| c.has() < c.want).filter_map(|c| c.paused_until);
        let paused = paused.filter(|until| *until > now);
        paused.chain(self.next_look).min()
    }

    pub fn begun(&mut self, kind: &Kind) {
        self.class(kind.clone()).coming += 1;
    }

    /// One that was begun is complete, and waits.
    pub fn came(&mut self, kind: &Kind, key: u64) {
        let class = self.class(kind.clone());
        class.coming = class.coming.saturating_sub(1);
        class.failures = 0;
        class.paused_until = None;
        class.waiting.push_back(key);
    }

    /// One that was begun will never be complete.
    pub fn failed(&mut self, kind: &Kind, now: Instant) {
        let class = self.class(kind.clone());
        class.coming = class.coming.saturating_sub(1);
        let pause = PAUSE_FIRST.saturating_mul(1 << class.failures.min(16)).min(PAUSE_MAX);
        class.failures += 1;
        class.paused_until = Some(now + pause);
    }

    /// One that waited is gone.
    pub fn lost(&mut self, key: u64) {
        for class in &mut self.classes {
            class.waiting.retain(|waiting| *waiting != key);
            class.note_low();
        }
    }

    /// What one of `kind` was found to take.
    pub fn measured(&mut self, kind: &Kind, bytes: u64) {
        let class = self.class(kind.clone());
        class.bytes = bytes.max(64 * 1024);
    }

    /// One that waits of each kind, for a measurement.
    pub fn samples(&self) -> Vec<(Kind, u64)> {
        self.classes.iter().filter_map(|c| Some((c.kind.clone(), *c.waiting.front()?))).collect()
    }

    /// Adapts the numbers to what was needed, if it is time. Returns the keys of those that are too many.
    pub fn look(&mut self, now: Instant) -> Option<Vec<u64>> {
        if self.next_look.is_none_or(|at| at > now) {
            return None;
        }
        self.next_look = Some(now + LOOK_EVERY);
        let mut surplus = Vec::new();
        for class in &mut self.classes {
            // Half of what was never needed, rounded up, so that the last goes too.
            let unneeded = class.low.div_ceil(2);
            class.want = class.want.saturating_sub(unneeded).max(class.floor);
            while class.waiting.len() as u32 > class.want {
                surplus.extend(class.waiting.pop_front());
            }
            class.low = class.waiting.len() as u32;
        }
        Some(surplus)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.classes.iter().map(|c| c.waiting.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: config::Pool = config::Pool { enabled: true, waiting_max: 8, memory_bytes: 64 * 1024 * 1024 };

    fn plain(level: Level) -> Kind {
        Kind { level, runtime: None }
    }

    fn pool(now: Instant) -> Pool {
        let mut pool = Pool::new(SETTINGS);
        assert_eq!(pool.prepare(Vec::new(), now), (false, vec![]));
        pool
    }

    /// Builds until nothing is wanted any more; keys count from `first`.
    fn fill(pool: &mut Pool, now: Instant, first: u64) -> u64 {
        let mut key = first;
        while let Some(kind) = pool.wanted(now) {
            pool.begun(&kind);
            pool.came(&kind, key);
            key += 1;
            assert!(key < first + 100);
        }
        key
    }

    #[test]
    fn nothing_is_built_before_a_front_asks_and_nothing_where_it_is_off() {
        let now = Instant::now();
        assert_eq!(Pool::new(SETTINGS).wanted(now), None);
        let mut off = Pool::new(config::Pool { enabled: false, ..SETTINGS });
        off.prepare(Vec::new(), now);
        assert_eq!(
            (off.wanted(now), off.take(&plain(Level::Standard), |_| true), off.next_time(now)),
            (None, None, None)
        );
    }

    #[test]
    fn demand_raises_the_number_and_quiet_lowers_it_to_the_floor() {
        let now = Instant::now();
        let mut pool = pool(now);
        let mut key = fill(&mut pool, now, 1);
        assert_eq!(pool.waiting(), FLOOR as usize);
        for _ in 0..6 {
            while pool.take(&plain(Level::Standard), |_| true).is_some() {}
            key = fill(&mut pool, now, key);
        }
        assert_eq!(pool.waiting(), 8, "as many as may wait");
        let mut at = now;
        for _ in 0..10 {
            at += LOOK_EVERY;
            pool.look(at).unwrap();
        }
        assert_eq!(pool.waiting(), FLOOR as usize);
        assert_eq!(pool.look(at), None, "not before its time");
    }

    #[test]
    fn a_kind_that_nobody_asks_for_any_more_goes_altogether() {
        let now = Instant::now();
        let mut pool = pool(now);
        assert_eq!(pool.take(&plain(Level::Strict), |_| true), None);
        fill(&mut pool, now, 1);
        assert_eq!(pool.waiting(), FLOOR as usize + 1);
        let gone: usize = (1..5).map(|n| pool.look(now + n * LOOK_EVERY).unwrap().len()).sum();
        assert_eq!((gone, pool.waiting()), (1, FLOOR as usize));
    }

    #[test]
    fn a_taken_key_is_never_given_again() {
        let now = Instant::now();
        let mut pool = pool(now);
        fill(&mut pool, now, 1);
        let kind = plain(Level::Standard);
        assert_eq!(
            (pool.take(&kind, |_| true), pool.take(&kind, |_| true), pool.take(&kind, |_| true)),
            (Some(1), Some(2), None)
        );
        fill(&mut pool, now, 3);
        pool.lost(3);
        assert_ne!(pool.take(&kind, |_| true), Some(3));
    }

    #[test]
    fn a_kind_that_fails_is_tried_ever_more_seldom() {
        let now = Instant::now();
        let mut pool = pool(now);
        let kind = plain(Level::Standard);
        let mut at = now;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pool.begun(&kind);
            pool.failed(&kind, at);
            assert_eq!(pool.wanted(at), None);
            let next = pool.classes[0].paused_until.unwrap();
            pauses.push(next - at);
            at = next;
            assert_eq!(pool.wanted(at), Some(kind.clone()));
        }
        assert!(pauses.windows(2).all(|p| p[0] <= p[1]) && pauses[0] == PAUSE_FIRST && pauses[11] == PAUSE_MAX);
    }

    #[test]
    fn what_will_never_come_is_not_waited_for() {
        let now = Instant::now();
        let mut pool = pool(now);
        let kind = plain(Level::Standard);
        for _ in 0..FLOOR {
            pool.begun(&kind);
        }
        assert_eq!(pool.wanted(now), None);
        // Settings changed: those that are on their way are thrown away without a word.
        assert!(pool.renew(SETTINGS).is_empty());
        fill(&mut pool, now, 1);
        assert_eq!(pool.waiting(), FLOOR as usize);
    }

    #[test]
    fn a_pause_that_is_over_wakes_nobody_again() {
        let now = Instant::now();
        let mut pool = pool(now);
        let kind = plain(Level::Standard);
        pool.begun(&kind);
        pool.failed(&kind, now);
        assert_eq!(pool.next_time(now), Some(now + PAUSE_FIRST));
        let later = now + PAUSE_FIRST;
        assert_eq!(pool.next_time(later), Some(now + LOOK_EVERY), "whether or not there is room for one more");
    }

    #[test]
    fn memory_bounds_what_waits() {
        let now = Instant::now();
        let mut pool = pool(now);
        let kind = plain(Level::Standard);
        pool.measured(&kind, 60 * 1024 * 1024);
        fill(&mut pool, now, 1);
        assert_eq!(pool.waiting(), 1);
    }

    #[test]
    fn another_command_of_the_same_name_drops_the_old_ones() {
        let now = Instant::now();
        let mut pool = Pool::new(SETTINGS);
        let prepared = |argument: &str| Prepared {
            runtime: "bash".into(),
            command: Command::new(vec![argument.into()], Vec::new(), "/".into(), 2).unwrap(),
            result: false,
        };
        pool.prepare(vec![prepared("a")], now);
        fill(&mut pool, now, 1);
        assert_eq!(pool.prepare(vec![prepared("a")], now), (false, vec![]));
        let (changed, dropped) = pool.prepare(vec![prepared("b")], now);
        assert_eq!((changed, dropped.len()), (true, FLOOR as usize));
        assert_eq!(pool.waiting(), FLOOR as usize, "those without a command stay");
    }
}
