//! `llm`: providers of models, and model names.

use super::super::fill;
use super::super::node::{Node, Value};
use super::super::problem::{Place, nearest};
use super::super::types::{Llm, Model, Named, Prices, Provider, ProviderKind, Size};
use super::{Reader, is_comment, join};

const KNOWN: [&str; 16] = [
    "kind",
    "url",
    "api_key",
    "bearer",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "api_version",
    "headers",
    "models",
    "via",
    "disabled",
    "timeouts",
    "max_response",
    "retries",
];
const MODEL: [&str; 2] = ["targets", "prices"];
const PRICES: [&str; 4] = ["input", "output", "cached", "cache_write"];
/// More providers than anybody has, and more names.
const MOST_PROVIDERS: usize = 64;
const MOST_MODELS: usize = 1024;

impl Reader {
    pub(super) fn llm(&mut self, node: &Node, into: &mut Llm) {
        let mut models = None;
        for entry in self.map(node, "llm").unwrap_or_default() {
            match entry.key.as_str() {
                "providers" => self.providers(&entry.node, &mut into.providers),
                // Names stand for models of providers, which must be known first.
                "models" => models = Some(&entry.node),
                _ => self.unknown(entry, "llm", &["providers", "models"]),
            }
        }
        if let Some(models) = models {
            self.models(models, &into.providers, &mut into.models);
        }
    }

