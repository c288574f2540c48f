//! The HTTP trigger: request in, reply out, the rest behind it.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use causeway::gateway::{Body, Gateway, Reply};
use causeway::platform::{Clock as _, SeamError};
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt as _};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use spin_sdk::http::Request;
use spin_sdk::http_service;
use spin_sdk::wasip3::http::types::{ErrorCode, Fields, Response};
use spin_sdk::wasip3::http_compat::BodyWriter;
use spin_sdk::wit_bindgen::{StreamResult, spawn};

use crate::http::read_request;
use crate::platform::{self, Spin, Time};

/// How often it is looked whether the caller is still there while there is nothing to send: the host tells nobody who
/// does not write.
const LOOK: Duration = Duration::from_secs(1);

#[http_service]
async fn handle(request: Request) -> Result<Response, ErrorCode> {
    let gateway = platform::gateway().await;
    let watching = gateway.clone();
    let request = read_request(request).await;
    let Reply { response, after } = gateway.clone().handle(request).await;
    spawn(async move {
        gateway.clone().finish(after).await;
        gateway.look_if_due().await;
    });
    let (mut parts, body) = response.into_parts();
    // What is between two neighbours belongs to the host, which refuses a response that has it.
    for header in [CONNECTION, UPGRADE] {
        parts.headers.remove(header);
    }
    if let Body::Full(bytes) = &body
        && !bytes.is_empty()
    {
        parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    }
    let headers =
        Fields::try_from(parts.headers).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let (writer, contents, trailers) = BodyWriter::new();
    let (response, _sent) = Response::new(headers, Some(contents), trailers);
    // A status that HTTP knows.
    let _ = response.set_status_code(parts.status.as_u16());
    match body {
        Body::Full(bytes) => spawn(write_all(writer, bytes)),
        Body::Stream(stream) => spawn(write(writer, stream, watching)),
    }
    Ok(response)
}

async fn write_all(mut writer: BodyWriter, bytes: Bytes) {
    if !bytes.is_empty() {
        writer.stream_writer.write_all(bytes.into()).await;
    }
    drop(writer.stream_writer);
    let _ = writer.result_writer.write(Ok(None)).await;
}

/// Writes what comes as it comes, until its end or until the caller has gone. A stream may outlive a configuration.
async fn write(
    mut writer: BodyWriter,
    stream: impl Stream<Item = Result<Bytes, SeamError>> + Unpin,
    gateway: Gateway<Spin>,
) {
    let mut stream = stream;
    let end = loop {
        gateway.look_if_due().await;
        let next = match select(stream.next(), pin!(Time.sleep(LOOK))).await {
            Either::Left((next, _)) => next,
            Either::Right(_) => {
                // Nothing, which arrives all the same if there is anybody.
                if let (StreamResult::Dropped, _) = writer.stream_writer.write(Vec::new()).await {
                    return;
                }
                continue;
            }
        };
        match next {
            Some(Ok(chunk)) => {
                if !writer.stream_writer.write_all(chunk.into()).await.is_empty() {
                    return;
                }
            }
            Some(Err(error)) => break Err(ErrorCode::InternalError(Some(error.to_string()))),
            None => break Ok(None),
        }
    };
    drop(stream);
    drop(writer.stream_writer);
    let _ = writer.result_writer.write(end).await;
}
