//! Servers.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use url::{Host, Url};

use super::super::fill;
use super::super::node::{Entry, Node, Value};
use super::super::problem::{Place, nearest};
use super::super::types::{
    Kind, Named, Offline, Override, Processes, Recycle, Sampler, Sampling, Server, Session, Size, Start,
    Timeouts, Tools,
};
use super::{DAY, HOUR, MINUTE, MOST_SERVERS, Reader, SECOND, is_comment, join, segment};

/// The keys of a server.
const KNOWN: &[&str] = &[
    "type",
    "url",
    "headers",
    "command",
    "args",
    "env",
    "envFile",
    "cwd",
    "sandbox",
    "processes",
    "start",
    "idle_stop",
    "recycle",
    "via",
    "offline",
    "disabled",
    "enabled",
    "prefix",
    "tools",
    "prompts",
    "resources",
    "session",
    "sampling",
    "timeouts",
    "max_response",
    "list_ttl",
    "serverUrl",
];

/// Keys of known clients that mean nothing to a gateway: approval, appearance, origin, the client's own sign-in.
const FOREIGN: [&str; 39] = [
    "alwaysAllow",
    "approvalMode",
    "auth",
    "authProviderType",
    "author",
    "autoApprove",
    "autoStart",
    "category",
    "default_tools_approval_mode",
    "description",
    "dev",
    "displayName",
    "docsUrl",
    "fromGalleryId",
    "gallery",
    "headersHelper",
    "icon",
    "iconUrl",
    "id",
    "installSource",
    "isTrusted",
    "label",
    "logoUrl",
    "metadata",
    "name",
    "oauth",
    "provider",
    "providerUrl",
    "required",
    "sandboxEnabled",
    "scopes",
    "source",
    "supports_parallel_tool_calls",
    "tags",
    "title",
    "trust",
    "trusted",
    "version",
    "watchPaths",
];

