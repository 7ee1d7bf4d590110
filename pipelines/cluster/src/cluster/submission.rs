//! One plan on the cluster: given to the scheduler, watched, its rows fetched from executors, or taken back.
//!
//! Ballista's own client gives plans as well, but keeps the name under which the scheduler knows a plan to itself, so that
//! nobody could take it back. This one asks for the name first, and then does the same.

use ballista_core::client::BallistaClient;
use ballista_core::config::BallistaConfig;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::get_job_status_result::FlightProxy;
use ballista_core::serde::protobuf::job_status::Status as Standing;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair, PartitionLocation, execute_query_result,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec};
use datafusion_proto::protobuf::PhysicalPlanNode;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

/// How often a plan is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the scheduler may take to hear that a plan is taken back.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A scheduler, connected.
pub(super) struct Scheduler {
    client: SchedulerGrpcClient<Channel>,
    url: String,
    settings: GrpcClientConfig,
}

/// A plan that a scheduler has taken.
#[derive(Clone, Debug)]
pub(super) struct Submission(String);

/// Where the rows of a plan are, once it is done.
pub(super) struct Results {
    partitions: Vec<PartitionLocation>,
    proxy: Option<FlightProxy>,
}

impl Scheduler {
    /// The one at `url`, reached as `config` says.
    pub(super) async fn connect(url: &str, config: &BallistaConfig) -> Result<Self> {
        let settings = GrpcClientConfig::from(config);
        let endpoint = create_grpc_client_endpoint(url.to_owned(), Some(&settings)).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        let client = SchedulerGrpcClient::new(channel)
            .max_encoding_message_size(settings.max_message_size)
            .max_decoding_message_size(settings.max_message_size);
        Ok(Self {
            client,
            url: url.to_owned(),
            settings,
        })
    }

    /// Gives it `plan`, in the session of that name.
    pub(super) async fn submit(
        &mut self,
        plan: Arc<dyn ExecutionPlan>,
        codec: &dyn PhysicalExtensionCodec,
        session: (String, &SessionConfig),
    ) -> Result<Submission> {
        let mut bytes = Vec::new();
        PhysicalPlanNode::try_from_physical_plan(plan, codec)?.try_encode(&mut bytes)?;
        let (session_id, config) = session;
        let settings = config.options().entries().into_iter();
        let settings = settings.map(|entry| KeyValuePair {
            key: entry.key,
            value: entry.value,
        });
        let mut request = tonic::Request::new(ExecuteQueryParams {
            query: Some(Query::PhysicalPlan(bytes)),
            settings: settings.collect(),
            session_id,
            operation_id: ulid::Ulid::new().to_string(),
        });
        version::insert_version_header(request.metadata_mut());
        let answer = self.client.execute_query(request).await.map_err(failed)?;
        let theirs = version::version_from_metadata(answer.metadata()).map(str::to_owned);
        let compatible = version::check_compatibility(Some(ballista_core::BALLISTA_VERSION), theirs.as_deref())
            .map_err(DataFusionError::Execution);
        match answer.into_inner().result {
            Some(execute_query_result::Result::Success(taken)) => {
                let submission = Submission(taken.job_id);
                if let Err(cause) = compatible {
                    // It has taken the plan nevertheless.
                    self.cancel(&submission).await;
                    return Err(cause);
                }
                Ok(submission)
            }
            Some(execute_query_result::Result::Failure(refusal)) => {
                compatible?;
                Err(DataFusionError::Execution(format!("the plan was refused: {refusal:?}")))
            }
            None => Err(DataFusionError::Execution(
                "the scheduler's answer to a plan is empty".to_owned(),
            )),
        }
    }

    /// Waits until `submission` is done. Dropping the future only stops waiting.
    pub(super) async fn done(&mut self, submission: &Submission) -> Result<Results> {
        loop {
            let request = GetJobStatusParams {
                job_id: submission.0.clone(),
            };
            let answer = self.client.get_job_status(request).await.map_err(failed)?.into_inner();
            match answer.status.and_then(|status| status.status) {
                Some(Standing::Failed(failure)) => {
                    let detail = format!("plan {} failed: {}", submission.0, failure.error);
                    return Err(DataFusionError::Execution(detail));
                }
                Some(Standing::Successful(done)) => {
                    return Ok(Results {
                        partitions: done.partition_location,
                        proxy: answer.flight_proxy,
                    });
                }
                Some(Standing::Queued(_) | Standing::Running(_)) | None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Takes `submission` back: the scheduler drops it and has executors stop its tasks. A scheduler that does not answer
    /// in time is told of in the log: whoever cancels can do no more about it.
    pub(super) async fn cancel(&mut self, submission: &Submission) {
        let request = CancelJobParams {
            job_id: submission.0.clone(),
        };
        let plan = &submission.0;
        match tokio::time::timeout(CANCEL_TIMEOUT, self.client.cancel_job(request)).await {
            Ok(Ok(_)) => tracing::info!(plan, "a plan was taken back from the cluster"),
            Ok(Err(error)) => tracing::warn!(plan, %error, "a plan was not taken back: the cluster runs it to its end"),
            Err(_) => tracing::warn!(
                plan,
                "a plan was not taken back in time: the cluster may run it to its end"
            ),
        }
    }

    /// The rows of one partition of `results`.
    async fn partition(
        &self,
        location: PartitionLocation,
        proxy: Option<&FlightProxy>,
    ) -> Result<SendableRecordBatchStream> {
        let layout = location.layout();
        let lacks = |what: &str| DataFusionError::Internal(format!("a partition of the rows lacks its {what}"));
        let executor = location.executor_meta.ok_or_else(|| lacks("executor"))?;
        let partition = location.partition_id.ok_or_else(|| lacks("number"))?;
        let port = u16::try_from(executor.port).map_err(|_| lacks("port"))?;
        let (host, at) = match proxy {
            Some(FlightProxy::External(address)) => address_of(&format!("http://{address}"))?,
            Some(FlightProxy::Local(true)) => address_of(&self.url)?,
            Some(FlightProxy::Local(false)) | None => (executor.host.clone(), port),
        };
        let settings = &self.settings;
        let mut client = BallistaClient::try_new(
            &host,
            at,
            settings.max_message_size,
            settings.use_tls,
            None,
            settings.io_retries_times,
            settings.io_retry_wait_time_ms,
            0,
            0,
        )
        .await
        .map_err(failed)?;
        let partition = partition.into();
        let rows = client.fetch_partition_proxied(
            &executor.id,
            &partition,
            location.file_id,
            layout,
            &executor.host,
            port,
            true,
        );
        rows.await.map_err(BallistaError::into_datafusion)
    }

    /// The rows of `results`, partition by partition.
    pub(super) async fn rows(&self, results: Results) -> Result<Vec<arrow::array::RecordBatch>> {
        let mut rows = Vec::new();
        for location in results.partitions {
            let partition = self.partition(location, results.proxy.as_ref()).await?;
            rows.extend(datafusion::physical_plan::common::collect(partition).await?);
        }
        Ok(rows)
    }
}

fn address_of(url: &str) -> Result<(String, u16)> {
    let odd = || DataFusionError::Execution(format!("`{url}` lacks a host or a port"));
    let parsed = url::Url::parse(url).map_err(|_| odd())?;
    let (host, port) = (parsed.host_str().ok_or_else(odd)?, parsed.port().ok_or_else(odd)?);
    Ok((host.to_owned(), port))
}

fn failed(cause: impl std::fmt::Debug) -> DataFusionError {
    DataFusionError::Execution(format!("{cause:?}"))
}
