//! Clock and timers.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use causeway::platform::{Clock, Timestamp};
use wasm_bindgen::JsCast;
use wasm_bindgen::JsValue;
use wasm_bindgen::closure::Closure;

use crate::glue;

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
/// Unlike `worker::Delay` it wakes whoever polled it *last*: a keep-alive timer starts in the request's future and
/// goes on in the body's, where each chunk is pulled by a task of its own.
struct Sleep {
    span: Duration,
    timer: Option<Timer>,
}

struct Timer {
    id: JsValue,
    shared: Rc<Shared>,
    _callback: Closure<dyn FnMut()>,
}

#[derive(Default)]
struct Shared {
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let span = self.span;
        let shared = &self.timer.get_or_insert_with(|| Timer::set(span)).shared;
        if shared.fired.get() {
            return Poll::Ready(());
        }
        shared.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Timer {
    fn set(span: Duration) -> Self {
        let shared = Rc::new(Shared::default());
        let theirs = Rc::clone(&shared);
        let callback = Closure::<dyn FnMut()>::new(move || {
            theirs.fired.set(true);
            if let Some(waker) = theirs.waker.take() {
                waker.wake();
            }
        });
        // `setTimeout` takes 31 bits of milliseconds; no request lives for 24 days.
        let milliseconds = i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
        let id = glue::set_timeout(callback.as_ref().unchecked_ref(), milliseconds);
        Self { id, shared, _callback: callback }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if !self.shared.fired.get() {
            glue::clear_timeout(&self.id);
        }
    }
}
