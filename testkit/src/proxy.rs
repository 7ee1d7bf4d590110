//! A TCP proxy that cuts, stalls and slows: it stands between two processes under test, and in front of several replicas it
//! shares out connections as a load balancer would.

use crate::process::free_port;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that a connection holds on their way, each way.
const BUFFER: usize = 64 << 10;

/// One proxy. Clones are the same one, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What it is called in messages.
    pub name: String,
    /// Where it listens on loopback.
    pub port: u16,
    /// Held by whoever disturbs it, where several do.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    state: Arc<watch::Sender<State>>,
    _task: Arc<Task>,
}

/// The task that serves. Its connections end with it.
#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    /// New connections are closed at once.
    refuses: bool,
    /// Bytes are held until the stall ends.
    stalls: bool,
    /// How long bytes are on their way, each way.
    delay: Duration,
    /// Connections of an older epoch are closed.
    epoch: u64,
    backends: Vec<Backend>,
}

#[derive(Clone, Debug)]
struct Backend {
    port: u16,
    /// Takes no new connections.
    out: bool,
    /// Its connections of an older epoch are closed.
    epoch: u64,
}

impl Proxy {
    /// Listens on a port of its own and leads to `backends`, ports of loopback.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(name: &str, backends: &[u16]) -> io::Result<Self> {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let backends = backends.iter().map(|&port| Backend {
            port,
            out: false,
            epoch: 0,
        });
        let (state, _) = watch::channel(State {
            backends: backends.collect(),
            ..State::default()
        });
        let state = Arc::new(state);
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            name: name.to_owned(),
            port,
            turn: Arc::default(),
            state,
            _task: Arc::new(Task(task)),
        })
    }

    /// Sets where it leads, for a proxy whose port had to be known first.
    pub fn lead_to(&self, port: u16) {
        self.state.send_modify(|state| {
            state.backends = vec![Backend {
                port,
                out: false,
                epoch: 0,
            }];
        });
    }

    /// Closes every connection; new ones are refused until [`Self::mend`].
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.epoch += 1;
            state.refuses = true;
        });
    }

    /// Holds every byte until [`Self::mend`]; new connections are taken and held too.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalls = true);
    }

    /// Lets bytes through `delay` late, each way, until [`Self::mend`]: what comes meanwhile waits with them, so that a
    /// connection has at most one piece, of what fits its buffer, in each `delay`.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Lets everything through again.
    pub fn mend(&self) {
        self.state.send_modify(|state| {
            state.refuses = false;
            state.stalls = false;
            state.delay = Duration::ZERO;
        });
    }

    /// Takes a backend out of the share, as a load balancer does with one that does not answer; with `close`, its
    /// connections too.
    pub fn take_out(&self, port: u16, close: bool) {
        self.change(port, |backend| {
            backend.out = true;
            backend.epoch += u64::from(close);
        });
    }

    /// Shares out connections to the backend again.
    pub fn take_in(&self, port: u16) {
        self.change(port, |backend| backend.out = false);
    }

    fn change(&self, port: u16, change: impl FnOnce(&mut Backend)) {
        self.state.send_modify(|state| {
            if let Some(backend) = state.backends.iter_mut().find(|backend| backend.port == port) {
                change(backend);
            }
        });
    }
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>) {
    let turn = AtomicUsize::new(0);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Ended ones are forgotten as new ones come.
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let first = turn.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(client, state.subscribe(), first));
    }
}

/// One connection, until either end closes it or the proxy cuts it.
async fn serve(client: TcpStream, state: watch::Receiver<State>, first: usize) {
    let Some((server, port, mine)) = connect(&state, first).await else {
        return;
    };
    // Without this, each small command would wait for the other end's delayed acknowledgement.
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = state.clone();
    let cut = cut.wait_for(move |state| epoch(state, port) != mine);
    tokio::select! {
        _ = cut => {}
        _ = async { tokio::join!(pump(from_client, to_server, state.clone()), pump(from_server, to_client, state.clone())) } => {}
    }
}

async fn connect(state: &watch::Receiver<State>, first: usize) -> Option<(TcpStream, u16, (u64, u64))> {
    let now = state.borrow().clone();
    if now.refuses {
        return None;
    }
    let candidates: Vec<&Backend> = now.backends.iter().filter(|backend| !backend.out).collect();
    // With every backend out, any is as good as none: the client learns of it by waiting.
    let candidates = if candidates.is_empty() {
        now.backends.iter().collect()
    } else {
        candidates
    };
    for place in 0..candidates.len() {
        let backend = candidates.get((first + place) % candidates.len())?;
        if let Ok(server) = TcpStream::connect(("127.0.0.1", backend.port)).await {
            return Some((server, backend.port, (now.epoch, backend.epoch)));
        }
    }
    None
}

fn epoch(state: &State, port: u16) -> (u64, u64) {
    let backend = state.backends.iter().find(|backend| backend.port == port);
    (state.epoch, backend.map_or(0, |backend| backend.epoch))
}

/// Copies one direction, and its end. Errors end it: the other end sees a closed connection, as it would without us.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(read) = from.read(&mut buffer).await else {
            return;
        };
        let delay = state.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if state.wait_for(|state| !state.stalls).await.is_err() {
            return;
        }
        let Some(bytes) = buffer.get(..read) else { return };
        if read == 0 {
            let _closed = to.shutdown().await;
            return;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
