//! Decisions in a slot that moves.
//!
//! A decision has the keys of its quotas and of the blocks of its scopes. While their slot moves, no node decides if
//! one of the keys is missing, and the key of a block is almost always missing. A request with one key is served by one
//! of the two nodes. The blocks are therefore read one by one, and then the quotas decide without them.

use std::sync::Arc;
use std::time::Instant;

use super::super::block::BlockRests;
use super::super::error::is_split;
use super::super::request::{BlockKeys, OpRequest};
use super::super::round_trip::RedisResult;
use super::node::RoutedRequest as _;
use super::router::Router;
use super::slot;
use crate::clock::micros_up;
use crate::decision::{Op, Reply};
use crate::quota::Cost;

impl Router {
    /// Sends an operation on quotas to the node of its key and returns its outcome, within the time limit; see
    /// [`send`](Self::send).
    pub(in super::super) async fn decide(&self, request: OpRequest) -> RedisResult {
        let began = self.begin().await?;
        let slot = slot::of_key(request.key());
        let request = Arc::new(request);
        let outcome = match self.route(slot, Arc::clone(&request), began).await {
            Err(error) if request.has_parts() && is_split(&error) => {
                self.decide_in_parts(slot, &request, began).await
            }
            outcome => outcome,
        };
        outcome.map_err(|error| self.failed(slot, error))
    }

    async fn decide_in_parts(
        &self,
        slot: usize,
        request: &OpRequest,
        began: Instant,
    ) -> RedisResult {
        let mut rests = BlockRests::new();
        for scope in request.block_scopes() {
            let block = Arc::new(request.part(BlockKeys::Only(scope)));
            let reply = self.route(slot, block, began).await?;
            rests.push(micros_up(reply.wait));
        }
        let is_blocked = rests.iter().any(|rest| *rest > 0);
        let mut decision = request.part(BlockKeys::Read);
        if is_blocked {
            decision.op = Op::Check(Cost::ZERO);
        }
        let reply: Reply = self.route(slot, Arc::new(decision), began).await?;
        if !is_blocked {
            return Ok(reply);
        }
        let numbers = &reply.decision.snapshot().quotas;
        Ok(request.denied_by_blocks(&request.rests_of_scopes(rests), numbers))
    }
}
