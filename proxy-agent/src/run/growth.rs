//! The programs with maps that are large enough, as long as they may grow.

use std::thread;
use std::time::{Duration, Instant};

use crate::devices::XdpMode;
use crate::kernel::{
    self, FlowMove, LoadError, LogError, MapSet, MapSetError, PacketLog, PinPath, Programs, Sizes, SocketLb, catch_up,
    flow_moves, forget_flows, hold_flows_on, retire_former,
};
use crate::output::chain;

/// A program is done with its packet in some microseconds.
const LAST_PACKETS: Duration = Duration::from_millis(1);

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
    /// When flows were last carried over from such: whole seconds since boot; 0 for never.
    pub carried: u32,
    /// Tables of flows are to get another size once former programs are replaced.
    pub puts_off: bool,
    /// Since when new flows wait.
    pub held: Option<Instant>,
    /// Between which tables flows are being carried.
    pub moves: Vec<FlowMove>,
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
        // An agent was killed while programs were replaced: what must not begin then is to wait for this one.
        self.report(hold_flows_on(&self.pins));
        self.load(&self.limits.initial(self.first))
    }

    /// The sizes to load the programs with once more, if there are tables of flows that could not be replaced at first.
    pub(super) fn put_off(&self) -> Option<Sizes> {
        (self.puts_off && !self.has_former).then(|| self.limits.initial(self.first))
    }

    /// Loads the programs with maps of these sizes at least, holding what the former ones do.
    pub(super) fn load(&mut self, sizes: &Sizes) -> Result<(Programs, MapSet), GrowthError> {
        let began = second();
        let mut programs = Programs::load(&self.pins, sizes, self.log, self.socket_lb)?;
        self.has_former = true;
        self.puts_off = programs.put_off_flows();
        self.carried = if programs.have_carried_flows() { began } else { 0 };
        if self.log != PacketLog::Off {
            programs.forward_log()?;
        }
        if self.xdp != XdpMode::Off
            && let Err(error) = programs.load_uplink()
        {
            tracing::warn!("{}: nothing is sent on past the stack", chain(&error));
            self.xdp = XdpMode::Off;
        }
        if !matches!(self.xdp, XdpMode::Off | XdpMode::Tc)
            && let Err(error) = programs.load_xdp()
        {
            tracing::warn!("{}: tc does all the work", chain(&error));
            self.xdp = XdpMode::Tc;
        }
        let maps = MapSet::open(programs.maps())?;
        Ok((programs, maps))
    }

    /// To be called before the programs of devices are replaced, with [`Self::end_of_replacing`] soon after: has the maps be
    /// up to date with those of the programs before. If those have other tables of flows, no flow begins in between.
    pub(super) fn begin_replacing(&mut self) {
        if !self.has_former {
            return;
        }
        self.report(catch_up(&self.pins));
        match flow_moves(&self.pins) {
            Ok(moves) => self.moves = moves,
            Err(error) => self.report(Err(error)),
        }
        if self.moves.is_empty() {
            return;
        }
        // Nearly all is done before anything has to wait.
        self.carry();
        self.held = Some(Instant::now());
        for way in &self.moves {
            self.report(way.hold().map_err(LoadError::from));
        }
        // Programs that have not seen it are done by then; should the machine have stood still, what they stored comes later.
        thread::sleep(LAST_PACKETS);
        self.carry();
    }

    /// The maps are up to date once more, and flows may begin; `all`: no program is left that has the former tables.
    pub(super) fn end_of_replacing(&mut self, all: bool) {
        let Some(began) = self.held.take() else { return };
        self.carry();
        for way in &self.moves {
            self.report(way.release().map_err(LoadError::from));
        }
        tracing::info!("new flows have waited for {} ms for other tables", began.elapsed().as_millis());
        self.moves.clear();
        if all {
            // An agent that comes after this one must not take them for newer.
            self.report(forget_flows(&self.pins));
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

    /// Carries over what flows have been used since that was last done.
    fn carry(&mut self) {
        let began = second();
        for way in &self.moves {
            // What was seen in the same second may have come after it was looked at.
            match way.carry(self.carried.saturating_sub(1)) {
                Ok(carried) if carried.lost > 0 => {
                    tracing::error!("{} established flows found no room in the tables that take over", carried.lost);
                }
                Ok(carried) => tracing::debug!("{} flows carried over, {} were there", carried.stored, carried.there),
                Err(error) => tracing::warn!("carrying flows over: the clock: {error}"),
            }
        }
        self.carried = began;
    }

    fn report(&self, result: Result<(), LoadError>) {
        if let Err(error) = result {
            tracing::warn!("carrying flows over from maps of earlier programs: {}", chain(&error));
        }
    }
}

/// Whole seconds since boot; 0 if that cannot be told.
fn second() -> u32 {
    kernel::now().ok().and_then(|now| u32::try_from(now).ok()).unwrap_or(0)
}
