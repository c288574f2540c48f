//! Asking a running gateway, for the commands that do.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use causeway::platform::{HttpClient, SeamError};
use clap::Args;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode, request};
use serde_json::Value;
use url::Url;

use super::Failure;
use crate::http::{Answer, Http};

/// The largest answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;
/// How long an answer of the administration API may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which gateway, and who asks.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The gateway, as in `https://gateway.example.com`
    #[arg(value_name = "URL", value_parser = gateway)]
    url: Url,

    #[command(flatten)]
    key: Key,
}

/// The same, for commands whose first word is something else.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The gateway, as in `https://gateway.example.com`
    #[arg(long, value_name = "URL", value_parser = gateway, env = "CAUSEWAY_URL", default_value = "http://127.0.0.1:8787")]
    url: Url,

    #[command(flatten)]
    key: Key,
}

impl From<At> for Remote {
    fn from(At { url, key }: At) -> Self {
        Self { url, key }
    }
}

/// Who asks.
#[derive(Args)]
pub(super) struct Key {
    /// The key to present. Better in the environment, where other users of the machine cannot read it
    #[arg(long, value_name = "KEY", env = "CAUSEWAY_KEY", hide_env_values = true)]
    key: Option<String>,
}

impl Key {
    /// The `Authorization` that presents the key, if there is one.
    pub(super) fn bearer(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(key) = self.key.as_deref().map(str::trim).filter(|key| !key.is_empty()) else {
            return Ok(None);
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| Failure::Refused("the key has characters that no key has".to_owned()))?;
        bearer.set_sensitive(true);
        Ok(Some(bearer))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.key.is_some() { "Key(…)" } else { "Key" })
    }
}

/// Reads the URL of a gateway.
pub(super) fn gateway(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}: write it as https://host[:port]"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err("only http and https URLs can be asked".to_owned()),
    }
}

/// The MCP endpoint: the URL itself where it has a path, else `/mcp`.
pub(super) fn endpoint(url: &Url) -> Url {
    let mut url = url.clone();
    if url.path() == "/" {
        url.set_path("/mcp");
    }
    url
}

/// The URL of `path` at the gateway. People copy the endpoint that they gave to a client, so what follows `/mcp` is
/// taken off.
pub(super) fn base(gateway: &Url, path: &str) -> Url {
    let mut url = gateway.clone();
    let base = match url.path().split_once("/mcp") {
        Some((base, rest)) if rest.is_empty() || rest.starts_with('/') => base,
        _ => url.path().trim_end_matches('/'),
    };
    let path = format!("{base}{path}");
    url.set_path(&path);
    url.set_query(None);
    url.set_fragment(None);
    url
}

impl Remote {
    /// The URL as it was given.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    fn at(&self, path: &str) -> Url {
        base(&self.url, path)
    }

    /// A request to `url` in the caller's name.
    pub(super) fn request(&self, method: Method, url: &Url) -> Result<request::Builder, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(USER_AGENT, concat!("causeway/", env!("CARGO_PKG_VERSION")));
        if let Some(bearer) = self.key.bearer()? {
            request = request.header(AUTHORIZATION, bearer);
        }
        Ok(request)
    }

    /// Sends `request`; the body is still to come.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Answer>, Failure> {
        Http::new().send(request).await.map_err(|error| self.lost(&error))
    }

    /// Asks the HTTP API at `path` and gives the JSON it answers.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Value, Failure> {
        let url = self.at(path);
        let mut request = self.request(method, &url)?.header("accept", "application/json");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(body.unwrap_or_default()).map_err(|error| Failure::Refused(error.to_string()))?;
        let asked = async {
            let response = self.send(request).await?;
            let status = response.status();
            Ok((status, self.whole(response.into_body()).await?))
        };
        let (status, bytes) = tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| Failure::Failed(format!("{url}: no answer in {} s", PATIENCE.as_secs())))??;
        if !status.is_success() {
            return Err(self.refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Failure::Failed(format!("{url}: the answer is not JSON: is this a Causeway gateway?"))
        })
    }

    /// The whole of a body.
    pub(super) async fn whole(&self, mut body: Answer) -> Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| self.lost(&error))?;
            if whole.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::Failed(format!("the answer is larger than {MAX_ANSWER} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The connection's fault in words.
    pub(super) fn lost(&self, error: &SeamError) -> Failure {
        Failure::Failed(error.to_string())
    }

    /// What a refusal says: a problem document (RFC 9457), a JSON-RPC error, or only a status.
    pub(super) fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let document: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        let mut message = match (text("/detail").or(text("/error/message")), text("/title")) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(title)) => title.to_owned(),
            (None, None) => format!("the gateway answered {status}"),
        };
        for problem in document
            .get("errors")
            .or(document.get("problems"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let part = |name: &str| problem.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let parts = [part("key").or(part("pointer")), part("what").or(part("detail")), part("fix")];
            message.push_str("\n  ");
            message.push_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(": "));
        }
        if status == StatusCode::UNAUTHORIZED && self.key.key.is_none() {
            message.push_str(": set CAUSEWAY_KEY to a key of yours");
        }
        // A configuration that the gateway refuses is as wrong as one that is refused here.
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            Failure::Refused(message)
        } else {
            Failure::Failed(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expect: &str) {
        let remote = Remote { url: gateway(given).unwrap(), key: Key { key: None } };
        assert_eq!(remote.at("/status").as_str(), expect, "{given}");
    }

    #[test]
    fn gateway_is_found_from_any_of_its_urls() {
        check("http://a:1", "http://a:1/status");
        check("http://a:1/", "http://a:1/status");
        check("http://a:1/mcp", "http://a:1/status");
        check("http://a:1/mcp/github?x=1", "http://a:1/status");
        check("http://a:1/base/mcp/", "http://a:1/base/status");
        check("http://a:1/mcpx", "http://a:1/mcpx/status");
        assert!(gateway("ftp://a").is_err() && gateway("a").is_err());
    }
}
