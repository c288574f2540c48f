//! `llm`: providers of models, and model names.

use super::super::fill;
use super::super::node::{Entry, Node, Value};
use super::super::problem::{Place, nearest};
use super::super::types::{
    Breaker, Cache, Contexts, Feature, Llm, Model, Named, Policy, Prices, Provider, ProviderKind, Rank, Size,
    Team, Together,
};
use super::{Reader, is_comment, join};

const KNOWN: [&str; 19] = [
    "kind",
    "url",
    "api_key",
    "api_keys",
    "bearer",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "api_version",
    "headers",
    "models",
    "via",
    "local",
    "breaker",
    "disabled",
    "timeouts",
    "max_response",
    "retries",
];
const MODEL: [&str; 5] = ["targets", "prices", "context", "max_output", "features"];
const POLICY: [&str; 7] = ["targets", "needs", "context", "local_only", "local_first", "rank", "weights"];
const TEAM: [&str; 6] = ["how", "models", "judge", "instruction", "time", "cost"];
const RANK: [&str; 3] = ["cost", "latency", "speed"];
/// More tokens than any model takes.
const MOST_TOKENS: u32 = 100_000_000;
const PRICES: [&str; 4] = ["input", "output", "cached", "cache_write"];
const MOST_KEYS: usize = 16;
const LLM: [&str; 8] =
    ["providers", "models", "policies", "teams", "contexts", "mcp", "cache", "log_content"];
/// The most of a prompt or an answer that a line of the log may have: hosts cut lines that are too long.
const MOST_LOGGED: u64 = 32 * 1024;
/// Thirty days, in milliseconds.
const LONGEST_CACHED: u64 = 30 * 24 * 60 * 60 * 1000;
/// Ten years, in milliseconds.
const LONGEST_KEPT: u64 = 3650 * 24 * 60 * 60 * 1000;
/// More providers than anybody has, and more names.
const MOST_PROVIDERS: usize = 64;
const MOST_MODELS: usize = 1024;

impl Reader {
    pub(super) fn llm(&mut self, node: &Node, into: &mut Llm) {
        let (mut models, mut policies, mut teams) = (None, None, None);
        for entry in self.map(node, "llm").unwrap_or_default() {
            match entry.key.as_str() {
                "providers" => self.providers(&entry.node, &mut into.providers),
                // Names stand for models of providers, which must be known first.
                "models" => models = Some(&entry.node),
                "policies" => policies = Some(&entry.node),
                "teams" => teams = Some(&entry.node),
                "contexts" => into.contexts = self.contexts(&entry.node),
                "mcp" => into.mcp = self.flag(&entry.node, "llm.mcp"),
                "cache" if entry.node.value == Value::Null => {}
                "cache" => into.cache = Some(self.cache(&entry.node)),
                "log_content" if entry.node.value == Value::Null => {}
                "log_content" => {
                    into.log_content = self.size(&entry.node, "llm.log_content", Size(1), Size(MOST_LOGGED));
                    if into.log_content.is_some() {
                        let what = "has what callers ask and what models answer written to the log";
                        let fix = "leave it out where whoever reads the log must not know";
                        self.warn(entry.node.place, "llm.log_content", what, fix);
                    }
                }
                _ => self.unknown(entry, "llm", &LLM),
            }
        }
        if let Some(models) = models {
            self.models(models, &into.providers, &mut into.models);
        }
        if let Some(policies) = policies {
            self.policies(policies, into);
        }
        if let Some(teams) = teams {
            self.teams(teams, into);
        }
    }

    fn cache(&mut self, node: &Node) -> Cache {
        let mut cache = Cache::default();
        for entry in self.map(node, "llm.cache").unwrap_or_default() {
            let (own, node) = (join("llm.cache", &entry.key), &entry.node);
            match entry.key.as_str() {
                "ttl" => cache.ttl = self.span(node, &own, 1000, LONGEST_CACHED),
                "size" => cache.size = self.size(node, &own, Size(64 * 1024), Size(1024 * 1024 * 1024)),
                "max_answer" => cache.max_answer = self.size(node, &own, Size(1024), Size(1000 * 1024)),
                "shared" => cache.shared = self.flag(node, &own),
                "models" => cache.models = self.choice(node, &own),
                _ => self.unknown(entry, "llm.cache", &["ttl", "size", "max_answer", "shared", "models"]),
            }
        }
        cache
    }

