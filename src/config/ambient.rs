//! A configuration that variables alone make: `LLM_PROVIDER`, and what its provider's own tools are configured with.
//!
//! The values of secrets are **never** read here: the configuration names the variables.

use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::types::{Config, ProviderKind};
use crate::platform::Secrets;

/// The variables of a kind: a member of its configuration, and what it is called outside; of several the first that is
/// set.
fn variables(kind: ProviderKind) -> &'static [(&'static str, &'static [&'static str])] {
    match kind {
        ProviderKind::Openai => &[("api_key", &["OPENAI_API_KEY"]), ("url", &["OPENAI_BASE_URL"])],
        ProviderKind::Anthropic => &[("api_key", &["ANTHROPIC_API_KEY"]), ("url", &["ANTHROPIC_BASE_URL"])],
        ProviderKind::Gemini => {
            &[("api_key", &["GEMINI_API_KEY", "GOOGLE_API_KEY"]), ("url", &["GEMINI_BASE_URL"])]
        }
        ProviderKind::Bedrock => &[
            ("api_key", &["AWS_BEARER_TOKEN_BEDROCK"]),
            ("access_key_id", &["AWS_ACCESS_KEY_ID"]),
            ("secret_access_key", &["AWS_SECRET_ACCESS_KEY"]),
            ("session_token", &["AWS_SESSION_TOKEN"]),
            ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
            ("url", &["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"]),
        ],
        ProviderKind::Azure => &[
            ("api_key", &["AZURE_OPENAI_API_KEY"]),
            ("url", &["AZURE_OPENAI_ENDPOINT"]),
            ("api_version", &["AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"]),
        ],
        ProviderKind::Openrouter => {
            &[("api_key", &["OPENROUTER_API_KEY"]), ("url", &["OPENROUTER_BASE_URL"])]
        }
        ProviderKind::Dial => {
            &[("api_key", &["DIAL_API_KEY"]), ("url", &["DIAL_URL"]), ("api_version", &["DIAL_API_VERSION"])]
        }
        ProviderKind::Ollama => &[("api_key", &["OLLAMA_API_KEY"]), ("url", &["OLLAMA_HOST"])],
        ProviderKind::Lmstudio => &[("api_key", &["LMSTUDIO_API_KEY"]), ("url", &["LMSTUDIO_BASE_URL"])],
        ProviderKind::OpenaiCompatible => &[("api_key", &["LLM_API_KEY"]), ("url", &["LLM_BASE_URL"])],
    }
}

/// What `default` stands for where `LLM_MODEL` does not say.
fn usual_model(kind: ProviderKind) -> Option<&'static str> {
    Some(match kind {
        ProviderKind::Openai => "gpt-5-mini",
        ProviderKind::Anthropic => "claude-sonnet-4-5",
        ProviderKind::Gemini => "gemini-2.5-flash",
        ProviderKind::Bedrock => "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ProviderKind::Openrouter => "openrouter/auto",
        ProviderKind::Azure
        | ProviderKind::Dial
        | ProviderKind::Ollama
        | ProviderKind::Lmstudio
        | ProviderKind::OpenaiCompatible => return None,
    })
}

