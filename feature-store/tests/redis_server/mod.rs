//! Redis servers of a test's own, to be killed or made a cluster of.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part"
)]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server that keeps nothing on disk. Dropping it kills it.
pub struct RedisServer {
    pub port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    process: Child,
}

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = run(port, &folder, &options);
        Self {
            port,
            folder,
            options,
            process,
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server and starts another in its place, which holds what the options made the first one keep.
    pub fn replace(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = run(self.port, &self.folder, &self.options);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[allow(clippy::zombie_processes, reason = "its owner waits for it")]
fn run(port: u16, folder: &tempfile::TempDir, options: &[String]) -> Child {
    let process = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
        ])
        .args(options)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is missing: apt-get install redis-server");
    for _ in 0..600 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return process;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("redis-server does not answer on port {port}");
}
