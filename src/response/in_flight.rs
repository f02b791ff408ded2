use std::fmt;
use std::sync::Arc;

use http::{Extensions, Response};

use super::existing::ExistingHeaders;
use super::field;
use super::format::HeaderFormats;
use super::grpc;
use super::hook::{NoHook, ResponseHook};
use super::prepared::{FieldOptions, PreparedFields};
use crate::clock::Timestamp;
use crate::decision::Decision;
use crate::partition::PartitionKey;
use crate::policy::Policy;

/// The state from an allowed HTTP request to its response: the fields to write, and the hook.
pub struct HttpInFlight<H: ResponseHook = NoHook> {
    pub(super) fields: Option<PendingFields>,
    pub(super) hook: H::Kept,
}

/// The state of a request whose response is passed on as it is.
impl<H: ResponseHook> Default for HttpInFlight<H> {
    fn default() -> Self {
        Self {
            fields: None,
            hook: H::Kept::default(),
        }
    }
}

impl<H: ResponseHook> fmt::Debug for HttpInFlight<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpInFlight")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// In a response's extensions: the fields that inner layers have written for outer layers whose charge they joined.
#[derive(Clone, Default)]
pub(super) struct InnerLayerFields(Vec<LayerFields>);

#[derive(Clone)]
pub(super) struct LayerFields {
    /// The depth of the charge.
    pub(super) depth: usize,
    pub(super) decision: Decision,
    /// The time of the decision.
    pub(super) at: Timestamp,
    /// The formats that are written.
    pub(super) formats: HeaderFormats,
    /// Whether the shadow header is written.
    pub(super) as_shadow: bool,
}

impl InnerLayerFields {
    pub(super) fn record(extensions: &mut Extensions, inner: LayerFields) {
        extensions.get_or_insert_default::<Self>().0.push(inner);
    }

    fn take(extensions: &mut Extensions, depth: usize) -> Option<LayerFields> {
        let inner = &mut extensions.get_mut::<Self>()?.0;
        let place = inner.iter().position(|inner| inner.depth == depth)?;
        Some(inner.swap_remove(place))
    }
}

#[derive(Debug)]
pub(super) struct PendingFields {
    pub(super) policy: Policy,
    pub(super) decision: Decision,
    pub(super) formats: HeaderFormats,
    pub(super) existing: ExistingHeaders,
    /// The time of the decision, if it is needed.
    pub(super) at: Timestamp,
    pub(super) partition_key: Option<PartitionKey>,
    pub(super) on_redirects: bool,
    pub(super) response_extensions: bool,
    pub(super) shadow_header: bool,
    /// The depth of the charge, if inner layers can join it.
    pub(super) depth: Option<usize>,
    pub(super) joined: bool,
    /// The name of the quota to show in a format with room for one.
    pub(super) shown: Option<Arc<str>>,
}

/// Returns the index of the quota to show. `None` if none is named, or the policy has no quota of that name.
pub(super) fn shown_quota(name: Option<&str>, policy: &Policy) -> Option<usize> {
    let name = name?;
    policy
        .quotas()
        .iter()
        .position(|quota| quota.name() == name)
}

impl PendingFields {
    pub(super) fn write<B>(&self, response: &mut Response<B>) {
        let inner;
        let mut decision = &self.decision;
        let (mut at, mut fields, mut missing) = (self.at, HeaderFormats::NONE, self.formats);
        let mut as_shadow = false;
        if let Some(depth) = self.depth
            && let Some(taken) = InnerLayerFields::take(response.extensions_mut(), depth)
        {
            // The inner layer knows the whole charge.
            inner = taken;
            (decision, at, fields) = (&inner.decision, inner.at, inner.formats);
            missing = missing.without(fields);
            as_shadow = inner.as_shadow;
        }
        let is_shadow = self.policy.is_shadow();
        if is_shadow && self.shadow_header && !as_shadow && !decision.is_allowed() {
            field::write_shadow(self.policy.name(), response.headers_mut());
            as_shadow = true;
        }
        if !missing.is_empty()
            && !is_shadow
            && field::is_written_on(response.status(), self.on_redirects)
            && !grpc::is_grpc(response.headers())
        {
            let prepared = self.policy.derived(PreparedFields::from_policy);
            let options = FieldOptions {
                formats: missing,
                existing: self.existing,
                written: fields,
                at,
                partition_key: self.partition_key.as_ref().map(PartitionKey::as_bytes),
                shown: shown_quota(self.shown.as_deref(), &self.policy),
            };
            prepared.write_limits(options, decision, response.headers_mut());
            fields = fields.or(missing);
        }
        if let (true, Some(depth)) = (self.joined, self.depth) {
            let inner = LayerFields {
                depth,
                decision: decision.clone(),
                at,
                formats: fields,
                as_shadow,
            };
            InnerLayerFields::record(response.extensions_mut(), inner);
        }
        if self.response_extensions {
            response.extensions_mut().insert(decision.clone());
        }
    }
}
