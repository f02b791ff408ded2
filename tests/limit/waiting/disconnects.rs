//! Clients that disconnect while they wait.

use tower::Layer;
use tower_sluice::backend::Backend;
use tower_sluice::{Policy, Quota};

use super::{
    SECOND, assert_waits, call, each, key, limit, one_a_second, over, request, seconds, status,
};
use crate::remote::Remote;
use crate::support::{ask, hello, run_other_tasks, spent};

#[tokio::test]
async fn client_disconnect_cancels_its_reservation() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        ask(&mut service, request()).await;
        let mut waits = call(&mut service, request());
        assert_waits!(waits);
        assert_eq!(remote.context().stats().waiting, 1);
        drop(waits);
        run_other_tasks().await;
        assert_eq!(remote.context().stats().waiting, 0);
        assert_eq!(remote.operations(), ["reserve 1", "reserve 1", "cancel"]);
        // The next request gets the reservation.
        let mut next = call(&mut service, request());
        assert_waits!(next);
        clock.advance(SECOND);
        assert_eq!(status!(next), 200);
    }
}

#[tokio::test]
async fn reservation_followed_by_another_is_not_refunded() {
    for (clock, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        ask(&mut service, request()).await;
        let (mut second, mut third) =
            (call(&mut service, request()), call(&mut service, request()));
        assert_waits!(second);
        assert_waits!(third);
        drop(second);
        run_other_tasks().await;
        clock.advance(SECOND);
        assert_waits!(third);
        clock.advance(SECOND);
        assert_eq!(status!(third), 200);
    }
}

#[tokio::test]
async fn client_disconnect_during_reserve_cancels_the_reservation_later() {
    let remote = Remote::with_replies(0);
    let mut service = limit(&remote).layer(hello());
    let mut waits = call(&mut service, request());
    assert_waits!(waits);
    drop(waits);
    run_other_tasks().await;
    remote.release(9);
    run_other_tasks().await;
    assert_eq!(remote.operations(), ["reserve 1", "cancel"]);
    assert_eq!(spent(&remote.memory, &one_a_second(), &key()), [0]);
}

#[tokio::test]
async fn unpolled_waiter_changes_nothing() {
    for (_, remote) in each() {
        let mut service = limit(&remote).layer(hello());
        drop(call(&mut service, request()));
        run_other_tasks().await;
        assert!(remote.operations().is_empty());
        assert_eq!(remote.context().stats().waiting, 0);
    }
}

#[tokio::test]
async fn client_disconnect_before_a_window_is_charged_nothing() {
    let policy = Policy::new("api", Quota::fixed_window(1, seconds(5)));
    for (clock, remote) in each() {
        let mut service = over(&policy, &remote).layer(hello());
        ask(&mut service, request()).await;
        let (mut second, mut third) =
            (call(&mut service, request()), call(&mut service, request()));
        assert_waits!(second);
        assert_waits!(third);
        drop(second);
        clock.advance(seconds(5));
        assert_eq!(status!(third), 200);
        assert_eq!(spent(&remote.memory, &policy, &key()), [1]);
    }
}
