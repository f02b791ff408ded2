//! Customers and their tiers.

use axum::extract::FromRequestParts;
use axum::http::{StatusCode, request::Parts};
use tower_sluice::Key;
use tower_sluice::key::ToKey;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Customer {
    pub(crate) id: u64,
    pub(crate) is_paid: bool,
}

/// Finds a customer in the database, here in a table.
async fn find(api_key: &str) -> Option<Customer> {
    tokio::task::yield_now().await;
    let (id, is_paid) = match api_key {
        "ann" => (1, false),
        "bob" => (2, true),
        _ => return None,
    };
    Some(Customer { id, is_paid })
}

/// The one key of a customer: layers, sockets and jobs use it.
impl ToKey for Customer {
    fn to_key(&self) -> Key {
        self.id.into()
    }
}

/// The router looks the customer up once for a request, by `Keep<Customer>`.
impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let api_key = parts
            .headers
            .get("x-api-key")
            .and_then(|key| key.to_str().ok());
        let customer = find(api_key.unwrap_or_default()).await;
        customer.ok_or(StatusCode::UNAUTHORIZED)
    }
}
