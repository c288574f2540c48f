//! What a request must be before anything else looks at it: its place, its origin, its size, what it accepts.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN};
use http::{HeaderMap, Uri};

use crate::config::Plan;
use crate::fault::{Fault, Kind};
use crate::platform::{Abilities, SeamError};

/// A place that requests go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `/mcp`, or `/mcp/{server}`
    Mcp(Option<String>),
    /// `/sse`, or `/sse/{server}`
    Sse(Option<String>),
    /// `/messages`
    Messages,
    /// `/tunnel`
    Tunnel,
    /// `/health`
    Health,
    /// `/ready`
    Ready,
    /// `/status`
    Status,
    /// `/v1/chat/completions`
    Completions,
    /// `/v1/messages`
    ModelMessages,
    /// `/v1/messages/count_tokens`
    CountTokens,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/models`, or `/v1/models/{model}`
    Models(Option<String>),
    /// `/ask`
    Ask,
    /// `/context`, or `/context/{user_id}`
    Context(Option<String>),
    /// `/openapi.json`
    OpenApi,
    /// `/schema/{name}`
    Schema(String),
    /// `/admin/v1/config`
    Config,
    /// `/admin/v1/config/rollback`
    Rollback,
}

impl Endpoint {
    /// The endpoint at `path`.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        Some(match path {
            "/mcp" => Self::Mcp(None),
            "/sse" => Self::Sse(None),
            "/messages" => Self::Messages,
            "/tunnel" => Self::Tunnel,
            "/health" => Self::Health,
            "/ready" => Self::Ready,
            "/status" => Self::Status,
            "/v1/chat/completions" => Self::Completions,
            "/v1/messages" => Self::ModelMessages,
            "/v1/messages/count_tokens" => Self::CountTokens,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/models" => Self::Models(None),
            "/ask" => Self::Ask,
            "/context" => Self::Context(None),
            "/openapi.json" => Self::OpenApi,
            "/admin/v1/config" => Self::Config,
            "/admin/v1/config/rollback" => Self::Rollback,
            _ if path.starts_with("/v1/models/") => {
                // Names of models have slashes and colons, which some clients encode and some do not.
                let name = path.strip_prefix("/v1/models/").unwrap_or_default();
                Self::Models(Some(decoded(name)))
            }
            _ => {
                let server = |prefix| {
                    let rest = path.strip_prefix(prefix);
                    rest.filter(|rest: &&str| !rest.is_empty() && !rest.contains('/')).map(str::to_owned)
                };
                if let Some(server) = server("/mcp/") {
                    Self::Mcp(Some(server))
                } else if let Some(user) = server("/context/") {
                    Self::Context(Some(decoded(&user)))
                } else if let Some(name) = server("/schema/") {
                    Self::Schema(name)
                } else {
                    Self::Sse(Some(server("/sse/")?))
                }
            }
        })
    }

    /// How logs and metrics name it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Mcp(None) => "/mcp",
            Self::Mcp(Some(_)) => "/mcp/{server}",
            Self::Sse(None) => "/sse",
            Self::Sse(Some(_)) => "/sse/{server}",
            Self::Messages => "/messages",
            Self::Tunnel => "/tunnel",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Status => "/status",
            Self::Completions => "/v1/chat/completions",
            Self::ModelMessages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Embeddings => "/v1/embeddings",
            Self::Models(_) => "/v1/models",
            Self::Ask => "/ask",
            Self::Context(None) => "/context",
            Self::Context(Some(_)) => "/context/{user_id}",
            Self::OpenApi => "/openapi.json",
            Self::Schema(_) => "/schema/{name}",
            Self::Config => "/admin/v1/config",
            Self::Rollback => "/admin/v1/config/rollback",
        }
    }
}

/// A part of a path with its `%XX` decoded; what is no such sequence stays.
#[must_use]
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        match (first, hex(more.first()), hex(more.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = more.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Checks that a loopback gateway is asked for as such. A page that rebinds its own name to 127.0.0.1 sends that
/// name (2025-11-25 transports, "Security Warning").
///
/// # Errors
/// [`Kind::HostRefused`]
pub fn check_host(headers: &HeaderMap, uri: &Uri, abilities: Abilities) -> Result<(), Fault> {
    if !abilities.loopback_only {
        return Ok(());
    }
    let host =
        headers.get(HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()));
    if host.is_some_and(|host| is_loopback(host_of(host))) {
        return Ok(());
    }
    Err(Fault::new(
        Kind::HostRefused,
        "the Host header does not name this machine (localhost, 127.0.0.1 or [::1])",
    ))
}

/// Checks the origin of a browser's request, if it is one.
///
/// # Errors
/// [`Kind::OriginRefused`]
pub fn check_origin(headers: &HeaderMap, plan: Option<&Plan>, abilities: Abilities) -> Result<(), Fault> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let allowed = origin.to_str().is_ok_and(|origin| {
        // Without keys, a page that rebinds its own name to this host would come in as its own; and a gateway
        // that others reach is reached over TLS, which such a page does not have.
        let own = || {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            let (scheme, authority) = origin.split_once("://").unwrap_or_default();
            let trusted = scheme == "https" || is_loopback(host_of(authority));
            trusted && Some(authority) == host && !abilities.keyless
        };
        let listed =
            plan.is_some_and(|plan| plan.origins.iter().any(|o| o == "*" || o.eq_ignore_ascii_case(origin)));
        let local = || {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            abilities.loopback_only && authority.is_some_and(|authority| is_loopback(host_of(authority)))
        };
        listed || local() || own()
    });
    if allowed {
        return Ok(());
    }
    Err(Fault::new(
        Kind::OriginRefused,
        "this Origin is not allowed; add it under origins in the configuration",
    ))
}

fn host_of(authority: &str) -> &str {
    let end = authority.strip_prefix('[').and_then(|rest| rest.find(']')).map(|at| at + 2);
    let end = end.or_else(|| authority.rfind(':')).unwrap_or(authority.len());
    authority.get(..end).unwrap_or(authority)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || matches!(host, "127.0.0.1" | "[::1]")
}

/// Checks that the body is announced as JSON.
///
/// # Errors
/// [`Kind::UnsupportedMediaType`]
pub fn check_json(headers: &HeaderMap) -> Result<(), Fault> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Fault::new(Kind::UnsupportedMediaType, "Content-Type must be application/json"))
}

/// How much of a body that is too large is read for nothing: whoever is still sending does not look for an answer yet, and
/// would find a closed connection in its place (RFC 9112, section 9.6).
const SPARE: u64 = 8 * 1024 * 1024;

/// Reads a body of at most `limit` bytes. A longer one of up to 8 MiB is read and dropped, if it says how long it is:
/// of any other nobody knows whether it goes on.
///
/// # Errors
/// [`Kind::BodyTooLarge`], [`Kind::BodyCut`].
pub async fn body<B>(headers: &HeaderMap, mut body: B, limit: usize) -> Result<Bytes, Fault>
where
    B: Stream<Item = Result<Bytes, SeamError>> + Unpin,
{
    let too_large =
        || Fault::new(Kind::BodyTooLarge, format!("the body is larger than {limit} bytes (limits.body)"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) =
        announced.filter(|length| usize::try_from(*length).map_or(true, |length| length > limit))
    {
        // Who expects to be asked for the body has not sent it.
        if length <= SPARE && !headers.contains_key(EXPECT) {
            while let Some(Ok(_)) = body.next().await {}
        }
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Fault::new(Kind::BodyCut, "the body did not arrive whole"))?;
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + chunk.len() > limit {
            return Err(too_large());
        }
        match first.take() {
            None if whole.is_empty() => first = Some(chunk),
            held => {
                whole.extend_from_slice(&held.unwrap_or_default());
                whole.extend_from_slice(&chunk);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_by_their_paths() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(Endpoint::of(path).map(|e| e.label()), expect, "{path}")
        };
        check("/mcp", Some("/mcp"));
        check("/mcp/", Some("/mcp"));
        check("/mcp/github", Some("/mcp/{server}"));
        check("/mcp/a/b", None);
        check("/", None);
        check("//", None);
        check("/health", Some("/health"));
        check("/v1/messages", Some("/v1/messages"));
        check("/v1/models/a/b", Some("/v1/models"));
        assert_eq!(Endpoint::of("/v1/models/a%2Fb%3a0"), Some(Endpoint::Models(Some("a/b:0".to_owned()))));
        assert_eq!(Endpoint::of("/v1/models/%zz%"), Some(Endpoint::Models(Some("%zz%".to_owned()))));
    }

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn reached(loopback_only: bool, keyless: bool) -> Abilities {
        Abilities {
            host: "t",
            processes: false,
            loopback_only,
            keyless,
            config_file: false,
            mailboxes: false,
            links: crate::platform::Links::No,
        }
    }

    #[test]
    fn only_loopback_names_reach_a_loopback_gateway() {
        let abilities = reached(true, true);
        let check = |host: &str, expect: bool| {
            let got = check_host(&headers(&[("host", host)]), &Uri::from_static("/"), abilities).is_ok();
            assert_eq!(got, expect, "{host}");
        };
        check("localhost:8787", true);
        check("LOCALHOST", true);
        check("127.0.0.1:1", true);
        check("[::1]:80", true);
        check("evil.example", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example:80", false);
    }

    #[test]
    fn origins_are_checked_when_there_is_one() {
        let check = |origin: &str, host: &str, loopback_only: bool, expect: bool| {
            let abilities = reached(loopback_only, loopback_only);
            let got = check_origin(&headers(&[("origin", origin), ("host", host)]), None, abilities).is_ok();
            assert_eq!(got, expect, "{origin} at {host}");
        };
        check("http://localhost:3000", "localhost:8787", true, true);
        check("http://evil.example", "localhost:8787", true, false);
        check("null", "localhost:8787", true, false);
        check("https://gw.example", "gw.example", false, true);
        check("http://gw.example", "gw.example", false, false);
        check("http://localhost:8787", "localhost:8787", false, true);
        check("http://localhost:3000", "gw.example", false, false);
    }

    #[test]
    fn page_cannot_rebind_its_name_to_a_keyless_gateway() {
        let page = headers(&[("origin", "http://evil.example"), ("host", "evil.example")]);
        assert!(check_origin(&page, None, reached(false, true)).is_err());
    }

    #[test]
    fn who_sends_too_much_is_heard_out_before_it_is_told() {
        use futures_util::{FutureExt as _, stream};
        let read = |head: &[(&str, &str)], chunks: usize| {
            let mut sent = 0;
            let all =
                stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 1024]))).take(chunks).inspect(|_| sent += 1);
            let told = body(&headers(head), all, 4000).now_or_never().unwrap();
            assert_eq!(told.unwrap_err().kind, Kind::BodyTooLarge);
            sent
        };
        assert_eq!(read(&[("content-length", "102400")], 100), 100);
        // But not for ever, and not who asks first.
        assert_eq!(read(&[("content-length", "1000000000")], 100), 0);
        assert_eq!(read(&[("content-length", "102400"), ("expect", "100-continue")], 100), 0);
        assert_eq!(read(&[], 100), 4);
    }
}
