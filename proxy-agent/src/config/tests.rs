//! What files and flags of kube-proxy come to.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use super::*;

/// Reads the rest of a file after its head.
fn file(rest: &str) -> Result<Settings, String> {
    text(&format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{rest}"))
}

fn text(text: &str) -> Result<Settings, String> {
    let mut draft = Draft::default();
    file::read(&mut draft, text).and_then(|()| draft.finish()).map_err(|error| error.to_string())
}

fn flags(given: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(None, &KubeProxyFlags::of(given)).map_err(|error| error.to_string())
}

/// What kubeadm 1.37 writes into the ConfigMap `kube-proxy`.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn kubeadms_file_is_read_without_a_warning() {
    let expected = Settings {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/56".parse().unwrap()],
        ..Settings::default()
    };
    assert_eq!(text(KUBEADM), Ok(expected.clone()));
    assert_eq!(expected.warning(), None);
}

#[test]
fn fields_and_flags_mean_the_same() {
    /// A file, the same as flags, and what is different then.
    type Case = (&'static str, &'static [(&'static str, &'static str)], fn(&mut Settings));
    let cases: [Case; 20] = [
        (
            "conntrack: {tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 1500ms}",
            &[("conntrack-tcp-timeout-established", "2h"), ("conntrack-tcp-timeout-close-wait", "1500ms")],
            |s| (s.flow_limits.tcp_established, s.flow_limits.tcp_half_closed) = (7_200, 2),
        ),
        (
            "conntrack: {udpTimeout: 5s, udpStreamTimeout: 0s}",
            &[("conntrack-udp-timeout", "5s"), ("conntrack-udp-timeout-stream", "0s")],
            |s| s.flow_limits.udp_unanswered = 5,
        ),
        ("hostnameOverride: ' Worker-1 '", &[("hostname-override", " Worker-1 ")], |s| {
            s.hostname_override = Some("worker-1".into());
        }),
        ("bindAddress: '::'", &[("bind-address", "::")], |s| {
            s.bind_address = "::".parse().unwrap();
            s.healthz_bind_address = Some("[::]:10256".parse().unwrap());
            s.metrics_bind_address = Some("[::1]:10249".parse().unwrap());
        }),
        ("healthzBindAddress: 127.0.0.1:1", &[("healthz-bind-address", "127.0.0.1:1")], |s| {
            s.healthz_bind_address = Some("127.0.0.1:1".parse().unwrap());
        }),
        ("metricsBindAddress: '[::]'", &[("metrics-bind-address", "[::]")], |s| {
            s.metrics_bind_address = Some("[::]:10249".parse().unwrap());
        }),
        ("bindAddressHardFail: true", &[("bind-address-hard-fail", "true")], |s| s.bind_address_hard_fail = true),
        ("clusterCIDR: 10.244.1.2/16", &[("cluster-cidr", "10.244.1.2/16")], |s| {
            s.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        }),
        ("nodePortAddresses: [10.0.0.0/8, 'fd00::/8']", &[("nodeport-addresses", "10.0.0.0/8,fd00::/8")], |s| {
            let ranges = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
            s.node_port_addresses = NodePortAddresses::Ranges(ranges);
        }),
        ("nodePortAddresses: [all]", &[("nodeport-addresses", "all")], |s| {
            s.node_port_addresses = NodePortAddresses::All;
        }),
        ("iptables: {localhostNodePorts: false}", &[("iptables-localhost-nodeports", "false")], |s| {
            s.localhost_node_ports = false
        }),
        ("nodePortAddresses: [localhost]", &[("nodeport-addresses", "localhost")], |s| {
            s.node_port_addresses = NodePortAddresses::Localhost;
        }),
        ("nodePortAddresses: [primary]", &[("nodeport-addresses", "primary")], |_| {}),
        ("detectLocalMode: NodeCIDR", &[("detect-local-mode", "NodeCIDR")], |s| {
            s.detect_local = Some(DetectLocal::NodeCidr);
        }),
        (
            "featureGates: {AllowServiceExternalIPs: false}",
            &[("feature-gates", "AllowServiceExternalIPs=false")],
            |s| {
                s.external_ips = false;
            },
        ),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            &[("pod-bridge-interface", "cni0"), ("detect-local-mode", "BridgeInterface")],
            |s| s.detect_local = Some(DetectLocal::BridgeInterface("cni0".into())),
        ),
        (
            "detectLocal: {interfaceNamePrefix: veth}\ndetectLocalMode: InterfaceNamePrefix",
            &[("detect-local-mode", "InterfaceNamePrefix"), ("pod-interface-name-prefix", "veth")],
            |s| s.detect_local = Some(DetectLocal::InterfaceNamePrefix("veth".into())),
        ),
        ("iptables: {masqueradeAll: true}", &[("masquerade-all", "true")], |s| s.masquerade_all = true),
        ("iptables: {syncPeriod: 1m}", &[("iptables-sync-period", "1m")], |s| s.sync_period = Duration::from_secs(60)),
        ("oomScoreAdj: -999", &[("oom-score-adj", "-999")], |s| s.oom_score_adj = Some(-999)),
    ];
    for (fields, given, change) in cases {
        let mut expected = Settings::default();
        change(&mut expected);
        assert_eq!(file(fields).as_ref(), Ok(&expected), "{fields}");
        assert_eq!(flags(given), Ok(expected), "{given:?}");
    }
    let file_only = file("nftables: {syncPeriod: 10s, masqueradeAll: true}\niptables: {syncPeriod: 20s}").unwrap();
    assert_eq!((file_only.sync_period, file_only.masquerade_all), (Duration::from_secs(10), true));
}

