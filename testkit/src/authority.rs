//! Certificates of a test's own, made with the `openssl` program.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An authority and the folder that holds what it made.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
    name: String,
}

/// A certificate (PEM) and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Issued {
    /// Certificate and key together, as clients of `reqwest` take them.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn together(&self) -> io::Result<Vec<u8>> {
        let mut pem = std::fs::read(&self.certificate)?;
        pem.extend(std::fs::read(&self.key)?);
        Ok(pem)
    }
}

impl Authority {
    /// Makes one, called `name`, in `folder`.
    ///
    /// # Errors
    /// When the `openssl` program refuses.
    pub fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let authority = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
        };
        let (key, certificate) = (authority.at("-key.pem"), authority.certificate());
        openssl(
            Command::new("openssl")
                .args(["req", "-x509", "-days", "2", "-sha256", "-nodes"])
                .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-subj", &format!("/CN={name}")])
                .args(["-addext", "keyUsage=critical,keyCertSign"])
                .arg("-keyout")
                .arg(key)
                .arg("-out")
                .arg(certificate),
        )?;
        Ok(authority)
    }

    /// Its own certificate's file.
    pub fn certificate(&self) -> PathBuf {
        self.at(".pem")
    }

    fn at(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", self.name))
    }

    /// A certificate with common name `name` and `alternative` names, for example `DNS:localhost,IP:127.0.0.1`.
    ///
    /// # Errors
    /// When the `openssl` program refuses.
    pub fn issue(&self, name: &str, alternative: &str) -> io::Result<Issued> {
        let file = |end: &str| self.folder.join(format!("{}-{name}{end}", self.name));
        let (key, request, certificate, extensions) =
            (file("-key.pem"), file(".csr"), file("-cert.pem"), file(".extensions"));
        std::fs::write(&extensions, format!("subjectAltName={alternative}\n"))?;
        openssl(
            Command::new("openssl")
                .args(["req", "-sha256", "-nodes", "-newkey", "ec"])
                .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", &format!("/CN={name}")])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&request),
        )?;
        openssl(
            Command::new("openssl")
                .args(["x509", "-req", "-days", "2", "-sha256", "-CAcreateserial", "-in"])
                .arg(request)
                .arg("-CA")
                .arg(self.certificate())
                .arg("-CAkey")
                .arg(self.at("-key.pem"))
                .arg("-extfile")
                .arg(extensions)
                .arg("-out")
                .arg(&certificate),
        )?;
        Ok(Issued { certificate, key })
    }
}

/// Runs the program and returns what it printed.
///
/// # Errors
/// When it can't be started or refuses.
pub fn openssl(command: &mut Command) -> io::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?} failed: {said}")))
}
