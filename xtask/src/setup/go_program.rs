//! A program in Go, out of the module `proxy-testkit/kubernetes`.

use std::fs;

use anyhow::{Context as _, Result};
use proxy_testkit::cache;
use proxy_testkit::cluster::programs::{self, Program};

use super::step::{Lack, Look, Mender, Step};
use super::{go, task};

/// How long it takes where nothing is compiled yet, in words.
fn cost(program: Program) -> &'static str {
    match program {
        Program::Kubernetes => "13 minutes of CPU the first time, half a minute later",
        Program::KubeProxy => "half a minute, once the other is built",
    }
}

pub struct GoProgram(pub Program);

impl Step for GoProgram {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn look(&self) -> Result<Look> {
        let path = self.0.path()?;
        if path.is_file() {
            return Ok(Look::Here(format!("{} ({})", programs::version(), path.display())));
        }
        Ok(Look::Lacking(vec![Lack {
            what: format!("{} {} in {}", self.0.name(), programs::version(), path.display()),
            remedy: "cargo xtask cluster build".into(),
            mender: Mender::Setup,
        }]))
    }

    fn mend(&self) -> Result<()> {
        let path = self.0.path()?;
        let folder = path.parent().context("a path without a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        // Linked beside and moved: what is there is whole.
        let draft = path.with_extension("draft");
        let mut build = go::command()?;
        build.current_dir(programs::module()).env("CGO_ENABLED", "0");
        build.env("GOCACHE", cache::folder()?.join("go-build"));
        // `-v` names each package as it is compiled.
        build.args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", &programs::linker_flags()]);
        build.arg("-o").arg(&draft).arg(self.0.package());
        let doing = format!("compiling {} {} ({})", self.0.name(), programs::version(), cost(self.0));
        task::run(self.name(), &doing, &mut build)?;
        fs::rename(&draft, &path).with_context(|| format!("could not move it to {}", path.display()))
    }
}
