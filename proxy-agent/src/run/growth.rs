//! The programs with maps that are large enough, as long as they may grow.

use crate::devices::XdpMode;
use crate::kernel::{
    LoadError, LogError, MapSet, MapSetError, PacketLog, PinPath, Programs, Sizes, SocketLb, catch_up, retire_former,
};
use crate::output::chain;

/// What it takes to load the programs, and to load them anew with larger maps.
pub(super) struct Growth {
    pub pins: PinPath,
    /// What maps may grow to.
    pub limits: Sizes,
    /// Most entries that maps begin with, if that is given.
    pub first: Option<u32>,
    pub log: PacketLog,
    pub socket_lb: SocketLb,
    /// Whether packets from outside are taken care of by XDP: what was asked for, as long as the kernel takes its programs.
    pub xdp: XdpMode,
    /// Whether there may be maps that only programs need that have since been replaced.
    pub has_former: bool,
}

/// Why programs could not be loaded, or maps not be made larger. All is as before.
#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    /// The maps or the programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the programs say cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The maps cannot be opened.
    #[error(transparent)]
    Maps(#[from] MapSetError),
}

impl Growth {
    /// Loads the programs for the first time.
    pub(super) fn begin(&mut self) -> Result<(Programs, MapSet), GrowthError> {
        self.load(&self.limits.initial(self.first))
    }

    /// Loads the programs with maps of these sizes at least, holding what the former ones do.
    pub(super) fn load(&mut self, sizes: &Sizes) -> Result<(Programs, MapSet), GrowthError> {
        let mut programs = Programs::load(&self.pins, sizes, self.log, self.socket_lb)?;
        self.has_former = true;
        if self.log != PacketLog::Off {
            programs.forward_log()?;
        }
        if self.xdp != XdpMode::Off
            && let Err(error) = programs.load_xdp()
        {
            tracing::warn!("{}: tc does all the work", chain(&error));
            self.xdp = XdpMode::Off;
        }
        let maps = MapSet::open(programs.maps())?;
        Ok((programs, maps))
    }

    /// Has the maps be up to date with those of programs that are about to be replaced: the less is to be carried over
    /// after that, the fewer packets meet a program that does not know their flow.
    pub(super) fn catch_up(&self) {
        if self.has_former
            && let Err(error) = catch_up(&self.pins)
        {
            tracing::warn!("carrying flows over from maps of earlier programs: {}", chain(&error));
        }
    }

    /// Removes the maps of programs that have all been replaced. False if that has to be tried again.
    pub(super) fn retire_former(&mut self) -> bool {
        if self.has_former {
            match retire_former(&self.pins) {
                Ok(()) => self.has_former = false,
                Err(error) => tracing::error!("removing maps of earlier programs: {}; trying again", chain(&error)),
            }
        }
        !self.has_former
    }
}
