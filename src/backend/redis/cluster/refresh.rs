//! The background task that keeps the map. It refreshes the map at once after a redirect or a failure, and otherwise
//! once in each period.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::error::is_broken;
use super::super::transport::{Connector, TransportError, TransportErrorKind, Value};
use super::node::Node;
use super::topology::Topology;
use super::view::{ClusterView, NodeAddress};

/// The time between two refreshes: while all is well, and while some slots are not served.
const PERIOD: Duration = Duration::from_secs(10);
const PERIOD_IN_TROUBLE: Duration = Duration::from_millis(250);
/// The shortest time between two refreshes, however many redirects ask for one.
const SHORTEST_PERIOD: Duration = Duration::from_millis(50);
/// The longest time that a node takes to answer, and the time after which the next node is asked as well.
const PATIENCE: Duration = Duration::from_secs(2);
const STAGGER: Duration = Duration::from_millis(100);

/// Starts the background task, unless it runs. It must be called within a runtime.
pub(super) fn ensure(topology: &Arc<Topology>) {
    topology.refreshing.start(|| {
        let (wanted, topology) = (Arc::clone(&topology.wanted), Arc::downgrade(topology));
        async move {
            let mut turn = 0;
            while let Some(period) = refresh(&topology, turn).await {
                sleep(SHORTEST_PERIOD).await;
                let _ = timeout(period, wanted.notified()).await;
                turn += 1;
            }
        }
    });
}

/// Refreshes the map and returns the time until the next refresh. Returns `None` if the backend was dropped.
async fn refresh(topology: &Weak<Topology>, turn: usize) -> Option<Duration> {
    let topology = topology.upgrade()?;
    if let Some(view) = latest_view(&topology, turn).await {
        topology.apply(view);
    }
    Some(if topology.is_in_trouble() {
        PERIOD_IN_TROUBLE
    } else {
        PERIOD
    })
}

/// A node to ask: over its connections, or over a new one.
enum Source {
    Known(Arc<Node>),
    Other(NodeAddress),
}

/// Returns the view of the first node that serves requests and knows the latest configuration. If there is none,
/// returns the latest view of all.
///
/// A primary that was separated from the others still has its old map, with an older configuration.
async fn latest_view(topology: &Arc<Topology>, turn: usize) -> Option<ClusterView> {
    let mut sources: Vec<Source> = topology.nodes().into_iter().map(Source::Known).collect();
    if !sources.is_empty() {
        let first = turn % sources.len();
        sources.rotate_left(first);
    }
    sources.extend(topology.others().into_iter().map(Source::Other));
    let epoch = topology.epoch();
    let mut sources = sources.into_iter().peekable();
    let mut asked = JoinSet::new();
    let mut latest: Option<ClusterView> = None;
    loop {
        if let Some(source) = sources.next() {
            let topology = Arc::clone(topology);
            asked.spawn(async move { timeout(PATIENCE, ask(&topology, source)).await });
        } else if asked.is_empty() {
            return latest;
        }
        let answer = tokio::select! {
            Some(answer) = asked.join_next() => answer,
            () = sleep(STAGGER), if sources.peek().is_some() => continue,
        };
        let Ok(Ok(Ok(Some(view)))) = answer else {
            continue;
        };
        if view.is_up && view.epoch >= epoch {
            return Some(view);
        }
        let rank = |view: &ClusterView| (view.epoch, view.is_up);
        if latest
            .as_ref()
            .is_none_or(|latest| rank(&view) > rank(latest))
        {
            latest = Some(view);
        }
    }
}

/// Asks one node for its view.
async fn ask(topology: &Topology, source: Source) -> Result<Option<ClusterView>, TransportError> {
    let questions = ClusterView::questions();
    let (replies, host) = match &source {
        Source::Known(node) => {
            let connection = node.client.source.borrow().await.map_err(unreachable)?;
            let replies = connection.send_all(&questions).await;
            if replies.as_ref().is_err_and(is_broken) {
                connection.retire();
            }
            (replies?, &node.address.host)
        }
        Source::Other(address) => {
            let connector = topology.settings.connector(address).map_err(unreachable)?;
            let connection = connector.connect().await?;
            (connection.send_all(&questions).await?, &address.host)
        }
    };
    let [info, slots] = &*replies else {
        return Ok(None);
    };
    if let Value::Error(error) = slots {
        return Err(error.clone().into());
    }
    Ok(ClusterView::read(info, slots, host))
}

fn unreachable(error: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError::new(TransportErrorKind::Io, io::Error::other(error))
}
