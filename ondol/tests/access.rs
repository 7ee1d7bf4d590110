//! Who is let in, as a user meets it: the real binary over TLS, with keys and a service token.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use ondol_testkit::authority::Authority;
use ondol_testkit::process::{Process, free_port};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const SERVICE_TOKEN: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

fn ondol(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ondol"))
        .args(line.split(' '))
        .current_dir(folder)
        .env("ONDOL_OUTPUT", "json")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_gateway_that_others_can_reach_does_not_start_without_access() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "serve model-gateway --listen 0.0.0.0:0 --data data",
        "serve all --listen 0.0.0.0:0 --data data",
        "dev --listen 0.0.0.0:0 --data data",
    ] {
        for mode in ["auto", "off"] {
            let output = ondol(folder.path(), line, &[("ONDOL_MODEL_GATEWAY__ACCESS__MODE", mode)]);
            assert!(!output.status.success(), "{line}");
            let refused = json(&output)["error"].as_str().unwrap().to_owned();
            assert!(
                refused.contains("ondol key bootstrap") && refused.contains("mode = \"required\""),
                "{refused}"
            );
        }
    }
}

#[test]
fn a_short_service_token_is_refused_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    let output = ondol(
        folder.path(),
        "dev --listen 127.0.0.1:0",
        &[("ONDOL_PEERS__TOKEN", "hunter2")],
    );
    assert!(!output.status.success());
    let refused = json(&output)["error"].as_str().unwrap().to_owned();
    assert!(
        refused.contains("`peers.token` has 7 characters") && !refused.contains("hunter2"),
        "{refused}"
    );
}

/// What a user does first: certificates, a configuration, a first key, the server.
struct Site {
    folder: tempfile::TempDir,
    server: Process,
    url: String,
}

impl Site {
    fn start() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "ca").unwrap();
        let issued = authority.issue("server", "DNS:localhost,IP:127.0.0.1").unwrap();
        let port = free_port();
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\ndata_dir = \"data\"\nlog_filter = \"debug,ondol=trace\"\n\
             [tls]\ncertificate = {:?}\nkey = {:?}\n[peers]\ntoken = \"${{env:SITE_TOKEN}}\"\n\
             [model_gateway.access]\nmode = \"required\"\n",
            issued.certificate, issued.key
        );
        std::fs::write(folder.path().join("ondol.toml"), config).unwrap();
        let first = json(&ondol(folder.path(), "key bootstrap", &[]));
        let key = first["key"].as_str().unwrap().to_owned();
        let arguments = ["serve", "all"].map(ToOwned::to_owned);
        let mut server = Process::new("ondol", env!("CARGO_BIN_EXE_ondol"), arguments, folder.path())
            .with_variable("SITE_TOKEN", SERVICE_TOKEN);
        server.start().unwrap();
        let site = Self {
            folder,
            server,
            url: format!("https://127.0.0.1:{port}"),
        };
        site.wait(&key);
        (site, key)
    }

    fn ondol(&self, line: &str, token: &str, service_token: &str) -> Output {
        let ca = self.folder.path().join("ca.pem").display().to_string();
        let mut variables = vec![("ONDOL_SERVER", self.url.as_str()), ("ONDOL_CA", ca.as_str())];
        if !token.is_empty() {
            variables.push(("ONDOL_TOKEN", token));
        }
        if !service_token.is_empty() {
            variables.push(("ONDOL_SERVICE_TOKEN", service_token));
        }
        ondol(self.folder.path(), line, &variables)
    }

    fn wait(&self, key: &str) {
        for _ in 0..600 {
            if self.ondol("key whoami", key, "").status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let log = std::fs::read_to_string(self.server.log()).unwrap_or_default();
        panic!(
            "the server does not answer: {}",
            &log[log.len().saturating_sub(4_000)..]
        );
    }
}

#[test]
fn keys_are_made_used_and_ended_over_tls_and_no_log_holds_one() {
    let (site, admin) = Site::start();
    let created = json(&site.ondol(
        "key create checkout --tenant payments --scope predict:fraud --expires 90d",
        &admin,
        "",
    ));
    let (key, id) = (created["key"].as_str().unwrap(), created["id"].as_str().unwrap());
    let who = json(&site.ondol("key whoami", key, ""));
    assert_eq!(
        (&who["tenant"], &who["who"]),
        (&Value::from("payments"), &Value::from(format!("key:{id}")))
    );

    let refused = json(&site.ondol("key list", key, ""));
    assert_eq!(refused["code"], "forbidden");
    assert!(
        refused["error"].as_str().unwrap().contains("lacks the scope `admin`"),
        "{refused}"
    );
    let refused = json(&site.ondol("key list", "", ""));
    assert_eq!(refused["code"], "unauthenticated");
    assert_eq!(json(&site.ondol("key list", &admin, "")).as_array().unwrap().len(), 2);

    assert!(site.ondol("ls", "", SERVICE_TOKEN).status.success());
    let refused = json(&site.ondol("ls", &admin, ""))["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(refused.contains("--service-token"), "{refused}");
    assert!(!site.ondol("ls", &admin, "another-token-of-length").status.success());

    assert!(site.ondol(&format!("key revoke {id}"), &admin, "").status.success());
    assert_eq!(json(&site.ondol("key whoami", key, ""))["code"], "unauthenticated");
    let audit = json(&site.ondol("audit", &admin, ""));
    let told: Vec<&str> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["subject"].as_str().unwrap())
        .collect();
    let revoked = format!("DELETE /v1/keys/{id}");
    assert_eq!(told, [revoked.as_str(), "POST /v1/keys", "ondol key bootstrap"]);

    let log = std::fs::read_to_string(site.server.log()).unwrap();
    assert!(log.len() > 10_000, "it logs all it can");
    for secret in [key, admin.as_str(), SERVICE_TOKEN] {
        // The random part: the id before it may be told.
        let secret = &secret[secret.len() - 32..];
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
