use bb8_redis::redis::{ConnectionAddr, ConnectionInfo};

/// Chooses what TLS computes with, unless the program has.
pub(super) fn prepare(info: &ConnectionInfo) {
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // An error says that somebody has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
