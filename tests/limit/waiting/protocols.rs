//! Services of protocols other than HTTP wait.

use std::convert::Infallible;

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt};
use tower_sluice::RetryAfter;
use tower_sluice::response::{AsError, LimitError, Rejection};

use super::{SECOND, answer, assert_waits, each, limit, seconds};

#[tokio::test]
async fn non_http_services_wait() {
    for (clock, remote) in each() {
        let mut service =
            limit(&remote)
                .protocol(AsError)
                .layer(tower::service_fn(|n: u64| async move {
                    Ok::<_, Infallible>(n + 1)
                }));
        let mut call = |n: u64| {
            let ready = service.ready().now_or_never().expect("ready");
            Box::pin(ready.expect("no error").call(n))
        };
        let mut first = call(1);
        assert_eq!(
            answer(&mut first).await.expect("at once").expect("passed"),
            2
        );
        let mut line: Vec<_> = (2..13).map(&mut call).collect();
        for waits in &mut line[..10] {
            assert_waits!(*waits);
        }
        match answer(&mut line[10]).await {
            Some(Err(LimitError::Rejected(Rejection::Limited { decision, .. }))) => {
                let wait = RetryAfter::In(seconds(11));
                assert_eq!(decision.retry_after(), Some(wait));
            }
            other => panic!("{other:?} is not a rejection"),
        }
        clock.advance(SECOND);
        assert_eq!(
            answer(&mut line[0])
                .await
                .expect("the reservation is due")
                .expect("passed"),
            3
        );
        assert_waits!(line[1]);
    }
}
