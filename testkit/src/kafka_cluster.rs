//! Kafka brokers of a test's own, to be killed: KRaft, each broker a controller too, every topic on all of them. Three
//! can lose one and go on; one alone starts soonest.
//!
//! Each broker listens twice: where its neighbours and the test reach it, and where the clients under test do. The
//! latter is announced under another port, so that a proxy can stand before it.

use crate::process::{Process, free_port};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Any 22 characters of URL-safe base64 that decode to 16 bytes.
const CLUSTER_ID: &str = "b25kb2wtZmF1bHRzLTAwMQ";

/// The brokers.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: Vec<Broker>,
    home: PathBuf,
}

/// One of them.
#[derive(Debug)]
pub struct Broker {
    /// Its number, from 1.
    pub id: i32,
    /// Where the test and the other brokers reach it.
    pub direct_port: u16,
    /// Where the clients under test reach it, which are told [`Self::announced_port`].
    pub client_port: u16,
    /// Where the clients under test look for it.
    pub announced_port: u16,
    controller_port: u16,
    folder: PathBuf,
    /// The program.
    pub process: Process,
}

impl KafkaCluster {
    /// Brokers that keep their data below `folder`, with the libraries of `home` (`libs/*.jar`). A broker is announced
    /// to its clients under its port of `announced`; there are as many as that.
    ///
    /// # Errors
    /// When a folder can't be made or the storage can't be formatted.
    pub fn start(home: &Path, folder: &Path, announced: &[u16]) -> io::Result<Self> {
        let mut brokers = Vec::new();
        for (id, &announced_port) in (1..).zip(announced) {
            let folder = folder.join(format!("kafka-{id}"));
            std::fs::create_dir_all(&folder)?;
            let properties = folder.join("server.properties");
            brokers.push(Broker {
                id,
                direct_port: free_port(),
                client_port: free_port(),
                announced_port,
                controller_port: free_port(),
                process: java(&format!("kafka-{id}"), home, &folder, "kafka.Kafka", &properties),
                folder,
            });
        }
        let mut cluster = Self {
            brokers,
            home: home.to_owned(),
        };
        cluster.format()?;
        for broker in &mut cluster.brokers {
            broker.process.start()?;
        }
        Ok(cluster)
    }

    /// The brokers one by one, in the order of their numbers.
    pub fn into_brokers(self) -> Vec<Broker> {
        self.brokers
    }

    /// The cluster's id.
    pub const fn id(&self) -> &'static str {
        CLUSTER_ID
    }

    /// Bootstrap servers that lead straight to the brokers.
    pub fn direct(&self) -> String {
        list(self.brokers.iter().map(|broker| broker.direct_port))
    }

    /// Bootstrap servers under the announced ports.
    pub fn announced(&self) -> String {
        list(self.brokers.iter().map(|broker| broker.announced_port))
    }

    fn format(&self) -> io::Result<()> {
        let voters: Vec<String> = self
            .brokers
            .iter()
            .map(|broker| format!("{}@127.0.0.1:{}", broker.id, broker.controller_port))
            .collect();
        for broker in &self.brokers {
            let properties = broker.folder.join("server.properties");
            std::fs::write(&properties, broker.properties(&voters))?;
        }
        // A Java machine for each would take its time one after the other.
        let formats = self.brokers.iter().map(|broker| {
            Command::new("java")
                .args(["-XX:TieredStopAtLevel=1", "-Xmx128m", "-cp"])
                .arg(format!("{}/libs/*", self.home.display()))
                .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
                .arg(broker.folder.join("server.properties"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        });
        for format in formats.collect::<io::Result<Vec<_>>>()? {
            let output = format.wait_with_output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(format!("kafka's storage can't be formatted: {said}")));
            }
        }
        Ok(())
    }
}

impl Broker {
    fn properties(&self, voters: &[String]) -> String {
        let Self {
            id,
            direct_port,
            client_port,
            announced_port,
            controller_port,
            folder,
            ..
        } = self;
        let copies = voters.len();
        let in_sync = copies.min(2);
        let voters = voters.join(",");
        let mut text = format!(
            "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
             default.replication.factor={copies}\noffsets.topic.replication.factor={copies}\n\
             transaction.state.log.replication.factor={copies}\nmin.insync.replicas={in_sync}\n\
             transaction.state.log.min.isr={in_sync}\n\
             listeners=DIRECT://127.0.0.1:{direct_port},CLIENT://127.0.0.1:{client_port},\
             CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners=DIRECT://127.0.0.1:{direct_port},CLIENT://127.0.0.1:{announced_port}\n\
             listener.security.protocol.map=DIRECT:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\n",
            folder.join("data").display()
        );
        for line in SETTINGS {
            // Writing to a string can't fail.
            let _written = writeln!(text, "{line}");
        }
        text
    }
}

/// What all brokers have in common. A dead broker's sessions end soon, for the tests' sake; what was acknowledged is on
/// two brokers at least where there are more, and a broker that lacks it never leads.
const SETTINGS: [&str; 16] = [
    "inter.broker.listener.name=DIRECT",
    "controller.listener.names=CONTROLLER",
    "auto.create.topics.enable=false",
    "broker.heartbeat.interval.ms=1000",
    "broker.session.timeout.ms=6000",
    "group.initial.rebalance.delay.ms=0",
    "group.min.session.timeout.ms=1000",
    "log.cleaner.enable=false",
    // Tests write records of years ago: the broker would delete them.
    "log.retention.ms=-1",
    "message.max.bytes=2097152",
    "num.network.threads=2",
    "num.io.threads=3",
    "num.partitions=4",
    "offsets.topic.num.partitions=4",
    "replica.lag.time.max.ms=8000",
    "unclean.leader.election.enable=false",
];

fn java(name: &str, home: &Path, folder: &Path, class: &str, properties: &Path) -> Process {
    let arguments = [
        "-Xms96m",
        "-Xmx320m",
        "-Xss512k",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        &format!("{}/libs/*", home.display()),
        class,
        &properties.display().to_string(),
    ]
    .map(str::to_owned);
    Process::new(name, "java", arguments, folder)
}

fn list(ports: impl Iterator<Item = u16>) -> String {
    let servers: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    servers.join(",")
}
