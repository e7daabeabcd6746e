//! One watch per resource type, on a connection of its own, resumed from its last resource version when it ends.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use serde::Deserialize;
use tokio::sync::watch;

use crate::catalog::{Kind, LABEL};
use crate::clock::{sleep, within};
use crate::history::{Event, Relist, Watch};
use crate::http::{Api, HttpError, Pool, chain};
use crate::recorder::Recorder;
use crate::writer::{Head, Raw};

/// A stream that brings nothing for this long, while each type is written about once a second, is taken for dead:
/// a peer that lost power sends no end.
const SILENT: Duration = Duration::from_secs(20);
/// Pause before a watch is opened anew.
const PAUSE: Duration = Duration::from_millis(100);

/// The watch of one type.
pub struct Watcher {
    /// Opens streams.
    pub api: Arc<Api>,
    /// For lists.
    pub pool: Arc<Pool>,
    /// Records.
    pub recorder: Recorder,
    /// The type.
    pub kind: Kind,
    /// Index into `History::watches`.
    pub index: usize,
    /// Resource version to begin at.
    pub from: u64,
}

/// Why a stream ended.
enum End {
    /// Gone: the resource version is too old.
    Gone,
    /// It never began.
    Refused,
    /// Anything else.
    Other(String),
}

impl Watcher {
    /// Watches until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            _ = stop.changed() => {}
            () = self.forever() => {}
        }
    }

    async fn forever(&mut self) {
        loop {
            let end = self.stream().await;
            let at = self.recorder.now();
            self.record(|watch| match &end {
                End::Refused => watch.refused += 1,
                End::Gone => {
                    watch.gone += 1;
                    watch.ends.push((at, "410: the resource version is gone".into()));
                }
                End::Other(reason) => watch.ends.push((at, reason.clone())),
            });
            if matches!(end, End::Gone) {
                self.relist().await;
            }
            sleep(PAUSE).await;
        }
    }

    fn record(&self, act: impl FnOnce(&mut Watch)) {
        self.recorder.with(|history| history.watches.get_mut(self.index).map(act));
    }

    /// Reads one stream to its end.
    async fn stream(&mut self) -> End {
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&labelSelector={LABEL}%3Dtrue&resourceVersion={}",
            self.kind.collection(),
            self.from
        );
        let mut body = match self.api.stream(&path).await {
            Ok(response) => response.into_body(),
            Err(HttpError::Status { code: 410, .. }) => return End::Gone,
            Err(_) => return End::Refused,
        };
        let mut buffer = Vec::new();
        loop {
            let frame = match within(SILENT, body.frame()).await {
                None => return End::Other(format!("silent for {SILENT:?}")),
                Some(None) => return End::Other("ended by the server".into()),
                Some(Some(Err(error))) => return End::Other(chain(&error)),
                Some(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if let Err(end) = self.event(&line) {
                    return end;
                }
            }
        }
    }

    fn event(&mut self, line: &[u8]) -> Result<(), End> {
        #[derive(Deserialize)]
        struct Line<'a> {
            r#type: &'a str,
            #[serde(borrow)]
            object: &'a serde_json::value::RawValue,
        }
        let at = self.recorder.now();
        let line: Line = serde_json::from_slice(line).map_err(|error| End::Other(format!("not an event: {error}")))?;
        if line.r#type == "ERROR" {
            let gone = serde_json::from_str::<serde_json::Value>(line.object.get())
                .is_ok_and(|status| status.get("code").and_then(serde_json::Value::as_u64) == Some(410));
            return Err(if gone { End::Gone } else { End::Other(line.object.get().to_string()) });
        }
        let head = serde_json::from_str::<Raw>(line.object.get())
            .map_err(|error| HttpError::Transport(error.to_string()))
            .and_then(Head::of)
            .map_err(|error| End::Other(error.to_string()))?;
        let (index, bookmark) = (self.index, line.r#type == "BOOKMARK");
        self.recorder.with(|history| {
            let Some(resource) = history.watches.get(index).map(|watch| watch.resource.clone()) else { return };
            let object = if bookmark { None } else { history.object(&resource, &head.name) };
            if let Some(watch) = history.watches.get_mut(index) {
                watch.events.push(Event { at, object, rv: head.rv });
            }
        });
        self.from = head.rv;
        Ok(())
    }

    /// After a 410: a list, as any client would make, to watch on from.
    async fn relist(&mut self) {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMetadata,
            #[serde(default)]
            items: Vec<Raw>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListMetadata {
            resource_version: String,
        }
        let path = format!("{}?labelSelector={LABEL}%3Dtrue", self.kind.collection());
        let Ok(body) = self.pool.call_within(SILENT, Method::GET, &path, None).await else { return };
        let Ok(list) = serde_json::from_slice::<List>(&body) else { return };
        let Ok(rv) = list.metadata.resource_version.parse::<u64>() else { return };
        let (at, index) = (self.recorder.now(), self.index);
        self.recorder.with(|history| {
            let Some(resource) = history.watches.get(index).map(|watch| watch.resource.clone()) else { return };
            let objects = list
                .items
                .into_iter()
                .filter_map(|item| Head::of(item).ok())
                .filter_map(|head| Some((history.object(&resource, &head.name)?, head.rv)))
                .collect();
            if let Some(watch) = history.watches.get_mut(index) {
                watch.relists.push(Relist { at, rv, objects });
            }
        });
        self.from = rv;
    }
}