    fn contexts(&mut self, node: &Node) -> Contexts {
        let mut contexts = Contexts::default();
        for entry in self.map(node, "llm.contexts").unwrap_or_default() {
            let (own, node) = (join("llm.contexts", &entry.key), &entry.node);
            match entry.key.as_str() {
                "ttl" => contexts.ttl = self.span(node, &own, 60_000, LONGEST_KEPT),
                "max_size" => {
                    contexts.max_size = self.size(node, &own, Size(1024), Size(1000 * 1024));
                }
                "turns" => contexts.turns = self.count(node, &own, 0, 1000),
                _ => self.unknown(entry, "llm.contexts", &["ttl", "max_size", "turns"]),
            }
        }
        contexts
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
                "api_keys" => {
                    for (i, item) in self.list(node, &own).unwrap_or_default().iter().enumerate() {
                        provider.api_keys.extend(self.credential(item, &format!("{own}[{i}]")));
                    }
                    if provider.api_keys.len() > MOST_KEYS {
                        let what = format!("more than {MOST_KEYS} keys");
                        self.error(node.place, &own, what, "remove those that are not needed");
                    }
                }
                "bearer" => provider.bearer = self.credential(node, &own),
                "access_key_id" => provider.access_key_id = self.credential(node, &own),
                "secret_access_key" => provider.secret_access_key = self.credential(node, &own),
                "session_token" => provider.session_token = self.credential(node, &own),
                "region" => provider.region = self.credential(node, &own),
                "api_version" => provider.api_version = self.credential(node, &own),
                "headers" => provider.headers = self.headers(node, &own),
                "models" => provider.models = self.choice(node, &own),
                "via" => provider.via = self.via(node, &own),
                "local" => provider.local = self.flag(node, &own),
                "breaker" => provider.breaker = self.breaker(node, &own),
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
            self.model_name(entry, &path);
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
                "context" => model.context = self.count(&entry.node, &own, 1, MOST_TOKENS),
                "max_output" => model.max_output = self.count(&entry.node, &own, 1, MOST_TOKENS),
                "features" => model.features = Some(self.features(&entry.node, &own)),
                _ => self.unknown(entry, path, &MODEL),
            }
        }
        model
    }

    fn features(&mut self, node: &Node, path: &str) -> Vec<Feature> {
        let items = self.list(node, path).unwrap_or_default().iter().enumerate();
        items.filter_map(|(i, item)| self.one_of(item, &format!("{path}[{i}]"), &Feature::ALL)).collect()
    }

    fn breaker(&mut self, node: &Node, path: &str) -> Breaker {
        let mut breaker = Breaker::default();
        for entry in self.map(node, path).unwrap_or_default() {
            let own = join(path, &entry.key);
            match entry.key.as_str() {
                "failures" => breaker.failures = self.count(&entry.node, &own, 0, 1000),
                "pause" => breaker.pause = self.span(&entry.node, &own, 100, 3_600_000),
                _ => self.unknown(entry, path, &["failures", "pause"]),
            }
        }
        breaker
    }

    fn policies(&mut self, node: &Node, into: &mut Llm) {
        for entry in self.map(node, "llm.policies").unwrap_or_default() {
            let path = join("llm.policies", &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            self.model_name(entry, &path);
            if into.models.named(&entry.key).is_some() {
                let fix = "give one of the two another name";
                self.error(entry.place, &path, "is the name of a model, too (`llm.models`)", fix);
            }
            let policy = self.policy(&entry.node, &path, into);
            into.policies.0.push((entry.key.clone(), policy));
        }
        if into.policies.len() > MOST_PROVIDERS {
            let what = format!("more than {MOST_PROVIDERS} policies");
            self.error(node.place, "llm.policies", what, "remove those that nobody uses");
        }
    }

    fn teams(&mut self, node: &Node, into: &mut Llm) {
        for entry in self.map(node, "llm.teams").unwrap_or_default() {
            let path = join("llm.teams", &entry.key);
            if is_comment(&entry.key) && !matches!(entry.node.value, Value::Map(_)) {
                continue;
            }
            self.model_name(entry, &path);
            let team = self.team(&entry.node, &path, into);
            into.teams.0.push((entry.key.clone(), team));
        }
        if into.teams.len() > MOST_PROVIDERS {
            let what = format!("more than {MOST_PROVIDERS} teams");
            self.error(node.place, "llm.teams", what, "remove those that nobody uses");
        }
    }

    fn team(&mut self, node: &Node, path: &str, llm: &Llm) -> Team {
        let (mut team, mut how) = (Team::default(), None);
        for entry in self.map(node, path).unwrap_or_default() {
            let (own, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "how" => how = Some(self.one_of(node, &own, &Together::ALL)),
                "models" => team.models = self.named_targets(node, &own, llm, true),
                "judge" => team.judge = self.named_target(node, &own, llm, true),
                "instruction" => team.instruction = self.text(node, &own),
                "time" => team.time = self.span(node, &own, 1000, 3_600_000),
                "cost" => team.cost = self.decimal(node, &own, "US dollars, from 0 to 1000", 1000.0),
                _ => self.unknown(entry, path, &TEAM),
            }
        }
        match how {
            Some(how) => team.how = how.unwrap_or_default(),
            None => self.error(node.place, path, "has no `how`", "write `chain`, `cascade` or `compare`"),
        }
        if !(2..=8).contains(&team.models.len()) {
            let what = format!("has {} `models`", team.models.len());
            self.error(node.place, path, what, "name 2 to 8 of them");
        }
        if team.how == Together::Chain && team.judge.is_some() {
            let fix = "remove it, or write `how: cascade` or `how: compare`";
            self.error(node.place, &join(path, "judge"), "is nothing that a chain has", fix);
        }
        team
    }

    fn policy(&mut self, node: &Node, path: &str, llm: &Llm) -> Policy {
        let mut policy = Policy::default();
        let mut weights = None;
        for entry in self.map(node, path).unwrap_or_default() {
            let (own, node) = (join(path, &entry.key), &entry.node);
            match entry.key.as_str() {
                "targets" => policy.targets = self.named_targets(node, &own, llm, false),
                "needs" => policy.needs = self.features(node, &own),
                "context" => policy.context = self.count(node, &own, 1, MOST_TOKENS),
                "local_only" => policy.local_only = self.flag(node, &own).unwrap_or_default(),
                "local_first" => policy.local_first = self.flag(node, &own).unwrap_or_default(),
                "rank" => policy.rank = self.rank(node, &own),
                "weights" => weights = Some(entry),
                _ => self.unknown(entry, path, &POLICY),
            }
        }
        if policy.targets.is_empty() {
            self.error(node.place, path, "has no `targets`", "list the models to choose among");
        }
        for weight in
            weights.and_then(|entry| self.map(&entry.node, &join(path, "weights"))).unwrap_or_default()
        {
            let own = join(&join(path, "weights"), &weight.key);
            if !policy.targets.contains(&weight.key) {
                let fix = "write one of the `targets`, as it stands there";
                self.error(weight.place, &own, "is none of the targets", fix);
            }
            let count = self.count(&weight.node, &own, 0, 1_000_000).unwrap_or_default();
            policy.weights.0.push((weight.key.clone(), count));
        }
        policy
    }

    fn rank(&mut self, node: &Node, path: &str) -> Rank {
        let mut rank = Rank::default();
        for entry in self.map(node, path).unwrap_or_default() {
            let own = join(path, &entry.key);
            let into = match entry.key.as_str() {
                "cost" => &mut rank.cost,
                "latency" => &mut rank.latency,
                "speed" => &mut rank.speed,
                _ => {
                    self.unknown(entry, path, &RANK);
                    continue;
                }
            };
            *into = self.decimal(&entry.node, &own, "a number from 0 to 1000", 1000.0).unwrap_or_default();
        }
        rank
    }

    /// That there are the models that are to answer servers.
    pub(super) fn check_samplers(&mut self, llm: &Llm) {
        for (path, place, name) in std::mem::take(&mut self.samplers) {
            let named = |name: &str| {
                let team = |(own, team): (&String, &Team)| format!("{}/{own}", team.how.name()) == name;
                llm.models.named(name).is_some_and(|model| !model.targets.is_empty())
                    || llm.policies.named(name).is_some()
                    || llm.teams.iter().any(|(own, given)| team((&own.to_owned(), given)))
            };
            match name {
                Some(name) if named(&name) => {}
                Some(name) => {
                    let node = Node { place, value: Value::Text(name) };
                    self.target(&node, &path, &llm.providers);
                }
                None if named("default") => {}
                None => {
                    let what = "lets a model answer, and none is called `default`";
                    let fix = "name some, as in `sampling: { models: provider/model }`, or give `llm.models.default`";
                    self.error(place, &path, what, fix);
                }
            }
        }
    }

    /// Targets that may also be names that have targets themselves, and if so `policies`.
    fn named_targets(&mut self, node: &Node, path: &str, llm: &Llm, policies: bool) -> Vec<String> {
        if matches!(node.value, Value::Text(_)) {
            return self.named_target(node, path, llm, policies).into_iter().collect();
        }
        let items = self.list(node, path).unwrap_or_default().iter().enumerate();
        items
            .filter_map(|(i, item)| self.named_target(item, &format!("{path}[{i}]"), llm, policies))
            .collect()
    }

    fn named_target(&mut self, node: &Node, path: &str, llm: &Llm, policies: bool) -> Option<String> {
        match &node.value {
            Value::Text(text)
                if llm.models.named(text).is_some_and(|model| !model.targets.is_empty())
                    || policies && llm.policies.named(text).is_some() =>
            {
                Some(text.clone())
            }
            _ => self.target(node, path, &llm.providers),
        }
    }

    fn targets(&mut self, node: &Node, path: &str, providers: &Named<Provider>) -> Vec<String> {
        let alone = matches!(node.value, Value::Text(_));
        let items =
            if alone { std::slice::from_ref(node) } else { self.list(node, path).unwrap_or_default() };
        let mut targets = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = if alone { path.to_owned() } else { format!("{path}[{i}]") };
            targets.extend(self.target(item, &path, providers));
        }
        targets
    }

    fn target(&mut self, node: &Node, path: &str, providers: &Named<Provider>) -> Option<String> {
        let text = self.text(node, path)?;
        match text.split_once('/') {
            Some((provider, model)) if !model.is_empty() => {
                if providers.named(provider).is_none() {
                    let fix = match nearest(provider, providers.iter().map(|(name, _)| name)) {
                        Some(known) => format!("did you mean `{known}/{model}`?"),
                        None => "use a name under `llm.providers`".to_owned(),
                    };
                    let what = format!("there is no provider called {}", super::shown(provider));
                    self.error(node.place, path, what, fix);
                }
                Some(text)
            }
            _ => {
                let fix = "write it as `provider/model`";
                self.error(node.place, path, format!("is {}", super::shown(&text)), fix);
                None
            }
        }
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
        self.decimal(node, path, "dollars for a million tokens, as in 0.25", 1e6)
    }

    /// A number that may have a fraction, from 0 to `most`.
    fn decimal(&mut self, node: &Node, path: &str, want: &str, most: f64) -> Option<f64> {
        let Value::Number(text) = &node.value else {
            if node.value != Value::Null {
                self.wrong(node, path, want);
            }
            return None;
        };
        let found = text.parse().ok().filter(|number: &f64| (0.0..=most).contains(number));
        if found.is_none() {
            self.error(node.place, path, format!("is {}", super::shown(text)), format!("write {want}"));
        }
        found
    }

    fn model_name(&mut self, entry: &Entry, path: &str) {
        if entry.key.is_empty() || entry.key.len() > 200 || entry.key.chars().any(char::is_control) {
            self.error(entry.place, path, "is not a name for a model", "use up to 200 characters");
        }
    }
}
