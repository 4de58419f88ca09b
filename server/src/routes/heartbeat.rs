//! Comments in a stream of events that keep proxies from closing it while it waits.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{StreamExt, stream};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// A comment, without the blank line that would end an event: clients that have seen an event's id take a blank
/// line for an event of that id without data, which OpenAI's read as JSON.
const COMMENT: &[u8] = b": keep-alive\n";

/// The same response, with a comment wherever nothing was sent for so long.
pub(super) fn with_heartbeat(response: Response, pause: Duration) -> Response {
    let (parts, body) = response.into_parts();
    let state = (body.into_data_stream(), ticks(pause));
    // Events are written whole, so a comment never stands inside of one.
    let beating = stream::unfold(state, move |(mut chunks, mut ticks)| async move {
        tokio::select! {
            biased;
            chunk = chunks.next() => {
                ticks.reset();
                Some((chunk?, (chunks, ticks)))
            }
            _ = ticks.tick() => Some((Ok(Bytes::from_static(COMMENT)), (chunks, ticks))),
        }
    });
    Response::from_parts(parts, Body::from_stream(beating))
}

fn ticks(pause: Duration) -> Interval {
    let mut ticks = interval_at(tokio::time::Instant::now() + pause, pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use axum::response::sse::{Event, Sse};

    use super::*;

    #[tokio::test]
    async fn a_stream_that_waits_sends_comments_that_end_no_event() {
        let events = stream::iter(["a", "b"]).then(|text| async move {
            tokio::time::sleep(Duration::from_millis(250)).await;
            Ok::<_, axum::Error>(Event::default().id("1").data(text))
        });
        let pause = Duration::from_millis(100);
        let response = with_heartbeat(Sse::new(events).into_response(), pause);
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 10).await;
        let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let beat = ": keep-alive\n";
        assert!(text.starts_with(beat), "{text:?}");
        assert!(text.contains(&format!("data: a\n\n{beat}")), "{text:?}");
        let events = text.replace(beat, "");
        assert_eq!(events, "id: 1\ndata: a\n\nid: 1\ndata: b\n\n");
    }
}
