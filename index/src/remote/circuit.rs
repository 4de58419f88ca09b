//! Stops asking a database that is away, so that nobody waits for it in vain.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Failures in a row after which nobody asks for a while.
const FAILURES: u32 = 5;
/// How long that is. Then one call tries it, while the others are still refused.
const OPEN_FOR: Duration = Duration::from_secs(2);

/// Open while a database is known to be away.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
}

impl Circuit {
    /// Whether a call may be made now. If not, how long none will be.
    pub(super) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        match state.open_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                state.open_until = Some(now + OPEN_FOR);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The database has answered.
    pub(super) fn succeeded(&self) {
        *self.state.lock() = State::default();
    }

    /// The database has not answered.
    pub(super) fn failed(&self, now: Instant) {
        let mut state = self.state.lock();
        state.failures += 1;
        if state.failures >= FAILURES {
            state.open_until = Some(now + OPEN_FOR);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_and_one_call_tries_again() {
        let circuit = Circuit::default();
        let now = Instant::now();
        for _ in 1..FAILURES {
            circuit.failed(now);
        }
        circuit.succeeded();
        for _ in 0..FAILURES {
            assert_eq!(circuit.admit(now), Ok(()));
            circuit.failed(now);
        }
        assert!(circuit.is_open());
        assert_eq!(circuit.admit(now), Err(OPEN_FOR));
        let later = now + OPEN_FOR;
        assert_eq!(circuit.admit(later), Ok(()));
        assert_eq!(circuit.admit(later), Err(OPEN_FOR));
        circuit.succeeded();
        assert!(!circuit.is_open());
        assert_eq!(circuit.admit(later), Ok(()));
    }
}
