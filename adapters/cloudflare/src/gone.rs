//! Hearing that a caller has gone away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use web_sys::{AbortSignal, Request};

use crate::glue;
use crate::once::Once;

/// Resolves when whoever sent a request has gone, which most never do.
pub(crate) struct Gone {
    signal: AbortSignal,
    once: Once,
}

impl Gone {
    pub(crate) fn of(request: &Request) -> Self {
        let (signal, once) = (request.signal(), Once::new());
        if signal.aborted() {
            once.tell();
        } else {
            glue::listen(&signal, once.callback());
        }
        Self { signal, once }
    }
}

impl Future for Gone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.once.poll(context)
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        glue::unlisten(&self.signal, self.once.callback());
    }
}
