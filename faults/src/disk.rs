//! A small file system in memory that can be filled and freed.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room that a full disk still has: small files fit, large ones break off half-way.
const LEFT_KIB: u64 = 12;

/// A mounted file system. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    mib: u64,
}

impl Disk {
    /// Mounts one of `mib` MiB at `folder`, which is made. Needs the right to mount: root, or a user namespace
    /// (`scripts/faults` makes one).
    pub(crate) fn mount(folder: &Path, mib: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let size = format!("size={mib}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs", &folder.display().to_string()],
        )
        .context("a disk that can be filled needs the right to mount: run `scripts/faults`, or as root")?;
        Ok(Self {
            folder: folder.to_owned(),
            mib,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) -> Result<()> {
        // Files may grow between the look and the mount, which then refuses: look again.
        for _ in 0..50 {
            let kib = self.used_kib()? + LEFT_KIB;
            if self.resize(&format!("size={kib}k")).is_ok() {
                return Ok(());
            }
        }
        bail!("the disk at {} can't be filled", self.folder.display())
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<()> {
        self.resize(&format!("size={}m", self.mib))
    }

    fn resize(&self, size: &str) -> Result<()> {
        let options = format!("remount,{size}");
        run("mount", &["-o", &options, &self.folder.display().to_string()])
    }

    fn used_kib(&self) -> Result<u64> {
        let output = Command::new("df")
            .args(["--output=used", "-k"])
            .arg(&self.folder)
            .output()
            .context("can't run df")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let used = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
        used.with_context(|| format!("df printed {text:?}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is just being killed may still hold a file.
        let _gone = run("umount", &["-l", &self.folder.display().to_string()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("can't run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
