//! TLS to Redis.

use std::error::Error;

use tower_sluice::backend::BackendErrorKind;
use tower_sluice::{AnyBackend, RedisBackend};

use crate::processes::{URL, process};
use crate::spend;
use crate::support::tls::{self, TlsServer};

#[tokio::test]
async fn tls_accepts_only_system_trust_roots() {
    if !tls::is_built_in() {
        return;
    }
    let tls = TlsServer::start();
    let (server, url, ca) = (&tls.server, tls.url(), tls.authority());
    // The environment sets the trusted authorities, and a child process can have another one.
    let text = process(
        "processes::spends_one",
        &[(URL, &url), ("SSL_CERT_FILE", &ca)],
    );
    assert!(text.contains("left: 9"), "{text}");
    assert_eq!(server.keys(), ["{sluice:api:rann}:b"]);

    // The system's authorities do not include that of this server.
    let error = RedisBackend::connect(&url).await.unwrap_err();
    assert_eq!(*error.kind(), BackendErrorKind::Unreachable, "{error:?}");
    let why = error.source().expect("a reason").to_string();
    assert!(why.contains("certificate"), "{why}");
    let any = AnyBackend::from_url(&url).expect("a URL");
    assert!(spend(&any, "ann").await.is_err());
}

/// The certificate is for a name, and the sentinels know the servers by their addresses.
#[cfg(feature = "sentinel")]
#[test]
fn sentinels_and_servers_use_tls_together() {
    use crate::support::sentinels::Sentinels;
    use crate::support::tls::Certificate;

    if !tls::is_built_in() {
        return;
    }
    let certificate = Certificate::new();
    let servers = Sentinels::tls(&certificate);
    let (url, ca) = (servers.tls_url(), certificate.authority());
    let text = process(
        "tls::spends_one_by_name",
        &[(URL, &url), ("SSL_CERT_FILE", &ca.display().to_string())],
    );
    assert!(text.contains("left: 9"), "{text}");
    assert_eq!(servers.servers[0].keys(), ["{sluice:api:rann}:b"]);
    // Without the authority neither the sentinels nor the servers are trusted.
    let text = process("tls::spends_one_by_name", &[(URL, &url)]);
    assert!(text.contains("certificate"), "{text}");
}

/// Runs as a child process.
#[cfg(feature = "sentinel")]
#[tokio::test]
async fn spends_one_by_name() {
    let Ok(url) = std::env::var(URL) else { return };
    let backend = RedisBackend::builder()
        .time_limit(std::time::Duration::from_secs(5))
        .node_address(|_, port| ("localhost".to_owned(), port));
    match backend.connect(url).await {
        Ok(backend) => println!("left: {}", spend(&backend, "ann").await.expect("Redis")),
        Err(error) => println!("{error:?}"),
    }
}