/// The configuration that `LLM_PROVIDER` asks for; `None` where it is not set.
///
/// # Errors
/// When it names no provider, or what that needs is not set.
pub fn ambient(secrets: &impl Secrets) -> Option<Result<Config, Vec<Problem>>> {
    let set =
        |name: &str| secrets.secret(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let named = set("LLM_PROVIDER")?;
    let Some(kind) = ProviderKind::of(&named.to_ascii_lowercase()) else {
        let kinds = ProviderKind::ALL.map(|(name, _)| name).join(", ");
        let what = format!("{named:?} is no provider");
        return Some(Err(vec![Problem::error("LLM_PROVIDER", what, format!("set it to one of {kinds}"))]));
    };
    let mut provider = Map::new();
    provider.insert("kind".into(), kind.name().into());
    let mut missing = Vec::new();
    for (member, names) in variables(kind) {
        match names.iter().find(|name| set(name).is_some()) {
            // Written as a host and a port by Ollama's own tools.
            Some(name) if *name == "OLLAMA_HOST" => {
                let host = set(name).unwrap_or_default();
                let url = if host.contains("://") { host } else { format!("http://{host}") };
                let url = url.replace("//0.0.0.0", "//127.0.0.1");
                provider.insert((*member).into(), escaped(&url).into());
            }
            Some(name) => _ = provider.insert((*member).into(), format!("${{{name}}}").into()),
            None => missing.push((*member, *names)),
        }
    }
    let lacks = |member: &str| {
        missing.iter().find(|(lacking, _)| *lacking == member).map(|(_, names)| names.join(" or "))
    };
    let aws = kind == ProviderKind::Bedrock
        && lacks("access_key_id").is_none()
        && lacks("secret_access_key").is_none();
    let needed = [
        lacks("api_key").filter(|_| !kind.is_open() && !aws),
        lacks("url").filter(|_| kind.usual_url().is_none()),
        lacks("region").filter(|_| kind == ProviderKind::Bedrock),
    ];
    let problems: Vec<Problem> = needed
        .into_iter()
        .flatten()
        .map(|names| {
            let what = format!("LLM_PROVIDER is {}, and {names} is not set", kind.name());
            Problem::error("LLM_PROVIDER", what, format!("set {names}"))
        })
        .collect();
    if !problems.is_empty() {
        return Some(Err(problems));
    }
    let mut llm = json!({"providers": {kind.name(): provider}});
    let model = set("LLM_MODEL").or_else(|| usual_model(kind).map(str::to_owned));
    if let (Some(model), Some(llm)) = (model, llm.as_object_mut()) {
        llm.insert("models".into(), json!({"default": [format!("{}/{model}", kind.name())]}));
    }
    let config: Value = json!({"mcpServers": {}, "llm": llm});
    Some(Config::from_normalized(config.to_string().as_bytes()))
}

/// Text in which nothing is filled in.
fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::super::compile;
    use super::*;
    use crate::platform::Abilities;

    struct Vars(&'static [(&'static str, &'static str)]);

    impl Secrets for Vars {
        fn secret(&self, name: &str) -> Option<String> {
            self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        }
    }

    fn check(vars: &'static [(&'static str, &'static str)], expect: Result<(&str, Option<&str>), &str>) {
        let abilities = Abilities {
            host: "test",
            processes: false,
            loopback_only: true,
            keyless: true,
            config_file: false,
            mailboxes: true,
            links: crate::platform::Links::No,
        };
        let got = match ambient(&Vars(vars)).unwrap() {
            Err(problems) => Err(problems[0].what.clone()),
            Ok(config) => {
                let plan = compile(&config, &Vars(vars), abilities).unwrap();
                assert!(plan.skipped.is_empty(), "{:?}", plan.skipped);
                let default = plan.llm.model("default").map(|model| model.targets[0].model.clone());
                Ok((plan.llm.providers[0].url.to_string(), default))
            }
        };
        let expect = expect.map(|(url, model)| (url.to_owned(), model.map(str::to_owned)));
        assert_eq!(got, expect.map_err(str::to_owned), "{vars:?}");
    }

    #[test]
    fn a_provider_and_its_key_are_enough() {
        check(
            &[("LLM_PROVIDER", "openai"), ("OPENAI_API_KEY", "k")],
            Ok(("https://api.openai.com/v1", Some("gpt-5-mini"))),
        );
        check(
            &[
                ("LLM_PROVIDER", "Anthropic"),
                ("ANTHROPIC_API_KEY", "k"),
                ("LLM_MODEL", "claude-x"),
                ("ANTHROPIC_BASE_URL", "http://here:1"),
            ],
            Ok(("http://here:1/", Some("claude-x"))),
        );
        check(
            &[("LLM_PROVIDER", "gemini"), ("GOOGLE_API_KEY", "k")],
            Ok(("https://generativelanguage.googleapis.com/v1beta", Some("gemini-2.5-flash"))),
        );
        check(&[("LLM_PROVIDER", "ollama")], Ok(("http://127.0.0.1:11434/", None)));
        check(&[("LLM_PROVIDER", "ollama"), ("OLLAMA_HOST", "0.0.0.0:1")], Ok(("http://127.0.0.1:1/", None)));
        check(&[("LLM_PROVIDER", "lmstudio")], Ok(("http://127.0.0.1:1234/v1", None)));
        check(
            &[
                ("LLM_PROVIDER", "bedrock"),
                ("AWS_ACCESS_KEY_ID", "a"),
                ("AWS_SECRET_ACCESS_KEY", "s"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
            ],
            Ok((
                "https://bedrock-runtime.eu-west-1.amazonaws.com/",
                Some("us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
            )),
        );
        check(
            &[
                ("LLM_PROVIDER", "azure"),
                ("AZURE_OPENAI_API_KEY", "k"),
                ("AZURE_OPENAI_ENDPOINT", "https://n.openai.azure.com"),
                ("LLM_MODEL", "d"),
            ],
            Ok(("https://n.openai.azure.com/", Some("d"))),
        );
        check(
            &[("LLM_PROVIDER", "openai-compatible"), ("LLM_BASE_URL", "http://h/v1")],
            Ok(("http://h/v1", None)),
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check(&[("LLM_PROVIDER", "gpt")], Err("\"gpt\" is no provider"));
        check(&[("LLM_PROVIDER", "openai")], Err("LLM_PROVIDER is openai, and OPENAI_API_KEY is not set"));
        check(
            &[("LLM_PROVIDER", "openai"), ("OPENAI_API_KEY", " ")],
            Err("LLM_PROVIDER is openai, and OPENAI_API_KEY is not set"),
        );
        check(
            &[("LLM_PROVIDER", "gemini")],
            Err("LLM_PROVIDER is gemini, and GEMINI_API_KEY or GOOGLE_API_KEY is not set"),
        );
        check(
            &[("LLM_PROVIDER", "dial"), ("DIAL_API_KEY", "k")],
            Err("LLM_PROVIDER is dial, and DIAL_URL is not set"),
        );
        check(
            &[("LLM_PROVIDER", "bedrock"), ("AWS_REGION", "x")],
            Err("LLM_PROVIDER is bedrock, and AWS_BEARER_TOKEN_BEDROCK is not set"),
        );
        assert!(ambient(&Vars(&[("LLM_PROVIDER", "")])).is_none());
    }
}
