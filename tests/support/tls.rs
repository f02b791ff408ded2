//! A redis-server that also speaks TLS, for `localhost` only, with a certificate of a private authority.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::redis::RedisServer;

#[derive(Debug)]
pub(crate) struct TlsServer {
    pub(crate) server: RedisServer,
    port: u16,
    dir: PathBuf,
}

impl TlsServer {
    pub(crate) fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("sluice-tls-{:016x}", rand::random::<u64>()));
        fs::create_dir(&dir).expect("a new folder");
        let (ca_key, key) = (KeyPair::generate(), KeyPair::generate());
        let (ca_key, key) = (ca_key.expect("a key"), key.expect("a key"));
        let mut ca = CertificateParams::new([]).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca.self_signed(&ca_key).expect("a certificate");
        let own = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let own = own.signed_by(&key, &ca, &ca_key).expect("a certificate");
        let file = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).expect("a new folder");
            path.display().to_string()
        };
        let (ca, own, key) = (
            file("ca.pem", ca.pem()),
            file("own.pem", own.pem()),
            file("key.pem", key.serialize_pem()),
        );
        let port = super::free_port();
        let server = RedisServer::options()
            .line(&format!("tls-port {port}"))
            .line(&format!("tls-cert-file {own}"))
            .line(&format!("tls-key-file {key}"))
            .line(&format!("tls-ca-cert-file {ca}"))
            .line("tls-auth-clients no")
            .start();
        Self { server, port, dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://localhost:{}/", self.port)
    }

    /// The certificate file of the authority.
    pub(crate) fn authority(&self) -> String {
        self.dir.join("ca.pem").display().to_string()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
