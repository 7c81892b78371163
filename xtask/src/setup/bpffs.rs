//! The BPF file system, mounted where everybody looks for it: the agent pins its maps there.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use super::step::{Lack, Look, Mender, Step};

const MOUNT_POINT: &str = "/sys/fs/bpf";
/// What statfs(2) answers for it.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

pub struct Bpffs;

impl Step for Bpffs {
    fn name(&self) -> &'static str {
        "bpffs"
    }

    fn look(&self) -> Result<Look> {
        let is_mounted = statfs(MOUNT_POINT).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
        let lack = || Lack {
            what: format!("the BPF file system on {MOUNT_POINT}"),
            remedy: format!("as root: mount -t bpf bpf {MOUNT_POINT}"),
            mender: Mender::SetupAsRoot,
        };
        let lacks = if is_mounted { Vec::new() } else { vec![lack()] };
        Ok(Look::new(format!("mounted on {MOUNT_POINT}"), lacks))
    }

    fn mend(&self) -> Result<()> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
        mount(Some("bpf"), Path::new(MOUNT_POINT), Some("bpf"), flags, Some("mode=700"))
            .with_context(|| format!("could not mount the BPF file system on {MOUNT_POINT}"))
    }
}
