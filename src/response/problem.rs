//! Bodies of problem details (RFC 9457), with the types of draft-ietf-httpapi-ratelimit-headers-11.

use bytes::Bytes;
use http::StatusCode;

use super::quoted::push_quoted;
use crate::decision::Snapshot;
use crate::policy::Policy;

/// The problem type of a request over a rate limit, from draft-ietf-httpapi-ratelimit-headers-11.
///
/// The third type of the draft, `temporary-reduced-capacity`, is for a service that has too many requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemType {
    /// `quota-exceeded`.
    #[default]
    QuotaExceeded,
    /// `abnormal-usage-detected`: for a limit that normal use does not reach, such as one on failed logins.
    AbnormalUsageDetected,
}

/// At least one quota is exceeded.
pub(super) fn quota_exceeded<'a>(violated: impl Iterator<Item = &'a str>) -> Bytes {
    let head = concat!(
        r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
        r#""title":"Request cannot be satisfied as assigned quota has been exceeded","#,
        r#""status":429,"violated-policies":["#
    );
    with_names(head, violated)
}

/// The client's use is abnormal. The draft spells the title like this.
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
        if index > 0 {
            body.push(',');
        }
        push_quoted(name, &mut body);
    }
    body.push_str("]}");
    body.into()
}

/// Adds the reason of a denial to a problem document.
pub(super) fn with_reason(body: &[u8], reason: &str) -> Bytes {
    let mut with = body.strip_suffix(b"}").unwrap_or(body).to_vec();
    with.extend_from_slice(format!(r#","reason":"{reason}"}}"#).as_bytes());
    with.into()
}

/// The whole service has too many requests in flight.
pub(super) fn reduced_capacity() -> Bytes {
    Bytes::from_static(
        concat!(
            r#"{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","#,
            r#""title":"Request cannot be satisfied due to temporary server capacity constraints","status":503}"#
        )
        .as_bytes(),
    )
}

/// The status alone, because internal failures do not concern the client.
pub(super) fn about_blank(status: StatusCode) -> Bytes {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Bytes::from_static(
            br#"{"type":"about:blank","title":"Service Unavailable","status":503}"#,
        ),
        StatusCode::BAD_REQUEST => {
            Bytes::from_static(br#"{"type":"about:blank","title":"Bad Request","status":400}"#)
        }
        StatusCode::LENGTH_REQUIRED => {
            Bytes::from_static(br#"{"type":"about:blank","title":"Length Required","status":411}"#)
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
