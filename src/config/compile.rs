//! A [`Config`] to the [`Plan`] for one host: variables filled in, names looked up, limits settled.
//!
//! A server that this host cannot serve, or whose variables are missing, is left out by name with the reason;
//! the others go on. Anything else that is wrong refuses the whole. Messages **never** hold a filled-in value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::fill::fill;
use super::glob::{Filter, Glob};
use super::keys::parse_hash;
use super::plan::{
    self, Caller, Key, Limits, Offline, Override, Plan, Program, Recycle, Sampling, Sandbox, Server,
    SessionMode, Skipped, Timeouts, Transport, Via,
};
use super::problem::Problem;
use super::read::{NOT_WHOLE, endpoint, is_ours, origin, whole};
use super::types::{self, Choice, Config, Kind, Named, Session, Size, Span};
use crate::platform::{Abilities, Links, Secrets};

mod llm;

/// Makes the plan for a host with these secrets and abilities.
pub fn compile(config: &Config, secrets: &impl Secrets, abilities: Abilities) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut plan = Plan {
        digest: config.digest(),
        servers: Vec::new(),
        skipped: Vec::new(),
        keys: Vec::new(),
        origins: Vec::new(),
        limits: limits(&config.limits),
        lenient: config.sessions.lenient,
        llm: plan::Llm::default(),
    };
    for (name, entry) in config.servers.iter() {
        match server(name, entry, secrets, abilities) {
            Ok(server) => plan.servers.push(Arc::new(server)),
            Err(reason) => plan.skipped.push(Skipped { name: name.to_owned(), reason }),
        }
    }
    plan.llm = llm::llm(&config.llm, secrets, abilities, &mut plan.skipped);
    let named = |server: &Arc<Server>| server.name == plan::MODELS || server.prefix == plan::MODELS;
    if !plan.llm.providers.is_empty() && config.llm.mcp != Some(false) && !plan.servers.iter().any(named) {
        plan.servers.extend(Url::parse("llm://causeway").ok().map(|url| Arc::new(Server::own(url))));
    }
    plan.keys = keys(config, secrets, &mut problems);
    plan.origins = origins(config, secrets, &mut problems);
    if config.keys.is_empty() && !abilities.keyless {
        let fix = "make one with `causeway keys new` and store its hash under `keys`";
        let what = "no keys configured: anybody who reaches the gateway could call every server";
        problems.push(Problem::error("keys", what, fix));
    }
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

/// The server, or why it is left out.
fn server(
    name: &str,
    entry: &types::Server,
    secrets: &impl Secrets,
    host: Abilities,
) -> Result<Server, String> {
    if entry.disabled {
        return Err("disabled in the configuration".to_owned());
    }
    if let Some(link) = &entry.via {
        has_links(link, host)?;
        return behind(name, entry, link);
    }
    let url = match (entry.kind, &entry.url) {
        (Some(Kind::Stdio), _) | (_, None) if host.processes => None,
        (Some(Kind::Stdio), _) | (_, None) => {
            let host = host.host;
            return Err(format!(
                "it is a program, which {host} cannot run: run it elsewhere and give its `url`"
            ));
        }
        (_, Some(url)) => Some(url),
    };
    let (url, program) = match url {
        Some(url) => {
            let url = fill(url, secrets).map_err(|(what, fix)| because("url", &what, &fix))?;
            (endpoint(&url).map_err(|(what, fix)| because("url", what, fix))?, None)
        }
        None => {
            let url = Url::parse(&format!("stdio://{name}")).map_err(|error| error.to_string())?;
            (url, Some(Arc::new(program(entry, secrets)?)))
        }
    };
    let server = offered(name, entry, url);
    Ok(Server {
        headers: headers(&entry.headers, secrets)?,
        transport: if program.is_some() { Transport::Stdio } else { server.transport },
        program,
        ..server
    })
}

/// Whether a companion can dial in to `host` as `link`.
fn has_links(link: &str, host: Abilities) -> Result<(), String> {
    match host.links {
        Links::No => Err(format!("it is behind the link `{link}`, and {} has no links", host.host)),
        _ => Ok(()),
    }
}

/// A server behind a link. How it is reached there, and with which credentials, is the other end's business.
fn behind(name: &str, entry: &types::Server, link: &str) -> Result<Server, String> {
    let offline = match entry.offline {
        types::Offline::Keep => Offline::Keep,
        types::Offline::Hide => Offline::Hide,
    };
    let url = Url::parse(plan::BEHIND).map_err(|error| error.to_string())?;
    Ok(Server { via: Some(Via { link: link.to_owned(), offline }), ..offered(name, entry, url) })
}

