//! `causeway ask` and `causeway models`.

use std::io::{IsTerminal as _, Write as _};

use causeway::wire::sse::Decoder;
use futures_util::StreamExt as _;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::remote::{At, Remote, base};
use super::table::table;
use super::{Failure, Outcome, complain, print, print_json};

/// The largest event of a stream: the last one holds the whole answer.
const MAX_EVENT: usize = 64 << 20;

/// Ask a model and print its words as they come.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Ask a model and print its words as they come.\n\n\
    The model is any name that `causeway models` shows; without one, the gateway's `default`. The words go to stdout; who \
    answered, for how many tokens and at what price goes to stderr, if that is a terminal.",
    after_help = "Examples:\n  \
    causeway ask \"What is the capital of Austria?\"\n  \
    causeway ask --model claude/claude-haiku-4-5 --url https://gateway.example \"Hello\"\n  \
    git diff | causeway ask --system \"Write a commit message for this diff.\" -"
)]
pub(super) struct Ask {
    /// What is asked; `-` reads it from stdin
    #[arg(required = true, value_name = "QUESTION")]
    question: Vec<String>,

    /// The model, an alias, or a policy
    #[arg(long, short, value_name = "NAME")]
    model: Option<String>,

    /// Instructions to the model
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Whose stored context is used, and remembers the answer
    #[arg(long, value_name = "ID")]
    user: Option<String>,

    /// The most tokens to answer with
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<u64>,

    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    at: At,
}

impl Ask {
    pub(super) async fn run(self) -> Outcome {
        let question = match self.question.as_slice() {
            [dash] if dash == "-" => std::io::read_to_string(std::io::stdin())
                .map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?,
            words => words.join(" "),
        };
        let mut body = Map::new();
        body.insert("message".to_owned(), question.into());
        body.insert("stream".to_owned(), true.into());
        let texts = [("model", self.model), ("system", self.system), ("user_id", self.user)];
        body.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        body.extend(self.max_tokens.map(|count| ("max_tokens".to_owned(), count.into())));
        let remote = Remote::from(self.at);
        let url = base(remote.url(), "/ask");
        let request = remote
            .request(Method::POST, &url)?
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream, application/json")
            .body(Value::Object(body).to_string().into())
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let response = remote.send(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = remote.whole(body).await?;
            return Err(remote.refused(status, &bytes));
        }
        let (mut decoder, mut events) = (Decoder::new(MAX_EVENT), Vec::new());
        let mut said = Said::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| remote.lost(&error))?;
            decoder.push(&chunk, &mut events).map_err(|error| Failure::Failed(error.to_string()))?;
            for event in events.drain(..) {
                let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
                match event.event.as_str() {
                    "text" if !self.json => said.more(&data)?,
                    "done" if self.json => return print_json(&data),
                    "done" => return said.done(&data),
                    "error" => {
                        said.end()?;
                        let status = data.get("status").and_then(Value::as_u64).unwrap_or_default();
                        let status =
                            u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
                        return Err(remote.refused(status.unwrap_or(StatusCode::BAD_GATEWAY), &event.data));
                    }
                    _ => {}
                }
            }
        }
        said.end()?;
        Err(Failure::Failed("the answer ended before its end".to_owned()))
    }
}

/// Words on their way to stdout.
struct Said {
    /// What is shown there must not steer the terminal.
    terminal: bool,
    open: bool,
}

impl Said {
    fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), open: false }
    }

    fn more(&mut self, data: &Value) -> Outcome {
        let text = data.get("text").and_then(Value::as_str).unwrap_or_default();
        let shown: String =
            text.chars().filter(|c| !self.terminal || !c.is_control() || matches!(c, '\n' | '\t')).collect();
        self.open = if shown.is_empty() { self.open } else { !shown.ends_with('\n') };
        self.write(&shown)
    }

    fn write(&self, text: &str) -> Outcome {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::Failed(format!("cannot write to stdout: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    fn end(&mut self) -> Outcome {
        if std::mem::take(&mut self.open) { self.write("\n") } else { Ok(()) }
    }

    fn done(&mut self, answer: &Value) -> Outcome {
        self.end()?;
        if std::io::stderr().is_terminal() {
            complain(&summary(answer));
        }
        match answer.get("finish_reason").and_then(Value::as_str) {
            Some("stop" | "tool_calls") | None => Ok(()),
            Some(other) => {
                Err(Failure::Failed(format!("the answer is not whole: {}", other.replace('_', " "))))
            }
        }
    }
}

/// Who answered, for how many tokens, at what price and in what time.
fn summary(answer: &Value) -> String {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let tokens = |key: &str| answer.pointer(&format!("/usage/{key}")).and_then(Value::as_u64);
    let mut parts = vec![format!("{}/{}", text("provider"), text("model"))];
    if let (Some(input), Some(output)) = (tokens("input_tokens"), tokens("output_tokens")) {
        parts.push(format!("{input} + {output} tokens"));
    }
    parts.extend(answer.get("cost").and_then(Value::as_f64).map(|cost| format!("${cost:.6}")));
    parts.extend(answer.get("latency_ms").and_then(Value::as_f64).map(|ms| format!("{:.1} s", ms / 1000.0)));
    let asked = answer.get("attempts").and_then(Value::as_array).map_or(0, Vec::len);
    parts.extend((asked > 1).then(|| format!("{asked} were asked")));
    parts.join(", ").chars().filter(|c| !c.is_control()).collect()
}

/// List the models of a gateway, with what is known of them.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "List the models of a gateway that this key may use: where each runs, what it costs (US dollars for a million \
    tokens, in and out), how many tokens it takes, what it can do, and how it has been doing."
)]
pub(super) struct Models {
    /// Print what the gateway answers, as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    at: At,
}

