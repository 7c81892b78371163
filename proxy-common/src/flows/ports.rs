//! Source ports for flows that cannot keep the client's.

use core::ops::Range;

/// The source ports that masqueraded flows get.
///
/// Below the ports that sockets get by themselves (`net.ipv4.ip_local_port_range`, 32768 to 60999) and below
/// the NodePorts (30000 to 32767): a host's own connection never has one unless it binds it on purpose.
/// 28,976 flows to one backend at once.
pub const MASQUERADE_PORTS: Range<u16> = 1024..30000;

/// Whether a port, in network order, is one of [`MASQUERADE_PORTS`].
#[inline(always)]
pub(crate) fn is_masquerade_port(port: [u8; 2]) -> bool {
    MASQUERADE_PORTS.contains(&u16::from_be_bytes(port))
}

/// Ports of the range in an order of its own for each flow: with one order for all, those that are in use would come to
/// lie one behind the other.
///
/// A fraction of the range, in units of 2⁻³², which goes round by itself: no branch, as the verifier goes through each step.
#[repr(C)]
pub struct Ports {
    position: u32,
    stride: u32,
}

impl Ports {
    const WIDTH: u32 = (MASQUERADE_PORTS.end - MASQUERADE_PORTS.start) as u32;
    /// From one port to the next, rounded up: so it is another port each time.
    const STEP: u32 = u32::MAX / Self::WIDTH + 1;

    /// From anywhere on.
    #[inline(always)]
    pub fn from(random: u32) -> Self {
        // An odd number of ports, below 1,024.
        Self { position: random, stride: ((random & 0x3ff) | 1) * Self::STEP }
    }

    /// The next one, in network order.
    #[inline(always)]
    pub fn draw(&mut self) -> [u8; 2] {
        self.position = self.position.wrapping_add(self.stride);
        let offset = (u64::from(self.position) * u64::from(Self::WIDTH)) >> 32;
        (MASQUERADE_PORTS.start + offset as u16).to_be_bytes()
    }
}