impl Reader {
    pub(super) fn servers(&mut self, node: &Node, top: &str, into: &mut Named<Server>) {
        let entries = self.map(node, top).unwrap_or_default();
        // Names that are fine as they stand come before those that are made up.
        let mut taken: BTreeSet<String> = into.iter().map(|(name, _)| name.to_owned()).collect();
        let own: BTreeSet<String> =
            entries.iter().map(|e| &e.key).filter(|key| is_safe(key)).cloned().collect();
        for entry in entries {
            let path = join(top, &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            if entry.key.is_empty() {
                self.error(entry.place, &path, "a server has no name", "give it one");
                continue;
            }
            let mut name = entry.key.clone();
            if !is_safe(&name) {
                name = safe_name(&name, |name| taken.contains(name) || own.contains(name));
                let what = format!("the name cannot be used here; the server is called `{name}`");
                let fix = "use up to 32 letters, digits, `-` and `_`, without `__` and no `_` at the end";
                self.warn(entry.place, &path, what, fix);
            } else if taken.contains(&name) {
                let fix = "give one of the two another name";
                self.error(entry.place, &path, "there is another server of that name", fix);
            }
            taken.insert(name.clone());
            if entry.place != Place::default() {
                self.places.insert(format!("mcpServers.{name}"), entry.place);
            }
            if let Some(server) = self.server(entry, &path)
                && into.named(&name).is_none()
            {
                into.0.push((name, server));
            }
        }
        if into.len() > MOST_SERVERS {
            self.error(node.place, top, format!("more than {MOST_SERVERS} servers"), "split the file in two");
        }
    }

    fn server(&mut self, entry: &Entry, path: &str) -> Option<Server> {
        let mut server = Server::default();
        let (mut enabled, mut url_key, mut offline) = (None, None, None);
        for entry in self.map(&entry.node, path)? {
            let (path, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "type" | "transport" => server.kind = self.one_of(node, &path, &Kind::SPELLINGS),
                "url" | "serverUrl" | "httpUrl" => {
                    if url_key.replace((path.clone(), node.place)).is_some() {
                        self.error(entry.place, &path, "the server has another URL already", "keep one");
                    }
                    server.url = self.text(node, &path);
                }
                "headers" => server.headers = self.headers(node, &path),
                "command" => server.command = self.text(node, &path),
                "args" => server.args = self.loose_texts(node, &path),
                "env" => server.env = self.named_texts(node, &path),
                "envFile" => server.env_file = self.text(node, &path),
                "cwd" => server.cwd = self.text(node, &path),
                "sandbox" => server.sandbox = self.sandbox(node, &path),
                "processes" => server.processes = self.processes(node, &path),
                "start" => {
                    let words = [("lazy", Start::Lazy), ("eager", Start::Eager)];
                    server.start = self.one_of(node, &path, &words).unwrap_or_default();
                }
                "idle_stop" => server.idle_stop = self.span(node, &path, SECOND, 30 * DAY),
                "recycle" => self.recycle(node, &path, &mut server.recycle),
                "via" => server.via = self.via(node, &path),
                "offline" => {
                    offline = Some(entry);
                    let words = [("keep", Offline::Keep), ("hide", Offline::Hide)];
                    server.offline = self.one_of(node, &path, &words).unwrap_or_default();
                }
                "disabled" => server.disabled |= self.flag(node, &path).unwrap_or(false),
                "enabled" | "isActive" => enabled = self.flag(node, &path),
                "prefix" => server.prefix = self.prefix(node, &path),
                "tools" => self.tools(node, &path, &mut server.tools),
                // What other clients call `tools.allow` and `tools.deny`; ignoring them would offer too much.
                "includeTools" | "enabledTools" | "enabled_tools" => {
                    server.tools.allow.extend(self.allowed(node, &path));
                }
                "excludeTools" | "disabledTools" | "disabled_tools" => {
                    server.tools.deny.extend(self.globs(node, &path));
                }
                "prompts" => server.prompts = self.choice(node, &path),
                "resources" => server.resources = self.choice(node, &path),
                "session" => {
                    let words = [("shared", Session::Shared), ("isolated", Session::Isolated)];
                    server.session = self.one_of(node, &path, &words);
                }
                "sampling" => server.sampling = self.sampling(node, &path),
                "timeouts" => self.timeouts(node, &path, &mut server.timeouts),
                "timeout" => {
                    let fix = "write `timeouts: { total: \"60s\" }`";
                    self.warn(entry.place, &path, "is ignored, as clients disagree about its unit", fix);
                }
                "max_response" => {
                    server.max_response = self.size(node, &path, Size(1 << 10), Size(512 << 20));
                }
                "list_ttl" => server.list_ttl = self.span(node, &path, 0, DAY),
                key if FOREIGN.contains(&key) || is_comment(key) => {}
                key => {
                    let fix = match nearest(key, KNOWN.iter().copied()) {
                        Some(known) => format!("did you mean `{known}`?"),
                        None => "remove it, unless it is a client's".to_owned(),
                    };
                    self.warn(entry.place, &path, "is not a known key and is ignored", fix);
                }
            }
        }
        if enabled == Some(true) && server.disabled {
            self.error(entry.place, path, "is both enabled and disabled", "remove one of the two");
        }
        server.disabled |= enabled == Some(false);
        if let Some(entry) = offline.filter(|_| server.via.is_none()) {
            let fix = "name the link behind which the server is with `via`, or remove `offline`";
            self.warn(
                entry.place,
                &join(path, "offline"),
                "means nothing for a server that is behind no link",
                fix,
            );
        }
        self.check_kind(entry, path, &server);
        if let (Some(url), Some((path, place))) = (&server.url, &url_key) {
            self.check_url(url, path, *place, server.via.is_some());
        }
        Some(server)
    }

    /// Refuses an entry that says neither what to call nor what to run, or both.
    fn check_kind(&mut self, entry: &Entry, path: &str, server: &Server) {
        let place = entry.place;
        // What was given and refused for its own sake is not missing as well.
        let says =
            |key: &str| matches!(key, "url" | "serverUrl" | "httpUrl" | "command" | "type" | "transport");
        let given = match &entry.node.value {
            Value::Map(entries) => entries.iter().any(|e| says(&e.key) && e.node.value != Value::Null),
            _ => false,
        };
        match (server.kind, &server.url, &server.command) {
            _ if server.disabled => {}
            // How it is reached is for the machine at the other end to know, which may have a file of its own.
            (_, None, None) if server.via.is_some() => {}
            (Some(Kind::Stdio), _, Some(_)) | (Some(Kind::Http | Kind::Sse), Some(_), _) => {}
            (None, Some(_), Some(_)) => {
                self.error(place, path, "has both `url` and `command`", "keep the one that is meant");
            }
            (None, Some(_), None) | (None, None, Some(_)) => {}
            (Some(Kind::Stdio), Some(_), None) => {
                self.error(place, path, "is of type `stdio` but has a `url`", "remove `type`");
            }
            (Some(Kind::Http | Kind::Sse), None, Some(_)) => {
                self.error(place, path, "is of an HTTP type but has a `command`", "remove `type`");
            }
            (kind, None, None) => {
                let (what, fix) = match kind {
                    Some(Kind::Stdio) => ("has no `command`", "add the program to run"),
                    Some(Kind::Http | Kind::Sse) => ("has no `url`", "add the server's MCP endpoint"),
                    None if given => return,
                    None => (
                        "has neither `url` nor `command` nor `via`",
                        "add the server's MCP endpoint, the program to run, or the link behind which it is",
                    ),
                };
                self.error(place, path, what, fix);
            }
        }
    }

    pub(super) fn check_url(&mut self, url: &str, path: &str, place: Place, behind_link: bool) {
        match fill::parts(url) {
            Err(broken) => self.error(place, path, broken.to_string(), broken.fix()),
            Ok(parts) if parts.iter().any(fill::Part::is_filled) => {}
            Ok(_) => match endpoint(&fill::unescape(url)) {
                Err((what, fix)) => self.error(place, path, what, fix),
                Ok(url) if url.scheme() == "http" && !is_loopback(&url) && !behind_link => {
                    let fix = "use https:// unless the network can be trusted";
                    self.warn(place, path, "credentials and answers travel unencrypted", fix);
                }
                Ok(_) => {}
            },
        }
    }

    pub(super) fn headers(&mut self, node: &Node, path: &str) -> Named<String> {
        let mut headers = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in self.map(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let Some(text) = self.loose_text(&entry.node, &path) else { continue };
            let Ok(name) = HeaderName::from_bytes(entry.key.as_bytes()) else {
                let fix = "use letters, digits and `-`";
                self.error(entry.place, &path, "is not a header name", fix);
                continue;
            };
            if is_ours(&name) {
                self.warn(entry.place, &path, "is set by the gateway itself", "remove it");
                continue;
            }
            if !seen.insert(name.as_str().to_owned()) {
                let fix = "header names differ by more than case; remove one";
                self.error(entry.place, &path, "stands there twice", fix);
                continue;
            }
            match fill::parts(&text) {
                Err(broken) => self.error(entry.node.place, &path, broken.to_string(), broken.fix()),
                Ok(parts) => {
                    let literal = |part: &fill::Part<'_>| match part {
                        fill::Part::Text(text) => HeaderValue::from_str(text).is_ok(),
                        _ => true,
                    };
                    if parts.iter().all(literal) {
                        headers.push((entry.key.clone(), text));
                    } else {
                        let fix = "a header holds visible ASCII characters and no line break";
                        self.error(entry.node.place, &path, "is not a header value", fix);
                    }
                }
            }
        }
        Named(headers)
    }

