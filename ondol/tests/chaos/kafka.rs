//! Kafka down: who needs no record answers, who needs one refuses, and every answer is delivered or counted as dropped.

use crate::estate::{Estate, until};
use crate::grpc::Servers;
use crate::load::Load;
use crate::scene::{Model, Outcome, is_of_audit};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_testkit::kafka_cluster::{Broker, KafkaCluster};
use ondol_testkit::proxy::Proxy;
use ondol_testkit::services;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const TOPIC: &str = "ondol.decisions";
const DROPPED: &str = "ondol_gateway_decisions_dropped_total";
/// Decisions that wait at most: few, so that some must be dropped.
const QUEUE: usize = 150;

/// One broker, and a proxy on the core's way to it.
struct Kafka {
    broker: Broker,
    direct: String,
    proxy: Proxy,
    _folder: TempDir,
}

impl Kafka {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start("core to kafka", &[]).await.unwrap();
        let home = PathBuf::from(services::kafka_home());
        let cluster = tokio::task::block_in_place(|| KafkaCluster::start(&home, folder.path(), &[proxy.port])).unwrap();
        let direct = cluster.direct();
        let broker = cluster.into_brokers().remove(0);
        proxy.lead_to(broker.client_port);
        let kafka = Self {
            broker,
            direct,
            proxy,
            _folder: folder,
        };
        kafka.wait().await;
        kafka
    }

    /// Waits until the broker answers.
    async fn wait(&self) {
        until(
            || "the broker does not answer".to_owned(),
            async || {
                let consumer: BaseConsumer = self.client().create().unwrap();
                let asked = tokio::task::block_in_place(|| consumer.fetch_metadata(None, Duration::from_secs(2)));
                asked.is_ok_and(|metadata| !metadata.brokers().is_empty())
            },
        )
        .await;
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.direct);
        client
    }

    /// The request ids of every decision in the topic.
    fn recorded(&self) -> BTreeSet<String> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "ondol-chaos-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let patience = Duration::from_secs(60);
        let metadata = consumer.fetch_metadata(Some(TOPIC), patience).unwrap();
        let mut left = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            left.add_partition_offset(TOPIC, partition.id(), Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&left).unwrap();
        let (mut ends, mut ids) = (left.count(), BTreeSet::new());
        while ends > 0 {
            match consumer.poll(patience).expect("the topic is not read to its end") {
                Ok(message) => {
                    let event: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
                    ids.insert(event["request_id"].as_str().unwrap().to_owned());
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ends -= 1,
                Err(error) => panic!("{error}"),
            }
        }
        ids
    }
}

/// Only a model whose decisions must be recorded may refuse, and says that it is for that.
fn audit_only(model: Model, error: &ModelGatewayError) -> bool {
    model == Model::Strict && is_of_audit(error)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_models_answer_and_what_is_not_recorded_is_counted_or_refused() {
    let mut kafka = Kafka::start().await;
    let core = format!(
        "[ingest.stream]\nkind = \"kafka\"\nbootstrap = \"127.0.0.1:{}\"\ngroup = \"chaos\"\n\
         [ingest.stream.properties]\n\"message.timeout.ms\" = \"2000\"\n\"reconnect.backoff.max.ms\" = \"500\"\n\
         \"socket.timeout.ms\" = \"4000\"\n",
        kafka.proxy.port
    );
    let gateway = format!(
        "drain_ms = 100000\n[model_gateway]\n\
         decision_log = {{ queue = {QUEUE}, batch = 50, drain_ms = 100000 }}\n"
    );
    let models = [Model::Plain, Model::Steady, Model::Strict];
    let mut estate = Estate::start(&core, &[&gateway]).await.with_models(&models).await;
    let load = Load::with_ids(&estate.front().url, &models, audit_only);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &models, audit_only);
    load.whole(20).await;
    tokio::join!(grpc.whole(10), grpc.raw(&models, 5));

    // Hanging: nothing comes back.
    kafka.proxy.stall();
    down(&load, &estate).await;
    kafka.proxy.mend();
    load.whole(20).await;

    // Dead: `kill -9`, and nobody listens.
    tokio::task::block_in_place(|| kafka.broker.process.kill()).unwrap();
    down(&load, &estate).await;
    kafka.broker.process.start().unwrap();
    kafka.wait().await;
    load.whole(20).await;

    tokio::join!(grpc.whole(10), grpc.raw(&models, 5));
    let mut seen = load.stop("kafka down").await;
    seen.answered.extend(grpc.stop("kafka down, over gRPC").await.answered);
    let clear = |code: &str| seen.refusals.get(&(Model::Strict, code.to_owned()));
    assert!(
        clear("unavailable").or(clear("deadline-exceeded")).is_some(),
        "{:?}",
        seen.refusals
    );

    // The account, once what still waited was written by the shutdown: who is answered is recorded, or dropped and
    // counted; who must be recorded is.
    let dropped = estate.front().counter(DROPPED).await;
    estate.gateways[0].stop();
    let recorded = tokio::task::block_in_place(|| kafka.recorded());
    let missing: Vec<_> = seen.answered.iter().filter(|(_, id)| !recorded.contains(id)).collect();
    assert!(missing.iter().all(|(model, _)| *model != Model::Strict), "{missing:?}");
    assert!(dropped > 0, "the queue of {QUEUE} was never full");
    assert_eq!(missing.len() as u64, dropped, "of {} answers", seen.answered.len());
    let answered: BTreeSet<&String> = seen.answered.iter().map(|(_, id)| id).collect();
    assert_eq!(answered.len(), seen.answered.len(), "request ids are unique");
}

/// While Kafka is away: who needs no record answers until the queue is full and beyond, who needs one refuses.
async fn down(load: &Load, estate: &Estate) {
    let front = estate.front();
    let dropped = front.counter(DROPPED).await;
    load.more(Model::Strict, Outcome::Refused, 3).await;
    until(
        || "nothing is dropped".to_owned(),
        async || {
            load.check();
            front.counter(DROPPED).await > dropped + 10
        },
    )
    .await;
    load.all_whole(&[Model::Plain, Model::Steady], 20).await;
}
