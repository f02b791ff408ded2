//! Prepaid credit: a total of tokens for each customer, batches of what is left, and an operator who blocks a customer.
//!
//! Run: `cargo run --example billing`

use std::time::Duration;

use tower_sluice::decision::DenialReason;
use tower_sluice::limiter::Rejected;
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RetryAfter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1,000 credits once, and at most 600 of them in an hour.
    let policy = Policy::new("credit", Quota::total(1_000)).and("hourly", Quota::per_hour(600));
    let credit = Limiter::new(policy, MemoryBackend::new());
    let (ann, bob) = (Key::from("ann"), Key::from("bob"));

    // An estimate is charged first, and settled at the actual cost.
    let charge = credit.try_acquire(&ann, 400).await?;
    charge.settle(250).await?;
    let quotas = credit.peek(&ann).await?;
    assert_eq!(quotas.quotas()[0].remaining(), 750);
    println!("ann has {} credits", quotas.quotas()[0].remaining());

    // A batch worker takes as many as there are: here the hour is the tighter limit.
    let (taken, _charge) = credit.try_acquire_up_to(&ann, 5_000).await?;
    assert_eq!(taken, 350);
    println!("a batch of {taken}");

    // More credits than are left: no wait helps.
    let all = Limiter::new(Policy::new("gift", Quota::total(10)), MemoryBackend::new());
    let _gift = all.try_acquire(&bob, 8).await?;
    let Err(why) = all.acquire(&bob, 3, Duration::from_secs(3_600)).await else {
        return Err("3 credits of 2".into());
    };
    assert_eq!(why.retry_after(), Some(RetryAfter::Never));
    println!("bob: {why}");

    // An operator blocks a customer for an hour. Credits stay as they are.
    credit.block(&bob, Duration::from_secs(3_600)).await?;
    match credit.try_acquire(&bob, 1).await {
        Err(Rejected::Denied(denied)) => {
            assert_eq!(denied.denial_reason(), Some(DenialReason::Blocked));
        }
        _ => return Err("bob is blocked".into()),
    }
    credit.unblock(&bob).await?;
    assert!(!credit.is_blocked(&bob).await?);
    assert_eq!(credit.peek(&bob).await?.quotas()[0].remaining(), 1_000);
    println!("bob is back");
    Ok(())
}