    fn processes(&mut self, node: &Node, path: &str) -> Processes {
        if matches!(node.value, Value::Number(_)) {
            return self.count(node, path, 1, 64).map(Processes::Pool).unwrap_or_default();
        }
        let words =
            [("auto", Processes::Auto), ("shared", Processes::Shared), ("session", Processes::Session)];
        self.one_of(node, path, &words).unwrap_or_default()
    }

    fn recycle(&mut self, node: &Node, path: &str, into: &mut Recycle) {
        for entry in self.map(node, path).unwrap_or_default() {
            let own = join(path, &entry.key);
            match entry.key.as_str() {
                "age" => into.age = self.span(&entry.node, &own, SECOND, 30 * DAY),
                "calls" => into.calls = self.count(&entry.node, &own, 1, 1_000_000_000),
                "memory" => {
                    into.memory = self.size(&entry.node, &own, Size(1 << 20), Size(u64::from(u32::MAX)))
                }
                _ => self.unknown(entry, path, &["age", "calls", "memory"]),
            }
        }
    }

    pub(super) fn via(&mut self, node: &Node, path: &str) -> Option<String> {
        let name = self.text(node, path)?;
        if is_safe(&name) {
            return Some(name);
        }
        let fix = "use up to 32 letters, digits, `-` and `_`";
        self.error(node.place, path, "is not the name of a link", fix);
        None
    }

