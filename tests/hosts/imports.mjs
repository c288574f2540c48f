#!/usr/bin/env node
// Lists what the built Worker imports, and fails on anything but wasm-bindgen's glue: a crate that reaches for a clock,
// a socket or libc builds without a complaint and only shows here, as an import that no Worker can satisfy. Also fails
// when the Worker has grown beyond its size.
//
//   node tests/hosts/imports.mjs [--list] [BUILD]        BUILD: what worker-build made; adapters/cloudflare/build

import fs from "node:fs";
import path from "node:path";
import zlib from "node:zlib";

const LIMIT = 1024 * 1024; // compressed

const given = process.argv.slice(2);
const list = given[0] === "--list" && given.shift();
const build = given[0] ?? path.resolve(import.meta.dirname, "../../adapters/cloudflare/build");

// Modules, and in them names, that the glue provides. Its functions are `__wbg_{name}_{hash}` for what Rust declares
// and `__wbindgen_{name}` for its own needs.
const expected = [
  { module: /^\.\/index_bg\.js$/, name: /^(__wbg_\w+|__wbindgen_\w+)$/ },
  { module: /^\.\/snippets\/(causeway-cloudflare|worker)-[0-9a-f]+\//, name: /^/ },
];

const wasm = fs.readFileSync(path.join(build, "index_bg.wasm"));
const imports = WebAssembly.Module.imports(new WebAssembly.Module(wasm));
if (list) for (const { module, name, kind } of imports) console.log(`${kind} ${module} ${name}`);

const strangers = imports.filter(
  (found) => !expected.some(({ module, name }) => module.test(found.module) && name.test(found.name)),
);
for (const { module, name, kind } of strangers) console.error(`imports.mjs: unexpected import: ${kind} ${module} ${name}`);

const size = zlib.gzipSync(wasm, { level: 9 }).length + zlib.gzipSync(fs.readFileSync(path.join(build, "index.js"))).length;
const kib = (bytes) => `${(bytes / 1024).toFixed(0)} KiB`;
console.log(`${imports.length} imports; ${kib(wasm.length)}, ${kib(size)} compressed of at most ${kib(LIMIT)}`);
if (size > LIMIT) console.error("imports.mjs: the Worker is too large");
process.exitCode = strangers.length > 0 || size > LIMIT ? 1 : 0;
