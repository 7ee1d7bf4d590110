//! A server of the Open Inference Protocol that does as it is told, whether that is right or wrong.

use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a [`Fixture`] does with a connection's next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Answers 0.5 for every row.
    Answer,
    /// Answers this status.
    Status(u16),
    /// Answers never.
    Hang,
    /// Begins an answer and never ends it.
    SlowBody,
    /// Closes the connection without an answer.
    Reset,
    /// Answers what is no answer of the protocol.
    Garbage,
    /// Answers for a row more than it was asked.
    MoreRows,
}

/// A server of the Open Inference Protocol that does as it is told, and answers when it is told nothing.
pub struct Fixture {
    url: String,
    acts: Arc<Mutex<VecDeque<Act>>>,
    served: Arc<Mutex<Vec<Act>>>,
    task: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fixture {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let acts: Arc<Mutex<VecDeque<Act>>> = Arc::default();
        let served: Arc<Mutex<Vec<Act>>> = Arc::default();
        let (next, log) = (Arc::clone(&acts), Arc::clone(&served));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, Arc::clone(&next), Arc::clone(&log)));
            }
        });
        Self {
            url,
            acts,
            served,
            task,
        }
    }

    pub fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    /// How many requests it has met since they were last taken.
    pub fn met(&self) -> usize {
        self.served.lock().unwrap().len()
    }

    pub fn served(&self) -> Vec<Act> {
        std::mem::take(&mut self.served.lock().unwrap())
    }

    pub fn spec(&self, more: &str) -> String {
        format!(
            "url = \"{}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\nbinary = true\n{more}\n\
             [[inputs]]\nname = \"X\"\ndatatype = \"FP32\"\nshape = [-1, 5]\n\
             [[outputs]]\nname = \"y\"\ndatatype = \"FP64\"\n",
            self.url
        )
    }
}

/// One request a connection.
async fn answer(mut stream: TcpStream, acts: Arc<Mutex<VecDeque<Act>>>, served: Arc<Mutex<Vec<Act>>>) {
    let Some(rows) = read_request(&mut stream).await else {
        return;
    };
    let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Answer);
    served.lock().unwrap().push(act);
    let rows = if act == Act::MoreRows { rows + 1 } else { rows };
    let data = vec!["0.5"; rows].join(",");
    let good = format!(
        r#"{{"model_name":"m","outputs":[{{"name":"y","datatype":"FP64","shape":[{rows}],"data":[{data}]}}]}}"#
    );
    let (status, body) = match act {
        Act::Answer | Act::MoreRows => (200, good),
        Act::Status(status) => (status, r#"{"error":"told to fail"}"#.to_owned()),
        Act::Garbage => (200, "<html>".to_owned()),
        Act::Hang => return std::future::pending().await,
        Act::Reset => return,
        Act::SlowBody => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{{",
                good.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            return std::future::pending().await;
        }
    };
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Reads a request with binary tensors; the rows of its first.
async fn read_request(stream: &mut TcpStream) -> Option<usize> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), end + 4);
        }
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let header = |name: &str| -> Option<usize> {
        let line = head.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().parse().ok()
    };
    let (whole, json) = (header("content-length")?, header("inference-header-content-length")?);
    while bytes.len() < body + whole {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    }
    let request: Value = serde_json::from_slice(&bytes[body..body + json]).ok()?;
    usize::try_from(request["inputs"][0]["shape"][0].as_u64()?).ok()
}
