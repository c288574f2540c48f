// What the programs have in common that run the gateway on a host for the tests: its secrets, changes of its
// configuration, and that nothing is left running.

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";

export const root = path.resolve(import.meta.dirname, "../..");

const name = path.basename(process.argv[1]);

// Where the Spin component is built: what spin.toml names, with cargo's folder where cargo was told to have it.
export function component() {
  const manifest = fs.readFileSync(path.join(root, "spin.toml"), "utf8");
  const [, built] = /^source = "target\/(.*)"/m.exec(manifest);
  return path.resolve(root, process.env.CARGO_TARGET_DIR || "target", built);
}

export function usage(problem) {
  console.error(`${name}: ${problem}`);
  process.exit(2);
}

// Secrets as `NAME=VALUE`, or `NAME` for a variable of the environment. There is always an administrator's key, which
// pushes need; a test may bring its own.
export function secretsOf(texts) {
  const secrets = texts.map((text) => {
    const at = text.indexOf("=");
    const name = at < 0 ? text : text.slice(0, at);
    const value = at < 0 ? process.env[name] : text.slice(at + 1);
    if (value === undefined) usage(`the environment has no variable ${name}`);
    return { name, value };
  });
  if (!secrets.some(({ name }) => name === "CAUSEWAY_ADMIN_KEY")) {
    secrets.push({ name: "CAUSEWAY_ADMIN_KEY", value: randomUUID() });
  }
  return secrets;
}

let ending = false;

// What is to be done when this process is told to end. Signals are heard from the start: one that came while the program
// is being started would end this process alone.
let end = () => process.exit(1);
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => end());

// Ends the program when this process is told to, and when it is killed and can do nothing itself: then a pipe closes.
// This process ends with it, and `folder` is deleted.
export function guarded(program, folder) {
  let guard;
  program.once("spawn", () => {
    const last = 'cat >/dev/null; kill -9 "$0" 2>/dev/null; rm -rf "$1"';
    guard = spawn("sh", ["-c", last, String(program.pid), folder], {
      stdio: ["pipe", "ignore", "ignore"],
      detached: true,
    });
    guard.stdin.on("error", () => {});
    guard.unref();
  });
  end = () => {
    if (ending) return;
    ending = true;
    program.kill("SIGTERM");
    // It may wait for streams that are still open, for ever. What was stored is on the disk already.
    setTimeout(() => program.kill("SIGKILL"), 500).unref();
  };
  program.once("error", (error) => {
    fs.rmSync(folder, { recursive: true, force: true });
    usage(`cannot start ${path.basename(program.spawnfile)} (${error.message})`);
  });
  program.once("exit", (code, signal) => {
    guard?.kill("SIGKILL");
    fs.rmSync(folder, { recursive: true, force: true });
    if (!ending) console.error(`${name}: ${path.basename(program.spawnfile)} ended by itself (${signal ?? code})`);
    process.exit(ending ? 0 : 1);
  });
}

// Waits, for ten seconds at most, until nobody listens at `port`: whoever was killed there may still be on its way out.
// It must not listen there itself to find out: who waits for the gateway would take it for that.
export async function untilFree(port) {
  const isFree = () =>
    new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1").once("error", () => resolve(true));
      socket.once("connect", () => {
        socket.destroy();
        resolve(false);
      });
    });
  for (let tries = 0; port && tries < 200 && !(await isFree()); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// Says where the gateway listens, and pushes its configuration whenever the file changes.
export function listening(base, config, secrets) {
  if (config) fs.watchFile(config, { interval: 200 }, () => push(base, config, secrets));
  console.error(`listening on ${base}/mcp`);
}

async function push(base, config, secrets) {
  try {
    const { value } = secrets.find(({ name }) => name === "CAUSEWAY_ADMIN_KEY");
    const body = fs.readFileSync(config);
    const answer = await fetch(`${base}/admin/v1/config`, { method: "PUT", headers: { "x-api-key": value }, body });
    if (!answer.ok) console.error(`${name}: the changed configuration is refused: ${await answer.text()}`);
  } catch (error) {
    if (!ending) console.error(`${name}: the changed configuration is not pushed: ${error.message}`);
  }
}
