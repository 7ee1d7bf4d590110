//! Signatures of JWTs (RFC 7515, RFC 7518, RFC 8037) and the keys they are checked with (RFC 7517), on `ring`.
//!
//! No JWT library: the present ones switch on features of crates below TLS that this program shares with everything
//! else, the earlier ones accept claims of the wrong type. What is needed is small and strict: compact serialization,
//! asymmetric algorithms only (`none` and HMAC are not even names here), one key by its id, and the algorithm is the
//! *configuration's and the key's* choice, never the token's alone (RFC 8725, section 3.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES: usize = 16 << 10;
/// Most keys of an issuer that are kept.
pub const KEYS: usize = 100;

/// A signature algorithm by its name in a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of RFC 7518 and RFC 8037")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Why a token is refused. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three parts of base64url with JSON in the first two.
    #[error("it is no JWT")]
    Malformed,
    /// The algorithm is not among the issuer's.
    #[error("its algorithm is not among those that are accepted (`algorithms` of its issuer)")]
    Algorithm,
    /// No key of the issuer made its signature.
    #[error("no key of its issuer made its signature")]
    Signature,
}

/// A token taken apart: nothing in it is believed yet.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    /// Which algorithm it says it is signed with.
    pub algorithm: Algorithm,
    /// Which key it says it is signed with.
    pub key_id: Option<String>,
    /// What it claims.
    claims: serde_json::Map<String, serde_json::Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is (RFC 7515, section 4.1.11).
    crit: Option<serde_json::Value>,
}

impl<'a> Unverified<'a> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// When it is no JWT, or names an algorithm that is not known here.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed;
        if token.len() > TOKEN_BYTES {
            return Err(malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
        let algorithm = Algorithm::named(&header.alg).ok_or(TokenError::Algorithm)?;
        if header.crit.is_some() {
            return Err(malformed);
        }
        Ok(Self {
            algorithm,
            key_id: header.kid,
            claims: serde_json::from_slice(&decode(claims)?).map_err(|_| malformed)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Who the token says it is of. To find the issuer's keys by, nothing else.
    pub fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// The claims, once `key` is seen to have made the signature.
    ///
    /// # Errors
    /// When it has not.
    pub fn verified(self, key: &VerifyKey) -> Result<serde_json::Map<String, serde_json::Value>, TokenError> {
        if key.verify(self.algorithm, self.signed.as_bytes(), &self.signature) {
            Ok(self.claims)
        } else {
            Err(TokenError::Signature)
        }
    }
}

impl Algorithm {
    const ALL: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The algorithm called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// As it stands in a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::ES256 | Self::ES384 | Self::EdDSA => return None,
        })
    }
}

/// A public key of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    /// Its id.
    pub id: Option<String>,
    /// The only algorithm it is for, where its issuer says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl VerifyKey {
    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.is_some_and(|only| only != algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, _) => algorithm.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }),
            (Material::P256(point), Algorithm::ES256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            (Material::P384(point), Algorithm::ES384) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                    .verify(message, signature)
                    .is_ok()
            }
            (Material::Ed25519(point), Algorithm::EdDSA) => UnparsedPublicKey::new(&signature::ED25519, point)
                .verify(message, signature)
                .is_ok(),
            (Material::P256(_) | Material::P384(_) | Material::Ed25519(_), _) => false,
        }
    }
}

/// The keys that an issuer publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<VerifyKey>);

#[derive(Deserialize)]
struct Published {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Parses a JWKS document. Keys of kinds that are not known here, and keys that are not for signatures, are left out,
    /// as RFC 7517 (section 5) asks; so are those beyond [`KEYS`].
    ///
    /// # Errors
    /// When the document is no JWKS.
    pub fn parse(document: &[u8]) -> Result<Self, serde_json::Error> {
        let published: Published = serde_json::from_slice(document)?;
        let keys = published
            .keys
            .into_iter()
            .filter_map(|key| key_of(serde_json::from_value(key).ok()?))
            .take(KEYS);
        Ok(Self(keys.collect()))
    }

