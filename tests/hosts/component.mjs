#!/usr/bin/env node
// Lists which interfaces the built Spin component knows, and fails on one that Spin does not offer; also when the
// component has grown beyond its size.
//
//   node tests/hosts/component.mjs [--list] [FILE]        FILE: the component that spin.toml names

import fs from "node:fs";
import zlib from "node:zlib";

import { component as built } from "./runner.mjs";

const LIMIT = 1024 * 1024; // compressed

const given = process.argv.slice(2);
const list = given[0] === "--list" && given.shift();
const file = given[0] ?? built();

// What Spin 4.1 has of WASI, and of its own what the manifest gives the component.
const expected = [
  /^wasi:(cli|clocks|filesystem|http|io|random)\//,
  /^spin:(key-value\/key-value|sqlite\/sqlite|variables\/variables)$/,
];

const component = fs.readFileSync(file);
const names = new Set(component.toString("latin1").match(/\b[a-z]+:[a-z-]+\/[a-z-]+(?=@\d+\.\d+\.\d)/g));
if (list) for (const name of [...names].sort()) console.log(name);
const strangers = [...names].filter((name) => !expected.some((known) => known.test(name)));
for (const name of strangers) console.error(`component.mjs: unexpected interface: ${name}`);

const size = zlib.gzipSync(component, { level: 9 }).length;
const kib = (bytes) => `${(bytes / 1024).toFixed(0)} KiB`;
console.log(`${names.size} interfaces; ${kib(component.length)}, ${kib(size)} compressed of at most ${kib(LIMIT)}`);
if (size > LIMIT) console.error("component.mjs: the component is too large");
process.exitCode = strangers.length > 0 || size > LIMIT ? 1 : 0;
