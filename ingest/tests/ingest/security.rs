//! A Kafka that wants TLS and proof of who one is: all of ingest's clients (reading, appending, administering) get in
//! with what the configuration says, and nobody else does.

use crate::setup::{Boxed, events, snapshot, topic, until};
use crate::store::FakeStore;
use ondol_ingest::config::{KafkaConfig, SchemaRegistryConfig, Secret};
use ondol_ingest::schema_registry::{LookupError, SchemaRegistry};
use ondol_ingest::source::Stream;
use ondol_ingest::source::kafka::KafkaStream;
use ondol_testkit::process::{Process, free_port};
use ondol_testkit::secured_kafka::{PASSWORD, SecuredKafka, USER, certificates};
use ondol_testkit::services::{kafka_home, unique_name};
use std::path::Path;
use std::sync::Arc;

fn config(bootstrap: String, properties: &[(&str, &str)]) -> KafkaConfig {
    let properties = properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Secret::from(*value)));
    KafkaConfig {
        bootstrap,
        group: unique_name("ondol-ingest"),
        replication: 1,
        properties: properties.collect(),
        ..KafkaConfig::default()
    }
}

async fn goes_through(config: &KafkaConfig) {
    let topic = topic();
    let stream: Arc<dyn Stream> = Arc::new(KafkaStream::new(config).unwrap());
    stream.append(&topic, events(0, 50)).await.unwrap();
    let store = FakeStore::new(snapshot(&topic));
    let ingest = Boxed::start(stream, &store);
    until("the events are delivered", async || store.count() >= 50).await;
    ingest.stop().await;
}

async fn is_refused(config: &KafkaConfig) {
    let mut config = config.clone();
    config.properties.insert("message.timeout.ms".to_owned(), "3000".into());
    let stream = KafkaStream::new(&config).unwrap();
    let error = stream.append(&topic(), events(0, 1)).await.unwrap_err();
    assert!(!error.to_string().contains(PASSWORD), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secured_kafka_is_read_and_written_by_those_who_may() {
    let folder = tempfile::tempdir().unwrap();
    let kafka = SecuredKafka::start(Path::new(&kafka_home()), folder.path()).unwrap();
    let secret = folder.path().join("password");
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let (ca, secret) = (kafka.pem("ca"), format!("${{file:{}}}", secret.display()));
    let sasl = |mechanism, password| {
        let properties = [
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", USER),
            ("sasl.password", password),
        ];
        config(kafka.sasl(), &properties)
    };
    goes_through(&sasl("SCRAM-SHA-512", &secret)).await;
    goes_through(&sasl("PLAIN", PASSWORD)).await;
    is_refused(&sasl("SCRAM-SHA-512", "wrong")).await;
    // A certificate that nobody vouches for, and no TLS at all.
    let mut untrusting = sasl("PLAIN", PASSWORD);
    untrusting.properties.remove("ssl.ca.location");
    is_refused(&untrusting).await;
    is_refused(&config(kafka.sasl(), &[])).await;
    let mutual = [
        ("security.protocol", "SSL"),
        ("ssl.ca.location", ca.as_str()),
        ("ssl.certificate.location", &kafka.pem("client")),
        ("ssl.key.location", &kafka.pem("client-key")),
    ];
    goes_through(&config(kafka.mutual(), &mutual)).await;
    is_refused(&config(kafka.mutual(), &mutual[..2])).await;
}

#[test]
fn a_registry_behind_tls_is_trusted_by_its_authority_only() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path()).unwrap();
    let answer = r#"{"schema":"\"int\""}"#;
    std::fs::create_dir_all(folder.path().join("schemas/ids")).unwrap();
    let response = format!("HTTP/1.0 200 ok\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
    std::fs::write(folder.path().join("schemas/ids/7"), response).unwrap();
    let port = free_port();
    let arguments = [
        "s_server",
        "-HTTP",
        "-accept",
        &port.to_string(),
        "-cert",
        "server.pem",
        "-key",
        "server.pem",
    ];
    let mut server = Process::new("registry", "openssl", arguments.map(str::to_owned), folder.path());
    server.start().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let schema = |ca| {
        let config = SchemaRegistryConfig {
            url: format!("https://127.0.0.1:{port}"),
            ca,
            ..SchemaRegistryConfig::default()
        };
        let registry = SchemaRegistry::new(&config, runtime.handle().clone()).unwrap().unwrap();
        registry.schema(7)
    };
    assert_eq!(schema(Some(folder.path().join("ca.pem"))).unwrap().text, "\"int\"");
    let Err(LookupError::Unavailable(why)) = schema(None) else {
        panic!("nobody vouches for it")
    };
    assert!(why.contains("certificate"), "{why}");
}
