//! Which verb may be used in which state of a sandbox. Everything that is not in the table is refused.

/// Life of one sandbox; the monitor alone moves it.
///
/// ```text
///             Ready arrived        Exec            program runs
/// (Create) --> Building ------> Ready -----> Starting -------> Running       (one built ahead: Waiting, until a
///                                                                             call makes it Ready or Running)
///                 |  \            |             |                 |
///                 |   `-- Exec may wait here    |                 | its process ended, a limit,
///                 v                v            v                 v Signal, Destroy, owner gone
///               Ending <------------------------------------------
///                 |  pid 1 is dead, and so is all else
///                 v
///              (gone; a detached one leaves its end behind until it is taken)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Building,
    Ready,
    Starting,
    Running,
    Ending,
    /// Complete, built ahead of calls: no verb can name it.
    Waiting,
}

impl State {
    #[cfg(test)]
    pub const ALL: [State; 6] =
        [State::Building, State::Ready, State::Starting, State::Running, State::Ending, State::Waiting];

    pub fn name(self) -> &'static str {
        match self {
            State::Building => "building",
            State::Ready => "ready",
            State::Starting => "starting",
            State::Running => "running",
            State::Ending => "ending",
            State::Waiting => "waiting",
        }
    }
}

/// The verbs that name a sandbox which must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Exec,
    Signal,
    Stat,
    Destroy,
}

/// What the monitor does with a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    Handle,
    /// The sandbox moved on while the verb was on its way: told, and no harm.
    TooLate,
    /// A correct front never sends it: told, logged, and the connection is dropped.
    Violation,
}

/// The table.
pub fn permit(verb: Use, state: State) -> Permit {
    match (verb, state) {
        (Use::Exec, State::Building | State::Ready) => Permit::Handle,
        (Use::Exec, State::Starting | State::Running | State::Waiting) => Permit::Violation,
        (Use::Exec, State::Ending) => Permit::TooLate,
        (Use::Signal, State::Ending) => Permit::TooLate,
        (Use::Signal, State::Building | State::Ready | State::Starting | State::Running) => Permit::Handle,
        (Use::Signal, State::Waiting) => Permit::TooLate,
        (Use::Stat | Use::Destroy, _) => Permit::Handle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_at_a_time() {
        let exec: Vec<_> = State::ALL.iter().map(|&s| permit(Use::Exec, s)).collect();
        use Permit::{Handle, TooLate, Violation};
        assert_eq!(exec, [Handle, Handle, Violation, Violation, TooLate, Violation]);
    }

    #[test]
    fn a_sandbox_can_be_looked_at_and_destroyed_in_every_state() {
        for state in State::ALL {
            assert_eq!(permit(Use::Stat, state), Permit::Handle);
            assert_eq!(permit(Use::Destroy, state), Permit::Handle);
            assert_ne!(permit(Use::Signal, state), Permit::Violation);
        }
    }
}
