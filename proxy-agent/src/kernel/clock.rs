//! The clock that the programs go by.

use std::io;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// Whole seconds of CLOCK_MONOTONIC.
pub(super) fn monotonic_seconds() -> io::Result<u64> {
    u64::try_from(clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec()).map_err(io::Error::other)
}

/// How many jiffies make a second in this kernel: its coarse clocks go by them, and tell so.
pub(super) fn jiffies_per_second() -> io::Result<u32> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = u32::try_from(tick.tv_nsec()).unwrap_or(0);
    if tick.tv_sec() != 0 || nanoseconds == 0 {
        return Err(io::Error::other("the kernel's tick is not a part of a second"));
    }
    Ok((1_000_000_000 + nanoseconds / 2) / nanoseconds)
}
