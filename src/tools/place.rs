//! The numbers of an execution's events.

use crate::policy::table::OUTPUT_BYTES_MAX;

/// Where a reader is: how much of each stream of which attempt it has. That is also what an event's number says, so a reader
/// can go on behind any event without a list of those that were handed out, also when the daemon has been restarted since:
/// from the highest bits down the attempt, the bytes of stdout and of stderr, the denials, and what distinguishes events between
/// those. None of them ever falls before one above it has risen, so numbers rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// 0 before the first.
    pub attempt: u32,
    /// Of stdout and of stderr.
    pub told: [u64; 2],
    pub denials: u64,
    /// 0 behind what was told, then pings.
    pub tick: u64,
}

/// A stream keeps 16 MiB at most, a call has six attempts at most.
const BYTES_BITS: u32 = 25;
const DENIALS_BITS: u32 = 5;
const TICK_BITS: u32 = 5;
const LOW_BITS: u32 = DENIALS_BITS + TICK_BITS;
pub(super) const TICK_MAX: u64 = (1 << TICK_BITS) - 1;
/// The highest is that of the end.
const END_DENIALS: u64 = (1 << DENIALS_BITS) - 1;
/// Denials that are told of an attempt while it runs; of more only the reply tells.
pub(super) const DENIALS_TOLD_MAX: usize = END_DENIALS as usize - 1;
const _: () = assert!(OUTPUT_BYTES_MAX < 1 << BYTES_BITS);

impl Place {
    pub fn number(self) -> u64 {
        let [stdout, stderr] = self.told;
        let bytes = (u64::from(self.attempt) << BYTES_BITS | stdout) << BYTES_BITS | stderr;
        (bytes << DENIALS_BITS | self.denials) << TICK_BITS | self.tick
    }

    /// Behind everything.
    pub fn ended(self) -> Self {
        Self { denials: END_DENIALS, tick: TICK_MAX, ..self }
    }

    pub fn is_end(self) -> bool {
        self == self.ended()
    }

    pub fn of(number: u64) -> Self {
        let bytes = |shift: u32| number >> shift & ((1 << BYTES_BITS) - 1);
        Self {
            attempt: (number >> (2 * BYTES_BITS + LOW_BITS)) as u32,
            told: [bytes(BYTES_BITS + LOW_BITS), bytes(LOW_BITS)],
            denials: number >> TICK_BITS & END_DENIALS,
            tick: number & TICK_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_places_and_rise_with_each_of_their_parts() {
        let places = [
            Place { attempt: 0, told: [0, 0], denials: 0, tick: 1 },
            Place { attempt: 1, told: [0, 0], denials: 0, tick: 0 },
            Place { attempt: 1, told: [0, 1], denials: 0, tick: 0 },
            Place { attempt: 1, told: [0, 1], denials: 0, tick: 1 },
            Place { attempt: 1, told: [0, 1], denials: 0, tick: TICK_MAX },
            Place { attempt: 1, told: [0, 1], denials: 1, tick: 0 },
            Place { attempt: 1, told: [0, 1 << 24], denials: 1, tick: 0 },
            Place { attempt: 1, told: [1, 1 << 24], denials: 1, tick: 0 },
            Place { attempt: 1, told: [1 << 24, 1 << 24], denials: DENIALS_TOLD_MAX as u64, tick: TICK_MAX },
            Place { attempt: 1, told: [1 << 24, 1 << 24], denials: 0, tick: 0 }.ended(),
            Place { attempt: 6, told: [0, 0], denials: 0, tick: 0 },
            Place { attempt: 6, told: [1 << 24, 1 << 24], denials: 3, tick: 0 }.ended(),
        ];
        assert!(places.windows(2).all(|two| two[0].number() < two[1].number()));
        for place in places {
            assert_eq!(Place::of(place.number()), place);
        }
    }
}
