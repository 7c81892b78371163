//! A step of the setup, and the lines that tell of it.

use std::time::Duration;

use anyhow::Result;

/// One thing that has to be there.
///
/// `look` changes nothing, is quick, and needs no other step to have been done; `mend` is called for a step that lacks
/// only what setup can bring, after all steps before it are in order, and may be called again after it failed half-way.
pub trait Step {
    /// A word for it, the first in its line.
    fn name(&self) -> &'static str;
    /// What is there, or all that is missing.
    fn look(&self) -> Result<Look>;
    /// Brings what is missing.
    fn mend(&self) -> Result<()>;
}

/// What a look at a step found.
#[derive(Debug)]
pub enum Look {
    /// All is there; in a few words what.
    Here(String),
    /// These are missing; never empty.
    Lacking(Vec<Lack>),
}

impl Look {
    /// `Here` if there are no lacks.
    pub fn new(here: String, lacks: Vec<Lack>) -> Self {
        if lacks.is_empty() { Self::Here(here) } else { Self::Lacking(lacks) }
    }

    /// What is missing.
    pub fn lacks(&self) -> &[Lack] {
        match self {
            Self::Here(_) => &[],
            Self::Lacking(lacks) => lacks,
        }
    }
}

/// Something that is missing.
#[derive(Debug)]
pub struct Lack {
    /// What, as the end of "missing: …".
    pub what: String,
    /// What a person does about it who does not leave it to setup.
    pub remedy: String,
    /// Who can do it.
    pub mender: Mender,
}

/// Who can bring what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mender {
    /// Setup, as any user.
    Setup,
    /// Setup, run by root.
    SetupAsRoot,
    /// Only the owner of the machine.
    Owner,
}

impl Mender {
    /// Whether this process can do it.
    pub fn is_us(self, is_root: bool) -> bool {
        match self {
            Self::Setup => true,
            Self::SetupAsRoot => is_root,
            Self::Owner => false,
        }
    }
}

/// The line of a step that is in order.
pub fn tell_ok(name: &str, took: Duration, what: &str) {
    println!("ok       {name:<11} {:>6}  {what}", seconds(took));
}

/// The lines of a step that is not.
pub fn tell_missing(name: &str, took: Duration, lacks: &[Lack], is_root: bool) {
    println!("missing  {name:<11} {:>6}", seconds(took));
    for Lack { what, remedy, mender } in lacks {
        println!("           {what}");
        match mender.is_us(is_root) {
            true => println!("             setup brings it, once the rest is there (by hand: {remedy})"),
            false => println!("             {remedy}"),
        }
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
