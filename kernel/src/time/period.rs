//! Arithmetic of periodic timers.

/// Never set a machine timer closer than this after an expiry, whatever period a guest asks for: expirations are counted, not served one by one.
pub(super) const MIN_PERIOD_NS: u64 = 20_000;

/// When a timer expires next, and its period. Times are readings of the timer's clock in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Period {
    /// The next expiry; `None` when disarmed.
    pub(super) next_ns: Option<u64>,
    /// The period; 0 for one shot.
    pub(super) interval_ns: u64,
}

impl Period {
    /// Counts the expirations up to now and moves on to the first one that lies ahead; a one-shot timer is disarmed.
    pub(super) fn expire(&mut self, now_ns: u64) -> u64 {
        let Some(next) = self.next_ns.filter(|&next| next <= now_ns) else { return 0 };
        match self.interval_ns {
            0 => {
                self.next_ns = None;
                1
            }
            interval => {
                let count = (now_ns - next) / interval + 1;
                self.next_ns = Some(next.saturating_add(count.saturating_mul(interval)));
                count
            }
        }
    }

    /// Time to the next expiry, at least a nanosecond while armed: zero would say disarmed.
    pub(super) fn left_ns(&self, now_ns: u64) -> u64 {
        self.next_ns.map_or(0, |next| next.saturating_sub(now_ns).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shot_expires_once() {
        let mut p = Period { next_ns: Some(10), interval_ns: 0 };
        assert_eq!((p.expire(9), p.expire(10), p.expire(11)), (0, 1, 0));
        assert_eq!(p.left_ns(11), 0);
    }

    #[test]
    fn missed_periods_are_counted_and_the_phase_is_kept() {
        let mut p = Period { next_ns: Some(10), interval_ns: 7 };
        assert_eq!(p.expire(30), 3);
        assert_eq!(p.next_ns, Some(31));
        assert_eq!(p.left_ns(30), 1);
        assert_eq!(p.expire(u64::MAX), (u64::MAX - 31) / 7 + 1);
    }
}
