//! A provider as it is asked: where, and with which proof of who asks.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use url::Url;

use super::bedrock::sign::{Signer, encoded};
use super::convert::Dialect;
use super::{anthropic, azure, bedrock, compatible, dial, gemini, lmstudio, openai, openrouter};
use crate::config::glob::Glob;
use crate::config::plan::{BEHIND, Credential, Provider};
use crate::config::types::ProviderKind;
use crate::fault::Kind;
use crate::llm::refusal::Refusal;
use crate::platform::{ConnectTimeout, Timestamp};

/// What a provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A model's words.
    Chat {
        /// As they come.
        stream: bool,
    },
    /// Vectors for texts.
    Embeddings,
    /// Which models there are.
    Models,
    /// How many tokens a request has.
    Count,
    /// What there is to know of a model (Ollama).
    Show,
}

/// `base` with `path` behind it.
pub(super) fn join(base: &Url, path: &str) -> String {
    format!("{}/{path}", base.as_str().trim_end_matches('/'))
}

/// `base` without any of these endings of its path, so that either way to write it will do.
pub(super) fn without(base: &Url, endings: &[&str]) -> Url {
    let path = base.path().trim_end_matches('/');
    let mut shorter = base.clone();
    if let Some(rest) = endings.iter().find_map(|ending| path.strip_suffix(ending)) {
        shorter.set_path(rest);
    }
    shorter
}

/// The dialect that providers of a kind speak.
#[must_use]
pub fn dialect(kind: ProviderKind) -> Dialect {
    match kind {
        ProviderKind::Anthropic => Dialect::Anthropic,
        ProviderKind::Gemini => Dialect::Gemini,
        ProviderKind::Bedrock => Dialect::Bedrock,
        ProviderKind::Ollama => Dialect::Ollama,
        ProviderKind::Openai
        | ProviderKind::Lmstudio
        | ProviderKind::Openrouter
        | ProviderKind::Azure
        | ProviderKind::Dial
        | ProviderKind::OpenaiCompatible => Dialect::OpenAi,
    }
}

/// Names that only models of a kind have. Empty: it may have any.
#[must_use]
pub fn usual_models(kind: ProviderKind) -> &'static [&'static str] {
    match kind {
        ProviderKind::Openai => &openai::MODELS,
        ProviderKind::Anthropic => &anthropic::MODELS,
        ProviderKind::Gemini => &gemini::MODELS,
        ProviderKind::Bedrock => &bedrock::MODELS,
        _ => &[],
    }
}

/// Whether a model of this name is one of those that a kind alone has.
#[must_use]
pub fn is_usual(kind: ProviderKind, model: &str) -> bool {
    usual_models(kind).iter().any(|pattern| Glob::new(pattern).matches(model))
}

/// Where a call goes; `None` where the provider has nothing of the kind.
#[must_use]
pub fn address(provider: &Provider, place: Place, model: &str) -> Option<String> {
    let (base, version) = (&provider.url, provider.api_version.as_deref());
    match provider.kind {
        ProviderKind::Openai | ProviderKind::OpenaiCompatible => compatible::address(base, place),
        ProviderKind::Openrouter => openrouter::address(base, place),
        ProviderKind::Lmstudio => lmstudio::address(base, place),
        ProviderKind::Azure => azure::address(base, version, place, model),
        ProviderKind::Dial => dial::address(base, version, place, model),
        ProviderKind::Anthropic => {
            let root = without(base, &["/v1"]);
            Some(match place {
                Place::Chat { .. } => join(&root, "v1/messages"),
                Place::Count => join(&root, "v1/messages/count_tokens"),
                Place::Models => join(&root, "v1/models?limit=1000"),
                Place::Embeddings | Place::Show => return None,
            })
        }
        ProviderKind::Gemini => {
            let model = encoded(model.strip_prefix("models/").unwrap_or(model), false);
            let versioned = base.path().trim_matches('/').starts_with('v');
            let path =
                |path: &str| if versioned { join(base, path) } else { join(base, &format!("v1beta/{path}")) };
            Some(match place {
                Place::Chat { stream: true } => {
                    path(&format!("models/{model}:streamGenerateContent?alt=sse"))
                }
                Place::Chat { stream: false } => path(&format!("models/{model}:generateContent")),
                Place::Embeddings => path(&format!("models/{model}:batchEmbedContents")),
                Place::Count => path(&format!("models/{model}:countTokens")),
                Place::Models => path("models?pageSize=1000"),
                Place::Show => return None,
            })
        }
        ProviderKind::Bedrock => {
            let model = encoded(model, false);
            Some(match place {
                Place::Chat { stream: true } => join(base, &format!("model/{model}/converse-stream")),
                Place::Chat { stream: false } => join(base, &format!("model/{model}/converse")),
                Place::Models => {
                    // The list is kept by another service, beside the one that answers.
                    let list = base.as_str().replace("bedrock-runtime.", "bedrock.");
                    format!("{}/foundation-models", list.trim_end_matches('/'))
                }
                Place::Embeddings | Place::Count | Place::Show => return None,
            })
        }
        ProviderKind::Ollama => {
            let root = without(base, &["/api", "/v1"]);
            Some(match place {
                Place::Chat { .. } => join(&root, "api/chat"),
                Place::Embeddings => join(&root, "api/embed"),
                Place::Models => join(&root, "api/tags"),
                Place::Show => join(&root, "api/show"),
                Place::Count => return None,
            })
        }
    }
}

