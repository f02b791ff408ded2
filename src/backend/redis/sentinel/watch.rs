//! The background task that learns of a new primary: from events of the sentinels, and by a question each second.
//!
//! A failover that an operator starts promotes a replica up to a second before the sentinels announce it, and the old
//! primary goes on answering. So the task asks the selected replica for its role until it is the primary.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::transport::{Connector, TransportError};
use super::query::{self, Address, CHANNELS, Event};
use super::state::PrimaryState;

/// The time between two questions to the sentinels.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two questions to a replica that is about to become the primary, and the longest time for that.
const SELECTED_PERIOD: Duration = Duration::from_millis(10);
const LONGEST_PROMOTION: Duration = Duration::from_secs(10);
/// The pause before the events of a sentinel are subscribed again.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the background task, unless it runs. It must be called within a runtime.
pub(super) fn ensure(state: &Arc<PrimaryState>) {
    state.watching.start(|| {
        let state = Arc::downgrade(state);
        async move { run(&state).await }
    });
}

/// News for the background task.
enum News {
    Event(Event),
    /// A selected replica has become the primary.
    Promoted(Address),
}

/// Runs until the backend is dropped.
async fn run(weak: &Weak<PrimaryState>) {
    let (sender, mut news) = mpsc::unbounded_channel();
    // They end with this task.
    let mut tasks = JoinSet::new();
    let Some(sentinels) = weak.upgrade().map(|state| state.settings.sentinels.len()) else {
        return;
    };
    for index in 0..sentinels {
        tasks.spawn(subscribe(Weak::clone(weak), index, sender.clone()));
    }
    loop {
        let came = timeout(PERIOD, news.recv()).await;
        let Some(state) = weak.upgrade() else { return };
        match came {
            Ok(Some(News::Event(Event::Selected(address)))) => {
                let (weak, sender) = (Weak::clone(weak), sender.clone());
                // If the replica cannot be asked, the announcement counts.
                tasks.spawn(async move { drop(follow(weak, address, sender).await) });
                continue;
            }
            Ok(Some(News::Promoted(address))) => {
                state.promoted(&address);
                continue;
            }
            Ok(Some(News::Event(Event::Changed))) | Err(_) => {}
            Ok(None) => return,
        }
        // Finished tasks have followed a replica.
        while tasks.try_join_next().is_some() {}
        if let Ok(view) = state.look_up().await {
            state.accept(view);
        }
    }
}

/// Passes the events of one sentinel on.
async fn subscribe(state: Weak<PrimaryState>, index: usize, news: mpsc::UnboundedSender<News>) {
    while let Some(state) = state.upgrade() {
        let client = state.settings.sentinels[index].client();
        let name = state.settings.name.clone();
        // The task must not keep the backend alive.
        drop(state);
        // A lost subscription is made again. The lookup of each second finds a change that was missed.
        let _ = listen(&client, &name, &news).await;
        sleep(PAUSE).await;
    }
}

async fn listen(
    client: &redis::Client,
    name: &str,
    news: &mpsc::UnboundedSender<News>,
) -> redis::RedisResult<()> {
    let mut events = client.get_async_pubsub().await?;
    events.subscribe(&CHANNELS).await?;
    let mut messages = pin!(events.on_message());
    while let Some(message) = std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
        let text: String = message.get_payload()?;
        if let Some(event) = Event::read(message.get_channel_name(), &text, name) {
            // Fails once the task has ended, which ends this one.
            let _ = news.send(News::Event(event));
        }
    }
    Ok(())
}

/// Asks a selected replica for its role until it is the primary.
async fn follow(
    state: Weak<PrimaryState>,
    address: Address,
    news: mpsc::UnboundedSender<News>,
) -> Result<(), TransportError> {
    let Some(client) = state.upgrade().map(|state| state.client_of(&address)) else {
        return Ok(());
    };
    let (client, start) = (client?, Instant::now());
    let mut replica = None;
    while start.elapsed() < LONGEST_PROMOTION {
        let connection = match replica.take() {
            Some(connection) => connection,
            None => client.connect().await?,
        };
        match query::role(&*connection).await {
            Ok(Some(role)) if role == "master" => {
                // Fails once the task has ended.
                let _ = news.send(News::Promoted(address));
                return Ok(());
            }
            Ok(Some(_)) => {
                replica = Some(connection);
                sleep(SELECTED_PERIOD).await;
            }
            // Without this right the announcement counts.
            Ok(None) => return Ok(()),
            // The sentinel closes all connections of a server in the moment of its promotion.
            Err(_) => {}
        }
    }
    Ok(())
}
