//! Connections to one Redis server or a cluster, that reconnect by themselves.
//!
//! A cluster's connection is also watched. Its client can stop for good while it looks at the slots anew: the look waits
//! for a lock that a request holds which is not polled until the look is over. Then every command times out, whatever
//! the servers do. So when commands were sent and none was answered for as long as an answer may take, another connection
//! takes its place, and the command that found out is sent once more (repeating any of ours is safe). The client can also
//! lose a node for good and answer commands of several slots without that node's part: then, too.

use super::super::OnlineConfig;
use ondol_feature_store_api::FeatureStoreError;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the cluster's client follows a redirection or a new topology before it gives a command up.
const CLUSTER_RETRIES: u32 = 8;
/// The longest it waits before such an attempt, in milliseconds.
const CLUSTER_RETRY_WAIT_MS: u64 = 200;

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Server(ConnectionManager),
    Cluster(Arc<Watched>),
}

/// A cluster's connection, and whether it still answers.
pub(super) struct Watched {
    client: ClusterClient,
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    connection: ClusterConnection,
    opened: Instant,
    /// When the first command was sent since one was answered last. Callers that stop waiting before the answer is due
    /// leave it standing, so a connection that has stopped is noticed also when nobody waits for its timeouts.
    unanswered: Option<Instant>,
}

impl Watched {
    fn new(client: ClusterClient, timeout: Duration) -> Self {
        let state = Mutex::new(State::new(&client));
        Self { client, timeout, state }
    }

