#!/usr/bin/env node
// Runs the built Worker on a bare workerd, as the tests and the benchmark need it: `wrangler dev` puts two proxies in
// front, which cost more than the gateway itself. Durable Objects and the stand-in for KV keep their data in a folder.
//
//   node tests/hosts/workerd.mjs [--config FILE] [--port N] [--state DIR] [--secret NAME[=VALUE]]... [--front]
//                                [--twice] [--build DIR]
//
//   --config FILE    the configuration, as normalized JSON, bundled as CAUSEWAY_CONFIG; later changes of the file are pushed
//   --port N         where to listen on 127.0.0.1; 0, the default, lets the system choose
//   --state DIR      where state is kept; without it, in a folder that is deleted at the end
//   --secret NAME    gives the Worker the environment variable NAME as a secret (or VALUE)
//   --front          puts a proxy in front that, as Cloudflare's does, tells workerd when a caller has gone; by
//                    itself workerd hears of it at its next write only
//   --twice          runs the Worker in two isolates, as one location of Cloudflare may; they share state and nothing else.
//                    Where the second listens is written as `and on http://127.0.0.1:N`, before the first
//   --build DIR      what worker-build made; adapters/cloudflare/build
//
// Writes `listening on http://127.0.0.1:N/mcp` to stderr once it answers; the Worker's log lines follow there.
// workerd itself is $WORKERD_BIN, or `workerd` on PATH. It ends with this process, however that ends.

import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { guarded, listening as told, root, secretsOf, untilFree, usage } from "./runner.mjs";

const here = import.meta.dirname;

let options;
try {
  options = parseArgs({
    options: {
      config: { type: "string" },
      port: { type: "string", default: "0" },
      state: { type: "string" },
      secret: { type: "string", multiple: true, default: [] },
      front: { type: "boolean", default: false },
      twice: { type: "boolean", default: false },
      build: { type: "string", default: path.join(root, "adapters/cloudflare/build") },
    },
  }).values;
} catch (error) {
  usage(error.message);
}
if (!fs.existsSync(path.join(options.build, "index_bg.wasm"))) usage(`nothing is built in ${options.build}`);

const secrets = secretsOf(options.secret);

// --- the folder that workerd reads its configuration from ---------------------------------------------------------------

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "causeway-workerd-"));
const state = options.state ? path.resolve(options.state) : path.join(folder, "state");
const put = (name, text) => fs.writeFileSync(path.join(folder, name), text, { mode: 0o600 });
const take = (from, name) => fs.copyFileSync(from, path.join(folder, name));

for (const part of ["state", "kv"]) fs.mkdirSync(path.join(state, part), { recursive: true });
take(path.join(options.build, "index.js"), "index.js");
take(path.join(options.build, "index_bg.wasm"), "index_bg.wasm");
take(path.join(here, "workerd/kv.js"), "kv.js");

// Dates and flags are those that are deployed.
const wrangler = fs.readFileSync(path.join(root, "wrangler.toml"), "utf8");
const date = /^compatibility_date = (".*")/m.exec(wrangler)[1];
const flags = /^compatibility_flags = (\[.*\])/m.exec(wrangler)?.[1] ?? "[]";

// Values are embedded from files of their own: the text format has escapes of its own.
const variables = [...secrets];
if (options.config) variables.push({ name: "CAUSEWAY_CONFIG", value: fs.readFileSync(options.config, "utf8") });
variables.forEach(({ value }, index) => put(`variable-${index}`, value));
const bindings = variables.map(({ name }, index) => `(name = ${JSON.stringify(name)}, text = embed "variable-${index}"),`);

