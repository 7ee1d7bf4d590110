//! API keys: their form, and the ring of those that are good now.
//!
//! A key is `ondol_`, an id of 12 hexadecimal digits, `_`, and 256 random bits in base64url. The id names the key in
//! lists and in the audit log; the gateway keeps a SHA-256 of the whole key. A plain hash is right here: slow, salted
//! hashes are for passwords, which can be guessed; 256 random bits can't, and a slow hash would be paid on every request.
//!
//! The ring is in memory and read anew from the database every `refresh_ms`: a request costs one hash and one look-up,
//! and a revoked key is refused by every replica within that time.

use super::identity::Identity;
use super::scopes::Scopes;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ondol_model_gateway_api::wire::KeySummary;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq as _;

/// What every key begins with.
pub const PREFIX: &str = concat!("ondol", "_");
/// Bytes of an id.
const ID_BYTES: usize = 6;
/// Random bytes of a key.
const SECRET_BYTES: usize = 32;
/// Microseconds in which a use is noted once.
const NOTE_MICROS: i64 = 60_000_000;

/// The SHA-256 of a key.
pub type Digest = [u8; 32];

/// A key just made: shown once, kept by nobody.
pub struct NewKey {
    /// Its id.
    pub id: String,
    /// The key itself.
    pub key: String,
    /// What is kept of it.
    pub digest: Digest,
}

impl NewKey {
    /// Makes one; none when the system has no randomness to give.
    pub fn random() -> Option<Self> {
        let random = SystemRandom::new();
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        random.fill(&mut id).ok()?;
        random.fill(&mut secret).ok()?;
        let id = hex(&id);
        let key = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        let digest = digest(&key);
        Some(Self { id, key, digest })
    }
}

/// The id of something that has the form of a key.
pub fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let formed = id.len() == 2 * ID_BYTES && id.bytes().all(hexadecimal) && secret.len() == 43;
    formed.then_some(id)
}

/// What is kept of a key.
pub fn digest(key: &str) -> Digest {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether two digests are the same, in a time that does not depend on where they differ.
pub fn same(left: &Digest, right: &Digest) -> bool {
    left.ct_eq(right).into()
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A digest written by [`hex`].
pub(crate) fn unhex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// What callers see.
    pub summary: KeySummary,
    /// Its hash.
    pub digest: Digest,
}

/// A key that is good, in memory.
#[derive(Debug)]
struct HeldKey {
    digest: Digest,
    identity: Arc<Identity>,
    expires_at: Option<i64>,
    used_at: AtomicI64,
    noted_at: AtomicI64,
}

/// The keys that are good now.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: RwLock<Arc<HashMap<String, Arc<HeldKey>>>>,
    read_at: AtomicI64,
}

impl KeyRing {
    /// Who showed `key`, if it is good at `now`.
    pub fn find(&self, key: &str, now: i64) -> Option<Arc<Identity>> {
        let id = id_of(key)?;
        let held = Arc::clone(self.held().get(id)?);
        if !same(&held.digest, &digest(key)) || held.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        held.used_at.fetch_max(now, Ordering::Relaxed);
        Some(Arc::clone(&held.identity))
    }

