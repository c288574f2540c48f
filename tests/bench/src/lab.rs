//! What stands between the load and the stub: every way there is, started once and measured in turns.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::process::{Process, free_address, nginx};
use crate::wire::{Connection, Expect, ID, Request};
use crate::{Arguments, Outcome};

/// Every gateway is asked with this key, as real ones are.
pub(crate) const KEY: &str = "cw_benchmark_benchmark_benchmark_benchmark_b";
const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
/// The capabilities of a client that can be asked everything.
const ABLE: &str = "{\"elicitation\":{},\"roots\":{},\"sampling\":{}}";

/// A gateway that can be measured.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// How the report calls it.
    pub(crate) name: String,
    /// How it is started.
    pub(crate) host: Host,
    /// It is running, in front of the stub.
    pub(crate) process: Process,
}

/// How a gateway is started.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    /// The program.
    Native(PathBuf),
    /// The Worker: `tests/hosts/workerd.mjs` and what was built.
    Workerd(PathBuf, PathBuf),
    /// The component: `tests/hosts/spin.mjs`, what was built, and whether each request has an instance of its own.
    Spin(PathBuf, PathBuf, bool),
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Three cheap tools.
    pub(crate) stub: Process,
    /// 200 tools, listed as cheaply as can be.
    pub(crate) long: Process,
    /// nginx with its three addresses: to the stub, to the stub for streams, to the long list.
    pub(crate) nginx: Option<(Process, [SocketAddr; 3])>,
    /// The native gateway first.
    pub(crate) gateways: Vec<Gateway>,
    /// What is missing, and why.
    pub(crate) missing: Vec<String>,
    folder: TempDir,
}

impl Lab {
    /// Starts everything.
    pub(crate) fn open(arguments: &Arguments) -> Outcome<Self> {
        let folder = TempDir::with_prefix("causeway-bench").map_err(|error| error.to_string())?;
        let stub = fixture(&arguments.fixture, "fast")?;
        let long = fixture(&arguments.fixture, "list:200")?;
        let mut missing = Vec::new();
        let nginx = match &arguments.nginx {
            Some(binary) => {
                let ports = [free_address(), free_address(), free_address()];
                let command = nginx_at(binary, folder.path(), ports, stub.address, long.address)?;
                Some((Process::start(command, ports[0])?, ports))
            }
            None => {
                missing.push("nginx: not installed; scripts/setup bench".to_owned());
                None
            }
        };
        let mut lab = Self { stub, long, nginx, gateways: Vec::new(), missing, folder };
        lab.add("causeway", Host::Native(arguments.gateway.clone()))?;
        for also in &arguments.also {
            let (name, binary) = also.split_once('=').ok_or("--also wants NAME=PROGRAM")?;
            lab.add(name, Host::Native(binary.into()))?;
        }
        match (&arguments.workerd_host, &arguments.worker) {
            (Some(host), Some(built)) if built.join("index_bg.wasm").exists() => {
                let added = lab.add("workerd", Host::Workerd(host.clone(), built.clone()));
                if let Err(why) = added.and_then(|()| lab.answers("workerd")) {
                    lab.gateways.retain(|gateway| gateway.name != "workerd");
                    lab.missing.push(format!("workerd: {why}; BENCH_SHOW=1 shows what it says"));
                }
            }
            (Some(_), _) => {
                lab.missing.push("workerd: the Worker is not built; scripts/test cloudflare".to_owned())
            }
            (None, _) => lab.missing.push("workerd: not installed; scripts/setup cloudflare".to_owned()),
        }
        match (&arguments.spin_host, &arguments.component) {
            (Some(host), Some(built)) if built.exists() => {
                for (name, fresh) in [("spin", false), ("spin-fresh", true)] {
                    let added = lab.add(name, Host::Spin(host.clone(), built.clone(), fresh));
                    if let Err(why) = added.and_then(|()| lab.answers(name)) {
                        lab.gateways.retain(|gateway| gateway.name != name);
                        lab.missing.push(format!("{name}: {why}; BENCH_SHOW=1 shows what it says"));
                    }
                }
            }
            (Some(_), _) => {
                lab.missing.push("spin: the component is not built; scripts/test spin".to_owned())
            }
            (None, _) => lab.missing.push("spin: not installed; scripts/setup spin-host".to_owned()),
        }
        Ok(lab)
    }

