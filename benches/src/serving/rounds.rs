//! Subjects measured by turns, so that whatever else the machine does falls on all of them; medians over the rounds.
//!
//! A subject's CPU is taken from before its first request until it has done all that requests left to do (the decision
//! log is written and committed after the answer), so that nothing of it falls between two windows.

use super::load::Target;
use super::server::Server;
use crate::measure::median;
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::Duration;

/// Callers while a subject warms up.
const WARM_CALLERS: usize = 16;
/// How long each subject runs before it is measured.
const WARM: Duration = Duration::from_millis(700);

/// A server and what it is asked.
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// What is asked of it, in words.
    pub(super) what: &'static str,
    pub(super) server: Arc<Server>,
    pub(super) target: Target,
    /// For a peer: which of Ondol's subjects does the same work, and how many times the peer's requests per CPU second it
    /// is to answer.
    pub(super) against: Option<(&'static str, f64)>,
}

/// How it is measured.
pub(super) struct Plan<'a> {
    pub(super) part: &'static str,
    /// Callers at a time.
    pub(super) callers: &'a [usize],
    pub(super) rounds: usize,
    pub(super) window: Duration,
    /// Whose CPU is shown beside.
    pub(super) redis: Option<&'a RedisServer>,
}

/// One window.
struct Figures {
    cpu_us: f64,
    per_s: f64,
    p50_us: f64,
    p99_us: f64,
    redis_cpu_us: f64,
}

impl Subject {
    async fn measure(&self, plan: &Plan<'_>, callers: usize) -> Result<Figures> {
        let redis = async || match plan.redis {
            Some(redis) => anyhow::Ok(redis.done().await?.cpu_s),
            None => Ok(0.0),
        };
        let (cpu, redis_cpu) = (self.server.cpu_seconds()?, redis().await?);
        let load = self.target.load(callers, plan.window).await;
        let load = load.with_context(|| format!("{}, {}", self.name, self.what))?;
        let redis_cpu = redis().await? - redis_cpu;
        self.server.settle().await?;
        let each = |seconds: f64| seconds * 1e6 / load.answered.max(1) as f64;
        Ok(Figures {
            cpu_us: each(self.server.cpu_seconds()? - cpu),
            per_s: load.answered as f64 / load.seconds,
            p50_us: load.latency.p50(),
            p99_us: load.latency.p99(),
            redis_cpu_us: each(redis_cpu),
        })
    }
}

impl Plan<'_> {
    /// Measures all by turns, and reports them.
    pub(super) async fn run(&self, subjects: &[Subject], report: &mut Report) -> Result<()> {
        for subject in subjects {
            subject.target.load(WARM_CALLERS, WARM).await?;
        }
        for subject in subjects {
            subject.server.settle().await?;
        }
        for callers in self.callers.iter().copied() {
            let mut figures: Vec<Vec<Figures>> = subjects.iter().map(|_| Vec::new()).collect();
            for _ in 0..self.rounds {
                for (subject, figures) in subjects.iter().zip(&mut figures) {
                    figures.push(subject.measure(self, callers).await?);
                }
            }
            for (subject, own) in subjects.iter().zip(&figures) {
                let row = self.row(subject, own, callers);
                let row = match subject.against {
                    None => row,
                    Some((name, aim)) => {
                        let same = |ondol: &Subject| ondol.name == name && ondol.what == subject.what;
                        let place = subjects.iter().position(same).context("no such subject")?;
                        against(row, own, &figures[place], aim)
                    }
                };
                report.row(row);
            }
        }
        Ok(())
    }

    fn row(&self, subject: &Subject, figures: &[Figures], callers: usize) -> Row {
        let mid = |of: fn(&Figures) -> f64| median(figures.iter().map(of));
        let row = Row::default()
            .with("part", self.part)
            .with("what", subject.what)
            .with("server", subject.name)
            .with("callers", callers)
            .figure("cpu_us", mid(|figures| figures.cpu_us))
            .figure("per_cpu_s", mid(|figures| 1e6 / figures.cpu_us))
            .figure("per_s", mid(|figures| figures.per_s))
            .figure("p50_us", mid(|figures| figures.p50_us))
            .figure("p99_us", mid(|figures| figures.p99_us));
        if self.redis.is_some() {
            row.figure("redis_cpu_us", mid(|figures| figures.redis_cpu_us))
        } else {
            row
        }
    }
}

/// Compares every answer of every one of `subjects` with what it must be.
pub(super) async fn check<'a>(subjects: impl IntoIterator<Item = &'a Subject>) -> Result<()> {
    for subject in subjects {
        let checked = subject.target.check().await;
        checked.with_context(|| format!("{}, {}: a wrong answer", subject.name, subject.what))?;
    }
    Ok(())
}

/// How many times a peer's requests per CPU second Ondol answers: round by round, since rounds differ more than subjects.
fn against(row: Row, peer: &[Figures], ondol: &[Figures], aim: f64) -> Row {
    let each = peer.iter().zip(ondol).map(|(peer, ondol)| peer.cpu_us / ondol.cpu_us);
    let times = median(each);
    row.figure("times", times)
        .with("aim", aim)
        .with("verdict", if times >= aim { "met" } else { "missed" })
}
