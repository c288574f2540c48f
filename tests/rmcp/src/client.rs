//! The client: connects, uses everything once, prints what it got as JSON.

use std::error::Error;
use std::sync::{Arc, Mutex};

use rmcp::model::{
    CallToolRequestParams, GetPromptRequestParams, ProgressNotificationParam, ProtocolVersion,
    ReadResourceRequestParams,
};
use rmcp::service::{NotificationContext, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};

/// Remembers the progress it was told.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<f64>>>);

impl ClientHandler for Listener {
    async fn on_progress(&self, told: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        if let Ok(mut heard) = self.0.lock() {
            heard.push(told.progress);
        }
    }
}

/// Uses what `plan` names at `url`.
pub(crate) async fn run(
    url: &str,
    plan: &str,
    key: Option<&str>,
    legacy: bool,
) -> Result<(), Box<dyn Error>> {
    let plan: Value = serde_json::from_str(plan)?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(url);
    if let Some(key) = key {
        config = config.auth_header(key);
    }
    let listener = Listener::default();
    let heard = listener.0.clone();
    let lifecycle = if legacy {
        ClientLifecycleMode::Initialize
    } else {
        ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
    };
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = listener.serve_with_lifecycle(transport, lifecycle).await?;

    let tools = client.list_all_tools().await?;
    let echo: CallToolRequestParams = serde_json::from_value(plan["echo"].clone())?;
    let echo = serde_json::to_value(client.call_tool(echo).await?)?;
    let progress: CallToolRequestParams = serde_json::from_value(plan["progress"].clone())?;
    client.call_tool(progress).await?;
    let resource = ReadResourceRequestParams::new(plan["resource"].as_str().unwrap_or_default());
    let resource = serde_json::to_value(client.read_resource(resource).await?)?;
    let prompt: GetPromptRequestParams = serde_json::from_value(plan["prompt"].clone())?;
    let prompt = serde_json::to_value(client.get_prompt(prompt).await?)?;
    let missing = ReadResourceRequestParams::new(plan["missing"].as_str().unwrap_or_default());
    let missing = match client.read_resource(missing).await {
        Err(ServiceError::McpError(error)) => Some(error.code.0),
        _ => None,
    };
    let revision = client.peer().peer_info().map(|info| json!(info.protocol_version));
    let got = json!({
        "client": "rmcp",
        "revision": if legacy { revision } else { Some(json!(ProtocolVersion::V_2026_07_28)) },
        "tools": tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(),
        "echo": echo["content"][0]["text"],
        "progress": heard.lock().map(|heard| heard.clone()).unwrap_or_default(),
        "resource": resource["contents"][0]["text"],
        "prompt": prompt["messages"][0]["content"]["text"],
        "missing": missing,
    });
    println!("{got}");
    client.cancel().await?;
    Ok(())
}