/// What `entry` says besides how the server is reached.
fn offered(name: &str, entry: &types::Server, url: Url) -> Server {
    let plain = Server::new(name, url);
    Server {
        transport: if entry.kind == Some(Kind::Sse) { Transport::HttpSse } else { Transport::Http },
        prefix: entry.prefix.clone().unwrap_or_else(|| name.to_owned()),
        tools: Filter { allow: globs(&entry.tools.allow), deny: globs(&entry.tools.deny) },
        prompts: filter(&entry.prompts),
        resources: filter(&entry.resources),
        overrides: entry.tools.overrides.iter().map(|(name, change)| (name.clone(), change.into())).collect(),
        session: entry.session.map(|session| match session {
            Session::Shared => SessionMode::Shared,
            Session::Isolated => SessionMode::Isolated,
        }),
        sampling: match &entry.sampling {
            types::Sampling::Client => Sampling::Client,
            types::Sampling::Deny => Sampling::Deny,
            types::Sampling::Gateway(_) => Sampling::Gateway,
        },
        sampler: match &entry.sampling {
            types::Sampling::Gateway(given) => sampler(given),
            types::Sampling::Client | types::Sampling::Deny => plain.sampler.clone(),
        },
        timeouts: timeouts(&entry.timeouts),
        max_response: bytes(entry.max_response, plain.max_response),
        list_ttl: time(entry.list_ttl, plain.list_ttl),
        ..plain
    }
}

fn sampler(given: &types::Sampler) -> plan::Sampler {
    let usual = plan::Sampler::default();
    let count = |given: Option<u32>, usual: usize| given.map_or(usual, |given| given as usize);
    plan::Sampler {
        models: if given.models.is_empty() { usual.models } else { given.models.clone() },
        max_tokens: given.max_tokens.map_or(usual.max_tokens, u64::from),
        requests: count(given.requests, usual.requests),
        concurrent: count(given.concurrent, usual.concurrent),
        time: time(given.time, usual.time),
    }
}

fn because(key: &str, what: &str, fix: &str) -> String {
    format!("{key}: {what}: {fix}")
}

/// Headers with their variables filled in, or why they cannot be sent.
fn headers(given: &Named<String>, secrets: &impl Secrets) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in given.iter() {
        let key = format!("headers.{name}");
        let text = fill(text, secrets).map_err(|(what, fix)| because(&key, &what, &fix))?;
        let fix = "a header holds visible ASCII characters and no line break";
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| because(&key, "the filled-in value cannot be sent", fix))?;
        value.set_sensitive(true);
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| because(&key, "is not a header name", "use letters, digits and `-`"))?;
        if !is_ours(&name) {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

/// What the program of an entry may do to the machine that it runs on, or what keeps that from being known.
fn sandbox(entry: &types::Sandbox, secrets: &impl Secrets) -> Result<Sandbox, String> {
    let plain = Sandbox::default();
    let paths = |key: &str, paths: &[String]| -> Result<Vec<String>, String> {
        let filled = paths.iter().enumerate().map(|(i, path)| {
            let said = |what: &str, fix: &str| format!("sandbox.{key}[{i}]: {what}: {fix}");
            let path = fill(path, secrets).map_err(|(what, fix)| said(&what, &fix))?;
            match whole(&path) {
                true => Ok(path),
                false => Err(said(NOT_WHOLE.0, NOT_WHOLE.1)),
            }
        });
        filled.collect()
    };
    Ok(Sandbox {
        mode: entry.mode,
        read: paths("read", &entry.read)?,
        write: paths("write", &entry.write)?,
        network: entry.network.unwrap_or(plain.network),
        memory: entry.memory.map_or(plain.memory, |size| size.0),
        cpu: time(entry.cpu, plain.cpu),
        processes: entry.processes.unwrap_or(plain.processes),
        files: entry.files.unwrap_or(plain.files),
        file_size: entry.file_size.map_or(plain.file_size, |size| size.0),
        namespace: entry.namespace.unwrap_or(plain.namespace),
    })
}

/// What to run for an entry with a `command`, and how.
///
/// # Errors
/// What keeps it from being run, and what to do.
pub fn program(entry: &types::Server, secrets: &impl Secrets) -> Result<Program, String> {
    let filled =
        |key: &str, text: &str| fill(text, secrets).map_err(|(what, fix)| format!("{key}: {what}: {fix}"));
    let text = |key: &str, text: &Option<String>| text.as_deref().map(|text| filled(key, text)).transpose();
    let command = text("command", &entry.command)?.unwrap_or_default();
    if command.trim().is_empty() {
        return Err("command: is empty: name the program to run".to_owned());
    }
    let plain = Program::new(&command, &[]);
    let args = entry.args.iter().enumerate().map(|(i, arg)| filled(&format!("args[{i}]"), arg));
    let env =
        entry.env.iter().map(|(name, value)| Ok((name.to_owned(), filled(&format!("env.{name}"), value)?)));
    let program = Program {
        args: args.collect::<Result<_, String>>()?,
        env: env.collect::<Result<_, String>>()?,
        env_file: text("envFile", &entry.env_file)?,
        cwd: text("cwd", &entry.cwd)?,
        processes: entry.processes,
        start: entry.start,
        idle_stop: time(entry.idle_stop, plain.idle_stop),
        recycle: Recycle {
            age: entry.recycle.age.map(|span| span.0),
            calls: entry.recycle.calls.map(u64::from),
            memory: entry.recycle.memory.map(|size| size.0),
        },
        max_line: bytes(entry.max_response, plain.max_line),
        sandbox: sandbox(&entry.sandbox, secrets)?,
        ..plain
    };
    let texts = program.args.iter().chain(program.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.chain([&program.command]).chain(&program.cwd).any(|text| text.contains('\0')) {
        return Err("command: a NUL character is in what to run: remove it".to_owned());
    }
    if let Some((name, _)) = program.env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(format!("env.{name}: is not the name of a variable: use letters, digits and `_`"));
    }
    Ok(program)
}

fn keys(config: &Config, secrets: &impl Secrets, problems: &mut Vec<Problem>) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut seen = BTreeMap::new();
    for (name, entry) in config.keys.iter() {
        let caller = Arc::new(Caller {
            name: name.to_owned(),
            servers: filter(&entry.servers),
            tools: filter(&entry.tools),
            models: filter(&entry.models),
            contexts: entry.contexts.clone(),
            links: globs(&entry.links),
            admin: entry.admin,
        });
        let first = entry.hash.iter().map(|hash| (".hash".to_owned(), hash));
        let more = entry.hashes.iter().enumerate().map(|(i, hash)| (format!(".hashes[{i}]"), hash));
        for (part, hash) in first.chain(more) {
            let path = format!("{}{part}", super::read::join("keys", name));
            let digest = fill(hash, secrets).and_then(|hash| {
                parse_hash(&hash.trim().to_ascii_lowercase())
                    .map_err(|(what, fix)| (what.to_owned(), fix.to_owned()))
            });
            match digest {
                Err((what, fix)) => problems.push(Problem::error(path, what, fix)),
                Ok(digest) => match seen.insert(digest, path.clone()) {
                    Some(other) => {
                        let fix = "give each caller a key of their own";
                        problems.push(Problem::error(path, format!("is the same key as {other}"), fix));
                    }
                    None => keys.push(Key { digest, caller: caller.clone() }),
                },
            }
        }
    }
    keys
}

