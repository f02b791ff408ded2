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
