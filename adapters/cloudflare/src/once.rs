//! Something that JavaScript tells once, and a future that waits for it.
//!
//! A promise would do the same, but for one thing: a promise that never settles keeps what waits for it alive for ever,
//! and most timers are cleared and most callers stay.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use js_sys::Function;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

/// The waiting side. It wakes whoever polled it **last**: a future may move from one task to another.
pub(crate) struct Once {
    shared: Rc<Shared>,
    callback: Closure<dyn FnMut()>,
}

#[derive(Default)]
struct Shared {
    told: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Shared {
    fn tell(&self) {
        self.told.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Once {
    pub(crate) fn new() -> Self {
        let shared = Rc::new(Shared::default());
        let theirs = Rc::clone(&shared);
        let callback = Closure::<dyn FnMut()>::new(move || theirs.tell());
        Self { shared, callback }
    }

    /// What JavaScript is to call. It must not be called any more once this is dropped.
    pub(crate) fn callback(&self) -> &Function {
        self.callback.as_ref().unchecked_ref()
    }

    /// For what had been told before there was a callback.
    pub(crate) fn tell(&self) {
        self.shared.tell();
    }

    pub(crate) fn told(&self) -> bool {
        self.shared.told.get()
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.told() {
            return Poll::Ready(());
        }
        self.shared.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}
