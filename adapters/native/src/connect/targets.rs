//! What the file offers: servers by URL, programs, and where models are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway::config::Plan;
use causeway::config::plan::{Provider, Server};
use causeway::platform::{Abilities, Links};
use causeway::tunnel::hello::Offer;

use crate::programs::Programs;
use crate::secrets::Secrets;
use crate::source;

/// What may be addressed through the link.
#[derive(Debug, Default)]
pub struct Targets {
    by_offer: BTreeMap<String, (Offer, Target)>,
    /// Entries of the file that cannot be offered, with the reason.
    pub left_out: Vec<(Offer, String)>,
    /// What is worth saying about the file.
    pub warnings: Vec<String>,
    /// The files that it was made from.
    pub files: Vec<PathBuf>,
    /// What it was made of.
    plan: Option<Plan>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// An MCP server, reached over HTTP or run here.
    Server(Arc<Server>),
    /// Where models are, reached over HTTP.
    Model(Arc<Provider>),
}

impl Targets {
    /// What is offered, in a fixed order.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        self.by_offer.values().map(|(offer, _)| offer.clone()).collect()
    }

    /// Has `programs` run those that are programs, and none else.
    pub(super) fn apply(&self, programs: &Programs) {
        if let Some(plan) = &self.plan {
            programs.apply_plan(plan);
        }
    }

    pub(super) fn get(&self, offer: &Offer) -> Option<&Target> {
        self.by_offer.get(&offer.to_string()).map(|(_, target)| target)
    }

    fn insert(&mut self, offer: Offer, target: Target) {
        self.by_offer.insert(offer.to_string(), (offer, target));
    }
}

impl Target {
    /// What it is, for people. Never with a secret: of a URL only the origin is shown.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Server(server) => match &server.program {
                Some(program) => format!("program {}", program.command),
                None => server.url.origin().ascii_serialization(),
            },
            Self::Model(provider) => {
                format!("{} {}", provider.kind.name(), provider.url.origin().ascii_serialization())
            }
        }
    }
}

/// Reads `file` for the companion that dials in as `link`.
///
/// # Errors
/// Every problem, a line each.
pub async fn read(file: &Path, link: &str) -> Result<Targets, Vec<String>> {
    let (file, link) = (file.to_owned(), link.to_owned());
    let work = tokio::task::spawn_blocking(move || read_now(&file, &link));
    work.await.unwrap_or_else(|error| Err(vec![error.to_string()]))
}

fn read_now(file: &Path, link: &str) -> Result<Targets, Vec<String>> {
    let checked = source::check(file).map_err(|problem| vec![problem])?;
    let secrets = Secrets::beside(Some(file));
    let mut warnings = secrets.reload();
    let Some(config) = checked.config() else { return Err(checked.lines(&checked.reading.problems)) };
    warnings.extend(checked.lines(&checked.reading.problems));
    // It serves nobody but the gateway, which asks for keys.
    let abilities = Abilities {
        host: "the companion",
        processes: true,
        loopback_only: true,
        keyless: true,
        config_file: true,
        mailboxes: true,
        links: Links::No,
    };
    let plan = causeway::config::compile(&config.behind(link), &secrets, abilities)
        .map_err(|problems| checked.lines(&problems))?;
    let mut targets = Targets { warnings, ..Targets::default() };
    targets.files.push(file.to_owned());
    targets.files.extend(secrets.files().iter().cloned());
    for server in &plan.servers {
        targets.insert(Offer::server(&server.name), Target::Server(server.clone()));
    }
    for provider in &plan.llm.providers {
        targets.insert(Offer::model(&provider.name), Target::Model(provider.clone()));
    }
    let left_out = plan.skipped.iter().map(|skipped| {
        let offer = match skipped.name.strip_prefix("llm.providers.") {
            Some(name) => Offer::model(name),
            None => Offer::server(&skipped.name),
        };
        (offer, skipped.reason.clone())
    });
    targets.left_out = left_out.collect();
    targets.plan = Some(plan);
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, link: &str) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, text).unwrap();
        let targets = read_now(&file, link).unwrap();
        let offers = targets.offers().iter().map(ToString::to_string).collect();
        (offers, targets.left_out.into_iter().map(|(offer, _)| offer.to_string()).collect())
    }

    #[test]
    fn what_is_for_another_link_is_not_offered() {
        let text = "mcpServers:\n  a: { url: 'http://127.0.0.1:1/mcp', via: laptop }\n  \
            b: { url: 'http://127.0.0.1:1/mcp', via: desktop }\n  c: { url: 'http://127.0.0.1:1/mcp' }\n";
        assert_eq!(check(text, "laptop").0, [r#"server "a""#, r#"server "c""#]);
        assert_eq!(check(text, "desktop").0, [r#"server "b""#, r#"server "c""#]);
    }

    #[test]
    fn what_cannot_be_offered_is_named() {
        let text =
            "mcpServers:\n  a: { url: 'http://${CAUSEWAY_NOT_SET_HERE}/mcp' }\n  b: { url: 'http://b' }\n";
        assert_eq!(check(text, "x"), (vec![r#"server "b""#.to_owned()], vec![r#"server "a""#.to_owned()]));
    }

    #[test]
    fn models_of_this_machine_are_offered_and_those_of_the_gateway_are_not() {
        let text = "llm:\n  providers:\n    ollama: {}\n    there: { kind: lmstudio, via: desktop }\n    \
            openai: { api_key: sk-x }\n    vllm: { kind: openai-compatible, via: laptop }\n  \
            models: { fast: openai/gpt-5-mini }\n";
        let (offers, left_out) = check(text, "laptop");
        assert_eq!(offers, [r#"model "ollama""#]);
        assert_eq!(left_out, [r#"model "vllm""#], "it has no `url`");
        assert_eq!(check(text, "desktop").0, [r#"model "ollama""#, r#"model "there""#]);
    }

    #[test]
    fn a_file_with_errors_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, "mcpServers:\n  a: { url: 'ftp://x' }\n").unwrap();
        let problems = read_now(&file, "x").unwrap_err();
        assert!(problems[0].contains("c.yaml:2"), "{problems:?}");
    }
}
