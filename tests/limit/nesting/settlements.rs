//! Handlers and hooks settle the charge that nested layers share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use futures_util::FutureExt;
use http::StatusCode;
use tower::ServiceBuilder;
use tower_sluice::{Charge, Cost, Limiter};

use super::{bucket, key, limit, over, policies, request, spend, spent_tokens, with_charge};
use crate::remote::Remote;
use crate::support::{ask, hello, run_other_tasks};

#[tokio::test]
async fn handler_settles_the_charges_of_all_layers() {
    type Settle = fn(&Charge);
    let settlements: [(Settle, u64, &[&str]); 7] = [
        (|_| {}, 9, &[]),
        (
            |charge| drop(charge.cancel()),
            0,
            &["refund 4", "refund 4", "refund 1"],
        ),
        (|charge| drop(charge.settle(7)), 7, &["refund 2"]),
        (
            |charge| drop(charge.settle(4)),
            4,
            &["refund 4", "refund 1"],
        ),
        (
            |charge| drop(charge.refund(8)),
            1,
            &["refund 4", "refund 4"],
        ),
        (|charge| drop(charge.charge(2)), 11, &["penalty 2"]),
        (|charge| drop(charge.settle(20)), 20, &["penalty 11"]),
    ];
    for (settle, left, sent) in settlements {
        for remote in Remote::each_kind() {
            let mut service = ServiceBuilder::new()
                .layer(limit(&remote))
                .layer(limit(&remote).cost(5))
                .layer(limit(&remote).cost(9))
                .service(with_charge(move |charge| {
                    assert_eq!(charge.estimate(), Some(Cost::each([9])));
                    assert_eq!(charge.policy(), Some(bucket()));
                    assert!(charge.outer().is_none());
                    let decision = charge.decision().expect("a decision");
                    assert_eq!(decision.snapshot().remaining(), 91);
                    settle(charge);
                }));
            ask(&mut service, request()).await;
            run_other_tasks().await;
            assert_eq!(remote.operations()[3..], *sent);
            assert_eq!(spent_tokens(&remote), left);
        }
    }
}

#[tokio::test]
async fn hooks_of_all_layers_see_the_joined_charge_inner_first() {
    // Whether the outer and the inner hook settle, and the tokens charged in the end.
    for (settle_handler, left) in [([true, false], 20), ([false, true], 21), ([true, true], 21)] {
        for remote in Remote::each_kind() {
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = |number: usize, cost: u64, actual: u64| {
                let (calls, settle_handler) = (Arc::clone(&calls), settle_handler[number]);
                limit(&remote).cost(cost).on_response(move |parts, charge| {
                    assert_eq!(parts.status, StatusCode::OK);
                    assert_eq!(calls.fetch_add(1, SeqCst), 1 - number);
                    if settle_handler {
                        drop(charge.settle(actual));
                    }
                })
            };
            let mut service = ServiceBuilder::new()
                .layer(hook(0, 1, 20))
                .layer(hook(1, 5, 21))
                .service(hello());
            ask(&mut service, request()).await;
            run_other_tasks().await;
            assert_eq!(calls.load(SeqCst), 2);
            assert_eq!(spent_tokens(&remote), left, "{settle_handler:?}");
        }
    }
}

#[tokio::test]
async fn outer_hook_sees_the_inner_rejection_and_cannot_charge_for_it() {
    for remote in Remote::each_kind() {
        let within = limit(&remote)
            .cost(50)
            .on_response(|_, _| panic!("the layer rejected"));
        let outside = limit(&remote).on_response(|parts, charge| {
            assert_eq!(parts.status, StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(charge.estimate(), None);
            let settled = charge.settle(7).now_or_never().expect("at once");
            assert!(settled.expect_err("settled already").is_settled());
        });
        let mut service = ServiceBuilder::new()
            .layer(outside)
            .layer(within)
            .service(hello());
        spend(&remote, 60);
        ask(&mut service, request()).await;
        run_other_tasks().await;
        assert_eq!(spent_tokens(&remote), 60);
    }
}

#[tokio::test]
async fn a_handler_settles_all_parts_under_every_algorithm() {
    for policy in policies() {
        for remote in Remote::each_kind() {
            let limiter = Limiter::new(policy.clone(), remote.memory.clone());
            let left = || {
                let decision = limiter.check_now(&key(), 0).decision;
                let quotas = decision.snapshot().quotas().iter();
                quotas.map(|quota| quota.remaining()).collect::<Vec<_>>()
            };
            for actual in [0, 2, 1, 3] {
                // Enough tokens for three requests, whatever was spent before.
                limiter.reset(&key()).await.expect("memory");
                let before = left();
                let mut service = ServiceBuilder::new()
                    .layer(over(&policy, &remote))
                    .layer(over(&policy, &remote).cost(3))
                    .service(with_charge(move |charge| drop(charge.settle(actual))));
                assert_eq!(ask(&mut service, request()).await.status, StatusCode::OK);
                run_other_tasks().await;
                let expected: Vec<_> = before.iter().map(|before| before - actual).collect();
                assert_eq!(left(), expected, "{policy:?}");
            }
        }
    }
}
