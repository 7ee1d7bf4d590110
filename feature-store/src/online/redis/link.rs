//! Connections to one Redis server or a cluster, that reconnect by themselves.

use super::super::OnlineConfig;
use ondol_feature_store_api::FeatureStoreError;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{Cmd, FromRedisValue, IntoConnectionInfo, RedisError};
use std::time::Duration;

/// How often the cluster's client follows a redirection or a new topology before it gives a command up.
const CLUSTER_RETRIES: u32 = 8;
/// The longest it waits before such an attempt, in milliseconds.
const CLUSTER_RETRY_WAIT_MS: u64 = 200;

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Server(ConnectionManager),
    Cluster(ClusterConnection),
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
                let settings = redis::cluster::ClusterConfig::new();
                Ok(Self::Cluster(client.get_pending_async_connection_with_config(settings)))
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
        match self.clone() {
            Self::Server(mut link) => command.query_async(&mut link).await,
            Self::Cluster(mut link) => command.query_async(&mut link).await,
        }
    }

    /// Sends a command to one node, each on the same connection as the one before.
    pub(super) async fn query_at<T: FromRedisValue>(&self, node: &Node, command: &Cmd) -> Result<T, RedisError> {
        let Self::Cluster(mut link) = self.clone() else {
            return self.query(command).await;
        };
        let route = match node.clone() {
            Some((host, port)) => SingleNodeRoutingInfo::ByAddress { host, port },
            None => SingleNodeRoutingInfo::RandomPrimary,
        };
        let answer = link
            .route_command(command.clone(), RoutingInfo::SingleNode(route))
            .await?
            .extract_error()?;
        redis::from_redis_value(answer).map_err(RedisError::from)
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