    fn providers(&mut self, node: &Node, into: &mut Named<Provider>) {
        for entry in self.map(node, "llm.providers").unwrap_or_default() {
            let path = join("llm.providers", &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if entry.key.is_empty() || entry.key.len() > 32 || !entry.key.chars().all(plain) {
                let fix = "use up to 32 letters, digits and any of `_-.`";
                self.error(entry.place, &path, "is not a name for a provider", fix);
            }
            if let Some(provider) = self.provider(&entry.node, &path, entry.place, &entry.key) {
                into.0.push((entry.key.clone(), provider));
            }
        }
        if into.len() > MOST_PROVIDERS {
            let what = format!("more than {MOST_PROVIDERS} providers");
            self.error(node.place, "llm.providers", what, "remove those that nobody uses");
        }
    }

    fn provider(&mut self, node: &Node, path: &str, place: Place, name: &str) -> Option<Provider> {
        let mut provider = Provider::default();
        let mut kind = None;
        let mut given = false;
        let mut url_place = None;
        for entry in self.map(node, path)? {
            let (own, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "kind" => {
                    given = true;
                    kind = self.one_of(node, &own, &ProviderKind::ALL);
                }
                "url" => {
                    provider.url = self.text(node, &own);
                    url_place = Some(node.place);
                }
                "api_key" => provider.api_key = self.credential(node, &own),
                "bearer" => provider.bearer = self.credential(node, &own),
                "access_key_id" => provider.access_key_id = self.credential(node, &own),
                "secret_access_key" => provider.secret_access_key = self.credential(node, &own),
                "session_token" => provider.session_token = self.credential(node, &own),
                "region" => provider.region = self.credential(node, &own),
                "api_version" => provider.api_version = self.credential(node, &own),
                "headers" => provider.headers = self.headers(node, &own),
                "models" => provider.models = self.choice(node, &own),
                "via" => provider.via = self.via(node, &own),
                "disabled" => provider.disabled = self.flag(node, &own).unwrap_or_default(),
                "timeouts" => self.timeouts(node, &own, &mut provider.timeouts),
                "max_response" => {
                    provider.max_response = self.size(node, &own, Size(1 << 10), Size(512 << 20))
                }
                "retries" => provider.retries = self.count(node, &own, 0, 10),
                _ => self.unknown(entry, path, &KNOWN),
            }
        }
        if let (Some(url), Some(place)) = (&provider.url, url_place) {
            self.check_url(url, &join(path, "url"), place, provider.via.is_some());
        }
        // A provider that is called what its kind is called need not say it twice.
        match kind.or_else(|| ProviderKind::of(name).filter(|_| !given)) {
            Some(kind) => provider.kind = kind,
            None if given => return None,
            None => {
                let kinds = ProviderKind::ALL.map(|(name, _)| name);
                let fix = format!("add one of {}", super::listed(&kinds, "and"));
                self.error(place, path, "has no `kind`", fix);
                return None;
            }
        }
        let via = provider.via.is_some();
        if via && !provider.kind.is_open() {
            let what = format!("is `{}`, which cannot be behind a link", provider.kind.name());
            let fix = "only `ollama`, `lmstudio` and `openai-compatible` can: remove `via`";
            self.error(place, &join(path, "kind"), what, fix);
        }
        if provider.url.is_none() && provider.kind.usual_url().is_none() && !provider.disabled && !via {
            let what = format!("has no `url`, and `{}` has no usual place", provider.kind.name());
            self.error(place, path, what, "add where the API is");
        }
        if provider.kind == ProviderKind::Bedrock && provider.region.is_none() && !provider.disabled {
            self.error(place, path, "has no `region`", "add the AWS region, such as us-east-1");
        }
        Some(provider)
    }

    /// A text that a variable may be a part of.
    fn credential(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = self.loose_text(node, path)?;
        if let Err(broken) = fill::parts(&text) {
            self.error(node.place, path, broken.to_string(), broken.fix());
        }
        Some(text)
    }

    fn models(&mut self, node: &Node, providers: &Named<Provider>, into: &mut Named<Model>) {
        for entry in self.map(node, "llm.models").unwrap_or_default() {
            let path = join("llm.models", &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            if entry.key.is_empty() || entry.key.len() > 200 || entry.key.chars().any(char::is_control) {
                self.error(entry.place, &path, "is not a name for a model", "use up to 200 characters");
            }
            let model = self.model(&entry.node, &path, providers);
            if model == Model::default() {
                let fix = "write what it stands for, as in `targets: [openai/gpt-5-mini]`, or its `prices`";
                self.error(entry.place, &path, "says nothing", fix);
            }
            into.0.push((entry.key.clone(), model));
        }
        if into.len() > MOST_MODELS {
            let what = format!("more than {MOST_MODELS} names");
            self.error(node.place, "llm.models", what, "remove those that nobody uses");
        }
    }

    fn model(&mut self, node: &Node, path: &str, providers: &Named<Provider>) -> Model {
        let mut model = Model::default();
        if matches!(node.value, Value::Text(_) | Value::List(_)) {
            model.targets = self.targets(node, path, providers);
            return model;
        }
        for entry in self.map(node, path).unwrap_or_default() {
            let own = join(path, &entry.key);
            match entry.key.as_str() {
                "targets" => model.targets = self.targets(&entry.node, &own, providers),
                "prices" => model.prices = self.prices(&entry.node, &own),
                _ => self.unknown(entry, path, &MODEL),
            }
        }
        model
    }

    fn targets(&mut self, node: &Node, path: &str, providers: &Named<Provider>) -> Vec<String> {
        let alone = matches!(node.value, Value::Text(_));
        let items =
            if alone { std::slice::from_ref(node) } else { self.list(node, path).unwrap_or_default() };
        let mut targets = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = if alone { path.to_owned() } else { format!("{path}[{i}]") };
            let Some(text) = self.text(item, &path) else { continue };
            match text.split_once('/') {
                Some((provider, model)) if !model.is_empty() => {
                    if providers.named(provider).is_none() {
                        let fix = match nearest(provider, providers.iter().map(|(name, _)| name)) {
                            Some(known) => format!("did you mean `{known}/{model}`?"),
                            None => "use a name under `llm.providers`".to_owned(),
                        };
                        let what = format!("there is no provider called {}", super::shown(provider));
                        self.error(item.place, &path, what, fix);
                    }
                    targets.push(text);
                }
                _ => {
                    let fix = "write it as `provider/model`";
                    self.error(item.place, &path, format!("is {}", super::shown(&text)), fix);
                }
            }
        }
        targets
    }

    fn prices(&mut self, node: &Node, path: &str) -> Option<Prices> {
        let mut prices = Prices::default();
        for entry in self.map(node, path)? {
            let own = join(path, &entry.key);
            let price = match entry.key.as_str() {
                "input" | "output" | "cached" | "cache_write" => self.price(&entry.node, &own),
                _ => {
                    self.unknown(entry, path, &PRICES);
                    continue;
                }
            };
            match entry.key.as_str() {
                "input" => prices.input = price.unwrap_or_default(),
                "output" => prices.output = price.unwrap_or_default(),
                "cached" => prices.cached = price,
                _ => prices.cache_write = price,
            }
        }
        Some(prices)
    }

    fn price(&mut self, node: &Node, path: &str) -> Option<f64> {
        let want = "dollars for a million tokens, as in 0.25";
        let Value::Number(text) = &node.value else {
            if node.value != Value::Null {
                self.wrong(node, path, want);
            }
            return None;
        };
        let found = text.parse().ok().filter(|price: &f64| (0.0..=1e6).contains(price));
        if found.is_none() {
            self.error(node.place, path, format!("is {}", super::shown(text)), format!("write {want}"));
        }
        found
    }
}
