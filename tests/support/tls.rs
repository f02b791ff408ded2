//! A redis-server that also speaks TLS, for `localhost` only, with a certificate of a private authority.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::redis::RedisServer;

/// Returns whether the server program can use TLS. Some builds of `tests/servers.sh` cannot, which is reported.
pub(crate) fn is_built_in() -> bool {
    let program = super::redis::program();
    // A name without a folder is Debian's program, which can.
    let can = program.components().count() == 1 || {
        let bytes = fs::read(&program).expect("the server program");
        // A message of the part that is left out. All builds know the settings.
        let message = b"Failed to load private key";
        bytes.windows(message.len()).any(|part| part == message)
    };
    if !can {
        eprintln!("NOT TESTED: {} is built without TLS", program.display());
    }
    can
}

/// A private authority and a certificate for `localhost`, in files. A drop removes them.
#[derive(Debug)]
pub(crate) struct Certificate {
    dir: PathBuf,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("sluice-tls-{:016x}", rand::random::<u64>()));
        fs::create_dir(&dir).expect("a new folder");
        let (ca_key, key) = (KeyPair::generate(), KeyPair::generate());
        let (ca_key, key) = (ca_key.expect("a key"), key.expect("a key"));
        let mut ca = CertificateParams::new([]).expect("no names");
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        ca.distinguished_name
            .push(DnType::CommonName, "authority of a test");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&ca_key).expect("a certificate");
        let mut own = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        own.distinguished_name.push(DnType::CommonName, "localhost");
        let own = own.signed_by(&key, &ca, &ca_key).expect("a certificate");
        for (name, text) in [
            ("ca.pem", ca.pem()),
            ("own.pem", own.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(dir.join(name), text).expect("a new folder");
        }
        Self { dir }
    }

    /// The lines of `redis.conf`, without the port.
    pub(crate) fn lines(&self) -> [String; 4] {
        let file =
            |setting: &str, name: &str| format!("{setting} {}", self.dir.join(name).display());
        [
            file("tls-cert-file", "own.pem"),
            file("tls-key-file", "key.pem"),
            file("tls-ca-cert-file", "ca.pem"),
            "tls-auth-clients no".to_owned(),
        ]
    }

    /// The certificate file of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[derive(Debug)]
pub(crate) struct TlsServer {
    pub(crate) server: RedisServer,
    port: u16,
    certificate: Certificate,
}

impl TlsServer {
    pub(crate) fn start() -> Self {
        let (certificate, port) = (Certificate::new(), super::free_port());
        let options = RedisServer::options().line(&format!("tls-port {port}"));
        let lines = certificate.lines();
        let options = lines
            .iter()
            .fold(options, |options, line| options.line(line));
        Self {
            server: options.start(),
            port,
            certificate,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://localhost:{}/", self.port)
    }

    /// The certificate file of the authority.
    pub(crate) fn authority(&self) -> String {
        self.certificate.authority().display().to_string()
    }
}
