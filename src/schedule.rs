//! Decides when to fetch: refresh interval, backoff, and the budget for unknown key IDs. Pure
//! functions; a time is a [`Duration`] since the task began.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::time::Duration;

/// The minimum and maximum pause that an issuer's `Retry-After` can request.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The shortest interval that an issuer's `Cache-Control` can request.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Returns the pause after a successful fetch. Jitter spreads the fetches of many processes.
pub(crate) fn pause_after_success(
    interval: Duration,
    max_age: Option<Duration>,
    random: &mut Random,
) -> Duration {
    let jitter = random.between(0.8, 1.0);
    let requested = max_age.unwrap_or(interval).min(interval);
    requested.mul_f64(jitter).max(MIN_INTERVAL).min(interval.mul_f64(jitter))
}

/// Returns the pause after `failures` failed fetches in a row. It is shorter while there are no
/// keys, because every request then needs the next fetch.
pub(crate) fn pause_after_failure(
    failures: u32,
    has_keys: bool,
    retry_after: Option<Duration>,
    random: &mut Random,
) -> Duration {
    if let Some(requested) = retry_after {
        return requested.clamp(RETRY_AFTER.0, RETRY_AFTER.1);
    }
    let (first, cap) = if has_keys {
        (Duration::from_secs(1), Duration::from_secs(30))
    } else {
        (Duration::from_millis(100), Duration::from_secs(5))
    };
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(cap).mul_f64(random.between(0.5, 1.0))
}

/// A token bucket that limits the fetches for unknown key IDs: two in a row, then one every 30 s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// The time at which the bucket is full again.
    full_at: Duration,
    /// The end of the pause that the issuer requested.
    closed_until: Duration,
}

impl Budget {
    const CAPACITY: u32 = 2;
    const REFILL: Duration = Duration::from_secs(30);

    pub(crate) fn full() -> Self {
        Self { full_at: Duration::ZERO, closed_until: Duration::ZERO }
    }

    /// Returns the earliest time at which a fetch can be charged.
    pub(crate) fn opens_at(&self) -> Duration {
        let has_one = Self::REFILL.saturating_mul(Self::CAPACITY - 1);
        self.full_at.saturating_sub(has_one).max(self.closed_until)
    }

    pub(crate) fn close_until(&mut self, time: Duration) {
        self.closed_until = time;
    }

    /// Charges one fetch. Returns `false` if the bucket is empty.
    pub(crate) fn charge(&mut self, now: Duration) -> bool {
        let is_open = self.opens_at() <= now;
        if is_open {
            self.full_at = self.full_at.max(now).saturating_add(Self::REFILL);
        }
        is_open
    }

    /// Charges a fetch that does not depend on the budget. The bucket never gets below empty.
    pub(crate) fn charge_even_if_spent(&mut self, now: Duration) {
        let empty = now.saturating_add(Self::REFILL.saturating_mul(Self::CAPACITY));
        self.full_at = self.full_at.max(now).saturating_add(Self::REFILL).min(empty);
    }
}

/// A generator of jitter. Each number is the hash of the previous one: jitter must differ between
/// processes, but need not be unpredictable.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn from_process() -> Self {
        // The standard library seeds each `RandomState` from the operating system.
        Self(RandomState::new().hash_one("tower-cognito"))
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = BuildHasherDefault::<DefaultHasher>::default().hash_one(self.0);
        let unit = f64::from(u32::try_from(self.0 >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        low + (high - low) * unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pause_after_success_is_jittered_and_at_most_the_requested_interval() {
        let mut random = Random(1);
        for _ in 0..1_000 {
            let pause = pause_after_success(s(300), None, &mut random);
            assert!((s(240)..=s(300)).contains(&pause), "{pause:?}");
            let pause = pause_after_success(s(300), Some(s(100)), &mut random);
            assert!((s(80)..=s(100)).contains(&pause), "{pause:?}");
            let pause = pause_after_success(s(300), Some(s(0)), &mut random);
            assert_eq!(pause, s(60));
            let pause = pause_after_success(s(300), Some(s(86_400)), &mut random);
            assert!((s(240)..=s(300)).contains(&pause), "{pause:?}");
            let pause = pause_after_success(s(10), Some(s(0)), &mut random);
            assert!((s(8)..=s(10)).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn random_numbers_cover_their_range_evenly() {
        let mut random = Random(1);
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            let number = random.between(0.5, 1.0);
            assert!((0.5..=1.0).contains(&number), "{number}");
            let tenth = (0..10).find(|tenth| number <= 0.5 + f64::from(tenth + 1) * 0.05 + 1e-9);
            tenths[usize::try_from(tenth.unwrap()).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1_100).contains(count)), "{tenths:?}");
    }

    #[test]
    fn pause_after_failures_doubles_up_to_its_cap() {
        let mut random = Random(1);
        for (failures, has_keys, most) in [
            (1, true, s(1)),
            (2, true, s(2)),
            (5, true, s(16)),
            (6, true, s(30)),
            (u32::MAX, true, s(30)),
            (1, false, Duration::from_millis(100)),
            (2, false, Duration::from_millis(200)),
            (7, false, s(5)),
            (u32::MAX, false, s(5)),
        ] {
            let pause = pause_after_failure(failures, has_keys, None, &mut random);
            assert!((most / 2..=most).contains(&pause), "{failures} {has_keys} {pause:?}");
        }
    }

    #[test]
    fn retry_after_is_honored_within_limits() {
        let mut random = Random(1);
        for (requested, pause) in [(s(0), s(1)), (s(20), s(20)), (s(1_000_000_000_000), s(300))] {
            assert_eq!(pause_after_failure(1, true, Some(requested), &mut random), pause);
        }
    }

    #[test]
    fn budget_allows_two_fetches_then_one_every_thirty_seconds() {
        let mut budget = Budget::full();
        let now = s(1_000);
        assert!(budget.charge(now));
        assert!(budget.charge(now));
        assert!(!budget.charge(now));
        assert_eq!(budget.opens_at(), s(1_030));
        assert!(!budget.charge(s(1_029)));
        assert!(budget.charge(s(1_030)));
        assert!(!budget.charge(s(1_059)));
        assert!(budget.charge(s(1_120)));
        assert!(budget.charge(s(1_120)));
        assert!(!budget.charge(s(1_120)));
    }

    #[test]
    fn budget_is_closed_while_the_issuer_requests_a_pause() {
        let mut budget = Budget::full();
        budget.close_until(s(1_300));
        assert!(!budget.charge(s(1_299)));
        assert!(budget.charge(s(1_300)));
    }

    #[test]
    fn unconditional_charges_never_leave_the_budget_below_empty() {
        let mut budget = Budget::full();
        for _ in 0..10 {
            budget.charge_even_if_spent(s(1_000));
        }
        assert_eq!(budget.opens_at(), s(1_030));
        budget.charge_even_if_spent(s(1_029));
        assert_eq!(budget.opens_at(), s(1_059));
    }
}
