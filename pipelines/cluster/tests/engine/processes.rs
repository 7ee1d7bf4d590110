//! A cluster of real processes, ended with the test.

use ondol_cluster::{EngineConfig, PlanEngine};
use ondol_jobs::engine::JoinEngine;
use ondol_runtime::ObjectStores;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A scheduler and its executors.
pub struct Cluster {
    scheduler: Program,
    executors: Vec<Program>,
    port: u16,
}

/// A process that is killed when it is dropped.
pub struct Program {
    child: Child,
    /// A socket of it that answers.
    port: u16,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be dead already: that is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(arguments: &[String], port: u16, log: &Path) -> Program {
    let errors = std::fs::File::create(log).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_ondol-cluster"))
        .args(arguments)
        .stdout(errors.try_clone().unwrap())
        .stderr(Stdio::from(errors))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Program { child, port }
}

impl Program {
    /// Waits until its port answers.
    fn ready(&mut self, log: &Path) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", tail(log));
            }
            assert!(Instant::now() < deadline, "it did not start: {}", tail(log));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn tail(log: &Path) -> String {
    let lines: Vec<String> = BufReader::new(std::fs::File::open(log).unwrap())
        .lines()
        .map_while(Result::ok)
        .collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

impl Cluster {
    /// With `executors` executors of one task each.
    pub fn start(folder: &Path, executors: usize) -> Self {
        let port = free_port();
        let text = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<String>>();
        let log = folder.join("scheduler.log");
        let arguments = text(&[
            "scheduler",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--executor-timeout-s",
            "6",
        ]);
        let mut scheduler = start(&arguments, port, &log);
        scheduler.ready(&log);
        let mut cluster = Self {
            scheduler,
            executors: Vec::new(),
            port,
        };
        for number in 0..executors {
            cluster.add_executor(folder, number, 512);
        }
        cluster
    }

    /// Adds an executor of one task with so much memory.
    pub fn add_executor(&mut self, folder: &Path, number: usize, memory_mib: u64) {
        let (data, task) = (free_port(), free_port());
        let work = folder.join(format!("executor-{number}"));
        let log = folder.join(format!("executor-{number}.log"));
        let arguments = [
            "executor".to_owned(),
            format!("--scheduler=127.0.0.1:{}", self.port),
            format!("--port={data}"),
            format!("--task-port={task}"),
            "--cores=1".to_owned(),
            format!("--memory-mib={memory_mib}"),
            "--heartbeat-s=1".to_owned(),
            format!("--work-dir={}", work.display()),
        ];
        let mut executor = start(&arguments, data, &log);
        executor.ready(&log);
        self.executors.push(executor);
    }

    /// The engine that gives it plans.
    pub fn engine(&self, folder: &Path, partitions: usize) -> Arc<dyn JoinEngine> {
        let config = EngineConfig {
            engine: format!("ballista://127.0.0.1:{}", self.port),
            exchange: folder.join("exchange").display().to_string(),
            partitions,
            partition_memory_mib: 512,
        };
        Arc::new(PlanEngine::cluster(&config, ObjectStores::default()).unwrap())
    }

    /// Where its scheduler is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn executor(&mut self, number: usize) -> &mut Program {
        &mut self.executors[number]
    }

    pub fn scheduler(&mut self) -> &mut Program {
        &mut self.scheduler
    }
}
