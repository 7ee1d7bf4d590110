//! Where the real services are. A test that needs one fails when it is missing; it never skips.

#![allow(clippy::panic, reason = "a test without its service must fail, and say what to do")]

/// Kafka's bootstrap servers.
pub fn kafka() -> String {
    address("ONDOL_TEST_KAFKA")
}

/// The folder of Kafka's libraries (`libs/*.jar`), for tests that run brokers of their own.
pub fn kafka_home() -> String {
    address("ONDOL_TEST_KAFKA_HOME")
}

/// The URL of a schema registry that speaks Confluent's protocol; each test uses subjects of its own.
pub fn schema_registry() -> String {
    address("ONDOL_TEST_SCHEMA_REGISTRY")
}

/// A Redis URL; each test uses a key prefix of its own.
pub fn redis() -> String {
    address("ONDOL_TEST_REDIS")
}

/// The program of Redis, for tests that run servers of their own.
pub fn redis_server() -> String {
    std::env::var("ONDOL_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A PostgreSQL URL of a role that may create databases.
pub fn postgres() -> String {
    address("ONDOL_TEST_POSTGRES")
}

/// The URL of a server that speaks S3's protocol; see [`crate::s3`].
pub fn s3() -> String {
    address("ONDOL_TEST_S3")
}

/// A Python interpreter that has the packages of `scripts/requirements-test.txt`.
pub fn python() -> String {
    address("ONDOL_TEST_PYTHON")
}

/// A Python interpreter that has the packages of `scripts/requirements-inference.txt`.
pub fn inference_python() -> String {
    address("ONDOL_TEST_INFERENCE_PYTHON")
}

/// A Python interpreter that has KServe's SDK (`scripts/requirements-kserve.txt`).
pub fn kserve_python() -> String {
    address("ONDOL_TEST_KSERVE_PYTHON")
}

/// A Python interpreter that has servers of models (`scripts/requirements-upstreams.txt`).
pub fn upstreams_python() -> String {
    address("ONDOL_TEST_UPSTREAMS_PYTHON")
}

/// `prefix` with a random ending: topics, key prefixes and schemas of tests that run side by side must differ.
pub fn unique_name(prefix: &str) -> String {
    format!("{prefix}_{:016x}", rand::random::<u64>())
}

fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: run `scripts/services up` and `eval \"$(scripts/services env)\"`, or `scripts/test`"
        )
    })
}
