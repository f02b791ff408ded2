//! Bodies of rejections: problem details (RFC 9457), with the types of draft-ietf-httpapi-ratelimit-headers-11.

use bytes::Bytes;
use http::StatusCode;

use crate::decision::Snapshot;
use crate::policy::Policy;

/// What a client that is over a limit is told its problem is: one of the types of
/// draft-ietf-httpapi-ratelimit-headers-11. (Its third one, `temporary-reduced-capacity`, is that of a service which
/// has too much in flight in all.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemType {
    /// `quota-exceeded`.
    #[default]
    QuotaExceeded,
    /// `abnormal-usage-detected`: for a limit that nobody meets who uses the service as it is meant, on attempts to log
    /// in say.
    AbnormalUsageDetected,
}

/// The quota of at least one of these policies is used up.
pub(super) fn quota_exceeded<'a>(violated: impl Iterator<Item = &'a str>) -> Bytes {
    let head = concat!(
        r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
        r#""title":"Request cannot be satisfied as assigned quota has been exceeded","#,
        r#""status":429,"violated-policies":["#
    );
    with_names(head, violated)
}

/// The same, and nobody who uses the service as it is meant gets there. The title is spelt as in the draft.
pub(super) fn abnormal_usage<'a>(violated: impl Iterator<Item = &'a str>) -> Bytes {
    let head = concat!(
        r#"{"type":"https://iana.org/assignments/http-problem-types#abnormal-usage-detected","#,
        r#""title":"Request not satisifed due to detection of abnormal request pattern","#,
        r#""status":429,"violated-policies":["#
    );
    with_names(head, violated)
}

fn with_names<'a>(head: &str, violated: impl Iterator<Item = &'a str>) -> Bytes {
    let mut body = String::with_capacity(256);
    body.push_str(head);
    for (index, name) in violated.enumerate() {
        body.push_str(if index == 0 { "\"" } else { ",\"" });
        for letter in name.chars() {
            // Names are printable ASCII: nothing else needs escaping (RFC 8259 §7).
            if matches!(letter, '"' | '\\') {
                body.push('\\');
            }
            body.push(letter);
        }
        body.push('"');
    }
    body.push_str("]}");
    body.into()
}

/// The whole service has too much in flight.
pub(super) fn reduced_capacity() -> Bytes {
    Bytes::from_static(
        concat!(
            r#"{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","#,
            r#""title":"Request cannot be satisfied due to temporary server capacity constraints","status":503}"#
        )
        .as_bytes(),
    )
}

/// Nothing is said but the status: what failed inside is not the client's business.
pub(super) fn about_blank(status: StatusCode) -> Bytes {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Bytes::from_static(
            br#"{"type":"about:blank","title":"Service Unavailable","status":503}"#,
        ),
        StatusCode::BAD_REQUEST => {
            Bytes::from_static(br#"{"type":"about:blank","title":"Bad Request","status":400}"#)
        }
        StatusCode::FORBIDDEN => {
            Bytes::from_static(br#"{"type":"about:blank","title":"Forbidden","status":403}"#)
        }
        StatusCode::NOT_FOUND => {
            Bytes::from_static(br#"{"type":"about:blank","title":"Not Found","status":404}"#)
        }
        _ => Bytes::from_static(
            br#"{"type":"about:blank","title":"Internal Server Error","status":500}"#,
        ),
    }
}

/// The names of the quotas that deny.
pub(super) fn violated<'a>(
    policy: &'a Policy,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = &'a str> {
    let both = policy.quotas().iter().zip(snapshot.quotas());
    both.filter(|(_, answer)| !answer.is_allowed())
        .map(|(named, _)| named.name())
}