impl Models {
    pub(super) async fn run(self) -> Outcome {
        let answer = Remote::from(self.at).ask(Method::GET, "/v1/models", None).await?;
        if self.json { print_json(&answer) } else { print(&listed(&answer)) }
    }
}

fn listed(answer: &Value) -> String {
    let models = answer.get("data").and_then(Value::as_array);
    let rows: Vec<_> = models.into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "no models".to_owned();
    }
    table(["MODEL", "ASKED OF", "PLACE", "PRICE", "TAKES", "FEATURES", "FIRST WORD", "HEALTH"], &rows)
}

fn row(model: &Value) -> [String; 8] {
    let at = |pointer: &str| model.pointer(&format!("/model_context{pointer}"));
    let text = |pointer: &str| at(pointer).and_then(Value::as_str).map(str::to_owned);
    let number = |pointer: &str| at(pointer).and_then(Value::as_f64);
    let targets = model.get("targets").and_then(Value::as_array);
    let targets: Vec<&str> = targets.into_iter().flatten().filter_map(Value::as_str).collect();
    let owner = model.get("owned_by").and_then(Value::as_str).unwrap_or_default();
    let price = |side: &str| number(&format!("/runtime/prices/{side}"));
    let price = price("input").zip(price("output")).map(|(input, output)| format!("{input} / {output}"));
    let takes = at("/inference/context_length").and_then(Value::as_u64).map(|tokens| match tokens {
        1_000_000.. => format!("{:.1}M", tokens as f64 / 1e6),
        10_000.. => format!("{}k", tokens / 1000),
        _ => tokens.to_string(),
    });
    let features = at("/capabilities").and_then(Value::as_object);
    let features: Vec<&str> = features
        .into_iter()
        .flatten()
        .filter(|(_, has)| **has == Value::Bool(true))
        .map(|(name, _)| name.as_str())
        .collect();
    let first = number("/runtime/measured/first_token_ms").map(|ms| format!("{ms:.0} ms"));
    let cells = [
        model.get("id").and_then(Value::as_str).map(str::to_owned),
        Some(if targets.is_empty() { owner.to_owned() } else { targets.join(" ") }),
        text("/runtime/place"),
        price,
        takes,
        (!features.is_empty()).then(|| features.join(" ")),
        first,
        text("/runtime/health"),
    ];
    // Names are the providers': they must not steer the terminal.
    cells.map(|cell| {
        cell.map_or_else(|| "-".to_owned(), |text| text.chars().filter(|c| !c.is_control()).collect())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_summed_up() {
        let answer = json!({
            "provider": "claude", "model": "claude-haiku-4-5", "usage": {"input_tokens": 14, "output_tokens": 5},
            "cost": 0.000_039, "latency_ms": 612.4, "attempts": [{}, {}],
        });
        assert_eq!(
            summary(&answer),
            "claude/claude-haiku-4-5, 14 + 5 tokens, $0.000039, 0.6 s, 2 were asked"
        );
        assert_eq!(summary(&json!({"provider": "a\u{1b}[2J", "model": "m"})), "a[2J/m");
    }

    #[test]
    fn what_is_known_of_a_model_is_a_row() {
        let model = json!({
            "id": "openai/gpt-5-mini", "owned_by": "openai", "model_context": {
                "capabilities": {"tools": true, "images": true, "audio": false},
                "inference": {"context_length": 400_000},
                "runtime": {
                    "place": "cloud", "prices": {"input": 0.25, "output": 2.0},
                    "measured": {"first_token_ms": 321.4, "calls": 3}, "health": "ok",
                },
            },
        });
        assert_eq!(
            row(&model),
            ["openai/gpt-5-mini", "openai", "cloud", "0.25 / 2", "400k", "tools images", "321 ms", "ok"]
        );
        let bare = json!({"id": "fast", "owned_by": "causeway", "targets": ["a/b", "c/d"]});
        assert_eq!(row(&bare), ["fast", "a/b c/d", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(listed(&json!({"data": []})), "no models");
    }
}
