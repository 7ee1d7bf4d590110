//! Gateways that are replaced one after the other behind a load balancer: every request is answered, every answer is
//! right, and every answer has its record.

use crate::estate::{Estate, Server, until};
use crate::grpc::Servers;
use crate::load::{Load, none};
use crate::scene::Model;
use ondol_testkit::proxy::Proxy;
use ondol_testkit::{services, unique_name};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use url::Url;

const MODELS: [Model; 3] = [Model::Plain, Model::Steady, Model::Strict];

/// What a load balancer does: a gateway that says it is not ready gets no new connections; those that it has stay until
/// either end closes them.
fn balance(proxy: &Proxy, gateways: &[Server]) -> tokio::task::JoinHandle<()> {
    let (proxy, ports) = (
        proxy.clone(),
        gateways.iter().map(|gateway| gateway.port).collect::<Vec<_>>(),
    );
    tokio::spawn(async move {
        let client = reqwest::Client::new();
        loop {
            for port in &ports {
                let asked = client.get(format!("http://127.0.0.1:{port}/readyz")).send().await;
                if asked.is_ok_and(|answer| answer.status().is_success()) {
                    proxy.take_in(*port);
                } else {
                    proxy.take_out(*port, false);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_drops_no_request_and_no_record() {
    let artifacts = tempfile::tempdir().unwrap();
    let database = database().await;
    let settings = format!(
        "drain_grace_ms = 3000\ndrain_ms = 100000\n[model_gateway]\ndatabase = \"{database}\"\nartifacts = \"{}\"\n\
         catalog_refresh_ms = 100\ndecision_log = {{ drain_ms = 100000 }}\n",
        artifacts.path().display()
    );
    let mut estate = Estate::start("", &[&settings, &settings])
        .await
        .with_models(&MODELS)
        .await;
    let ports: Vec<u16> = estate.gateways.iter().map(|gateway| gateway.port).collect();
    let proxy = Proxy::start("callers to the gateways", &ports).await.unwrap();
    let balancer = balance(&proxy, &estate.gateways);
    let url = Url::parse(&format!("http://127.0.0.1:{}", proxy.port)).unwrap();
    let load = Load::with_ids(&url, &MODELS, none);
    // Each of these calls is one of many on its connection, and only the client can share them out.
    let grpc = Load::grpc(&Servers::balanced(&ports), &MODELS, none);
    tokio::join!(load.whole(20), grpc.whole(20), grpc.raw(&MODELS, 10));
    for gateway in 0..2 {
        estate.gateways[gateway].stop();
        tokio::join!(load.whole(10), grpc.whole(10), grpc.raw(&MODELS, 5));
        estate.gateways[gateway].start().await;
        tokio::join!(load.whole(10), grpc.whole(10), grpc.raw(&MODELS, 5));
    }
    let mut seen = load.stop("rolling restart").await;
    seen.answered
        .extend(grpc.stop("rolling restart, over gRPC").await.answered);
    balancer.abort();
    for gateway in &mut estate.gateways {
        gateway.stop();
    }
    let mut missing = Vec::new();
    until(
        || "answers have no record".to_owned(),
        async || {
            let recorded = recorded(&estate);
            missing = seen
                .answered
                .iter()
                .filter(|(_, id)| !recorded.contains(id))
                .cloned()
                .collect();
            missing.is_empty()
        },
    )
    .await;
}

/// The request ids of decisions in the offline table.
fn recorded(estate: &Estate) -> BTreeSet<String> {
    let output = tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_ondol"))
            .args([
                "sql",
                "select request_id from decisions",
                "--output",
                "json",
                "--server",
            ])
            .arg(estate.core.url.as_str())
            .output()
            .unwrap()
    });
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let ids = rows.as_array().into_iter().flatten();
    ids.filter_map(|row| Some(row["request_id"].as_str()?.to_owned()))
        .collect()
}

/// The URL of a fresh PostgreSQL database.
async fn database() -> String {
    use sqlx::Connection as _;
    let (server, name) = (services::postgres(), unique_name("chaos"));
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    let mut url = Url::parse(&server).unwrap();
    url.set_path(&name);
    url.to_string()
}
