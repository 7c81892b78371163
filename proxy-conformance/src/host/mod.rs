//! The packet core on a network in memory: objects become maps by the agent's own store, model and plan.

mod network;
mod node;
mod socket;
mod wire;

use anyhow::Result;

use crate::run::{Executor, Fate, Question};
use crate::scenario::{Objects, Protocol};
use network::Network;
pub use node::{capacities, sizes, store, view};

/// Runs scenarios without a kernel.
pub struct HostExecutor {
    network: Network,
}

impl HostExecutor {
    /// An executor whose agents have these flags.
    ///
    /// # Errors
    /// When the agent would refuse them.
    pub fn new(flags: &[String]) -> Result<Self> {
        Ok(Self { network: Network::new(flags)? })
    }
}

impl Executor for HostExecutor {
    fn name(&self) -> &'static str {
        "host"
    }

    fn apply(&mut self, objects: &Objects) -> Result<()> {
        self.network.nodes.iter_mut().try_for_each(|node| node.apply(objects))
    }

    fn wait(&mut self, seconds: u32) -> Result<()> {
        for node in &mut self.network.nodes {
            node.wait(seconds);
        }
        Ok(())
    }

    fn ask(&mut self, question: &Question, count: usize) -> Result<Vec<Fate>> {
        (0..count).map(|_| self.network.ask(question)).collect()
    }

    fn knock(&mut self, questions: &[Question]) -> Result<Vec<Fate>> {
        questions.iter().map(|question| self.network.ask(question)).collect()
    }

    fn lacks(&self, _: Protocol) -> Option<String> {
        None
    }

    fn tells_drops(&self) -> bool {
        true
    }
}