#[test]
fn an_empty_address_is_the_default_in_the_file_and_off_as_a_flag() {
    assert_eq!(file("healthzBindAddress: ''\nmetricsBindAddress: ''"), Ok(Settings::default()));
    let off = flags(&[("healthz-bind-address", ""), ("metrics-bind-address", "")]).unwrap();
    assert_eq!((off.healthz_bind_address, off.metrics_bind_address), (None, None));
}

#[test]
fn what_is_wrong_is_refused_in_one_line() {
    for (fields, message) in [
        (
            "conntrac: {}",
            "conntrac: unknown: expected bindAddress, bindAddressHardFail, clientConnection, clusterCIDR, \
             configSyncPeriod, conntrack, detectLocal, detectLocalMode, enableProfiling, featureGates, \
             healthzBindAddress, hostnameOverride, iptables, ipvs, logging, metricsBindAddress, mode, nftables, \
             nodePortAddresses, oomScoreAdj, portRange, showHiddenMetricsForVersion, windowsRunAsService or winkernel",
        ),
        ("detectLocal: {bridge: x}", "detectLocal.bridge: unknown: expected bridgeInterface or interfaceNamePrefix"),
        ("detectLocal: cni0", "detectLocal: 'cni0' is not a section: expected bridgeInterface or interfaceNamePrefix"),
        ("mode: userspace", "mode: 'userspace' is not allowed: expected iptables, ipvs or nftables"),
        ("hostnameOverride: 5", "hostnameOverride: '5' is not a text"),
        ("bindAddress: host", "bindAddress: 'host' is not an IP address"),
        (
            "healthzBindAddress: 0.0.0.0:0",
            "healthzBindAddress: '0.0.0.0:0' cannot be bound to: expected IP or IP:PORT, with a port from 1 to 65535",
        ),
        ("bindAddressHardFail: 'yes'", "bindAddressHardFail: 'yes' is not a switch: expected true or false"),
        (
            "clusterCIDR: 10.0.0.0",
            "clusterCIDR: '10.0.0.0' is not a range of addresses: expected something like 10.0.0.0/8 or fd00::/8",
        ),
        (
            "clusterCIDR: 10.0.0.0/8,11.0.0.0/8",
            "clusterCIDR: '10.0.0.0/8,11.0.0.0/8': expected one range, or one of each family",
        ),
        (
            "nodePortAddresses: [eth0]",
            "nodePortAddresses: 'eth0' is not a range of addresses: expected ranges like 10.0.0.0/8, or one of primary, \
             localhost or all",
        ),
        (
            "nodePortAddresses: [primary, 10.0.0.0/8]",
            "nodePortAddresses: 'primary' stands alone: expected ranges like 10.0.0.0/8, or one of primary, localhost \
             or all",
        ),
        ("nodePortAddresses: [1]", "nodePortAddresses: '1' is not a text"),
        (
            "detectLocalMode: Pods",
            "detectLocalMode: 'Pods' is not allowed: expected ClusterCIDR, NodeCIDR, BridgeInterface or \
             InterfaceNamePrefix",
        ),
        (
            "detectLocalMode: BridgeInterface",
            "detectLocalMode: BridgeInterface needs detectLocal.bridgeInterface (--pod-bridge-interface)",
        ),
        (
            "detectLocal: {bridgeInterface: 'a/b'}",
            "detectLocal.bridgeInterface: 'a/b' is not the name of a device: expected up to 15 characters, no space and \
             no /",
        ),
        ("oomScoreAdj: 5000", "oomScoreAdj: '5000' is not allowed: expected a whole number, -1000 to 1000"),
        (
            "conntrack: {tcpEstablishedTimeout: 1 day}",
            "conntrack.tcpEstablishedTimeout: '1 day' is not a duration: expected numbers with units, like 30s, 1h30m \
             or 500ms",
        ),
        ("conntrack: {min: -1}", "conntrack.min: '-1' is not allowed: expected a whole number, 0 or more"),
        (
            "iptables: {masqueradeBit: 32}",
            "iptables.masqueradeBit: '32' is not allowed: expected a whole number, 0 to 31",
        ),
        (
            "ipvs: {excludeCIDRs: [x]}",
            "ipvs.excludeCIDRs: 'x' is not a range of addresses: expected something like 10.0.0.0/8 or fd00::/8",
        ),
    ] {
        assert_eq!(file(fields), Err(message.to_owned()), "{fields}");
    }
    assert_eq!(
        flags(&[("detect-local-mode", "InterfaceNamePrefix")]),
        Err("--detect-local-mode: InterfaceNamePrefix needs detectLocal.interfaceNamePrefix \
             (--pod-interface-name-prefix)"
            .to_owned())
    );
    assert_eq!(
        flags(&[("masquerade-all", "maybe")]),
        Err("--masquerade-all: 'maybe' is not a switch: expected true or false".to_owned())
    );
    assert_eq!(
        flags(&[("oom-score-adj", "low")]),
        Err("--oom-score-adj: 'low' is not allowed: expected a whole number, -1000 to 1000".to_owned())
    );
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let expected = "expected kubeproxy.config.k8s.io/v1alpha1";
    for (file, message) in [
        ("", format!("apiVersion: missing: {expected}")),
        ("kind: KubeProxyConfiguration", format!("apiVersion: missing: {expected}")),
        ("apiVersion: v1", format!("apiVersion: 'v1' cannot be read: {expected}")),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Other",
            "kind: 'Other' cannot be read: expected KubeProxyConfiguration".to_owned(),
        ),
    ] {
        assert_eq!(text(file), Err(message), "{file}");
    }
    let broken = text("a: [").unwrap_err();
    assert!(broken.starts_with("line ") && broken.contains("not valid YAML: ") && !broken.contains('\n'), "{broken}");
}