    /// Runs a command on the present connection, and takes note of how it ends.
    async fn watch<T>(
        &self,
        command: impl AsyncFnOnce(ClusterConnection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        self.replace_silent();
        let connection = {
            let mut state = self.state();
            state.unanswered.get_or_insert_with(Instant::now);
            state.connection.clone()
        };
        // The client bounds each command itself, unless it has stopped.
        let answered = tokio::time::timeout(self.timeout * 5 / 4, command(connection)).await;
        let outcome = answered.unwrap_or_else(|_| {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the connection does not answer");
            Err(RedisError::from(error))
        });
        match &outcome {
            Err(error) if has_lost_a_node(error) => self.note_lost_node(),
            Err(error) if error.is_timeout() => {}
            _ => self.state().unanswered = None,
        }
        outcome
    }

    /// Replaces a connection on which nothing was answered for as long as one answer may take.
    fn replace_silent(&self) {
        let mut state = self.state();
        if state.unanswered.is_some_and(|since| since.elapsed() >= self.timeout) {
            self.replace(&mut state, "it has stopped answering");
        }
    }

    /// Whether a command that ended so finds another connection than it was sent on. Takes a turn of `tries`.
    fn is_worth_another<T>(&self, outcome: &Result<T, RedisError>, tries: &mut u32) -> bool {
        *tries += 1;
        let timed_out = outcome.as_ref().is_err_and(RedisError::is_timeout);
        if !timed_out || *tries > 1 {
            return false;
        }
        self.replace_silent();
        self.state().opened.elapsed() < self.timeout
    }

    /// The next command has a connection that knows every node, if there is one by then: at most one in a timeout.
    fn note_lost_node(&self) {
        let mut state = self.state();
        if state.opened.elapsed() > self.timeout {
            self.replace(&mut state, "it does not know every node");
        }
    }

    fn replace(&self, state: &mut State, reason: &'static str) {
        tracing::warn!(reason, "another connection to the redis cluster takes the place of one");
        metrics::counter!("ondol_feature_store_redis_connections_replaced_total").increment(1);
        *state = State::new(&self.client);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A connection that is made when it is first used.
    fn new(client: &ClusterClient) -> Self {
        Self {
            connection: client.get_pending_async_connection_with_config(redis::cluster::ClusterConfig::new()),
            opened: Instant::now(),
            unanswered: None,
        }
    }
}

/// Whether the client has sent a command of several slots to fewer nodes than have them: it leaves out, for good, a node
/// that it lost and that no other command has gone to since.
fn has_lost_a_node(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Client && error.to_string().contains("number of multi-slot results")
}

/// A node's host and port; none for the one server there is, or any node of a cluster.
pub(super) type Node = Option<(String, u16)>;

impl Link {
    pub(super) fn open(config: &OnlineConfig) -> Result<Self, RedisError> {
        // Off by default in this client; without it small commands wait for the server's delayed acknowledgement.
        let tcp = TcpSettings::default().set_nodelay(true);
        match config.url.strip_prefix("redis-cluster://") {
            Some(nodes) => {
                let nodes = nodes.split(',').map(|node| format!("redis://{node}"));
                let client = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout)
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(10)
                    .max_retry_wait(CLUSTER_RETRY_WAIT_MS)
                    .build()?;
                Ok(Self::Cluster(Arc::new(Watched::new(client, config.timeout))))
            }
            None => {
                let info = config.url.as_str().into_connection_info()?.set_tcp_settings(tcp);
                let settings = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(config.timeout))
                    .set_response_timeout(Some(config.timeout))
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_secs(1))
                    .set_number_of_retries(3)
                    .set_pipeline_buffer_size(1_024);
                let client = redis::Client::open(info)?;
                Ok(Self::Server(client.get_connection_manager_lazy(settings)?))
            }
        }
    }

    /// Sends a command where its keys live.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let link = match self {
            Self::Server(link) => return command.query_async(&mut link.clone()).await,
            Self::Cluster(link) => link,
        };
        let mut tries = 0;
        loop {
            let outcome = link.watch(async |mut connection| command.query_async(&mut connection).await);
            let outcome = outcome.await;
            if !link.is_worth_another(&outcome, &mut tries) {
                return outcome;
            }
        }
    }

    /// Runs a script where its keys live.
    pub(super) async fn invoke<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let link = match self {
            Self::Server(link) => return call.invoke_async(&mut link.clone()).await,
            Self::Cluster(link) => link,
        };
        let mut tries = 0;
        loop {
            let outcome = link.watch(async |mut connection| call.invoke_async(&mut connection).await);
            let outcome = outcome.await;
            if !link.is_worth_another(&outcome, &mut tries) {
                return outcome;
            }
        }
    }

    /// Sends a command to one node.
    pub(super) async fn query_at<T: FromRedisValue>(&self, node: &Node, command: &Cmd) -> Result<T, RedisError> {
        let Self::Cluster(link) = self else {
            return self.query(command).await;
        };
        let route = RoutingInfo::SingleNode(route(node));
        let mut tries = 0;
        loop {
            let (command, route) = (command.clone(), route.clone());
            let outcome =
                link.watch(async |mut connection| connection.route_command(command, route).await?.extract_error());
            let outcome = outcome.await;
            if !link.is_worth_another(&outcome, &mut tries) {
                return redis::from_redis_value(outcome?).map_err(RedisError::from);
            }
        }
    }

    /// Sends commands to one node, all on one connection, one behind the other; the answer to each.
    pub(super) async fn query_all_at(
        &self,
        node: &Node,
        commands: Vec<Cmd>,
    ) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let count = commands.len();
        let mut pipeline = redis::Pipeline::with_capacity(count);
        pipeline.ignore_errors();
        for command in commands {
            pipeline.add_command(command);
        }
        let link = match self {
            Self::Server(link) => return pipeline.query_async(&mut link.clone()).await,
            Self::Cluster(link) => link,
        };
        let route = route(node);
        let mut tries = 0;
        loop {
            let (pipeline, route) = (pipeline.clone(), route.clone());
            let outcome = link.watch(async |mut connection| connection.route_pipeline(pipeline, 0, count, route).await);
            let outcome = outcome.await;
            if !link.is_worth_another(&outcome, &mut tries) {
                return Ok(outcome?.into_iter().map(Value::extract_error).collect());
            }
        }
    }
}

fn route(node: &Node) -> SingleNodeRoutingInfo {
    match node.clone() {
        Some((host, port)) => SingleNodeRoutingInfo::ByAddress { host, port },
        None => SingleNodeRoutingInfo::RandomPrimary,
    }
}

/// The URL's hosts, without user and password.
pub(super) fn address_of(url: &str) -> String {
    let hosts = url.split_once("://").map_or(url, |(_, rest)| rest);
    let bare = |host: &str| host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned();
    hosts.split(',').map(bare).collect::<Vec<_>>().join(",")
}

pub(super) fn failed(address: &str, error: &RedisError) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("redis at {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_out_of_messages() {
        assert_eq!(address_of("redis://user:secret@cache:6379/1"), "cache:6379/1");
        assert_eq!(address_of("redis-cluster://u:p@a:1,u:p@b:2"), "a:1,b:2");
    }
}
