//! Writes single header fields.

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

pub(super) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const SHADOW: HeaderName = HeaderName::from_static("x-ratelimit-shadow");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The bytes of a field value.
pub(super) type Field = SmallVec<[u8; 128]>;

pub(super) fn append(name: HeaderName, field: &Field, headers: &mut HeaderMap) {
    if let Some(value) = value(field) {
        headers.append(name, value);
    }
}

pub(super) fn value(field: &Field) -> Option<HeaderValue> {
    // Only printable ASCII is written, so the conversion succeeds.
    if field.is_empty() {
        None
    } else {
        HeaderValue::from_bytes(field).ok()
    }
}

/// Writes the name of a shadow policy that denied the request.
pub(super) fn write_shadow(policy: &str, headers: &mut HeaderMap) {
    if let Ok(name) = HeaderValue::from_str(policy) {
        headers.append(SHADOW, name);
    }
}

/// Forbids caches to store a rejection, because it depends on the client (RFC 6585 §4 for 429). A `Cache-Control` with
/// `no-store` stays; any other one is replaced.
pub(crate) fn write_no_store(headers: &mut HeaderMap) {
    let forbids = |value: &HeaderValue| {
        let mut directives = value.as_bytes().split(|byte| *byte == b',');
        directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-store"))
    };
    if !headers.get_all(CACHE_CONTROL).iter().any(forbids) {
        headers.insert(CACHE_CONTROL, NO_STORE);
    }
}

/// Whether rate-limit fields are written with this status. A client could delay a redirect because of them.
pub(super) fn is_written_on(status: StatusCode, on_redirects: bool) -> bool {
    !(status.is_informational() || status.is_redirection() && !on_redirects)
}
