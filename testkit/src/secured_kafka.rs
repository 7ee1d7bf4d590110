//! A Kafka broker of a test's own that wants TLS: one listener with SASL (PLAIN, SCRAM-SHA-512), one that wants the
//! client's certificate. Keys and certificates are made for it with the `openssl` program.

use crate::process::{Process, free_port};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Any 22 characters of URL-safe base64 that decode to 16 bytes.
const CLUSTER_ID: &str = "b25kb2wtc2VjdXJlZC0wMQ";
/// The only user.
pub const USER: &str = "ondol";
/// The user's password.
pub const PASSWORD: &str = "p4ss-${word}";

/// The broker.
#[derive(Debug)]
pub struct SecuredKafka {
    folder: PathBuf,
    sasl_port: u16,
    mutual_port: u16,
    broker: Process,
}

impl SecuredKafka {
    /// Starts it with the libraries of `home` (`libs/*.jar`), its data and certificates below `folder`, and waits until
    /// it listens.
    ///
    /// # Errors
    /// When a certificate can't be made, the storage can't be formatted, or the broker does not listen within a minute.
    pub fn start(home: &Path, folder: &Path) -> io::Result<Self> {
        certificates(folder)?;
        let (sasl_port, mutual_port) = (free_port(), free_port());
        let properties = folder.join("server.properties");
        std::fs::write(&properties, settings(folder, sasl_port, mutual_port))?;
        let classes = format!("{}/libs/*", home.display());
        let scram = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
        let java = [
            "-Xmx320m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            &classes,
        ];
        run(Command::new("java")
            .args(java)
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                CLUSTER_ID,
                "--add-scram",
                &scram,
                "-c",
            ])
            .arg(&properties))?;
        let arguments = java.iter().map(|argument| (*argument).to_owned());
        let arguments = arguments.chain(["kafka.Kafka".to_owned(), properties.display().to_string()]);
        let mut broker = Process::new("secured-kafka", "java", arguments, folder);
        broker.start()?;
        let started = Self {
            folder: folder.to_owned(),
            sasl_port,
            mutual_port,
            broker,
        };
        started.wait()?;
        Ok(started)
    }

    /// Bootstrap servers of the listener that wants a user and password.
    pub fn sasl(&self) -> String {
        format!("127.0.0.1:{}", self.sasl_port)
    }

    /// Bootstrap servers of the listener that wants a client's certificate.
    pub fn mutual(&self) -> String {
        format!("127.0.0.1:{}", self.mutual_port)
    }

    /// A PEM file: the certificate to trust (`ca`), the client's (`client`), or its key (`client-key`).
    pub fn pem(&self, name: &str) -> String {
        self.folder.join(format!("{name}.pem")).display().to_string()
    }

    fn wait(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", self.mutual_port)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.broker.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        Err(io::Error::other(format!(
            "the broker does not listen; its last lines, newest first: {tail:#?}"
        )))
    }
}

fn settings(folder: &Path, sasl_port: u16, mutual_port: u16) -> String {
    let (inner, controller) = (free_port(), free_port());
    let folder = folder.display();
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=SECURE://127.0.0.1:{sasl_port},MUTUAL://127.0.0.1:{mutual_port},INNER://127.0.0.1:{inner},\
         CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=SECURE://127.0.0.1:{sasl_port},MUTUAL://127.0.0.1:{mutual_port},INNER://127.0.0.1:{inner}\n\
         listener.security.protocol.map=SECURE:SASL_SSL,MUTUAL:SSL,INNER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=INNER\ncontroller.listener.names=CONTROLLER\n\
         ssl.keystore.type=PEM\nssl.keystore.location={folder}/server.pem\n\
         ssl.truststore.type=PEM\nssl.truststore.location={folder}/ca.pem\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN\n\
         listener.name.secure.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         listener.name.secure.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
         log.dirs={folder}/data\nnum.partitions=2\noffsets.topic.num.partitions=2\noffsets.topic.replication.factor=1\nlog.retention.ms=-1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n"
    )
}

/// Makes an authority below `folder` (`ca.pem`), and what it signed: the server for 127.0.0.1 (`server.pem` with its key),
/// and a client (`client.pem`, `client-key.pem`).
///
/// # Errors
/// When the `openssl` program refuses.
pub fn certificates(folder: &Path) -> io::Result<()> {
    let at = |name: &str| folder.join(name).display().to_string();
    let key = ["-newkey", "rsa:2048", "-nodes", "-sha256"];
    run(Command::new("openssl")
        .args(["req", "-x509", "-days", "2", "-subj", "/CN=ondol-test-authority"])
        .args(key)
        .args(["-keyout", &at("ca-key.pem"), "-out", &at("ca.pem")]))?;
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n")?;
    for name in ["server", "client"] {
        let [key_file, request, certificate] =
            ["-key.pem", ".csr", "-certificate.pem"].map(|end| at(&format!("{name}{end}")));
        run(Command::new("openssl")
            .args(["req", "-subj", &format!("/CN={name}")])
            .args(key)
            .args(["-keyout", &key_file, "-out", &request]))?;
        run(Command::new("openssl")
            .args([
                "x509",
                "-req",
                "-days",
                "2",
                "-sha256",
                "-CAcreateserial",
                "-in",
                &request,
            ])
            .args([
                "-CA",
                &at("ca.pem"),
                "-CAkey",
                &at("ca-key.pem"),
                "-extfile",
                &at("names"),
                "-out",
                &certificate,
            ]))?;
    }
    let chain = ["server-key.pem", "server-certificate.pem", "ca.pem"];
    let chain = chain.map(|name| std::fs::read_to_string(folder.join(name)));
    let chain: Vec<String> = chain.into_iter().collect::<io::Result<_>>()?;
    std::fs::write(folder.join("server.pem"), chain.concat())?;
    std::fs::copy(folder.join("client-certificate.pem"), folder.join("client.pem"))?;
    Ok(())
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?} failed: {said}")))
}
