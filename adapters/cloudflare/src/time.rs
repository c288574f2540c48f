//! Clock and timers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway::platform::{Clock, Timestamp};
use wasm_bindgen::JsValue;

use crate::glue;
use crate::once::Once;

/// The isolate's clock. On Cloudflare's network it stands still between two waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time;

impl Clock for Time {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // milliseconds since 1970: positive, 41 bits
    fn now(&self) -> Timestamp {
        Timestamp(js_sys::Date::now() as u64)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn ticks(&self) -> u64 {
        (glue::performance_now() * 1000.0) as u64
    }

    fn sleep(&self, span: Duration) -> impl Future<Output = ()> + 'static {
        Sleep { span, timer: None }
    }
}

/// A timer, set when first polled and cleared when dropped.
///
/// `worker::Delay` wakes whoever polled it first. That will not do: a keep-alive timer may start in the request's future
/// and go on in the body's, where each chunk is pulled by a task of its own.
struct Sleep {
    span: Duration,
    timer: Option<Timer>,
}

struct Timer {
    id: JsValue,
    once: Once,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let span = self.span;
        self.timer.get_or_insert_with(|| Timer::set(span)).once.poll(context)
    }
}

impl Timer {
    fn set(span: Duration) -> Self {
        let once = Once::new();
        // `setTimeout` takes 31 bits of milliseconds; no request lives for 24 days.
        let milliseconds = i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
        Self { id: glue::set_timeout(once.callback(), milliseconds), once }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if !self.once.told() {
            glue::clear_timeout(&self.id);
        }
    }
}
