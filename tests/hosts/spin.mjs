#!/usr/bin/env node
// Runs the component that `spin build` makes, as the tests and the benchmark need it: on tests/hosts/spin, or, with
// SPIN=1, on the `spin` that is on PATH.
//
//   node tests/hosts/spin.mjs [--config FILE] [--port N] [--state DIR] [--secret NAME[=VALUE]]... [--fresh]
//                             [--idle SECONDS] [--source FILE] [--upstreams HOST] [--once]
//
//   --config FILE     the configuration, as normalized JSON, in the variable causeway_config; later changes of the file
//                     are pushed
//   --port N          where to listen on 127.0.0.1; 0, the default, for a free one
//   --state DIR       where state is kept; without it, in a folder that is deleted at the end
//   --secret NAME     gives the application the environment variable NAME as a variable (or VALUE)
//   --fresh           gives each request an instance of its own; also with CAUSEWAY_SPIN_FRESH=1
//   --idle SECONDS    how long an idle instance is kept; 1 unless given
//   --source FILE     the component; the one that spin.toml names, in CARGO_TARGET_DIR if that is set
//   --upstreams HOST  what the variable upstreams says; hosts anywhere unless given
//   --once            ends as soon as it listens: what the host has compiled is kept, so that none that starts later waits
//
// Writes `listening on http://127.0.0.1:N/mcp` to stderr once it answers; the component's log lines follow there. The
// host is $CAUSEWAY_SPIN_HOST (scripts/setup spin-host). It ends with this process, however that ends.

import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { component, guarded, listening, root, secretsOf, untilFree, usage } from "./runner.mjs";

let options;
try {
  options = parseArgs({
    options: {
      config: { type: "string" },
      port: { type: "string", default: "0" },
      state: { type: "string" },
      secret: { type: "string", multiple: true, default: [] },
      fresh: { type: "boolean", default: process.env.CAUSEWAY_SPIN_FRESH === "1" },
      idle: { type: "string", default: "1" },
      source: { type: "string" },
      upstreams: { type: "string", default: "*://*:*" },
      once: { type: "boolean", default: false },
    },
  }).values;
} catch (error) {
  usage(error.message);
}

const manifest = fs.readFileSync(path.join(root, "spin.toml"), "utf8");
const source = options.source ? path.resolve(options.source) : component();
if (!fs.existsSync(source)) usage(`nothing is built at ${source}`);

// --- the manifest: the one of the application, with the secrets as further variables ------------------------------------

const secrets = secretsOf(options.secret);
const variables = { upstreams: options.upstreams };
for (const { name, value } of secrets) variables[name.toLowerCase()] = value;
if (options.config) variables.causeway_config = fs.readFileSync(options.config, "utf8");
const further = Object.keys(variables).filter((name) => !new RegExp(`^${name} = `, "m").test(manifest));
const own = manifest
  .replace(/^source = .*/m, () => `source = ${JSON.stringify(source)}`)
  .replace("[variables]\n", (head) => head + further.map((name) => `${name} = { required = true, secret = true }\n`).join(""))
  .replace("[component.causeway.variables]\n", (head) => head + further.map((name) => `${name} = "{{ ${name} }}"\n`).join(""));

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "causeway-spin-"));
const from = path.join(folder, "spin.toml");
fs.writeFileSync(from, own);

const env = { ...process.env };
for (const [name, value] of Object.entries(variables)) env[`SPIN_VARIABLE_${name.toUpperCase()}`] = value;

// --- the host -----------------------------------------------------------------------------------------------------------

const freePort = () =>
  new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const real = process.env.SPIN === "1";
const port = Number(options.port) || (real ? await freePort() : 0);
await untilFree(port);
const state = options.state ? path.resolve(options.state) : path.join(folder, "state");
const common = ["--from", from, "--listen", `127.0.0.1:${port}`, "--state-dir", state];
if (options.fresh) common.push("--max-instance-reuse-count", "1");
common.push("--idle-instance-timeout", options.idle);
const host = real
  ? spawn("spin", ["up", ...common], { env, stdio: ["ignore", "pipe", "pipe"] })
  : spawn(process.env.CAUSEWAY_SPIN_HOST || "causeway-spin-host", common, { env, stdio: ["ignore", "pipe", "pipe"] });
guarded(host, folder);
host.stdout.pipe(process.stderr, { end: false });

if (real) {
  host.stderr.pipe(process.stderr, { end: false });
  const answers = async () => {
    try {
      return (await fetch(`http://127.0.0.1:${port}/health`)).ok;
    } catch {
      return false;
    }
  };
  while (!(await answers())) await new Promise((resolve) => setTimeout(resolve, 50));
  listening(`http://127.0.0.1:${port}`, options.config, secrets);
} else {
  let heard = "";
  host.stderr.on("data", (data) => {
    if (heard === null) return;
    heard += data;
    const found = /^listening on (\S+)\n/m.exec(heard);
    if (!found) return;
    process.stderr.write(heard.replace(found[0], ""));
    heard = null;
    listening(found[1], options.config, secrets);
    if (options.once) process.kill(process.pid, "SIGTERM");
    host.stderr.pipe(process.stderr, { end: false });
  });
  host.once("exit", () => heard && process.stderr.write(heard));
}
