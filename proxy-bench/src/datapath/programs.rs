//! How large the programs are.

use anyhow::{Result, ensure};
use proxy_agent::kernel::{PROGRAMS, UPLINK_PROGRAMS};

use super::SUITE;
use super::bed::Bed;
use crate::report::Figure;

/// Verified instructions and machine code of every program.
pub fn run() -> Result<Vec<Figure>> {
    let bed = Bed::load(1)?;
    let mut figures = Vec::new();
    for name in PROGRAMS.into_iter().chain(UPLINK_PROGRAMS) {
        let info = bed.info(name)?;
        let jitted = info.size_jitted();
        ensure!(jitted != 0, "the kernel interprets its BPF programs: switch net.core.bpf_jit_enable on");
        let figure = |case, unit, value: u32| Figure {
            suite: SUITE,
            case,
            subject: name,
            family: None,
            protocol: None,
            value: f64::from(value),
            unit,
            median: None,
            baseline: None,
            ratio: None,
        };
        // Kernels before 5.16 do not tell.
        figures.extend(info.verified_instruction_count().map(|count| figure("verified", "instructions", count)));
        figures.push(figure("jitted", "bytes", jitted));
    }
    Ok(figures)
}
