//! What librdkafka's clients are told: the configuration's properties, what ingest relies on, and defaults between.

use crate::config::KafkaConfig;
use crate::source::StreamError;
use rdkafka::ClientConfig;

/// Properties that can't be set, and why.
const RESERVED: [(&str, &str); 14] = [
    ("acks", "what is appended must be on every replica that is in step"),
    ("allow.auto.create.topics", "a mistyped topic would come to be"),
    ("auto.offset.reset", "where to read is the feature store's to say"),
    ("bootstrap.servers", "set `bootstrap`"),
    ("enable.auto.commit", "only what is durable is committed"),
    ("enable.auto.offset.store", "only what is durable is committed"),
    ("enable.idempotence", "a record that is sent again would be there twice"),
    ("enable.partition.eof", "ingest asks for the ends of partitions itself"),
    ("group.id", "set `group`: each source has a group of its own"),
    ("group.protocol", "partitions are handed over by the classic protocol"),
    ("isolation.level", "records of aborted transactions would be read"),
    ("metadata.broker.list", "set `bootstrap`"),
    ("partition.assignment.strategy", "partitions are handed over one by one"),
    ("transactional.id", "exactly once needs no transactions here"),
];

/// The settings of every client of one stream, secrets revealed. Its `Debug` does not show them.
#[derive(Debug)]
pub(super) struct Settings {
    base: ClientConfig,
    fetch_queue_kib: String,
}

impl Settings {
    /// # Errors
    /// When a property is reserved, can't be used in this program, or refers to what can't be read.
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, StreamError> {
        let mut base = ClientConfig::new();
        for (key, value) in &config.properties {
            let invalid = |why: String| StreamError::Config(format!("kafka property `{key}` can't be set: {why}"));
            if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| reserved == key) {
                return Err(invalid((*why).to_owned()));
            }
            let value = value.reveal().map_err(invalid)?;
            check_mechanism(key, &value).map_err(invalid)?;
            base.set(key, value);
        }
        base.set("bootstrap.servers", &config.bootstrap)
            .set("allow.auto.create.topics", "false");
        Ok(Self {
            base,
            fetch_queue_kib: config.fetch_queue_kib.to_string(),
        })
    }

    /// Of a client that asks and administers.
    pub(super) const fn base(&self) -> &ClientConfig {
        &self.base
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.base.clone();
        default(&mut client, "compression.type", "lz4");
        default(&mut client, "message.timeout.ms", "30000");
        client.set("acks", "all").set("enable.idempotence", "true");
        client
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.base.clone();
        // New partitions and topics are noticed this soon.
        default(&mut client, "topic.metadata.refresh.interval.ms", "10000");
        // A worker that was killed keeps its partitions for this long; librdkafka's 45 s would be 45 s without features.
        default(&mut client, "session.timeout.ms", "10000");
        default(&mut client, "heartbeat.interval.ms", "2000");
        // librdkafka reads ahead of its poller: this is what bounds it.
        default(&mut client, "queued.max.messages.kbytes", &self.fetch_queue_kib);
        client
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        client
    }
}

/// Sets what the properties leave open.
pub(super) fn default(client: &mut ClientConfig, key: &str, value: &str) {
    if client.get(key).is_none() {
        client.set(key, value);
    }
}

/// Mechanisms that librdkafka would only find missing once it connects, or not say.
fn check_mechanism(key: &str, value: &str) -> Result<(), String> {
    let known = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
    if matches!(key, "sasl.mechanism" | "sasl.mechanisms") && !known.contains(&value) {
        return Err(format!(
            "`{value}` is not built in: use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, or a client's certificate \
             (`ssl.certificate.location`, `ssl.key.location`) without SASL"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<Settings, StreamError> {
        let mut config = KafkaConfig::default();
        config.properties.insert(key.to_owned(), value.into());
        Settings::new(&config)
    }

    #[test]
    fn a_property_that_would_break_a_promise_is_refused_with_the_reason() {
        let error = with("enable.auto.commit", "true").unwrap_err().to_string();
        assert_eq!(
            error,
            "kafka property `enable.auto.commit` can't be set: only what is durable is committed"
        );
        for (key, _) in RESERVED {
            assert!(with(key, "x").is_err(), "{key}");
        }
    }

    #[test]
    fn a_mechanism_that_is_not_built_in_is_refused() {
        assert!(with("sasl.mechanism", "SCRAM-SHA-512").is_ok());
        let error = with("sasl.mechanisms", "GSSAPI").unwrap_err().to_string();
        assert!(error.contains("`GSSAPI` is not built in: use PLAIN"), "{error}");
    }

    #[test]
    fn a_property_replaces_a_default_and_a_secret_is_revealed_but_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let settings = with("sasl.password", &format!("${{file:{}}}", file.path().display())).unwrap();
        assert_eq!(settings.consumer("g").get("sasl.password"), Some("hunter2"));
        assert!(!format!("{settings:?}").contains("hunter2"));
        let settings = with("session.timeout.ms", "6000").unwrap();
        assert_eq!(settings.consumer("g").get("session.timeout.ms"), Some("6000"));
        assert_eq!(settings.consumer("g").get("heartbeat.interval.ms"), Some("2000"));
    }
}
