//! Handles to the real services the tests run against. Dev-only: it panics where a test can't go on.

pub mod authority;
pub mod kafka_cluster;
pub mod process;
pub mod proxy;
pub mod redis_cluster;
pub mod s3;
pub mod secured_kafka;
pub mod services;

pub use services::unique_name;
