//! The form of a policy in a configuration file: `{ name, quotas: [{ name, quota }] }`, or `{ name, quota }` for a
//! single quota. With `shadow: true` the policy is not enforced.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rate::Policy;
use crate::quota::Quota;

#[derive(Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a policy such as {\"name\": \"api\", \"quota\": \"100/minute\"}"
)]
struct PolicyForm {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    quotas: Vec<Named>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shadow: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a map such as {\"name\": \"burst\", \"quota\": \"10/second\"}"
)]
struct Named {
    name: String,
    quota: Quota,
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.name().to_owned();
        let quotas = self.quotas().iter();
        let quotas = quotas
            .map(|named| Named {
                name: named.name().to_owned(),
                quota: *named.quota(),
            })
            .collect();
        PolicyForm {
            name,
            quota: None,
            quotas,
            shadow: self.is_shadow(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PolicyForm {
            name,
            quota,
            quotas,
            shadow,
        } = PolicyForm::deserialize(deserializer)?;
        let single = quota.map(|quota| (name.clone(), quota));
        let all = single
            .into_iter()
            .chain(quotas.into_iter().map(|named| (named.name, named.quota)));
        let policy = Self::try_from_quotas(&name, all).map_err(D::Error::custom)?;
        Ok(if shadow { policy.shadow() } else { policy })
    }
}
