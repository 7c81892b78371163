//! Who is measured.

/// A way for a packet to get from a client to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Nobody is in between: the limit.
    Direct,
    /// Pointsman, by tc alone.
    Tc,
    /// Pointsman by tc alone, which sends on what is for other nodes.
    TcSendsOn,
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
            Self::TcSendsOn => "tc-sends-on",
            Self::Xdp => "xdp",
            Self::Nftables => "kube-proxy-nftables",
            Self::Iptables => "kube-proxy-iptables",
        }
    }

    /// kube-proxy's mode, if it is kube-proxy.
    pub const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Tc | Self::TcSendsOn | Self::Xdp => None,
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
        }
    }

    /// What `--xdp` it is measured with, if it is us.
    pub const fn xdp(self) -> Option<&'static str> {
        match self {
            Self::Tc => Some("off"),
            Self::TcSendsOn => Some("tc"),
            Self::Xdp => Some("native"),
            Self::Direct | Self::Nftables | Self::Iptables => None,
        }
    }
}
