//! The routes that the playground limits.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Path};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use http::Extensions;
use tower_sluice::{Charge, Head};

/// Reads the cost from the path of two routes. Other routes cost 1.
pub(crate) fn cost(head: &Head<'_>) -> u64 {
    let segment = match matched(head.extensions) {
        "/cost/{n}" | "/settle/{estimate}/{actual}" => head.path().split('/').nth(2),
        _ => None,
    };
    segment.and_then(|cost| cost.parse().ok()).unwrap_or(1)
}

pub(crate) fn matched(extensions: &Extensions) -> &str {
    extensions.get().map_or("", MatchedPath::as_str)
}

/// Charges the estimate, and settles at the actual cost.
pub(crate) async fn settle(
    Path((estimate, actual)): Path<(u64, u64)>,
    charge: Charge,
) -> impl IntoResponse {
    match charge.settle(actual).await {
        Ok(_) if charge.policy().is_none() => (StatusCode::OK, "passed uncounted\n".to_owned()),
        Ok(after) => {
            let left = after.map(|after| format!(", {} left", after.remaining()));
            let left = left.unwrap_or_default();
            (
                StatusCode::OK,
                format!("estimated {estimate}, settled at {actual}{left}\n"),
            )
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

pub(crate) async fn sleep(Path(ms): Path<u64>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("slept {ms} ms\n")
}

pub(crate) async fn status(Path(code): Path<u16>) -> impl IntoResponse {
    // 1xx statuses are not final.
    match StatusCode::from_u16(code) {
        Ok(status) if !status.is_informational() => status.into_response(),
        _ => (StatusCode::BAD_REQUEST, "not a final status\n").into_response(),
    }
}

pub(crate) async fn stream(Path(chunks): Path<u32>) -> Body {
    Body::from_stream(futures_util::stream::unfold(0, move |sent| async move {
        if sent == chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((
            Ok::<_, Infallible>(format!("chunk {}\n", sent + 1)),
            sent + 1,
        ))
    }))
}
