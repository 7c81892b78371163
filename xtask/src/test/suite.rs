//! The suites: their names, what each is for and the cargo commands that make it up.

use crate::setup::Needs;

/// A group of tests that is run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    Format,
    Clippy,
    Docs,
    Unit,
    Programs,
    Deploy,
    Lab,
    Lasting,
    Conformance,
    Bench,
    Cluster,
}

/// One call of cargo.
pub enum Job {
    /// Passes or fails as a whole, and counts as one test.
    Check { name: &'static str, args: &'static [&'static str], env: &'static [(&'static str, &'static str)] },
    /// Builds and runs test binaries, which tell of each test.
    Libtest(Libtest),
}

/// A `cargo test`.
pub struct Libtest {
    /// After `cargo test`: which targets.
    pub targets: &'static [&'static str],
    /// After `--`.
    pub args: &'static [&'static str],
    /// Whether the agent's binary is built before, and told to the tests as `POINTSMAN_AGENT`.
    pub with_agent: bool,
    /// Whether the output is shown as it comes, not only after a failure.
    pub is_live: bool,
}

impl Suite {
    /// All, in the order they run: what fails soonest first.
    pub const ALL: [Self; 11] = [
        Self::Format,
        Self::Clippy,
        Self::Docs,
        Self::Unit,
        Self::Programs,
        Self::Bench,
        Self::Deploy,
        Self::Conformance,
        Self::Lab,
        Self::Lasting,
        Self::Cluster,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Docs => "docs",
            Self::Unit => "unit",
            Self::Programs => "programs",
            Self::Deploy => "deploy",
            Self::Lab => "lab",
            Self::Lasting => "lasting",
            Self::Conformance => "conformance",
            Self::Bench => "bench",
            Self::Cluster => "cluster",
        }
    }

    /// What it tests, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Format => "rustfmt has nothing to change",
            Self::Clippy => "no lint, on the host (clippy/host) and on the BPF target (clippy/bpf)",
            Self::Docs => "the documentation builds without a warning",
            Self::Unit => "unit and property tests, in user space only",
            Self::Programs => "every BPF program loads; the packet table in the kernel (root)",
            Self::Bench => "the bench runs, quickly: every case is measured once (root)",
            Self::Deploy => "the image is made and runs alone; what deploy/ says is what the agent takes (root)",
            Self::Lab => "real traffic between network namespaces (root)",
            Self::Lasting => "agents killed, upgraded, outgrown and tampered with under traffic (root)",
            Self::Cluster => "against a real API server; builds Kubernetes once, 13 minutes of CPU (root)",
            Self::Conformance => "the rules of Services, by scenario files (root)",
        }
    }

    /// What of the setup it needs.
    pub fn needs(self) -> Option<Needs> {
        match self {
            Self::Format => None,
            Self::Clippy | Self::Docs | Self::Unit => Some(Needs::Build),
            Self::Programs | Self::Deploy | Self::Conformance | Self::Lab | Self::Lasting => Some(Needs::Kernel),
            Self::Bench | Self::Cluster => Some(Needs::Cluster),
        }
    }

    /// The calls of cargo, in order. Those for the host all select the default members, so that cargo unites the same
    /// features each time and builds nothing twice.
    pub fn jobs(self) -> Vec<Job> {
        match self {
            Self::Format => vec![Job::Check { name: "format", args: &["fmt", "--all", "--check"], env: &[] }],
            Self::Clippy => vec![
                Job::Check {
                    name: "host",
                    args: &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"],
                    env: &[],
                },
                Job::Check {
                    name: "bpf",
                    args: &[
                        "clippy",
                        "--quiet",
                        "--package=proxy-ebpf",
                        "--package=proxy-bench-ebpf",
                        "--target=bpfel-unknown-none",
                        "-Zbuild-std=core",
                        "--",
                        "-D",
                        "warnings",
                    ],
                    env: &[],
                },
            ],
            Self::Docs => vec![Job::Check {
                name: "docs",
                args: &["doc", "--quiet", "--no-deps"],
                env: &[("RUSTDOCFLAGS", "-D warnings")],
            }],
            Self::Unit => unit(),
            Self::Programs => vec![Job::Libtest(Libtest {
                // `packets` is the table of packets, run by the host's core and by the programs in the kernel.
                targets: &["--test=programs", "--test=packets"],
                // The instruction counts are printed by tests that pass.
                args: &["--nocapture", "--test-threads=1"],
                with_agent: false,
                is_live: true,
            })],
            Self::Bench => vec![Job::Libtest(Libtest {
                targets: &["--test=quick"],
                // Each has the CPUs for itself.
                args: &["--test-threads=1"],
                with_agent: true,
                is_live: false,
            })],
            Self::Deploy => vec![Job::Libtest(Libtest {
                targets: &["--test=deploy", "--test=image"],
                args: &["--quiet"],
                with_agent: false,
                is_live: false,
            })],
            Self::Conformance => vec![Job::Libtest(Libtest {
                targets: &["--test=conformance"],
                args: &[],
                with_agent: true,
                is_live: true,
            })],
            Self::Lab => vec![Job::Libtest(Libtest {
                targets: &["--test=lab"],
                // Labs share the machine's two or three cores, and their names are easier to read one by one.
                args: &["--test-threads=1"],
                with_agent: true,
                is_live: true,
            })],
            Self::Lasting => vec![Job::Libtest(Libtest {
                targets: &["--test=lasting"],
                // The figures are printed by tests that pass.
                args: &["--nocapture", "--test-threads=1"],
                with_agent: true,
                is_live: true,
            })],
            Self::Cluster => vec![Job::Libtest(Libtest {
                targets: &["--test=cluster"],
                args: &["--test-threads=1"],
                with_agent: true,
                is_live: true,
            })],
        }
    }
}

fn unit() -> Vec<Job> {
    let libtest = |targets| Job::Libtest(Libtest { targets, args: &["--quiet"], with_agent: false, is_live: false });
    vec![libtest(&["--lib", "--bins", "--test=properties", "--test=flows", "--test=maglev"])]
}

/// What `--help` tells after the arguments.
pub fn help() -> String {
    let suites: String = Suite::ALL.iter().map(|suite| format!("  {:<11} {}\n", suite.name(), suite.about())).collect();
    format!(
        "Suites, in the order they run:\n{suites}\n\
         A filter is a part of a test's name, as for `cargo test`; a word that is no suite is a filter of the suite\n\
         before it.\n\n\
         Examples:\n  \
         cargo xtask test                      all of it\n  \
         cargo xtask test format clippy        two suites\n  \
         cargo xtask test lab/nodeport         the labs whose name holds `nodeport`\n  \
         cargo xtask test lab nodeport udp     those whose name holds one or the other\n  \
         cargo xtask test unit/plan clippy/bpf a part of two suites\n\n\
         The last line of the output is `N passed, N failed, N skipped`."
    )
}