    fn add(&mut self, name: &str, host: Host) -> Outcome<()> {
        let config = self.config(name, &[("stub".to_owned(), self.stub.address)])?;
        let process = start(&host, &config)?;
        self.gateways.push(Gateway { name: name.to_owned(), host, process });
        Ok(())
    }

    /// Makes a first call: a host may take connections before it knows whether it can serve them.
    fn answers(&self, name: &str) -> Outcome<()> {
        let gateway = self.gateways.iter().find(|gateway| gateway.name == name).ok_or("not started")?;
        let expect = Expect { texts: vec![answer_id()], least: 0 };
        let mut request = Place::gateway(&gateway.process).modern_call("echo", "{}", &expect);
        Connection::open(gateway.process.address)?.call(&mut request).map(drop)
    }

    /// Writes a configuration with these servers.
    pub(crate) fn config(&self, name: &str, servers: &[(String, SocketAddr)]) -> Outcome<PathBuf> {
        self.config_with(name, servers, json!({}))
    }

    /// The same, with these limits.
    pub(crate) fn config_with(
        &self,
        name: &str,
        servers: &[(String, SocketAddr)],
        limits: serde_json::Value,
    ) -> Outcome<PathBuf> {
        let servers: serde_json::Map<_, _> = servers
            .iter()
            .map(|(name, address)| (name.clone(), json!({ "url": format!("http://{address}/mcp") })))
            .collect();
        self.config_of(name, servers, limits)
    }

    /// The same, with what is said of each server.
    pub(crate) fn config_of(
        &self,
        name: &str,
        servers: serde_json::Map<String, serde_json::Value>,
        limits: serde_json::Value,
    ) -> Outcome<PathBuf> {
        let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        let config = json!({
            "mcpServers": servers,
            "keys": { "bench": { "hash": format!("sha256:{hash}"), "links": ["*"] } },
            "limits": limits,
        });
        let file = self.folder.path().join(format!("{name}.json"));
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// Writes a configuration with the stub as a provider of models called `stub`.
    pub(crate) fn config_chat(&self, name: &str) -> Outcome<PathBuf> {
        let file = self.config_of(name, serde_json::Map::new(), json!({}))?;
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let mut config: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let url = format!("http://{}/v1", self.stub.address);
        config["llm"] = json!({ "providers": { "stub": { "kind": "openai-compatible", "url": url } } });
        std::fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        Ok(file)
    }

    /// nginx by itself, in front of the stub; for how fast it starts and what it holds.
    pub(crate) fn plain_nginx(&self, binary: &Path) -> Outcome<(Command, SocketAddr)> {
        let folder = self.folder.path().join("nginx-alone");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let address = free_address();
        Ok((nginx(binary, &folder, &[(address, self.stub.address, false)])?, address))
    }
}

fn nginx_at(
    binary: &Path,
    folder: &Path,
    ports: [SocketAddr; 3],
    stub: SocketAddr,
    long: SocketAddr,
) -> Outcome<Command> {
    nginx(binary, folder, &[(ports[0], stub, false), (ports[1], stub, true), (ports[2], long, false)])
}

/// Starts the fixture in `mode`.
pub(crate) fn fixture(binary: &Path, mode: &str) -> Outcome<Process> {
    fixture_of(binary, mode, "dual")
}

/// Starts the fixture in `mode` as a server of the eras that `era` names.
pub(crate) fn fixture_of(binary: &Path, mode: &str, era: &str) -> Outcome<Process> {
    let address = free_address();
    let mut command = Command::new(binary);
    command.args(["--mode", mode, "--era", era, "--listen", &address.to_string()]);
    Process::start(command, address)
}

/// How `host` is run with `config`, and where it will listen. Its log, at the default level, goes to `/dev/null`.
pub(crate) fn command(host: &Host, config: &Path) -> Outcome<(Command, SocketAddr)> {
    let address = free_address();
    let command = match host {
        Host::Native(binary) => {
            let mut command = Command::new(binary);
            command
                .args(["serve", "--state", "memory", "--listen", &address.to_string(), "--config"])
                .arg(config);
            command
        }
        Host::Workerd(script, built) => {
            let mut command = Command::new("node");
            command.arg(script).args(["--port", &address.port().to_string(), "--build"]).arg(built);
            command.arg("--config").arg(config);
            command
        }
        Host::Spin(script, built, fresh) => {
            let mut command = Command::new("node");
            command.arg(script).args(["--port", &address.port().to_string(), "--source"]).arg(built);
            command.arg("--config").arg(config).args(fresh.then_some("--fresh"));
            command
        }
    };
    Ok((command, address))
}

/// Starts `host` with `config` and waits until it listens.
pub(crate) fn start(host: &Host, config: &Path) -> Outcome<Process> {
    let (command, address) = command(host, config)?;
    Process::start(command, address)
}

/// One way to the stub, and how it is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Where.
    pub(crate) address: SocketAddr,
    /// It is a gateway, which wants a key.
    pub(crate) gateway: bool,
    /// The endpoint.
    pub(crate) path: &'static str,
    /// What stands before the names of tools.
    pub(crate) prefix: &'static str,
    /// A modern client can be asked something.
    pub(crate) able: bool,
}