    fn prefix(&mut self, node: &Node, path: &str) -> Option<String> {
        let prefix = self.text(node, path)?;
        if is_safe(&prefix) {
            return Some(prefix);
        }
        let fix = "use up to 32 letters, digits, `-` and `_`, without `__` and no `_` at the end";
        self.error(node.place, path, format!("is {}", super::shown(&prefix)), fix);
        None
    }

    fn sampling(&mut self, node: &Node, path: &str) -> Sampling {
        let mut sampler = Sampler::default();
        if !matches!(node.value, Value::Map(_)) {
            let words = [("client", 0), ("deny", 1), ("gateway", 2)];
            match self.one_of(node, path, &words) {
                Some(2) => {
                    self.samplers.push((path.to_owned(), node.place, None));
                    return Sampling::Gateway(sampler.into());
                }
                Some(1) => return Sampling::Deny,
                _ => return Sampling::Client,
            }
        }
        let known = ["models", "max_tokens", "requests", "concurrent", "time"];
        for entry in self.map(node, path).unwrap_or_default() {
            let (own, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "models" => {
                    let alone = matches!(node.value, Value::Text(_));
                    let items = match alone {
                        true => std::slice::from_ref(node),
                        false => self.list(node, &own).unwrap_or_default(),
                    };
                    for (i, item) in items.iter().enumerate() {
                        let own = if alone { own.clone() } else { format!("{own}[{i}]") };
                        if let Some(text) = self.text(item, &own) {
                            self.samplers.push((own, item.place, Some(text.clone())));
                            sampler.models.push(text);
                        }
                    }
                    if items.is_empty() || items.len() > 32 {
                        let what = format!("has {} names", items.len());
                        self.error(node.place, &own, what, "name 1 to 32 models");
                    }
                }
                "max_tokens" => sampler.max_tokens = self.count(node, &own, 1, 1_000_000),
                "requests" => sampler.requests = self.count(node, &own, 1, 1000),
                "concurrent" => sampler.concurrent = self.count(node, &own, 1, 1000),
                "time" => sampler.time = self.span(node, &own, SECOND, HOUR),
                _ => self.unknown(entry, path, &known),
            }
        }
        if sampler.models.is_empty() {
            self.samplers.push((path.to_owned(), node.place, None));
        }
        Sampling::Gateway(sampler.into())
    }

    fn tools(&mut self, node: &Node, path: &str, into: &mut Tools) {
        if matches!(node.value, Value::List(_) | Value::Null) {
            into.allow.extend(self.allowed(node, path));
            return;
        }
        for entry in self.map(node, path).unwrap_or_default() {
            let path = &join(path, &entry.key);
            match entry.key.as_str() {
                "allow" => into.allow.extend(self.allowed(&entry.node, path)),
                "deny" => into.deny.extend(self.globs(&entry.node, path)),
                "overrides" => into.overrides = self.overrides(&entry.node, path),
                _ => self.unknown(
                    entry,
                    path.rsplit_once('.').map_or("", |(up, _)| up),
                    &["allow", "deny", "overrides"],
                ),
            }
        }
    }

