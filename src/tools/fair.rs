//! Whose call gets room next, and who may wait. Pure: no clock of its own, no lock, no task.
//!
//! **Between principals** it is dominant resource fairness (Ghodsi et al., "Dominant Resource Fairness: Fair Allocation of
//! Multiple Resource Types", NSDI 2011): whoever holds the smallest share of what it holds most of, sandboxes or promised
//! memory, is next; equal shares take turns, and who comes anew stands behind those that waited longer and before the one
//! that was served last. So whoever holds nothing gets the next room that comes free, however many calls another has sent.
//!
//! **A large call** at its turn that does not fit yet is saved for as soon as a smaller one would pass it (the reservation of
//! backfilling schedulers: Lifka, "The ANL/IBM SP Scheduling System", 1995, without the run times, which nobody knows here):
//! half of what is free and half of everything that is given back is set aside for it, and the other half goes on to others,
//! its own principal's included; from the half of its ask on, all that is given back is its own. Saving goes by spells of 1 s,
//! 2 s, 4 s and so on; after each, what was saved is lent out for just as long, because calls that run for minutes may hold
//! what is still missing. Hence the bounds: in a spell it is admitted before others have given back more than one and a half
//! times the memory that it asks for; spells grow until one is long enough for that; others have everything half of the time,
//! and stand still for no longer than a second and half of its wait. One call is saved for at a time.
//!
//! **Queues** are bounded for each principal, and all together. Where all are full, the newest call of the longest queue makes
//! room for one of a shorter queue (buffer stealing: McKenney, "Stochastic Fairness Queueing", INFOCOM 1990): who floods
//! fills its own queue alone.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::wire::CapacityWire;

#[cfg(test)]
mod tests;

/// Code and input that one principal's waiting calls may hold, in bytes: 256 calls of 1 MiB each.
const PRINCIPAL_TEXT_BYTES_MAX: usize = 256 << 20;
/// The same of all principals together.
const TEXT_BYTES_MAX: usize = 512 << 20;
/// The first spell of saving; each is twice as long as the one before.
const SPELL: Duration = Duration::from_secs(1);
/// What callers are told to wait at least, and at most.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What may wait, and what one principal may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Waiting calls of one principal.
    pub queue_max: usize,
    /// Waiting calls of all.
    pub queue_total_max: usize,
    /// Of the capacity, for one principal; a first call may always be larger.
    pub principal_percent: u32,
}

/// One waiting call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub memory_bytes: u64,
    /// Held by the front for as long as the call waits.
    pub text_bytes: usize,
}

/// The call may not even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The principal's own queue.
    Own,
    /// All queues together, and this principal's is not among the shorter ones.
    All,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    ask: Ask,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    sandboxes: u32,
    memory_bytes: u64,
}

impl Held {
    /// The dominant share: 0 for nothing, 1 for all of one resource.
    fn share(self, of: CapacityWire) -> f64 {
        let sandboxes = f64::from(self.sandboxes) / f64::from(of.sandboxes_max.max(1));
        let memory = self.memory_bytes as f64 / of.memory_bytes_max.max(1) as f64;
        sandboxes.max(memory)
    }
}

/// One who holds or waits. Nobody else is remembered.
#[derive(Debug, Default)]
struct Principal {
    held: Held,
    queue: VecDeque<Waiting>,
    text_bytes: usize,
    /// When it was served last, in turns.
    served: u64,
}

/// A large call and what was set aside for it.
#[derive(Debug)]
struct Saving {
    owner: String,
    waiting: Waiting,
    bytes: u64,
    /// `false`: what was saved is lent out.
    on: bool,
    spell: Duration,
    /// When this spell, or the pause after it, is over.
    until: Duration,
}

/// How fast room comes free while somebody waits for it.
#[derive(Debug, Default)]
struct Pace {
    /// Smoothed as TCP smooths its round trips (RFC 6298: an eighth of each new value).
    gap: Option<Duration>,
    last: Option<Duration>,
}

impl Pace {
    fn released(&mut self, now: Duration) {
        if let Some(last) = self.last {
            let new = now.saturating_sub(last);
            self.gap = Some(self.gap.map_or(new, |gap| (gap * 7 + new) / 8));
        }
        self.last = Some(now);
    }

    /// Between one release and the next. A pause that goes on already longer is known to be longer.
    fn gap(&self, now: Duration) -> Duration {
        let pause = self.last.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.gap.unwrap_or_default().max(pause)
    }
}

