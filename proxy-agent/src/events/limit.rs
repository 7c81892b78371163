//! How many Events are too many. Pure: the clock is the caller's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Notice;

/// The same Event is not sent again within this time.
const QUIET: Duration = Duration::from_secs(600);
/// So many Events may be sent at once.
const BURST: u32 = 25;
/// After a burst, one more becomes possible after each of these.
const REFILL: Duration = Duration::from_secs(12);

/// What may be done with an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Send,
    /// It was sent a while ago: once is enough.
    Repeated,
    /// Too many at once.
    TooMany,
}

/// Remembers what was sent.
#[derive(Debug)]
pub(super) struct Limit {
    sent: BTreeMap<Notice, Instant>,
    tokens: u32,
    refilled: Instant,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Self { sent: BTreeMap::new(), tokens: BURST, refilled: now }
    }

    /// Whether an Event may be sent. If so it counts as sent.
    pub(super) fn judge(&mut self, notice: &Notice, now: Instant) -> Verdict {
        self.sent.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        if self.sent.contains_key(notice) {
            return Verdict::Repeated;
        }
        while self.tokens < BURST && now.saturating_duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.tokens += 1;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        let Some(rest) = self.tokens.checked_sub(1) else { return Verdict::TooMany };
        self.tokens = rest;
        self.sent.insert(notice.clone(), now);
        Verdict::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::About;

    fn notice(note: &str) -> Notice {
        Notice::warning(About::Node("n".to_owned()), "Reason", "Act", note.to_owned())
    }

    #[test]
    fn the_same_is_sent_once_in_ten_minutes() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limit.judge(&notice("a"), at(0)), Verdict::Send);
        assert_eq!(limit.judge(&notice("a"), at(599)), Verdict::Repeated);
        assert_eq!(limit.judge(&notice("b"), at(599)), Verdict::Send);
        assert_eq!(limit.judge(&notice("a"), at(600)), Verdict::Send);
    }

    #[test]
    fn a_burst_ends_and_comes_back_slowly() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let mut sent = |from: u32, seconds| {
            let now = start + Duration::from_secs(seconds);
            let all = (from..from + 100).map(|number| limit.judge(&notice(&number.to_string()), now));
            all.filter(|verdict| *verdict == Verdict::Send).count()
        };
        assert_eq!(sent(0, 0), 25);
        assert_eq!(sent(1_000, 11), 0);
        assert_eq!(sent(2_000, 12), 1);
        assert_eq!(sent(3_000, 36), 2);
        assert_eq!(sent(4_000, 10_000), 25);
    }
}
