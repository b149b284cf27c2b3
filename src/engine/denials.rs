//! What pid 1 of a sandbox counted: checked against the profile that is in force, put into words, told on.

use super::monitor::Monitor;
use super::sandbox::Sandbox;
use crate::launch::channel::DeniedMessage;
use crate::policy::plan::Plan;
use crate::policy::seccomp::{Profile, for_level};
use crate::spec::{DENIALS_MAX, Denial, Layer, Outcome};
use crate::wire::{Event, FromMonitor};

/// The record of one sandbox; `None` in [`Sandbox::denials`] where there is none.
#[derive(Debug, Default)]
pub struct Record(Vec<DeniedMessage>);

impl Record {
    /// Takes what is told as true now and returns what is new; `None` where no pid 1 of ours says it.
    fn take(&mut self, profile: &'static Profile, told: &[DeniedMessage]) -> Option<Vec<DeniedMessage>> {
        let mut new = Vec::new();
        for one in told {
            in_words(profile, one)?;
            let room = self.0.len() < DENIALS_MAX;
            match self.0.iter_mut().find(|known| (known.rule, known.number) == (one.rule, one.number)) {
                Some(known) if known.count < one.count => known.count = one.count,
                None if one.count > 0 && room => {
                    self.0.push(*one);
                    new.push(*one);
                }
                _ => return None,
            }
        }
        Some(new)
    }

    pub fn all(&self, plan: &Plan) -> Vec<Denial> {
        let profile = profile(plan);
        self.0.iter().filter_map(|one| in_words(profile?, one)).collect()
    }
}

fn profile(plan: &Plan) -> Option<&'static Profile> {
    for_level(plan.seccomp.level, plan.seccomp.memfd)
}

fn in_words(profile: &'static Profile, one: &DeniedMessage) -> Option<Denial> {
    let (rule, detail) = profile.named(one.rule, one.number)?;
    Some(Denial { layer: Layer::Seccomp, rule, detail, count: one.count })
}

impl Monitor {
    /// Pid 1 of sandbox `key` told what was refused.
    pub(super) fn denied(&mut self, key: u64, told: &[DeniedMessage]) {
        let Some(sandbox) = self.sandboxes.get_mut(&key) else { return };
        let Sandbox { denials, plan, .. } = sandbox;
        let new = denials.as_mut().zip(profile(plan)).and_then(|(record, profile)| record.take(profile, told));
        let Some(new) = new else {
            tracing::error!(sandbox = %sandbox.id, "pid 1 counted what can not be");
            return self.kill(key, Outcome::EngineFault);
        };
        self.tell_denials(key, new);
    }

    /// Tells who has the sandbox of all that was refused in it before it was theirs.
    pub(super) fn tell_earlier_denials(&mut self, key: u64) {
        let earlier = self.sandboxes.get(&key).and_then(|s| s.denials.as_ref()).map(|record| record.0.clone());
        self.tell_denials(key, earlier.unwrap_or_default());
    }

    fn tell_denials(&mut self, key: u64, new: Vec<DeniedMessage>) {
        for one in new {
            let Some(sandbox) = self.sandboxes.get(&key) else { return };
            let (owner, lifetime) = (sandbox.owner, sandbox.lifetime);
            // Built ahead, it is nobody's yet.
            let Some(denial) =
                profile(&sandbox.plan).filter(|_| sandbox.ahead.is_none()).and_then(|profile| in_words(profile, &one))
            else {
                return;
            };
            let event = Event::Denied { id: sandbox.id.to_string(), denial: denial.into() };
            self.tell(owner, lifetime, &FromMonitor::Event(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::seccomp::{OTHER_NUMBERS, OTHER_RULES};
    use crate::spec::Level;

    fn one(rule: u16, number: i64, count: u64) -> DeniedMessage {
        DeniedMessage { rule, number: number as u32, count }
    }

    #[test]
    fn counts_rise_and_what_can_not_be_is_refused() {
        let profile = for_level(Level::Strict, true).unwrap();
        let words =
            |record: &Record| -> Vec<Denial> { record.0.iter().map(|one| in_words(profile, one).unwrap()).collect() };
        let rule = profile.refusal(libc::SYS_ptrace as u32, &[0; 6]).1.unwrap();
        let default = profile.refusal(1000, &[0; 6]).1.unwrap();
        let mut record = Record::default();
        assert_eq!(record.take(profile, &[one(rule, libc::SYS_ptrace, 1)]).unwrap().len(), 1);
        assert_eq!(record.take(profile, &[one(rule, libc::SYS_ptrace, 7), one(default, 1000, 2)]).unwrap().len(), 1);
        assert_eq!(
            words(&record).into_iter().map(|d| (d.rule, d.detail, d.count)).collect::<Vec<_>>(),
            [
                ("seccomp/standard.json: ptrace".into(), "ptrace".into(), 7),
                ("seccomp/strict.json: default".into(), "system call 1000".into(), 2)
            ]
        );
        for bad in [
            one(rule, libc::SYS_ptrace, 7),
            one(rule, libc::SYS_read, 1),
            one(default + 1, 1000, 1),
            one(default, libc::SYS_read, 1),
            one(default, 1001, 0),
        ] {
            assert_eq!(record.take(profile, &[bad]), None, "{bad:?}");
        }
        for number in 2000.. {
            if record.take(profile, &[one(default, number, 1)]).is_none() {
                break;
            }
            assert!(number < 3000);
        }
        assert_eq!(words(&record).len(), DENIALS_MAX);
        assert!(in_words(profile, &one(OTHER_RULES, OTHER_NUMBERS.into(), 1)).is_some());
    }
}
