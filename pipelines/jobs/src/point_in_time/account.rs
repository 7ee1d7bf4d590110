//! What a join holds in memory, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes held, and the most that ever were.
#[derive(Debug, Default)]
pub(crate) struct Account {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Account {
    /// `bytes` more are held, until the loan is dropped.
    pub(crate) fn hold(&self, bytes: usize) -> Loan<'_> {
        self.add(bytes as u64);
        Loan {
            account: self,
            bytes: bytes as u64,
        }
    }

    /// `bytes` that are held already, until the loan is dropped.
    pub(crate) fn loan(&self, bytes: u64) -> Loan<'_> {
        Loan { account: self, bytes }
    }

    /// `bytes` more are held.
    pub(crate) fn add(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    /// `bytes` fewer are held.
    pub(crate) fn subtract(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The most that was held.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Bytes that are held for a while.
pub(crate) struct Loan<'a> {
    account: &'a Account,
    bytes: u64,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.account.subtract(self.bytes);
    }
}