#[derive(Debug)]
pub(super) struct Fair {
    bounds: Bounds,
    capacity: Option<CapacityWire>,
    held: Held,
    principals: HashMap<String, Principal>,
    waiting: usize,
    text_bytes: usize,
    saving: Option<Saving>,
    turn: u64,
    tickets: u64,
    pushed_out: Vec<Ticket>,
    pace: Pace,
}

impl Fair {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            capacity: None,
            held: Held::default(),
            principals: HashMap::new(),
            waiting: 0,
            text_bytes: 0,
            saving: None,
            turn: 2,
            tickets: 0,
            pushed_out: Vec::new(),
            pace: Pace::default(),
        }
    }

    /// What all sandboxes together may hold from now on: a new engine may have another.
    pub(super) fn set_capacity(&mut self, capacity: CapacityWire) {
        self.capacity = Some(capacity);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Principals with a call that waits.
    pub(super) fn waiting_principals(&self) -> usize {
        let saved_alone =
            self.saving.as_ref().is_some_and(|s| self.principals.get(&s.owner).is_none_or(|p| p.queue.is_empty()));
        self.principals.values().filter(|p| !p.queue.is_empty()).count() + usize::from(saved_alone)
    }

    /// Room at once, where nobody waits for it.
    pub(super) fn at_once(&mut self, owner: &str, memory_bytes: u64) -> bool {
        let free = self.waiting == 0 && self.has_room(memory_bytes) && self.may_hold(owner, memory_bytes);
        if free {
            self.take(owner, memory_bytes);
        }
        free
    }

    /// Puts a call into its principal's queue; `now` is any clock that does not go back. [`Fair::turns`] and
    /// [`Fair::pushed_out`] have to follow.
    pub(super) fn arrive(&mut self, owner: &str, ask: Ask, now: Duration) -> Result<Ticket, Full> {
        let (own, own_text) = self.principals.get(owner).map_or((0, 0), |p| (p.queue.len(), p.text_bytes));
        let own = own + usize::from(self.saving.as_ref().is_some_and(|s| s.owner == owner));
        let own_text = own_text.saturating_add(ask.text_bytes);
        if own >= self.bounds.queue_max || own_text > PRINCIPAL_TEXT_BYTES_MAX {
            return Err(Full::Own);
        }
        // Asked before anybody has to leave: what the longer queues hold beyond this one's can be had of them.
        let beyond: usize = self.principals.values().map(|p| p.text_bytes.saturating_sub(own_text)).sum();
        if (self.text_bytes - beyond).saturating_add(ask.text_bytes) > TEXT_BYTES_MAX {
            return Err(Full::All);
        }
        if self.waiting >= self.bounds.queue_total_max {
            self.push_out(own + 1, |p| p.queue.len(), |_| true)?;
        }
        while self.text_bytes.saturating_add(ask.text_bytes) > TEXT_BYTES_MAX {
            self.push_out(own_text, |p| p.text_bytes, |ask| ask.text_bytes > 0)?;
        }
        if self.waiting == 0 {
            // Pauses in which nobody waited say nothing about how fast room comes free.
            self.pace.last = Some(now);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        // The last one served has `turn - 1`.
        let served = self.turn - 2;
        let new = || Principal { served, ..Principal::default() };
        let principal = self.principals.entry(owner.to_owned()).or_insert_with(new);
        principal.queue.push_back(Waiting { ticket, ask });
        principal.text_bytes += ask.text_bytes;
        self.waiting += 1;
        self.text_bytes += ask.text_bytes;
        Ok(ticket)
    }

    /// Takes the newest call that `counts` out of the longest queue by `measure`, where that is longer than `own`.
    fn push_out(
        &mut self,
        own: usize,
        measure: impl Fn(&Principal) -> usize,
        counts: impl Fn(&Ask) -> bool,
    ) -> Result<(), Full> {
        let longest = self.principals.iter().max_by_key(|(_, p)| measure(p)).map(|(name, _)| name.clone());
        let longest = longest.ok_or(Full::All)?;
        let principal = self.principals.get_mut(&longest).filter(|p| measure(p) > own).ok_or(Full::All)?;
        let at = principal.queue.iter().rposition(|w| counts(&w.ask)).ok_or(Full::All)?;
        let newest = principal.queue.remove(at).ok_or(Full::All)?;
        principal.text_bytes -= newest.ask.text_bytes;
        self.forget(newest.ask);
        self.pushed_out.push(newest.ticket);
        self.drop_if_idle(&longest);
        Ok(())
    }

    /// Those that had to leave for calls of others since this was asked last.
    pub(super) fn pushed_out(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.pushed_out)
    }

    fn forget(&mut self, ask: Ask) {
        self.waiting -= 1;
        self.text_bytes -= ask.text_bytes;
    }

    /// A call that waits no longer. [`Fair::turns`] has to follow: what was saved for it is free.
    pub(super) fn leave(&mut self, owner: &str, ticket: Ticket) {
        if self.saving.as_ref().is_some_and(|s| s.waiting.ticket == ticket) {
            if let Some(saving) = self.saving.take() {
                self.forget(saving.waiting.ask);
            }
        } else if let Some(principal) = self.principals.get_mut(owner)
            && let Some(at) = principal.queue.iter().position(|w| w.ticket == ticket)
            && let Some(left) = principal.queue.remove(at)
        {
            principal.text_bytes -= left.ask.text_bytes;
            self.forget(left.ask);
        }
        self.drop_if_idle(owner);
    }

    /// Gives a share back. [`Fair::turns`] has to follow.
    pub(super) fn release(&mut self, owner: &str, memory_bytes: u64, now: Duration) {
        self.held.sandboxes -= 1;
        self.held.memory_bytes -= memory_bytes;
        if let Some(principal) = self.principals.get_mut(owner) {
            principal.held.sandboxes -= 1;
            principal.held.memory_bytes -= memory_bytes;
        }
        if let Some(saving) = self.saving.as_mut().filter(|s| s.on) {
            let ask = saving.waiting.ask.memory_bytes;
            let share = if saving.bytes < ask / 2 { memory_bytes.div_ceil(2) } else { memory_bytes };
            saving.bytes = (saving.bytes + share).min(ask);
        }
        if self.waiting > 0 {
            self.pace.released(now);
        }
        self.drop_if_idle(owner);
    }

    fn drop_if_idle(&mut self, owner: &str) {
        let saved_for = self.saving.as_ref().is_some_and(|s| s.owner == owner);
        if !saved_for && self.principals.get(owner).is_some_and(|p| p.held.sandboxes == 0 && p.queue.is_empty()) {
            self.principals.remove(owner);
        }
    }

    fn free_bytes(&self) -> u64 {
        self.capacity.map_or(0, |most| most.memory_bytes_max.saturating_sub(self.held.memory_bytes))
    }

    fn has_room(&self, memory_bytes: u64) -> bool {
        self.capacity.is_some_and(|most| self.held.sandboxes < most.sandboxes_max) && memory_bytes <= self.free_bytes()
    }

    /// Within what nobody saves for.
    fn has_room_beside_savings(&self, memory_bytes: u64) -> bool {
        let saved = self.saving.as_ref().map_or(0, |s| s.bytes);
        self.has_room(memory_bytes) && memory_bytes <= self.free_bytes().saturating_sub(saved)
    }

    /// Whether `owner`'s own bound lets it have a sandbox of so much memory now, be there room or not.
    pub(super) fn may_hold(&self, owner: &str, memory_bytes: u64) -> bool {
        self.may_hold_more(self.principals.get(owner).map(|p| p.held).unwrap_or_default(), memory_bytes)
    }

    fn may_hold_more(&self, held: Held, memory_bytes: u64) -> bool {
        let Some(most) = self.capacity else { return false };
        let percent = u64::from(self.bounds.principal_percent);
        if percent >= 100 || held.sandboxes == 0 {
            return true;
        }
        u64::from(held.sandboxes) < (u64::from(most.sandboxes_max) * percent).div_ceil(100)
            && held.memory_bytes.saturating_add(memory_bytes) <= most.memory_bytes_max / 100 * percent
    }

    pub(super) fn take(&mut self, owner: &str, memory_bytes: u64) {
        self.held.sandboxes += 1;
        self.held.memory_bytes += memory_bytes;
        let principal = self.principals.entry(owner.to_owned()).or_default();
        principal.held.sandboxes += 1;
        principal.held.memory_bytes += memory_bytes;
        principal.served = self.turn;
        self.turn += 1;
    }

    /// Those that have room now, in order; each holds its share from here on.
    pub(super) fn turns(&mut self, now: Duration) -> Vec<Ticket> {
        self.change_spells(now);
        let mut granted = Vec::new();
        while let Some(ticket) = self.next(now) {
            granted.push(ticket);
        }
        granted
    }

    /// When [`Fair::turns`] has to be asked again though nothing came free.
    pub(super) fn changes_at(&self) -> Option<Duration> {
        self.saving.as_ref().map(|s| s.until)
    }

    fn change_spells(&mut self, now: Duration) {
        let free = self.free_bytes();
        let Some(saving) = self.saving.as_mut().filter(|s| now >= s.until) else { return };
        saving.on = !saving.on;
        if saving.on {
            saving.spell *= 2;
            saving.bytes = (free / 2).min(saving.waiting.ask.memory_bytes);
        } else {
            saving.bytes = 0;
        }
        saving.until = now + saving.spell;
    }

    fn next(&mut self, now: Duration) -> Option<Ticket> {
        let ready = |s: &Saving| {
            let bytes = s.waiting.ask.memory_bytes;
            // Its principal may have got more room meanwhile.
            self.has_room(bytes) && self.may_hold(&s.owner, bytes)
        };
        if self.saving.as_ref().is_some_and(ready)
            && let Some(saving) = self.saving.take()
        {
            self.forget(saving.waiting.ask);
            self.take(&saving.owner, saving.waiting.ask.memory_bytes);
            return Some(saving.waiting.ticket);
        }
        let (mut chosen, passed) = self.choose()?;
        if let Some(passed) = passed
            && self.saving.is_none()
        {
            self.save_for(&passed, now);
            // What is set aside may be what the smaller one would have taken, and the next one of the same queue has a turn.
            chosen = self.choose()?.0;
        }
        let principal = self.principals.get_mut(&chosen)?;
        let first = principal.queue.pop_front()?;
        principal.text_bytes -= first.ask.text_bytes;
        self.forget(first.ask);
        self.take(&chosen, first.ask.memory_bytes);
        Some(first.ticket)
    }

    /// Whose first call is next and fits, and who comes before it with one that does not fit yet.
    fn choose(&self) -> Option<(String, Option<String>)> {
        let capacity = self.capacity?;
        if self.held.sandboxes >= capacity.sandboxes_max {
            return None;
        }
        let mut next: Option<(f64, u64, Ticket, &String)> = None;
        let mut large: Option<(f64, u64, Ticket, &String)> = None;
        for (name, principal) in &self.principals {
            let Some(first) = principal.queue.front() else { continue };
            if !self.may_hold_more(principal.held, first.ask.memory_bytes) {
                continue;
            }
            let key = (principal.held.share(capacity), principal.served, first.ticket, name);
            let best = if self.has_room_beside_savings(first.ask.memory_bytes) { &mut next } else { &mut large };
            if best.as_ref().is_none_or(|known| before(&key, known)) {
                *best = Some(key);
            }
        }
        let next = next?;
        let passed = large.filter(|large| before(large, &next)).map(|(.., name)| name.clone());
        Some((next.3.clone(), passed))
    }

    fn save_for(&mut self, owner: &str, now: Duration) {
        let free = self.free_bytes();
        let Some(principal) = self.principals.get_mut(owner) else { return };
        let Some(waiting) = principal.queue.pop_front() else { return };
        principal.text_bytes -= waiting.ask.text_bytes;
        // Its turn was now.
        principal.served = self.turn;
        self.turn += 1;
        let bytes = (free / 2).min(waiting.ask.memory_bytes);
        self.saving =
            Some(Saving { owner: owner.to_owned(), waiting, bytes, on: true, spell: SPELL, until: now + SPELL });
    }

    /// When another try of `owner` is worth it: about when half of its queue has had its turn, at the pace of late.
    pub(super) fn retry_after(&self, owner: &str, now: Duration) -> Duration {
        let own = self.principals.get(owner).map_or(0, |p| p.queue.len());
        let turns = own.div_ceil(2).max(1) * self.waiting_principals().max(1);
        let turns = u32::try_from(turns.min(self.waiting.max(1))).unwrap_or(u32::MAX);
        self.pace.gap(now).saturating_mul(turns).clamp(RETRY_LEAST, RETRY_MOST)
    }

    /// Everybody who waits leaves.
    pub(super) fn clear(&mut self) {
        self.saving = None;
        self.waiting = 0;
        self.text_bytes = 0;
        for principal in self.principals.values_mut() {
            principal.queue.clear();
            principal.text_bytes = 0;
        }
        self.principals.retain(|_, p| p.held.sandboxes > 0);
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (u32, u64) {
        (self.held.sandboxes, self.held.memory_bytes)
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.principals.len()
    }
}

/// By share, then by who was served longer ago, then by arrival.
fn before(a: &(f64, u64, Ticket, &String), b: &(f64, u64, Ticket, &String)) -> bool {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.0.cmp(&b.2.0)).is_lt()
}
