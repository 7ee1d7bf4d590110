//! Buckets of S3 and of whatever speaks its protocol.

use super::ObjectsError;
use crate::secret::Secret;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig, StaticCredentialProvider};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long a request is tried again while the server does not answer, or says that it can't just now.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a request is tried again within that.
const RETRIES: usize = 8;

/// How to reach S3. What is absent comes from the standard variables (`AWS_ENDPOINT_URL`, `AWS_REGION`,
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_ALLOW_HTTP`, web identity, container roles),
/// then from the machine's own role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The server's URL, of stores other than Amazon's: `https://minio:9000`.
    pub endpoint: Option<String>,
    /// The buckets' region.
    pub region: Option<String>,
    /// Who asks.
    pub access_key_id: Option<String>,
    /// Its secret. `${file:…}` and `${env:…}` keep it elsewhere.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Whether the endpoint may be plain `http://`.
    pub allow_http: Option<bool>,
}

/// Opens `bucket`. Nothing is asked of the server yet.
pub(super) fn open(bucket: &str, config: &S3Config) -> Result<AmazonS3, ObjectsError> {
    let refused = |detail: String| ObjectsError::new(format!("s3://{bucket}"), detail);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), "5 seconds")
        .with_retry(RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: PATIENCE,
        });
    if let Some(allow_http) = config.allow_http {
        builder = builder.with_allow_http(allow_http);
    }
    if let Some(endpoint) = &config.endpoint {
        // The variable of this name would win over the general one, and the configuration over both.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(credential) = credential(config).map_err(refused)? {
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    }
    refuse_plain_http(&builder).map_err(refused)?;
    builder.build().map_err(|error| refused(error.to_string()))
}

/// What the configuration itself says of who asks. A token of the environment would belong to the environment's key.
fn credential(config: &S3Config) -> Result<Option<AwsCredential>, String> {
    let revealed = |key: &str, secret: &Option<Secret>| {
        let text = secret.as_ref().map(Secret::reveal).transpose();
        text.map_err(|detail| format!("`s3.{key}`: {detail}"))
    };
    let secret = revealed("secret_access_key", &config.secret_access_key)?;
    let token = revealed("session_token", &config.session_token)?;
    match (&config.access_key_id, secret) {
        (Some(key_id), Some(secret_key)) => Ok(Some(AwsCredential {
            key_id: key_id.clone(),
            secret_key,
            token,
        })),
        (None, None) if token.is_none() => Ok(None),
        _ => Err(
            "`s3.access_key_id` and `s3.secret_access_key` belong together, and `s3.session_token` to both: give all that \
             you have, or none and the AWS_… variables"
                .to_owned(),
        ),
    }
}

/// The client would find out only when it sends, and try again for a while.
fn refuse_plain_http(builder: &AmazonS3Builder) -> Result<(), String> {
    let set = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let endpoint = set(AmazonS3ConfigKey::S3Endpoint).or_else(|| set(AmazonS3ConfigKey::Endpoint));
    let allowed = set(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).is_some_and(|text| text == "true");
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && !allowed => Err(format!(
            "the endpoint {endpoint} is not encrypted: use https, or say `s3.allow_http = true` (AWS_ALLOW_HTTP=true)"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &S3Config) -> String {
        open("lake", config).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn half_of_the_credentials_and_a_plain_endpoint_are_refused() {
        let half = S3Config {
            access_key_id: Some("id".to_owned()),
            ..S3Config::default()
        };
        assert!(refused(&half).contains("`s3.secret_access_key`"), "{}", refused(&half));
        let plain = S3Config {
            endpoint: Some("http://minio:9000".to_owned()),
            ..S3Config::default()
        };
        assert!(
            refused(&plain).contains("`s3.allow_http = true`"),
            "{}",
            refused(&plain)
        );
        let allowed = S3Config {
            allow_http: Some(true),
            ..plain
        };
        open("lake", &allowed).unwrap();
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = S3Config {
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some(Secret::from("hunter2")),
            session_token: Some(Secret::from("t0ken")),
            ..S3Config::default()
        };
        let shown = format!("{config:?} {:?}", open("lake", &config).unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("t0ken"), "{shown}");
    }
}