    /// Takes what the database holds, read at `now`.
    pub fn replace(&self, kept: Vec<KeptKey>, now: i64) {
        let former = self.held();
        let mut keys = HashMap::with_capacity(kept.len());
        for KeptKey { summary, digest } in kept {
            if summary.revoked_at.is_some() {
                continue;
            }
            let used_at = summary.last_used_at.map_or(i64::MIN, |at| at.micros());
            let seen = former
                .get(&summary.id)
                .map_or(used_at, |held| held.used_at.load(Ordering::Relaxed));
            // A scope of a newer gateway's is not known here, and allows nothing here.
            let scopes = Scopes::known(summary.scopes.iter().map(String::as_str), &Scopes::default());
            let identity = Identity {
                who: format!("key:{}", summary.id),
                tenant: summary.tenant,
                scopes,
            };
            let held = HeldKey {
                digest,
                identity: Arc::new(identity),
                expires_at: summary.expires_at.map(|at| at.micros()),
                used_at: AtomicI64::new(seen.max(used_at)),
                noted_at: AtomicI64::new(used_at),
            };
            keys.insert(summary.id, Arc::new(held));
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.read_at.store(now, Ordering::Relaxed);
    }

    /// When the database was last read.
    pub fn read_at(&self) -> i64 {
        self.read_at.load(Ordering::Relaxed)
    }

    /// How many keys are good.
    pub fn len(&self) -> usize {
        self.held().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.held().is_empty()
    }

    /// Ids and moments of uses that the database does not know yet, to within a minute.
    pub fn unnoted_uses(&self) -> Vec<(String, i64)> {
        let held = self.held();
        let unnoted = held.iter().filter_map(|(id, key)| {
            let used = key.used_at.load(Ordering::Relaxed);
            let noted = key.noted_at.load(Ordering::Relaxed);
            (used.saturating_sub(noted) > NOTE_MICROS).then(|| (id.clone(), used))
        });
        unnoted.collect()
    }

    fn held(&self) -> Arc<HashMap<String, Arc<HeldKey>>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::scopes::Action;
    use ondol_vocabulary::EventTime;

    fn kept(new: &NewKey, change: impl FnOnce(&mut KeySummary)) -> KeptKey {
        let mut summary = KeySummary {
            id: new.id.clone(),
            label: "l".to_owned(),
            tenant: "bank".to_owned(),
            scopes: vec!["predict:fraud".to_owned(), "fly:moon".to_owned()],
            created_at: EventTime::from_micros(1),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        change(&mut summary);
        KeptKey {
            summary,
            digest: new.digest,
        }
    }

    #[test]
    fn a_key_is_known_by_its_whole_text() {
        let (new, other) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        assert_eq!(id_of(&new.key), Some(new.id.as_str()));
        assert_eq!(new.key.len(), PREFIX.len() + 12 + 1 + 43);
        let ring = KeyRing::default();
        ring.replace(vec![kept(&new, |_| {})], 0);
        let found = ring.find(&new.key, 10).unwrap();
        assert_eq!(
            (found.who.as_str(), found.tenant.as_str()),
            (format!("key:{}", new.id).as_str(), "bank")
        );
        assert!(found.scopes.allow(Action::Predict, "fraud") && !found.scopes.allow(Action::Predict, "moon"));
        assert!(ring.find(&other.key, 10).is_none());
        for place in 0..new.key.len() {
            let mut wrong = new.key.clone();
            let sign = if wrong[place..=place] == *"0" { "1" } else { "0" };
            wrong.replace_range(place..=place, sign);
            assert!(ring.find(&wrong, 10).is_none(), "{place}");
        }
        let mixed = format!("{PREFIX}{}_{}", new.id, &other.key[PREFIX.len() + 13..]);
        assert!(ring.find(&mixed, 10).is_none());
        for text in [
            "",
            PREFIX,
            "ondol__",
            "ondol_0123456789ab_",
            "x".repeat(10_000).as_str(),
        ] {
            assert!(ring.find(text, 10).is_none());
        }
    }

    #[test]
    fn an_expired_or_revoked_key_is_not_good() {
        let (expiring, revoked) = (NewKey::random().unwrap(), NewKey::random().unwrap());
        let ring = KeyRing::default();
        ring.replace(
            vec![
                kept(&expiring, |key| key.expires_at = Some(EventTime::from_micros(100))),
                kept(&revoked, |key| key.revoked_at = Some(EventTime::from_micros(5))),
            ],
            0,
        );
        assert!(ring.find(&expiring.key, 99).is_some());
        assert!(ring.find(&expiring.key, 100).is_none());
        assert!(ring.find(&revoked.key, 1).is_none());
        assert_eq!(ring.len(), 1);
    }

    #[test]
    fn uses_are_noted_once_a_minute_and_outlive_a_refresh() {
        let new = NewKey::random().unwrap();
        let ring = KeyRing::default();
        ring.replace(vec![kept(&new, |_| {})], 0);
        assert!(ring.unnoted_uses().is_empty());
        ring.find(&new.key, 7);
        assert_eq!(ring.unnoted_uses(), [(new.id.clone(), 7)]);
        ring.replace(vec![kept(&new, |_| {})], 8);
        assert_eq!(
            ring.unnoted_uses(),
            [(new.id.clone(), 7)],
            "the database has not heard of it"
        );
        ring.replace(
            vec![kept(&new, |key| key.last_used_at = Some(EventTime::from_micros(7)))],
            9,
        );
        ring.find(&new.key, NOTE_MICROS);
        assert!(ring.unnoted_uses().is_empty());
        ring.find(&new.key, NOTE_MICROS + 8);
        assert_eq!(ring.unnoted_uses().len(), 1);
    }

    #[test]
    fn a_digest_is_written_and_read() {
        let digest = digest("a");
        assert_eq!(unhex(&hex(&digest)), Some(digest));
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(unhex(text), None);
        }
    }
}
