//! The server: what the clients in tests/clients use, and no more.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, GetPromptRequestParams, GetPromptResponse,
    GetPromptResult, ListPromptsResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Serves at `address` until the process ends.
pub(crate) async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    let service = StreamableHttpService::new(
        || Ok(Everything),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    eprintln!("listening on http://{}/mcp", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A connection that fails is its client's business.
            _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// Serves over standard input and output until the input ends.
pub(crate) async fn stdio() -> Result<(), Box<dyn Error>> {
    Everything.serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}

struct Everything;

/// The SDK's type that this JSON describes. The SDK takes `resultType` out again for older clients.
fn typed<T: for<'de> serde::Deserialize<'de>>(mut json: Value) -> Result<T, ErrorData> {
    json["resultType"] = json!("complete");
    serde_json::from_value(json).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

impl ServerHandler for Everything {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources();
        ServerConfig::new(capabilities.build()).with_instructions("A server of the Rust SDK.")
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let text =
            json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]});
        let none = json!({"type": "object", "properties": {}});
        typed(json!({"tools": [
            {"name": "echo", "description": "Says what it is told", "inputSchema": text},
            {"name": "test_tool_with_progress", "description": "Reports progress", "inputSchema": none},
        ]}))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let text = match &*request.name {
            "echo" => {
                let text = request.arguments.as_ref().and_then(|arguments| arguments.get("text"));
                text.and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            "test_tool_with_progress" => {
                if let Some(token) = context.meta.get_progress_token() {
                    for step in [0.0, 50.0, 100.0] {
                        let told = ProgressNotificationParam::new(token.clone(), step).with_total(100.0);
                        // A client that has gone need not be told.
                        _ = context.peer.notify_progress(told).await;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                "done".to_owned()
            }
            name => return Err(ErrorData::invalid_params(format!("no tool is called {name:?}"), None)),
        };
        let result: CallToolResult = typed(json!({"content": [{"type": "text", "text": text}]}))?;
        Ok(result.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        typed(
            json!({"resources": [{"uri": "test://static-text", "name": "static-text", "mimeType": "text/plain"}]}),
        )
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != "test://static-text" {
            return Err(ErrorData::resource_not_found("no such resource", Some(json!({"uri": request.uri}))));
        }
        let text = "This is the content of the static text resource.";
        let content = json!({"uri": request.uri, "mimeType": "text/plain", "text": text});
        let result: ReadResourceResult = typed(json!({"contents": [content]}))?;
        Ok(result.into())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let arguments = json!([{"name": "arg1", "required": true}, {"name": "arg2", "required": true}]);
        typed(json!({"prompts": [{"name": "test_prompt_with_arguments", "arguments": arguments}]}))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let text = format!("Prompt with arguments: {arguments}");
        let message = json!({"role": "user", "content": {"type": "text", "text": text}});
        let result: GetPromptResult = typed(json!({"messages": [message]}))?;
        Ok(result.into())
    }
}
