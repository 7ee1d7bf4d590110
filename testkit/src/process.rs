//! A program of a test's own: started, killed, paused, restarted with the same arguments; its output goes to a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Ports for servers that are restarted: below the range from which the system takes ports of outgoing connections, so
/// that none is taken while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A program that runs, ran, or has yet to. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    starts: u32,
}

impl Process {
    /// `program` with `arguments`, to be run in `folder` (which must exist), its output appended to `{name}.log` there.
    pub fn new(
        name: &str,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = String>,
        folder: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            arguments: arguments.into_iter().collect(),
            environment: Vec::new(),
            folder: folder.to_owned(),
            log: folder.join(format!("{name}.log")),
            child: None,
            starts: 0,
        }
    }

    /// With one more variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its output in `log` instead.
    #[must_use]
    pub fn with_log(mut self, log: PathBuf) -> Self {
        self.log = log;
        self
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How often it was started.
    pub const fn starts(&self) -> u32 {
        self.starts
    }

    /// Starts it, unless it runs. Ondol's own variables of this process don't reach it.
    ///
    /// # Errors
    /// When the program or its log can't be opened.
    pub fn start(&mut self) -> io::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ONDOL_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", self.program.display())))?;
        self.child = Some(child);
        self.starts += 1;
        Ok(())
    }

    /// Whether it was started and has not ended. A paused program runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its number in the system, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`: it learns nothing of it. A paused one dies too.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            // An error here means that it has ended already.
            let _ended = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    /// Stops its execution where it stands (SIGSTOP). Its connections stay open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Lets it run on after [`Self::pause`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Asks it to end (SIGTERM) and waits, at most `patience`; none when it has not ended by then.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal("TERM")?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Its memory in RAM, as the system counts it (Linux only).
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    fn signal(&mut self, signal: &str) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{} does not run", self.name));
        let id = self.child.as_ref().ok_or_else(gone)?.id();
        let sent = Command::new("kill")
            .args([format!("-{signal}"), id.to_string()])
            .stderr(Stdio::null())
            .status()?;
        if sent.success() { Ok(()) } else { Err(gone()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.kill();
    }
}

/// A port of loopback that nobody listens on, for a server that may be restarted on it.
#[allow(clippy::panic, reason = "a test that finds no port can't go on")]
pub fn free_port() -> u16 {
    for _ in 0..10_000 {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free on 127.0.0.1")
}
