use super::units::MOST_GRAINS;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
// The compiler evaluates this constant.
const _: Quota = Quota::per_day(77_777).burst(5).initial_tokens(0);

#[test]
fn invalid_literal_panics_with_the_text_of_its_error() {
    let payload = std::panic::catch_unwind(|| Quota::fixed_window(5, SECOND).burst(9)).unwrap_err();
    let error = Quota::fixed_window(5, SECOND).try_burst(9).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>(), Some(&error.to_string()));
}

#[test]
fn invalid_values_are_errors_of_every_try_constructor() {
    let none = Duration::ZERO;
    let age = Duration::from_micros(MOST_GRAINS + 1);
    for invalid in [
        Quota::try_per(0, SECOND),
        Quota::try_per(1, none),
        Quota::try_token_bucket(0, 1, SECOND),
        Quota::try_token_bucket(1, 0, SECOND),
        Quota::try_token_bucket(MOST_TOKENS, 1, Duration::from_secs(86_400)),
        Quota::try_per(1, Duration::MAX),
        Quota::try_token_bucket(1, MOST_TOKENS, Duration::MAX),
        Quota::try_interval_bucket(0, 1, SECOND),
        Quota::try_interval_bucket(1, 0, SECOND),
        Quota::try_interval_bucket(1, 1, none),
        Quota::try_interval_bucket(2, 1, age / 2 + SECOND),
        Quota::try_interval_bucket(MOST_TOKENS, 1, Duration::MAX),
        Quota::try_fixed_window(0, SECOND),
        Quota::try_fixed_window(1, none),
        Quota::try_fixed_window(1, age),
        Quota::try_sliding_window(0, SECOND),
        Quota::try_sliding_window(1, age),
        Quota::try_sliding_log(0, SECOND),
        Quota::try_sliding_log(65_536, SECOND),
        Quota::try_sliding_log(1, none),
        Quota::per_second(5).try_burst(0),
        Quota::per_second(5).try_initial_tokens(6),
        Quota::per_second(5).try_anchor(Anchor::EPOCH),
        Quota::sliding_log(5, SECOND).try_initial_tokens(1),
    ] {
        assert!(invalid.is_err(), "{invalid:?}");
    }
    assert!(Quota::try_interval_bucket(1, 1, Duration::from_micros(MOST_GRAINS)).is_ok());
    assert!(Quota::try_fixed_window(1, Duration::from_micros(MOST_GRAINS)).is_ok());
}

#[test]
fn tokens_are_at_most_two_to_the_fortieth() {
    let (most, over) = (MOST_TOKENS, MOST_TOKENS + 1);
    for accepted in [
        Quota::try_per(most, SECOND),
        Quota::try_token_bucket(most, 1 << 20, SECOND),
        Quota::try_token_bucket(1, most, SECOND),
        Quota::try_interval_bucket(most, most, SECOND),
        Quota::try_fixed_window(most, SECOND),
        Quota::try_sliding_window(most, Duration::from_micros(MOST_GRAINS)),
    ] {
        accepted.expect("in range");
    }
    for invalid in [
        Quota::try_per(over, SECOND),
        Quota::try_token_bucket(over, 1, SECOND),
        Quota::try_token_bucket(1, over, SECOND),
        Quota::try_interval_bucket(over, over, SECOND),
        Quota::try_interval_bucket(1, over, SECOND),
        Quota::try_fixed_window(over, SECOND),
        Quota::try_sliding_window(over, SECOND),
        Quota::try_sliding_window(u64::MAX, SECOND),
        Quota::per_second(5).try_burst(over),
    ] {
        let value = invalid.expect_err("out of range");
        assert!(
            matches!(
                value,
                QuotaError::TooLarge {
                    max: MOST_TOKENS,
                    ..
                }
            ),
            "{value}"
        );
    }
}

#[test]
fn ten_gigabytes_a_day_keep_their_exact_rate() {
    let quota = Quota::per_day(10_000_000_000).with_unit(Unit::ContentBytes);
    assert_eq!(quota.grains(), Some((25, 216)));
    assert_eq!(
        quota.to_string().parse::<Quota>().map(|read| read.limit()),
        Ok(quota.limit())
    );
}

#[test]
fn later_burst_keeps_the_other_settings() {
    assert_eq!(
        Quota::per_second(5).initial_tokens(0).burst(9),
        Quota::per_second(5).burst(9).initial_tokens(0)
    );
    assert!(Quota::per_second(5).initial_tokens(4).try_burst(3).is_err());
    let quota = Quota::interval_bucket(5, 1, SECOND)
        .anchor(Anchor::EPOCH)
        .with_unit(Unit::ContentBytes)
        .burst(9);
    assert_eq!((quota.limit(), quota.unit()), (9, Unit::ContentBytes));
    assert!(matches!(quota.rule, Rule::IntervalBucket(bucket) if bucket.origin == Some(0)));
}