impl Place {
    /// The stub itself, or nginx.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, gateway: false, path: "/mcp", prefix: "", able: false }
    }

    /// A gateway, which gives the names of the stub's tools a prefix.
    pub(crate) fn gateway(process: &Process) -> Self {
        Self { gateway: true, prefix: "stub__", ..Self::plain(process.address) }
    }

    /// The same with another prefix, that of another server.
    pub(crate) fn prefix(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    /// The endpoint of one server on a gateway.
    pub(crate) fn at(self, path: &'static str) -> Self {
        Self { path, prefix: "", ..self }
    }

    /// The same for a client that can be asked something.
    pub(crate) fn able(self) -> Self {
        Self { able: true, ..self }
    }

    fn headers(self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let key = self.gateway.then(|| ("authorization".to_owned(), format!("Bearer {KEY}")));
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        key.into_iter().chain(more).collect()
    }

    /// A modern `tools/call`.
    pub(crate) fn modern_call(self, tool: &str, arguments: &str, expect: &Expect) -> Request {
        self.modern(tool, &format!("\"arguments\":{arguments}"), expect)
    }

    fn modern(self, tool: &str, params: &str, expect: &Expect) -> Request {
        let name = format!("{}{tool}", self.prefix);
        let headers = self.headers(&[
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", &name),
        ]);
        let body = request("tools/call", &format!("\"name\":\"{name}\",{params},{}", self.meta()));
        Request::post(self.address, self.path, &headers, &body, expect)
    }

    /// A modern call of a tool that asks for a name.
    pub(crate) fn modern_ask(self) -> Request {
        let expect = Expect { texts: vec![answer_id(), "\"input_required\"".to_owned()], least: 0 };
        self.modern_call("ask", "{}", &expect)
    }

    /// The same call again, with the name.
    pub(crate) fn retry(self, key: &str, state: &str) -> Request {
        let expect = Expect { texts: vec![answer_id(), format!("\"hello {ID}\"")], least: 0 };
        let said = format!("{{\"action\":\"accept\",\"content\":{{\"name\":\"{ID}\"}}}}");
        let params = format!(
            "\"arguments\":{{}},\"inputResponses\":{{\"{key}\":{said}}},\"requestState\":\"{state}\""
        );
        self.modern("ask", &params, &expect)
    }

    /// A question to a model, in OpenAI's dialect, with more of its members; the answer says the id of the call.
    pub(crate) fn chat(self, more: &str, expect: &Expect) -> Request {
        let body = format!(
            "{{\"model\":\"stub/m\",\"messages\":[{{\"role\":\"user\",\"content\":\"ping {ID}\"}}]{more}}}"
        );
        Request::post(self.address, "/v1/chat/completions", &self.headers(&[]), &body, expect)
    }

    /// A modern `tools/list`.
    pub(crate) fn modern_list(self, expect: &Expect) -> Request {
        let headers = self.headers(&[("mcp-protocol-version", MODERN), ("mcp-method", "tools/list")]);
        Request::post(self.address, self.path, &headers, &request("tools/list", &self.meta()), expect)
    }

    /// A legacy `tools/call` in `session`.
    pub(crate) fn legacy_call(self, session: &str, tool: &str, arguments: &str, expect: &Expect) -> Request {
        let body =
            request("tools/call", &format!("\"name\":\"{}{tool}\",\"arguments\":{arguments}", self.prefix));
        Request::post(self.address, self.path, &self.in_session(session), &body, expect)
    }

    /// A legacy call of a tool that asks for a name.
    pub(crate) fn legacy_ask(self, session: &str) -> Request {
        let expect = Expect { texts: vec![answer_id(), format!("\"hello {ID}\"")], least: 0 };
        self.legacy_call(session, "ask", "{}", &expect)
    }

    /// The answer to the server's question `own` in the call `id`: the name.
    pub(crate) fn answer(self, session: &str, own: &str, id: [u8; 8]) -> Request {
        let name = String::from_utf8_lossy(&id);
        let body = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{own},\"result\":{{\"action\":\"accept\",\"content\":{{\"name\":\
             \"{name}\"}}}}}}"
        );
        let expect = Expect { texts: Vec::new(), least: 0 };
        Request::post(self.address, self.path, &self.in_session(session), &body, &expect).status(202)
    }

    fn in_session(self, session: &str) -> Vec<(String, String)> {
        self.headers(&[("mcp-protocol-version", LEGACY), ("mcp-session-id", session)])
    }

    /// A GET of the stream of `session`.
    pub(crate) fn listen(self, session: &str) -> Request {
        let expect = Expect { texts: Vec::new(), least: 0 };
        let line = format!("GET {}", self.path);
        Request::new(&line, self.address, &self.in_session(session), "", &expect)
    }

    /// The end of `session`.
    pub(crate) fn delete(self, session: &str) -> Request {
        let expect = Expect { texts: Vec::new(), least: 0 };
        let line = format!("DELETE {}", self.path);
        Request::new(&line, self.address, &self.in_session(session), "", &expect).status(204)
    }

    /// `initialize` of the legacy era, of a client that can be asked everything.
    pub(crate) fn initialize(self) -> Request {
        let params = format!(
            "\"protocolVersion\":\"{LEGACY}\",\"capabilities\":{ABLE},\
             \"clientInfo\":{{\"name\":\"bench\",\"version\":\"1\"}}"
        );
        let expect = Expect { texts: vec![answer_id(), LEGACY.to_owned()], least: 0 };
        let body = request("initialize", &params);
        Request::post(self.address, self.path, &self.headers(&[]), &body, &expect)
    }

    /// Opens a session.
    pub(crate) fn open_session(self, connection: &mut Connection) -> Outcome<String> {
        connection.call(&mut self.initialize())?;
        connection.answer.header("mcp-session-id").ok_or_else(|| "no Mcp-Session-Id".to_owned())
    }

    fn meta(self) -> String {
        let capabilities = if self.able { ABLE } else { "{}" };
        format!(
            "\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\",\
             \"io.modelcontextprotocol/clientInfo\":{{\"name\":\"bench\",\"version\":\"1\"}},\
             \"io.modelcontextprotocol/clientCapabilities\":{capabilities}}}"
        )
    }
}

fn request(method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{ID},\"method\":\"{method}\",\"params\":{{{params}}}}}")
}

/// Every answer has it.
pub(crate) fn answer_id() -> String {
    format!("\"id\":{ID}")
}

/// Waits a little, so that what a program does after its start is over.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(1500));
}