/// The request that asks `provider` for `model` with `body`; `passed` are headers of the caller's that go on.
///
/// # Errors
/// When the provider has nothing of the kind.
pub fn request(
    provider: &Provider,
    place: Place,
    model: &str,
    body: Bytes,
    passed: &HeaderMap,
    now: Timestamp,
) -> Result<Request<Bytes>, Refusal> {
    let address = address(provider, place, model).ok_or_else(|| {
        let message = format!("provider {:?} ({}) has nothing like it", provider.name, provider.kind.name());
        Refusal::new(Kind::UnknownModel, message)
    })?;
    let mut request = Request::new(body);
    *request.uri_mut() = address.parse().map_err(|_| {
        Refusal::new(Kind::UpstreamConnect, format!("provider {:?}: its URL cannot be used", provider.name))
    })?;
    if place != Place::Models {
        *request.method_mut() = Method::POST;
    }
    let headers = request.headers_mut();
    headers.extend(passed.iter().map(|(name, value)| (name.clone(), value.clone())));
    let events = place == (Place::Chat { stream: true });
    let accept = match dialect(provider.kind) {
        Dialect::Bedrock if events => "application/vnd.amazon.eventstream",
        Dialect::Ollama if events => "application/x-ndjson",
        _ if events => "text/event-stream",
        _ => "application/json",
    };
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    if place != Place::Models {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if provider.kind == ProviderKind::Anthropic && !headers.contains_key("anthropic-version") {
        headers.insert("anthropic-version", HeaderValue::from_static(anthropic::VERSION));
    }
    identify(provider, headers);
    if let Credential::Aws { id, secret, session } = &provider.credential {
        let region = &provider.region;
        Signer { id, secret, session: session.as_deref(), region, service: "bedrock" }
            .sign(&mut request, now);
    }
    request.extensions_mut().insert(ConnectTimeout(provider.timeouts.connect));
    Ok(request)
}

/// Puts what the configuration says of them into the headers of a request to `provider`, with the proof of who asks.
/// AWS wants the whole request signed, which is not done here.
pub fn identify(provider: &Provider, headers: &mut HeaderMap) {
    let put = |headers: &mut HeaderMap, name: HeaderName, text: &str| {
        if let Ok(mut value) = HeaderValue::from_str(text) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    };
    match &provider.credential {
        Credential::Key(key) => match provider.kind {
            ProviderKind::Anthropic => put(headers, HeaderName::from_static("x-api-key"), key),
            ProviderKind::Gemini => put(headers, HeaderName::from_static("x-goog-api-key"), key),
            ProviderKind::Azure | ProviderKind::Dial => put(headers, HeaderName::from_static("api-key"), key),
            _ => put(headers, AUTHORIZATION, &format!("Bearer {key}")),
        },
        Credential::Bearer(token) => put(headers, AUTHORIZATION, &format!("Bearer {token}")),
        Credential::None | Credential::Aws { .. } => {}
    }
    headers.extend(provider.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// Where a request goes that has come through a link for `provider`, which is in the file of this end; `None` where the
/// router asks providers of this kind for no such thing.
#[must_use]
pub fn behind(provider: &Provider, method: &Method, path: &str) -> Option<String> {
    let there = Provider::new(&provider.name, provider.kind, Url::parse(BEHIND).ok()?);
    [Place::Chat { stream: true }, Place::Embeddings, Place::Models, Place::Show].into_iter().find_map(
        |place| {
            let asked = Url::parse(&address(&there, place, "")?).ok()?;
            let own = if place == Place::Models { Method::GET } else { Method::POST };
            (asked.path() == path && *method == own).then(|| address(provider, place, ""))?
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: ProviderKind, url: &str, method: Method, path: &str) -> Option<String> {
        behind(&Provider::new("local", kind, Url::parse(url).unwrap()), &method, path)
    }

    #[test]
    fn what_comes_through_a_link_is_asked_where_the_file_says() {
        let compatible = |path: &str| {
            asked(ProviderKind::OpenaiCompatible, "http://127.0.0.1:8000/base/v1/", Method::POST, path)
        };
        let base = "http://127.0.0.1:8000/base/v1";
        assert_eq!(compatible("/chat/completions"), Some(format!("{base}/chat/completions")));
        assert_eq!(compatible("/embeddings"), Some(format!("{base}/embeddings")));
        let ollama = |method, path| asked(ProviderKind::Ollama, "http://127.0.0.1:11434/v1", method, path);
        assert_eq!(ollama(Method::POST, "/api/chat").as_deref(), Some("http://127.0.0.1:11434/api/chat"));
        assert_eq!(ollama(Method::GET, "/api/tags").as_deref(), Some("http://127.0.0.1:11434/api/tags"));
        let studio = |method, path| asked(ProviderKind::Lmstudio, "http://127.0.0.1:1234/v1", method, path);
        let list = studio(Method::GET, "/api/v0/models");
        assert_eq!(list.as_deref(), Some("http://127.0.0.1:1234/api/v0/models"));
        let chat = studio(Method::POST, "/chat/completions");
        assert_eq!(chat.as_deref(), Some("http://127.0.0.1:1234/v1/chat/completions"));
    }

    #[test]
    fn nothing_else_is_asked_through_a_link() {
        for path in
            ["", "/", "/api/chat/", "/api/chat?x=1", "/api/../api/chat", "//evil/api/chat", "/api/pull"]
        {
            let found = asked(ProviderKind::Ollama, "http://127.0.0.1:11434", Method::POST, path);
            assert_eq!(found, None, "{path}");
        }
        for method in [Method::GET, Method::DELETE, Method::PUT] {
            let found = asked(ProviderKind::Ollama, "http://127.0.0.1:11434", method, "/api/chat");
            assert_eq!(found, None);
        }
    }
}
