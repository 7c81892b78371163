//! The source of Rust's standard library as Debian packages it.
//!
//! It comes from the mirror that apt uses here already, out of a suite that this machine need not follow: the package
//! is nothing but text and fits everywhere. Apt itself fetches it, with an instance of its files in a folder of ours, so
//! that signatures and sums are verified as for any package and the machine's own lists stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::task;

/// Suites that are searched, in this order. Backports keep several versions of Rust side by side.
const SUITES: [&str; 2] = ["trixie-backports", "sid"];
/// Debian's keys, present on every Debian; apt falls back to those it trusts anyway.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches and unpacks the source of a version within `workshop`, an empty folder, and answers the folder that holds
/// `library`.
pub fn fetch_source(step: &str, version: &str, workshop: &Path) -> Result<PathBuf> {
    let uris = task::output(Command::new("apt-get").args(["update", "--print-uris"])).context("no apt, no package")?;
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mirror = mirror(&uris, codename(&release)).context("apt has no source that looks like Debian's archive")?;
    let mut seen = Vec::new();
    for suite in SUITES {
        let apt = Apt::new(workshop, &mirror, suite)?;
        task::run(step, &format!("reading Debian's list {suite}"), apt.command("apt-get").arg("update"))?;
        let offered = task::output(apt.command("apt-cache").args(["madison", "rust-src"]))?;
        let offered = offered_versions(&offered);
        let Some(chosen) = offered.iter().find(|offered| is_of_upstream(offered, version)) else {
            seen.extend(offered);
            continue;
        };
        let mut download = apt.command("apt-get");
        download.arg("download").arg(format!("rust-src={chosen}")).current_dir(workshop);
        task::run(step, &format!("downloading Debian's rust-src {chosen}"), &mut download)?;
        return unpack(step, version, workshop);
    }
    let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    anyhow::bail!("{mirror} has no rust-src {version} in {} (it has: {seen})", SUITES.join(", "))
}

fn unpack(step: &str, version: &str, workshop: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(workshop).with_context(|| format!("could not read {}", workshop.display()))?;
    let mut files = files.filter_map(|file| file.ok().map(|file| file.path()));
    let package = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.context("apt-get download left no package")?;
    let folder = workshop.join("unpacked");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&package).arg(&folder);
    task::run(step, "unpacking it", &mut unpack)?;
    Ok(folder.join(format!("usr/src/rustc-{version}")))
}

/// An apt with one source and all its files within a folder.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(workshop: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let folder = workshop.join(format!("apt-{suite}"));
        for name in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        }
        let signed_by = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let list = folder.join("sources.list");
        fs::write(&list, format!("deb {signed_by}{mirror} {suite} main\n"))
            .with_context(|| format!("could not write {}", list.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=-".into(),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            "Acquire::Languages=none".into(),
            // Apt's own user need not be able to write into our folder.
            "APT::Sandbox::User=root".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The address of Debian's archive among those that apt would read, as `apt-get update --print-uris` tells them: this
/// is apt's own understanding of its sources, whatever their format.
fn mirror(print_uris: &str, codename: Option<&str>) -> Option<String> {
    let releases = print_uris.lines().filter_map(|line| {
        let address = line.strip_prefix('\'')?.split('\'').next()?;
        address.strip_suffix("/InRelease")?.rsplit_once("/dists/")
    });
    let releases: Vec<_> = releases.collect();
    let of_suite = |wanted: &str| releases.iter().find(|(_, suite)| *suite == wanted);
    // Security updates and foreign archives have suites of other names.
    let plain = codename.and_then(of_suite).or_else(|| of_suite("stable"));
    plain.map(|(address, _)| (*address).to_owned())
}

/// `VERSION_CODENAME` of /etc/os-release.
fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"'))
}

/// The versions in what `apt-cache madison` prints: package, version and source between bars.
fn offered_versions(madison: &str) -> Vec<String> {
    madison.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect()
}

/// Whether a Debian version, as in `1.95.0+dfsg1-2~bpo13+1`, packages a version of Rust.
fn is_of_upstream(debian: &str, upstream: &str) -> bool {
    debian.strip_prefix(upstream).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URIS: &str = "\
'http://mirror.example/security/dists/bookworm-security/InRelease' mirror.example_x 0 
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_y 0 
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_z 0 
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_p 0 
'https://vendor.example/apt/dists/stable/InRelease' vendor 0 
";

    #[test]
    fn the_mirror_is_the_one_that_serves_the_release() {
        assert_eq!(mirror(URIS, Some("bookworm")).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn a_machine_may_follow_stable_by_name() {
        let uris = "'http://mirror.example/debian/dists/stable/InRelease' x 0 \n";
        assert_eq!(mirror(uris, Some("bookworm")).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror(uris, None).as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn a_list_of_mirrors_stays_one() {
        let uris = "'mirror+file:/etc/apt/mirrors/debian.list/dists/bookworm/InRelease' x 0 \n";
        let mirror = mirror(uris, Some("bookworm"));
        assert_eq!(mirror.as_deref(), Some("mirror+file:/etc/apt/mirrors/debian.list"));
    }

    #[test]
    fn security_updates_alone_are_no_mirror() {
        let uris = "'http://mirror.example/security/dists/bookworm-security/InRelease' x 0 \n";
        assert_eq!(mirror(uris, Some("bookworm")), None);
        assert_eq!(mirror("E: nonsense\n", Some("bookworm")), None);
    }

    #[test]
    fn the_codename_may_be_quoted() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"bookworm\"\n"), Some("bookworm"));
        assert_eq!(codename("ID=debian\n"), None);
    }

    #[test]
    fn a_package_is_chosen_by_the_version_that_it_packages() {
        let madison = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror.example/debian trixie-backports/main\n\
                       \x20 rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror.example/debian trixie-backports/main\n";
        let offered = offered_versions(madison);
        assert_eq!(offered, ["1.96.1+dfsg1-2~bpo13+1", "1.95.0+dfsg1-2~bpo13+1"]);
        let chosen: Vec<_> = offered.iter().filter(|offered| is_of_upstream(offered, "1.95.0")).collect();
        assert_eq!(chosen, ["1.95.0+dfsg1-2~bpo13+1"]);
        assert!(!is_of_upstream("1.95.01-1", "1.95.0"));
        assert!(!is_of_upstream("1.95.0+dfsg1-1", "1.95"));
    }
}