fn origins(config: &Config, secrets: &impl Secrets, problems: &mut Vec<Problem>) -> Vec<String> {
    let mut origins = Vec::new();
    for (i, text) in config.origins.iter().enumerate() {
        let fix = "write `scheme://host` or `scheme://host:port` and nothing more, or `*`";
        let found = fill(text, secrets).and_then(|text| {
            origin(text.trim())
                .ok_or_else(|| ("the filled-in value is not an origin".to_owned(), fix.to_owned()))
        });
        match found {
            Ok(origin) => origins.push(origin),
            Err((what, fix)) => problems.push(Problem::error(format!("origins[{i}]"), what, fix)),
        }
    }
    origins
}

fn limits(given: &types::Limits) -> Limits {
    let plain = Limits::default();
    let count = |given: Option<u32>, plain| given.map_or(plain, |count| count as usize);
    Limits {
        body: bytes(given.body, plain.body),
        batch: count(given.batch, plain.batch),
        merge_deadline: time(given.merge_deadline, plain.merge_deadline),
        page: count(given.page, plain.page),
        session_age: time(given.session_age, plain.session_age),
        keep_alive: time(given.keep_alive, plain.keep_alive),
        park: time(given.park, plain.park),
        parked: count(given.parked, plain.parked),
        rounds: count(given.rounds, plain.rounds),
        replay: bytes(given.replay, plain.replay),
        link_resume: time(given.link_resume, plain.link_resume),
        link_calls: count(given.link_calls, plain.link_calls),
        subscriptions: count(given.subscriptions, plain.subscriptions),
        processes: count(given.processes, plain.processes),
    }
}

fn timeouts(given: &types::Timeouts) -> Timeouts {
    let plain = Timeouts::default();
    Timeouts {
        connect: time(given.connect, plain.connect),
        first_byte: time(given.first_byte, plain.first_byte),
        idle: time(given.idle, plain.idle),
        total: time(given.total, plain.total),
    }
}

fn time(given: Option<Span>, plain: Duration) -> Duration {
    given.map_or(plain, |span| span.0)
}

fn bytes(given: Option<Size>, plain: usize) -> usize {
    given.map_or(plain, |size| size.0 as usize)
}

fn globs(patterns: &[String]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::new(pattern)).collect()
}

fn filter(choice: &Choice) -> Filter {
    Filter { allow: globs(&choice.allow), deny: globs(&choice.deny) }
}

impl From<&types::Override> for Override {
    fn from(given: &types::Override) -> Self {
        Self { rename: given.rename.clone(), description: given.description.clone(), hide: given.hide }
    }
}
