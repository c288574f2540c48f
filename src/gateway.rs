//! The gateway: a function from a request to a reply.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response, StatusCode};

use crate::instance::Instance;
use crate::platform::{Platform, SeamError};

/// The gateway on one host. Building one is free; it may live for a single request.
#[derive(Debug, Clone)]
pub struct Gateway<P> {
    platform: P,
    instance: Arc<Instance>,
}

/// What the caller gets, and what is left to do behind it.
#[derive(Debug)]
pub struct Reply<S> {
    /// The HTTP response.
    pub response: Response<Body<S>>,
    /// Hand this to [`Gateway::finish`] once the response is on its way.
    pub after: After,
}

/// A response body: all there already, or coming.
#[derive(Debug)]
pub enum Body<S> {
    /// The whole body.
    Full(Bytes),
    /// Chunks, pulled as the caller reads. Dropping it cancels the call upstream.
    Stream(S),
}

/// Work for behind the reply: logging, metering, refreshing.
#[derive(Debug)]
pub struct After {}

impl<P: Platform> Gateway<P> {
    /// A gateway on `platform` with the state that `instance` holds for the process or isolate.
    pub fn new(platform: P, instance: Arc<Instance>) -> Self {
        Self { platform, instance }
    }

    /// Answers `request`. Never fails: what goes wrong is in the reply.
    pub async fn handle<B>(
        self,
        request: Request<B>,
    ) -> Reply<impl Stream<Item = Result<Bytes, SeamError>> + Unpin + use<P, B>>
    where
        B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
    {
        let _ = (&self.platform, &self.instance, request);
        let mut response = Response::new(Body::Full(Bytes::new()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let mut reply = Reply { response, after: After {} };
        if false {
            *reply.response.body_mut() = Body::Stream(futures_util::stream::empty());
        }
        reply
    }

    /// Does what is left to do: resolves when the body has ended or was dropped and the rest is done.
    pub async fn finish(self, after: After) {
        let After {} = after;
    }
}
