//! Who is measured.

/// A way for a packet to get from a client to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Nobody is in between: the limit.
    Direct,
    /// Pointsman, by tc alone.
    Tc,
    /// Pointsman, with XDP on uplinks.
    Xdp,
    /// kube-proxy in its mode nftables.
    Nftables,
    /// kube-proxy in its mode iptables.
    Iptables,
}

impl Subject {
    /// Its name in the figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Nftables => "kube-proxy-nftables",
            Self::Iptables => "kube-proxy-iptables",
        }
    }

    /// kube-proxy's mode, if it is kube-proxy.
    pub const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Tc | Self::Xdp => None,
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
        }
    }

    /// Whether it is us.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Tc | Self::Xdp)
    }
}
