//! What a client's certificate says of the client. The certificate was verified during the handshake.

use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;

/// The object identifier of a common name, 2.5.4.3 (X.520).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// UTF8String, PrintableString and IA5String: texts that are UTF-8 as they stand.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The names in a client's certificate, each with its kind before it: `dns:checkout.internal`,
/// `uri:spiffe://bank/checkout`, `cn:checkout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    names: BTreeSet<String>,
}

impl PeerCertificate {
    /// Reads the names of an X.509 certificate (RFC 5280). One that can't be read has none.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
            return Self { names: BTreeSet::new() };
        };
        let alternative = parsed
            .valid_dns_names()
            .map(|name| format!("dns:{name}"))
            .chain(parsed.valid_uri_names().map(|name| format!("uri:{name}")));
        let common = common_names(parsed.subject())
            .into_iter()
            .map(|name| format!("cn:{name}"));
        Self {
            names: alternative.chain(common).collect(),
        }
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether the certificate has `name`, kind and all.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// The common names of a subject: the relative names inside its outermost SEQUENCE.
fn common_names(subject: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = subject;
    while let Some((SET, name, rest)) = element(names) {
        let mut attributes = name;
        while let Some((SEQUENCE, attribute, more)) = element(attributes) {
            if let Some((OBJECT_IDENTIFIER, COMMON_NAME, value)) = element(attribute)
                && let Some((kind, text, _)) = element(value)
                && TEXTS.contains(&kind)
                && let Ok(text) = std::str::from_utf8(text)
            {
                found.push(text.to_owned());
            }
            attributes = more;
        }
        names = rest;
    }
    found
}

/// The first element of DER (X.690): its tag, its content and what follows it. Lengths of at most two bytes: a name is
/// no longer.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_cut_short_or_garbled_has_no_names() {
        // SET { SEQUENCE { 2.5.4.3, UTF8String "shop" } }
        let whole = [0x31, 13, 0x30, 11, 0x06, 3, 0x55, 4, 3, 0x0c, 4, b's', b'h', b'o', b'p'];
        assert_eq!(common_names(&whole), ["shop"]);
        for end in 0..whole.len() {
            assert!(common_names(&whole[..end]).is_empty(), "{end}");
        }
        for place in 0..whole.len() {
            for byte in 0..=255 {
                let mut garbled = whole;
                garbled[place] = byte;
                common_names(&garbled);
            }
        }
    }
}
