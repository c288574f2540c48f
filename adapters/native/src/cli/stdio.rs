//! `causeway stdio`.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use url::Url;

use super::remote::{Key, endpoint, gateway};
use super::{Failure, Outcome};
use crate::log::{Level, Log};
use crate::stdio::{self, Ended, Options};

/// The largest answer, or event of a stream: what the gateway itself takes from a server unless told otherwise is
/// a quarter of it.
const MAX_ANSWER: usize = 64 << 20;
/// How many requests may be in flight.
const MAX_REQUESTS: usize = 256;
/// Headers that are the protocol's, not the caller's.
const OURS: [&str; 9] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Offer a gateway to a client that only speaks stdio.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Offer a gateway, or any MCP server of Streamable HTTP, to a client that only speaks stdio.\n\n\
    It is started by the client, as the command of a server. It reads the client's messages from stdin, one a line, \
    and writes the server's to stdout; logs go to stderr. Clients of every protocol revision are served, with a \
    handshake or without.\n\n\
    A gateway that restarts, a session it has forgotten and streams that break are mended without the client. A \
    request is sent again only if it cannot have been processed; else the client gets an error that says why.",
    after_help = "In a client's mcp.json:\n  \
    {\"mcpServers\": {\"team\": {\n    \
    \"command\": \"causeway\",\n    \
    \"args\": [\"stdio\", \"--url\", \"https://gateway.example/mcp\"],\n    \
    \"env\": {\"CAUSEWAY_KEY\": \"cw_…\"}}}}\n\n\
    Ends when the client closes stdin, or by SIGTERM or SIGINT. Exit codes: 0 fine, 1 the gateway could never be \
    reached, 2 wrong usage."
)]
pub(super) struct Stdio {
    /// The MCP endpoint, as in `https://gateway.example/mcp`; without a path, `/mcp` is meant
    #[arg(long, value_name = "URL", value_parser = gateway)]
    url: Url,

    #[command(flatten)]
    key: Key,

    /// A header for every request, as `Name: value`; can be given more than once
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<Header>,

    /// How long a request waits for a gateway that cannot be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,

    /// How long requests in flight may take when the client has closed stdin
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,

    /// The longest message that is taken from the client
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    max_message: u16,

    /// What to log, as one line of JSON on stderr
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "CAUSEWAY_LOG")]
    log: Level,
}

/// A header and its value, which may be a secret.
#[derive(Clone)]
struct Header(HeaderName, HeaderValue);

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: …", self.0)
    }
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim().to_ascii_lowercase();
    let bad = || format!("{name:?} is not a header's name");
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
    if OURS.contains(&name.as_str()) || name.starts_with("mcp-") {
        return Err(format!("{name} belongs to the protocol and is set by it"));
    }
    let mut value =
        HeaderValue::from_str(value.trim()).map_err(|_| format!("{name} has a value that no header has"))?;
    value.set_sensitive(true);
    Ok(Header(parsed, value))
}

impl Stdio {
    pub(super) fn run(self) -> Outcome {
        let options = self.options()?;
        let url = options.endpoint.clone();
        let log = Log::stderr(self.log);
        // One client: one thread is enough, besides those that wait for its pipes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
        let ended = runtime.block_on(async {
            let stop = stopped().map_err(|error| Failure::Failed(error.to_string()))?;
            Ok(stdio::serve(options, log.clone(), std::io::stdin(), std::io::stdout(), stop).await)
        });
        // Whatever still runs has had its time.
        runtime.shutdown_background();
        log.flush();
        match ended? {
            Ended::Well => Ok(()),
            Ended::NeverReached => {
                let host = url.authority().map(ToString::to_string).unwrap_or_default();
                Err(Failure::Failed(format!("{host} could never be reached: is --url right?")))
            }
        }
    }

    fn options(&self) -> Result<Options, Failure> {
        if !self.url.username().is_empty() || self.url.password().is_some() {
            let instead = "--url holds a user or a password: pass --header 'Authorization: Basic …' instead";
            return Err(Failure::Refused(instead.to_owned()));
        }
        let mut url = endpoint(&self.url);
        url.set_fragment(None);
        let uri: Uri = url
            .as_str()
            .parse()
            .map_err(|_| Failure::Refused("--url cannot be asked over HTTP".to_owned()))?;
        let mut headers = HeaderMap::new();
        for Header(name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        if !headers.contains_key(AUTHORIZATION)
            && let Some(bearer) = self.key.bearer()?
        {
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(Options {
            endpoint: uri,
            headers,
            wait: Duration::from_secs(self.wait),
            grace: Duration::from_secs(self.grace),
            max_line: usize::from(self.max_message) << 20,
            max_answer: MAX_ANSWER,
            max_requests: MAX_REQUESTS,
        })
    }
}

/// Resolves when the process is asked to end. Listens from now on, so that no signal is missed.
#[cfg(unix)]
pub(super) fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Resolves when the process is asked to end.
#[cfg(not(unix))]
pub(super) fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a handler the system ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        stdio: Stdio,
    }

    fn options(arguments: &[&str]) -> Result<Options, String> {
        let line =
            Line::try_parse_from([&["stdio"], arguments].concat()).map_err(|error| error.to_string())?;
        line.stdio.options().map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn url_and_key_become_an_endpoint() {
        let at = |url: &str| options(&["--url", url]).unwrap().endpoint.to_string();
        assert_eq!(at("http://a:1"), "http://a:1/mcp");
        assert_eq!(at("http://a:1/mcp/github#x"), "http://a:1/mcp/github");
        assert_eq!(at("https://a/x?y=1"), "https://a/x?y=1");
        let keyed = options(&["--url", "http://a", "--key", " cw_k "]).unwrap();
        assert_eq!(keyed.headers[AUTHORIZATION], "Bearer cw_k");
        assert!(keyed.headers[AUTHORIZATION].is_sensitive());
        assert!(options(&[]).is_err());
        assert!(options(&["--url", "http://me:pw@a"]).unwrap_err().contains("--header"));
        assert!(options(&["--url", "http://a", "--max-message", "0"]).is_err());
    }

    #[test]
    fn headers_are_the_callers_own() {
        let given = [
            "--url",
            "http://a",
            "--key",
            "k",
            "--header",
            "X-Team: a b",
            "--header",
            "authorization:Basic c",
        ];
        let headers = options(&given).unwrap().headers;
        assert_eq!(headers["x-team"], "a b");
        assert_eq!(headers[AUTHORIZATION], "Basic c");
        for bad in ["nonsense", ": x", "a b: c", "Mcp-Name: x", "Host: x", "x: a\nb"] {
            assert!(options(&["--url", "http://a", "--header", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_in_what_is_printed_for_debugging() {
        let line =
            Line::try_parse_from(["stdio", "--url", "http://a", "--key", "cw_k", "--header", "x: secret"]);
        let text = format!("{:?}", line.unwrap());
        assert!(!text.contains("cw_k") && !text.contains("secret"), "{text}");
    }
}