    fn overrides(&mut self, node: &Node, path: &str) -> BTreeMap<String, Override> {
        let mut overrides = BTreeMap::new();
        let mut renamed = BTreeMap::new();
        for entry in self.map(node, path).unwrap_or_default() {
            let path = join(path, &entry.key);
            let mut change = Override::default();
            for entry in self.map(&entry.node, &path).unwrap_or_default() {
                let own = join(&path, &entry.key);
                match entry.key.as_str() {
                    "rename" => {
                        let Some(name) = self.text(&entry.node, &own) else { continue };
                        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                            let fix = "models take up to 64 letters, digits, `-` and `_`";
                            self.error(entry.node.place, &own, format!("is {}", super::shown(&name)), fix);
                            continue;
                        }
                        if let Some(other) = renamed.insert(name.clone(), own.clone()) {
                            let what = format!("is `{name}`, as is {other}");
                            self.error(entry.node.place, &own, what, "give one of them another name");
                        }
                        change.rename = Some(name);
                    }
                    "description" => change.description = self.text(&entry.node, &own),
                    "hide" => change.hide = self.flag(&entry.node, &own).unwrap_or(false),
                    _ => self.unknown(entry, &path, &["rename", "description", "hide"]),
                }
            }
            overrides.insert(entry.key.clone(), change);
        }
        overrides
    }

    pub(super) fn timeouts(&mut self, node: &Node, path: &str, into: &mut Timeouts) {
        for entry in self.map(node, path).unwrap_or_default() {
            let own = join(path, &entry.key);
            match entry.key.as_str() {
                "connect" => into.connect = self.span(&entry.node, &own, 10, 5 * MINUTE),
                "first_byte" => into.first_byte = self.span(&entry.node, &own, 10, HOUR),
                "idle" => into.idle = self.span(&entry.node, &own, 10, DAY),
                "total" => into.total = self.span(&entry.node, &own, 10, DAY),
                _ => self.unknown(entry, path, &["connect", "first_byte", "idle", "total"]),
            }
        }
    }

    pub(super) fn check_prefixes(&mut self, servers: &Named<Server>) {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, server) in servers.iter().filter(|(_, server)| !server.disabled) {
            let prefix = server.prefix.as_deref().unwrap_or(name);
            if let Some(other) = taken.insert(prefix, name) {
                let at = |name: &str, part: &str| format!("mcpServers.{name}{part}");
                let path = at(&segment(name), if server.prefix.is_some() { ".prefix" } else { "" });
                let place =
                    [path.clone(), at(name, "")].iter().find_map(|path| self.places.get(path).copied());
                let what = format!("the prefix `{prefix}` is that of `{other}` too");
                self.error(place.unwrap_or_default(), &path, what, "give one of them another `prefix`");
            }
        }
    }
}

/// Whether the gateway sets this header itself, so that a configured one would only be in the way.
pub(in super::super) fn is_ours(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "connection"
            | "content-length"
            | "content-type"
            | "expect"
            | "host"
            | "keep-alive"
            | "last-event-id"
            | "mcp-protocol-version"
            | "mcp-session-id"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    ) || name.as_str().starts_with("mcp-method")
        || name.as_str().starts_with("mcp-name")
        || name.as_str().starts_with("mcp-param-")
}

/// The endpoint that `url` names, or what is wrong with it and what to do. Never repeats the URL.
pub(in super::super) fn endpoint(url: &str) -> Result<Url, (&'static str, &'static str)> {
    let example = "write one like https://mcp.example.com/mcp";
    let url = Url::parse(url.trim()).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => ("is not a whole URL", "begin with https:// or http://"),
        url::ParseError::EmptyHost => ("is a URL without a host", example),
        url::ParseError::IdnaError if !url.is_ascii() => {
            ("is a URL with a host that is not in ASCII", "write the name as DNS has it (xn--…)")
        }
        url::ParseError::InvalidPort => ("is a URL with a port that is none", "use a port from 1 to 65535"),
        _ => ("is not a URL", example),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(("is neither an https:// nor an http:// URL", example));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(("holds a user name or password", "put them in an `Authorization` header"));
    }
    if url.fragment().is_some() {
        return Err(("has a fragment (`#…`), which is never sent", "remove it"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether `name` can be a server's name, or a prefix.
fn is_safe(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=32).contains(&name.len()) && name.chars().all(plain) && !name.contains("__") && !name.ends_with('_')
}

/// A name made of one that is not safe: of `github.com/org/name` the last part, of `My Server` all of it.
fn safe_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut safe = String::new();
    for c in last.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '-' => safe.push(c),
            _ if safe.is_empty() || safe.ends_with('_') => {}
            _ => safe.push('_'),
        }
    }
    safe.truncate(32);
    let base = match safe.trim_end_matches(['_', '-']) {
        "" => "server",
        base => base,
    };
    let mut name = base.to_owned();
    // There are fewer servers than numbers here.
    for n in 2..10_000 {
        if !taken(&name) {
            break;
        }
        let end = format!("-{n}");
        let keep = base.get(..base.len().min(32 - end.len())).unwrap_or(base);
        name = format!("{keep}{end}");
    }
    name
}
