//! Which programs are attached where, by TCX or clsact.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;

use super::error::{AttachError, PinError, XdpError};
use super::pins::{self, PinPath};
use super::programs::Programs;
use super::tcx::{self, Came};
use super::{Direction, clsact, xdp};
use crate::devices::{Layer, Xdp, XdpProgram};

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// TCX links, from kernel 6.6 on.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

impl AttachMode {
    /// The best that this kernel has.
    pub fn detect() -> Self {
        if tcx::is_supported() { Self::Tcx } else { Self::Clsact }
    }
}

/// What [`Attacher::attach`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The programs were not there.
    New,
    /// Programs of an earlier agent were there, and have been replaced in place.
    Adopted,
    /// All was as it should be.
    Unchanged,
    /// The programs had been detached by somebody and are back.
    Repaired,
}

#[derive(Debug)]
struct Device {
    layer: Layer,
    /// Ids of the TCX links, in the order of [`Direction::ALL`]; none with clsact.
    links: Vec<u32>,
}

/// Attaches the programs to devices and detaches them.
#[derive(Debug)]
pub struct Attacher {
    programs: Programs,
    pins: PinPath,
    mode: AttachMode,
    devices: HashMap<u32, Device>,
    xdp: HashMap<u32, XdpLink>,
}

#[derive(Debug)]
struct XdpLink {
    id: u32,
    how: Xdp,
}

impl Attacher {
    /// Nothing is attached by this yet. The pin path is to be locked.
    pub fn new(programs: Programs, pins: PinPath, mode: AttachMode) -> Self {
        Self { programs, pins, mode, devices: HashMap::new(), xdp: HashMap::new() }
    }

    /// The programs, those of other hooks among them.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Takes other programs. Devices get them the next time that they are attached.
    pub fn replace(&mut self, programs: Programs) {
        self.programs = programs;
        self.devices.clear();
        self.xdp.clear();
    }

    /// Says that the maps of the programs have been filled.
    ///
    /// # Errors
    /// When the filesystem refuses.
    pub fn are_filled(&mut self) -> Result<(), PinError> {
        self.programs.are_filled(&self.pins)
    }

    /// How programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Sees to it that both programs are attached to a device of this network namespace. With `look_closely` also where
    /// that is only found out by attaching them again, as with clsact.
    ///
    /// # Errors
    /// When the kernel refuses, also because the device is gone.
    pub fn attach(
        &mut self,
        ifindex: u32,
        name: &str,
        layer: Layer,
        look_closely: bool,
    ) -> Result<Attached, AttachError> {
        let known = self.devices.get(&ifindex).filter(|device| device.layer == layer);
        if let Some(known) = known
            && !(look_closely && self.mode == AttachMode::Clsact)
            && self.is_intact(ifindex, known)?
        {
            return Ok(Attached::Unchanged);
        }
        let is_known = known.is_some();
        let mut links = Vec::new();
        let mut adopted = true;
        for direction in Direction::ALL {
            let error = |source| AttachError { action: "attaching", preposition: "to", direction, ifindex, source };
            match self.mode {
                AttachMode::Tcx => {
                    let program = self.programs.fd(layer, direction).map_err(|source| error(source.into()))?;
                    let (id, came) = tcx::attach(&self.pins, program.as_fd(), ifindex, direction).map_err(error)?;
                    links.push(id);
                    adopted &= came == Came::Adopted;
                }
                AttachMode::Clsact => {
                    let program = self.programs.classifier(layer, direction).map_err(|source| error(source.into()))?;
                    let came = clsact::attach(program, name, direction).map_err(|source| error(source.into()))?;
                    adopted &= came == Came::Adopted;
                }
            }
        }
        self.remove_other_mode(ifindex, name, adopted)?;
        self.devices.insert(ifindex, Device { layer, links });
        Ok(match (is_known, adopted) {
            (true, true) if self.mode == AttachMode::Clsact => Attached::Unchanged,
            (true, _) => Attached::Repaired,
            (false, true) => Attached::Adopted,
            (false, false) => Attached::New,
        })
    }