    /// The key called `id`; without an id, the only key there is.
    pub fn find(&self, id: Option<&str>) -> Option<&VerifyKey> {
        match (id, self.0.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key_of(jwk: Jwk) -> Option<VerifyKey> {
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    // An algorithm that is not known here can't be verified with.
    let algorithm = match jwk.alg.as_deref() {
        Some(name) => Some(Algorithm::named(name)?),
        None => None,
    };
    let number = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    // A point uncompressed, as SEC 1 writes it.
    let point = |size: usize| {
        let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
        (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
    };
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Material::Rsa {
            n: without_leading_zeros(&number(&jwk.n)?),
            e: without_leading_zeros(&number(&jwk.e)?),
        },
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(number(&jwk.x)?),
        _ => return None,
    };
    Some(VerifyKey {
        id: jwk.kid,
        algorithm,
        material,
    })
}

/// `ring` wants numbers without them.
fn without_leading_zeros(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    fn part(value: &serde_json::Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn ed25519() -> (Ed25519KeyPair, KeySet) {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let set = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": x, "alg": "EdDSA", "use": "sig"},
            {"kty": "oct", "kid": "hmac", "k": "c2VjcmV0"},
            {"kty": "OKP", "crv": "Ed25519", "kid": "enc", "x": x, "use": "enc"},
            7,
        ]});
        (pair, KeySet::parse(set.to_string().as_bytes()).unwrap())
    }

    fn signed(pair: &Ed25519KeyPair, header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }

    #[test]
    fn a_signature_is_checked_with_the_key_of_its_id() {
        let (pair, set) = ed25519();
        assert_eq!(set.len(), 1, "what is not for signatures here is left out");
        let token = signed(
            &pair,
            &json!({"alg": "EdDSA", "kid": "a"}),
            &json!({"iss": "i", "n": 7}),
        );
        let unverified = Unverified::parse(&token).unwrap();
        assert_eq!(unverified.claimed_issuer(), Some("i"));
        let key = set.find(unverified.key_id.as_deref()).unwrap();
        assert_eq!(unverified.verified(key).unwrap()["n"], 7);
        assert!(set.find(Some("b")).is_none());
        assert!(set.find(None).is_some(), "there is only one");

        let (_, others) = ed25519();
        let unverified = Unverified::parse(&token).unwrap();
        assert_eq!(
            unverified.verified(others.find(Some("a")).unwrap()),
            Err(TokenError::Signature)
        );
    }

    #[test]
    fn any_change_of_a_token_is_noticed() {
        let (pair, set) = ed25519();
        let token = signed(
            &pair,
            &json!({"alg": "EdDSA", "kid": "a"}),
            &json!({"iss": "i", "sub": "s"}),
        );
        let key = set.find(Some("a")).unwrap();
        for place in 0..token.len() {
            for sign in ["A", "B", "_", ".", "=", " "] {
                let mut changed = token.clone();
                changed.replace_range(place..=place, sign);
                if changed == token {
                    continue;
                }
                let outcome = Unverified::parse(&changed).and_then(|unverified| unverified.verified(key));
                assert!(outcome.is_err(), "{place} {sign}");
            }
        }
    }

    #[test]
    fn a_token_that_chooses_its_own_algorithm_is_refused() {
        let (pair, set) = ed25519();
        let claims = json!({"iss": "i"});
        let outcome = |token: &str| {
            Unverified::parse(token).and_then(|unverified| unverified.verified(set.find(Some("a")).unwrap()))
        };
        for name in ["none", "None", "HS256", "HS512", "RS1", "ES256K", ""] {
            let token = signed(&pair, &json!({"alg": name, "kid": "a"}), &claims);
            assert_eq!(outcome(&token).unwrap_err(), TokenError::Algorithm, "{name}");
        }
        for name in ["RS256", "ES256", "ES384", "PS512"] {
            let token = signed(&pair, &json!({"alg": name, "kid": "a"}), &claims);
            assert_eq!(outcome(&token).unwrap_err(), TokenError::Signature, "{name}");
        }
        let bare = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims));
        assert_eq!(outcome(&bare).unwrap_err(), TokenError::Algorithm);
        let unsigned = format!("{}.{}.", part(&json!({"alg": "EdDSA"})), part(&claims));
        assert_eq!(outcome(&unsigned).unwrap_err(), TokenError::Signature);
        let critical = signed(&pair, &json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), &claims);
        assert_eq!(outcome(&critical).unwrap_err(), TokenError::Malformed);
        let twice = format!(
            "{}.{}.AA",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","alg":"none"}"#),
            part(&claims)
        );
        assert_eq!(outcome(&twice).unwrap_err(), TokenError::Malformed);
    }

    #[test]
    fn elliptic_curves_are_verified_too() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..]),
        );
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y}]});
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        let message = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&json!({"iss": "i"})));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(&random, message.as_bytes()).unwrap().as_ref());
        let token = format!("{message}.{signature}");
        let key = set.find(None).unwrap();
        assert!(Unverified::parse(&token).unwrap().verified(key).is_ok());
        let other = token.replace(&part(&json!({"iss": "i"})), &part(&json!({"iss": "j"})));
        assert!(Unverified::parse(&other).unwrap().verified(key).is_err());
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        let long = format!("{}.{}.{}", "a".repeat(TOKEN_BYTES), "b", "c");
        for text in ["", ".", "..", "a.b", "a.b.c", "e30.e30.", "e30.W10.", long.as_str()] {
            assert!(Unverified::parse(text).is_err(), "{text:.20}");
        }
    }
}
