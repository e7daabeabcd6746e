//! Notices a server that stopped answering, also one that died without a FIN, and moves to one that answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use http::Request;
use kube::Client;
use kube::client::Body;
use tokio::sync::Notify;

use crate::clock;
use crate::failover::Shared;

/// Between two probes of the server in use. A dead one is left after `PERIOD + LIMIT` at most.
const PERIOD: Duration = Duration::from_secs(3);
/// For one probe.
const LIMIT: Duration = Duration::from_secs(2);
/// After a kick, so that a storm of failing requests is not one of probes.
const PAUSE: Duration = Duration::from_millis(300);

/// How well a server answers; the order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Silent,
    Answers,
    Ready,
}

pub(crate) async fn run(shared: Weak<Shared>, kick: Arc<Notify>) {
    let mut silent = 0_u32;
    loop {
        tokio::select! {
            () = clock::sleep(PERIOD) => {}
            () = kick.notified() => clock::sleep(PAUSE).await,
        }
        let Some(shared) = shared.upgrade() else { return };
        silent = look(&shared, silent).await;
    }
}

/// One probe; returns how often in a row the server in use was silent.
async fn look(shared: &Shared, silent: u32) -> u32 {
    let (index, server) = shared.current();
    let health = health(&server.client).await;
    if health == Health::Ready {
        return 0;
    }
    let others = shared.servers().iter().enumerate().filter(|(other, _)| *other != index);
    let others = join_all(others.map(|(other, server)| async move { (health_of(server.client.clone()).await, other) })).await;
    match others.into_iter().max_by_key(|(health, _)| *health) {
        Some((better, other)) if better > health => {
            let to = shared.servers().get(other).map_or("", |server| server.url.as_str());
            tracing::info!(from = %server.url, to, "API server does not answer or is not ready, moving on");
            shared.move_from(index, other);
            0
        }
        // None is better. Twice silent: connections may be dead without a FIN, so let all be made anew.
        _ if health == Health::Silent && silent == 1 => {
            shared.cut();
            2
        }
        _ if health == Health::Silent => silent.saturating_add(1),
        _ => 0,
    }
}

async fn health_of(client: Client) -> Health {
    health(&client).await
}

async fn health(client: &Client) -> Health {
    let Ok(request) = Request::get("/readyz").body(Body::empty()) else { return Health::Silent };
    match clock::within(LIMIT, client.send(request)).await {
        Some(Ok(response)) if response.status().is_success() => Health::Ready,
        Some(Ok(_)) => Health::Answers,
        Some(Err(_)) | None => Health::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::tests::{nobody, server};

    #[tokio::test]
    async fn a_server_that_is_silent_is_left_for_one_that_is_ready() {
        let shared = Shared::new(vec![nobody().await, nobody().await, server(Some("ok")).await]);
        look(&shared, 0).await;
        assert_eq!(shared.current().0, 2);
        assert_eq!(look(&shared, 0).await, 0);
        assert_eq!(shared.current().0, 2);
    }

    #[tokio::test]
    async fn where_none_answers_all_is_made_anew_once() {
        let shared = Shared::new(vec![nobody().await, nobody().await]);
        let mut silent = 0;
        for expected in [1, 2, 3] {
            silent = look(&shared, silent).await;
            assert_eq!((silent, shared.current().0), (expected, 0));
        }
    }
}
