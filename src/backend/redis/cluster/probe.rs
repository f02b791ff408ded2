//! The check of a cluster by `connect`: a charge and a reset on each primary, on a key of its own.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::{BackendError, BackendErrorKind};
use super::super::error::{ConnectTimeout, is_not_done};
use super::super::key_name::Naming;
use super::super::request::OpRequest;
use super::router::Router;
use crate::decision::Op;
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::{Cost, Quota};

/// The policy name of the keys: `{sluice:tower-sluice-connect:r17}:b`.
const POLICY: &str = "tower-sluice-connect";
/// The keys that are tried for one node. A node with fewer slots is not checked.
const MOST_KEYS: u64 = 10_000;
/// Longer than any time limit of `connect`.
const NO_LIMIT: Duration = Duration::from_secs(86_400);

/// Charges and deletes a key on each primary. A primary that is down is no error, unless all are.
pub(in super::super) async fn probe(
    router: &Arc<Router>,
    naming: &Naming,
) -> Result<(), BackendError> {
    router.until_known(NO_LIMIT).await;
    let policy = Policy::new(POLICY, Quota::per_second(1_000));
    let (mut answered, mut unanswered) = (0_u32, None);
    for node in router.nodes() {
        let key = (0..MOST_KEYS).find(|key| node.has(&naming.name(POLICY, &Key::from(*key))));
        let Some(key) = key else { continue };
        for op in [Op::Check(Cost::new(1)), Op::Reset] {
            let request = OpRequest::new(op, &policy, naming.name(POLICY, &Key::from(key)));
            match router.decide(request).await {
                Ok(_) => answered += 1,
                Err(error) if error.is_outage() || is_not_done(&error) => unanswered = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    match unanswered {
        Some(error) if answered == 0 => Err(error),
        None if answered == 0 => {
            let cause = ConnectTimeout(NO_LIMIT);
            Err(BackendError::because(BackendErrorKind::Unreachable, cause))
        }
        _ => Ok(()),
    }
}
