//! The S3 server of the tests, and buckets of their own in it.

#![allow(clippy::panic, reason = "a test without its service must fail, and say what to do")]

use crate::services;
use ondol_runtime::S3Config;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The region of every bucket.
pub const REGION: &str = "us-east-1";
/// The server takes any credentials; these are the tests'.
pub const ACCESS_KEY_ID: &str = "ondol-tests";
/// The secret that belongs to [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "never-shown";

/// The server's URL.
pub fn endpoint() -> String {
    services::s3()
}

/// How the server is reached.
pub fn config() -> S3Config {
    config_at(endpoint())
}

/// As [`config`], through `endpoint`.
pub fn config_at(endpoint: String) -> S3Config {
    S3Config {
        endpoint: Some(endpoint),
        region: Some(REGION.to_owned()),
        access_key_id: Some(ACCESS_KEY_ID.to_owned()),
        secret_access_key: Some(SECRET_ACCESS_KEY.into()),
        allow_http: Some(true),
        ..S3Config::default()
    }
}

/// A new bucket's name.
pub fn bucket() -> String {
    let name = services::unique_name("ondol").replace('_', "-");
    let endpoint = endpoint();
    let address = endpoint.strip_prefix("http://").unwrap_or(&endpoint);
    let answer = create(address, &name).unwrap_or_else(|error| panic!("the S3 server at {endpoint}: {error}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "a bucket can't be made: {answer}");
    name
}

/// The variables by which other programs reach the server.
pub fn variables() -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", endpoint()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ]
}

fn create(address: &str, bucket: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    let request =
        format!("PUT /{bucket} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