#[test]
fn what_means_nothing_here_is_named_in_one_warning() {
    let settings = file(
        "mode: ipvs\nfeatureGates: {A: true, AllowServiceExternalIPs: true}\nconfigSyncPeriod: 15m\nlogging: {vmodule: [{filePattern: x}]}\n\
         conntrack: {maxPerCore: 32768, min: 1}\nipvs: {scheduler: lc, strictARP: true}\n\
         clientConnection: {qps: 5, burst: 20, contentType: application/vnd.kubernetes.protobuf}",
    )
    .unwrap();
    assert_eq!(
        settings.warning().unwrap(),
        "these settings of kube-proxy have no meaning here and are ignored: mode, clientConnection.burst, \
         featureGates, logging.vmodule, ipvs.scheduler, ipvs.strictARP, conntrack.min"
    );
    let settings = flags(&[("proxy-mode", "nftables"), ("v", "2"), ("config-sync-period", "15m0s")]).unwrap();
    assert_eq!(
        settings.warning().unwrap(),
        "these settings of kube-proxy have no meaning here and are ignored: --proxy-mode"
    );
}

#[test]
fn beside_a_file_only_the_name_of_the_host_counts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KUBEADM).unwrap();
    let flags = KubeProxyFlags::of(&[("hostname-override", "n2"), ("masquerade-all", "true")]);
    let settings = Settings::load(Some(file.path()), &flags).unwrap();
    assert_eq!((settings.hostname_override.as_deref(), settings.masquerade_all), (Some("n2"), false));
    assert_eq!(settings.not_applicable, ["--masquerade-all (there is --config)"]);

    std::fs::write(file.path(), KUBEADM.replace("mode: \"\"", "mode: fast")).unwrap();
    let error = Settings::load(Some(file.path()), &flags).unwrap_err().to_string();
    let place = file.path().display();
    assert_eq!(error, format!("{place}: mode: 'fast' is not allowed: expected iptables, ipvs or nftables"));
    let missing = Settings::load(Some(Path::new("/nowhere")), &flags).unwrap_err().to_string();
    assert_eq!(missing, "/nowhere: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn how_much_is_logged() {
    for (text, verbosity) in [("2", 2), ("", 4), ("v", 6), ("10", 10)] {
        assert_eq!(flags(&[("v", text)]).unwrap().verbosity, verbosity, "-v {text}");
    }
    assert_eq!(flags(&[("v", "x")]), Err("--v: 'x' is not allowed: expected a whole number, 0 or more".to_owned()));
    let logging = file("logging: {verbosity: 5, format: json, flushFrequency: 5s}").unwrap();
    assert_eq!((logging.verbosity, logging.logs_json, logging.not_applicable), (5, true, Vec::new()));
}

#[test]
fn a_second_between_syncs_is_nobodys_wish() {
    let period = |text: &str| file(&format!("nftables: {{minSyncPeriod: {text}}}")).unwrap().min_sync_period;
    assert_eq!((period("1s"), period("0s"), period("5s")), (Duration::ZERO, Duration::ZERO, Duration::from_secs(5)));
}

#[test]
fn the_older_flags_for_ports() {
    let settings = flags(&[("healthz-port", "0"), ("metrics-port", "9000")]).unwrap();
    let metrics = settings.metrics_bind_address.map(|address| address.to_string());
    assert_eq!((settings.healthz_bind_address, metrics.as_deref()), (None, Some("127.0.0.1:9000")));
    let given = flags(&[("healthz-bind-address", "10.0.0.1:8000"), ("healthz-port", "9000")]).unwrap();
    assert_eq!(given.healthz_bind_address, Some("10.0.0.1:8000".parse().unwrap()));
}
