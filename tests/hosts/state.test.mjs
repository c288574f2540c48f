// The Durable Object behind the state store, asked directly on workerd: whoever holds the version wins, values expire,
// and no version is ever given twice.
//
//   node --test tests/hosts/state.test.mjs        after worker-build; needs WORKERD_BIN or CAUSEWAY_WORKERD

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

const build = path.resolve(import.meta.dirname, "../../adapters/cloudflare/build");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "causeway-state-"));
let workerd;
let base;

// Stands where the Worker's own code stands: in front of the namespace.
const probe = `export default {
  fetch(request, { STATE }) {
    const name = new URL(request.url).pathname;
    return STATE.get(STATE.idFromName(name)).fetch(request);
  },
};`;

const config = `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "gateway", worker = (
      modules = [
        (name = "index.js", esModule = embed "index.js"),
        (name = "index_bg.wasm", wasm = embed "index_bg.wasm"),
      ],
      compatibilityDate = "2026-06-01",
      durableObjectNamespaces = [(className = "State", uniqueKey = "state", enableSql = true)],
      durableObjectStorage = (localDisk = "disk"),
    )),
    (name = "disk", disk = (path = ${JSON.stringify(folder)}, writable = true)),
    (name = "probe", worker = (
      modules = [(name = "probe.js", esModule = embed "probe.js")],
      compatibilityDate = "2026-06-01",
      bindings = [(name = "STATE", durableObjectNamespace = (className = "State", serviceName = "gateway"))],
    )),
  ],
  sockets = [(name = "probe", address = "127.0.0.1:0", http = (), service = "probe")],
);`;

before(async () => {
  for (const file of ["index.js", "index_bg.wasm"]) fs.copyFileSync(path.join(build, file), path.join(folder, file));
  fs.writeFileSync(path.join(folder, "probe.js"), probe);
  fs.writeFileSync(path.join(folder, "config.capnp"), config);
  workerd = spawn(
    process.env.WORKERD_BIN || process.env.CAUSEWAY_WORKERD || "workerd",
    ["serve", path.join(folder, "config.capnp"), "--control-fd=3"],
    { stdio: ["ignore", "inherit", "inherit", "pipe"] },
  );
  const [told] = await once(workerd.stdio[3], "data");
  base = `http://127.0.0.1:${JSON.parse(String(told).split("\n")[0]).port}`;
});

after(async () => {
  workerd.kill("SIGKILL");
  await once(workerd, "exit");
  fs.rmSync(folder, { recursive: true, force: true });
});

async function load(key) {
  const answer = await fetch(`${base}/${key}`);
  return answer.status === 204 ? null : { version: answer.headers.get("x-version"), value: await answer.text() };
}

async function swap(key, seen, value, ttl = 60_000) {
  const headers = { "x-ttl": String(ttl), ...(seen ? { "x-seen": seen } : {}) };
  const answer = await fetch(`${base}/${key}`, { method: "PUT", headers, body: value });
  await answer.arrayBuffer();
  assert.ok([200, 409].includes(answer.status), `${answer.status}`);
  return answer.status === 200 ? answer.headers.get("x-version") : "stale";
}

test("nothing is there before the first write", async () => {
  assert.equal(await load("empty"), null);
});

test("a write needs the version that it replaces", async () => {
  const first = await swap("a", null, "one");
  assert.deepEqual(await load("a"), { version: first, value: "one" });
  assert.equal(await swap("a", null, "two"), "stale");
  assert.equal(await swap("a", "12345", "two"), "stale");
  const second = await swap("a", first, "two");
  assert.notEqual(second, first);
  assert.equal(await swap("a", first, "three"), "stale");
  assert.deepEqual(await load("a"), { version: second, value: "two" });
});

test("of many writers at once one wins", async () => {
  const answers = await Promise.all(Array.from({ length: 16 }, (_, n) => swap("race", null, `value ${n}`)));
  assert.equal(answers.filter((answer) => answer !== "stale").length, 1);
});

test("bytes and sizes survive", async () => {
  const value = new Uint8Array(1024 * 1024).map((_, n) => n % 251);
  const answer = await fetch(`${base}/large`, { method: "PUT", headers: { "x-ttl": "60000" }, body: value });
  assert.equal(answer.status, 200);
  assert.deepEqual(new Uint8Array(await (await fetch(`${base}/large`)).arrayBuffer()), value);
  await swap("none", null, "");
  assert.equal((await load("none")).value, "");
});

test("a value whose time has passed is gone, and its versions are not given again", async () => {
  const first = await swap("short", null, "one", 300);
  assert.equal((await load("short")).value, "one");
  await sleep(600); // by now the alarm has deleted the storage
  assert.equal(await load("short"), null);
  const second = await swap("short", null, "two");
  assert.ok(Number(second) > Number(first));
  assert.equal(await swap("short", first, "three"), "stale");
});

test("a value that is given more time outlives the first alarm", async () => {
  const first = await swap("longer", null, "one", 300);
  await swap("longer", first, "two", 1500);
  await sleep(700);
  assert.equal((await load("longer")).value, "two");
  await sleep(1300);
  assert.equal(await load("longer"), null);
});

test("a value that lives for a century can be stored", async () => {
  await swap("forever", null, "one", 100 * 365 * 24 * 60 * 60 * 1000);
  assert.equal((await load("forever")).value, "one");
});
