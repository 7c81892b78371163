//! The secrets of a control plane: an authority of its own, certificates, keys and tokens, as files in its folder.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// The cluster's administrator.
pub(super) const ADMIN: &str = "admin";
/// Users with a token each: name, user, group.
const USERS: [(&str, &str, &str); 3] = [
    (ADMIN, "admin", "system:masters"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
];
const DAYS: &str = "3650";

/// The files.
#[derive(Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    /// Makes all of them, for API servers at these addresses.
    pub(super) fn create(folder: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let secrets = Self { folder: folder.to_owned() };
        let addresses: Vec<_> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        secrets.write(
            "openssl.cnf",
            &format!(
                "[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:kubernetes.default.svc,{}
",
                addresses.join(",")
            ),
        )?;
        secrets.certify("authority", "/CN=lab", "ca", None)?;
        secrets.certify("server", "/CN=kube-apiserver", "server", Some("ca"))?;
        // Signs the tokens of service accounts.
        let mut key = Command::new("openssl");
        key.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
        shell::run(key.arg(secrets.path("accounts.key")))?;
        let mut public = Command::new("openssl");
        public.arg("pkey").arg("-in").arg(secrets.path("accounts.key")).args(["-pubout", "-out"]);
        shell::run(public.arg(secrets.path("accounts.pub")))?;
        let mut tokens = String::new();
        for (name, user, group) in USERS {
            let token = format!("{name}-of-the-lab");
            tokens.push_str(&format!("{token},{user},{user},\"{group}\"\n"));
            secrets.write(&format!("{name}.token"), &token)?;
        }
        secrets.write("tokens.csv", &tokens)?;
        Ok(secrets)
    }

    /// A key and a certificate, signed by an issuer or by itself.
    fn certify(&self, extensions: &str, subject: &str, name: &str, issuer: Option<&str>) -> Result<()> {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-days", DAYS, "-subj", subject, "-extensions", extensions, "-config"]);
        command.arg(self.path("openssl.cnf"));
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.arg("-keyout").arg(self.path(&format!("{name}.key")));
        command.arg("-out").arg(self.path(&format!("{name}.crt")));
        if let Some(issuer) = issuer {
            command.arg("-CA").arg(self.path(&format!("{issuer}.crt")));
            command.arg("-CAkey").arg(self.path(&format!("{issuer}.key")));
        }
        shell::run(&mut command).map(drop)
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a kubeconfig that leads to a server with the token in `<name>.token`.
    pub fn write_kubeconfig(&self, name: &str, server: &str) -> Result<PathBuf> {
        let file = format!("{name}.kubeconfig");
        let text = format!(
            "apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: \"{server}\", certificate-authority: {}}}}}]
users: [{{name: {name}, user: {{tokenFile: {}}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: {name}}}}}]
current-context: lab
",
            self.path("ca.crt").display(),
            self.path(&format!("{name}.token")).display()
        );
        self.write(&file, &text)?;
        Ok(self.path(&file))
    }

    /// Writes a file, at once and for nobody else.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, draft) = (self.path(name), self.path(&format!(".{name}.draft")));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&draft, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