// Objects live in the first isolate; the second asks them there.
const gateway = (name, objects) => `
    (name = "${name}", worker = (
      modules = [
        (name = "index.js", esModule = embed "index.js"),
        (name = "index_bg.wasm", wasm = embed "index_bg.wasm"),
      ],
      compatibilityDate = ${date},
      compatibilityFlags = ${flags},
      bindings = [
        (name = "CAUSEWAY_STATE", durableObjectNamespace = ${objects ? '"State"' : '(className = "State", serviceName = "gateway")'}),
        (name = "CAUSEWAY_MAILBOX", durableObjectNamespace = ${objects ? '"Mailbox"' : '(className = "Mailbox", serviceName = "gateway")'}),
        (name = "CAUSEWAY_KV", kvNamespace = "kv"),
        ${bindings.join("\n        ")}
      ],${
        objects
          ? `
      durableObjectNamespaces = [
        (className = "State", uniqueKey = "causeway-state", enableSql = true),
        (className = "Mailbox", uniqueKey = "causeway-mailbox", enableSql = true),
      ],
      durableObjectStorage = (localDisk = "state"),`
          : ""
      }
    )),`;

put(
  "config.capnp",
  `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [${gateway("gateway", true)}${options.twice ? gateway("second", false) : ""}
    (name = "kv", worker = (
      modules = [(name = "kv.js", esModule = embed "kv.js")],
      compatibilityDate = ${date},
      bindings = [(name = "FILES", service = "kv-disk")],
    )),
    (name = "state", disk = (path = ${JSON.stringify(path.join(state, "state"))}, writable = true)),
    (name = "kv-disk", disk = (path = ${JSON.stringify(path.join(state, "kv"))}, writable = true)),
    # Upstreams of a test are on this machine.
    (name = "internet", network = (
      allow = ["public", "private"],
      tlsOptions = (trustBrowserCas = true),
    )),
  ],
  sockets = [
    (name = "gateway", address = "127.0.0.1:${options.front ? 0 : Number(options.port)}", http = (), service = "gateway"),
    ${options.twice ? '(name = "second", address = "127.0.0.1:0", http = (), service = "second"),' : ""}
  ],
  logging = (stdoutPrefix = "", stderrPrefix = ""),
);
`,
);

// --- workerd ------------------------------------------------------------------------------------------------------------

await untilFree(Number(options.port));
const workerd = spawn(
  process.env.WORKERD_BIN || process.env.CAUSEWAY_WORKERD || "workerd",
  ["serve", path.join(folder, "config.capnp"), "--control-fd=3", ...(process.env.WORKERD_FLAGS?.split(" ") ?? [])],
  // Its lines go straight to where this program's go: to pass each of them on would cost as much as a call.
  { stdio: ["ignore", 2, 2, "pipe"] },
);

guarded(workerd, folder);

// --- where it listens ---------------------------------------------------------------------------------------------------

const listening = (port) => told(`http://127.0.0.1:${port}`, options.config, secrets);

// Passes bytes on, and a caller's closing as a reset: workerd takes a mere end for a caller who only stopped sending.
function front(port) {
  const server = net.createServer({ noDelay: true }, (caller) => {
    const behind = net.connect({ port, host: "127.0.0.1", noDelay: true });
    caller.pipe(behind, { end: false });
    behind.pipe(caller);
    caller.on("end", () => behind.resetAndDestroy());
    caller.on("close", () => behind.resetAndDestroy());
    behind.on("close", () => caller.destroy());
    for (const socket of [caller, behind]) socket.on("error", () => {});
  });
  server.listen(Number(options.port), "127.0.0.1", () => listening(server.address().port));
}

// workerd tells its port on the control pipe, a JSON object a line.
let heard = "";
let ports = {};
workerd.stdio[3].on("data", (data) => {
  heard += data;
  const lines = heard.split("\n");
  heard = lines.pop();
  for (const line of lines) {
    const { event, socket, port } = JSON.parse(line);
    if (event === "listen") ports[socket] = port;
  }
  if (!ports.gateway || (options.twice && !ports.second)) return;
  if (options.twice) console.error(`and on http://127.0.0.1:${ports.second}`);
  (options.front ? front : listening)(ports.gateway);
  ports = {};
});
