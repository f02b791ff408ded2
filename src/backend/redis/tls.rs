use redis::{ConnectionAddr, ConnectionInfo};

/// Installs the cryptography of TLS, unless the program has installed one.
pub(super) fn prepare(info: &ConnectionInfo) {
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // It returns an error if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