    fn is_intact(&self, ifindex: u32, device: &Device) -> Result<bool, AttachError> {
        for (direction, id) in Direction::ALL.into_iter().zip(&device.links) {
            let attached = tcx::is_attached(ifindex, direction, *id).map_err(|source| AttachError {
                action: "looking for",
                preposition: "on",
                direction,
                ifindex,
                source: source.into(),
            })?;
            if !attached {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sees to it that the XDP program is attached to a device of this network namespace. `present` is the program that it
    /// was last seen to have.
    ///
    /// # Errors
    /// When the kernel or the driver refuses, also because somebody else's program is there.
    pub fn attach_xdp(&mut self, ifindex: u32, how: Xdp, present: Option<XdpProgram>) -> Result<Attached, XdpError> {
        let error = |source| XdpError { ifindex, source };
        let known = self.xdp.get(&ifindex).filter(|known| known.how == how).map(|known| known.id);
        if let Some(id) = known
            && xdp::is_attached(&self.pins.xdp_link(ifindex), ifindex, id).map_err(|source| error(source.into()))?
        {
            return Ok(Attached::Unchanged);
        }
        let program = self.programs.xdp().and_then(|program| program.fd()).map_err(|source| error(source.into()))?;
        let (id, came) =
            xdp::attach(&self.pins, program.as_fd(), ifindex, how, present).map_err(|source| error(source.into()))?;
        self.xdp.insert(ifindex, XdpLink { id, how });
        Ok(match (known, came) {
            (Some(_), _) => Attached::Repaired,
            (None, Came::Adopted) => Attached::Adopted,
            (None, Came::New) => Attached::New,
        })
    }

    /// Sees to it that a device has no XDP program of an agent. Returns whether it had.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach_xdp(&mut self, ifindex: u32) -> Result<bool, PinError> {
        self.xdp.remove(&ifindex);
        pins::remove(&self.pins.xdp_link(ifindex))
    }

    /// Removes what an agent of the other mode left: packets would meet the programs twice.
    fn remove_other_mode(&self, ifindex: u32, name: &str, adopted: bool) -> Result<(), AttachError> {
        for direction in Direction::ALL {
            let error = |source| AttachError { action: "removing", preposition: "from", direction, ifindex, source };
            match self.mode {
                AttachMode::Tcx if adopted => {}
                AttachMode::Tcx => {
                    clsact::detach(name, direction).map_err(|source| error(source.into()))?;
                }
                AttachMode::Clsact => {
                    pins::remove(&self.pins.link(ifindex, direction)).map_err(|source| error(source.into()))?;
                }
            }
        }
        Ok(())
    }

    /// Detaches the programs from a device, which may be gone. `name` is its name, if it is still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&mut self, ifindex: u32, name: Option<&str>) -> Result<(), AttachError> {
        self.devices.remove(&ifindex);
        self.detach_xdp(ifindex).map_err(|source| AttachError {
            action: "removing",
            preposition: "from",
            direction: Direction::In,
            ifindex,
            source: source.into(),
        })?;
        for direction in Direction::ALL {
            let error = |source| AttachError { action: "removing", preposition: "from", direction, ifindex, source };
            pins::remove(&self.pins.link(ifindex, direction)).map_err(|source| error(source.into()))?;
            if let Some(name) = name {
                clsact::detach(name, direction).map_err(|source| error(source.into()))?;
            }
        }
        Ok(())
    }

    /// The devices that programs are attached to, also by an earlier agent.
    ///
    /// # Errors
    /// When the folder of links cannot be read.
    pub fn devices(&self) -> Result<BTreeSet<u32>, PinError> {
        let mut devices = self.pins.linked_devices()?;
        devices.extend(self.devices.keys());
        Ok(devices)
    }
}
