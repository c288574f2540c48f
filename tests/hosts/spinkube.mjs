#!/usr/bin/env node
// Checks deploy/spinkube.yaml against the schema of SpinKube's custom resource, and that it and spin.toml agree: every
// variable and store that it binds is one that the application has.
//
//   node tests/hosts/spinkube.mjs

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

import { root } from "./runner.mjs";

const npm = createRequire(`${process.env.CAUSEWAY_NPM}/package.json`);
const yaml = npm("yaml");
const Ajv = npm("ajv");

const text = fs.readFileSync(path.join(root, "deploy/spinkube.yaml"), "utf8");
const documents = yaml.parseAllDocuments(text).map((document) => document.toJS());
const app = documents.find(({ kind }) => kind === "SpinApp");
const secret = documents.find(({ kind }) => kind === "Secret");
const problems = [];

const schema = JSON.parse(fs.readFileSync(path.join(import.meta.dirname, "spinapp.schema.json"), "utf8"));
const ajv = new (Ajv.default ?? Ajv)({ strict: false, allErrors: true, validateFormats: false });
if (!ajv.validate(schema, app)) problems.push(...ajv.errors.map(({ instancePath, message }) => `${instancePath}: ${message}`));

const manifest = fs.readFileSync(path.join(root, "spin.toml"), "utf8");
const stores = (key) => JSON.parse(new RegExp(`^${key} = (\\[.*\\])`, "m").exec(manifest)[1]);
for (const { name } of app.spec.variables) {
  if (!new RegExp(`^${name} = \\{`, "m").test(manifest)) problems.push(`spin.toml has no variable ${name}`);
}
for (const [bound, known] of [
  [app.spec.runtimeConfig.keyValueStores, stores("key_value_stores")],
  [app.spec.runtimeConfig.sqliteDatabases, stores("sqlite_databases")],
]) {
  const names = bound.map(({ name }) => name);
  if (names.join() !== known.join()) problems.push(`the stores ${names} are bound, spin.toml has ${known}`);
}
for (const [, name, key] of text.matchAll(/^ *secretKeyRef: \{ name: ([\w-]+), key: ([\w-]+) \}/gm)) {
  if (name !== secret.metadata.name || !(key in secret.stringData)) problems.push(`there is no secret ${name}/${key}`);
}

for (const problem of problems) console.error(`spinkube.mjs: ${problem}`);
console.log(`deploy/spinkube.yaml: ${problems.length === 0 ? "fits" : "does not fit"}`);
process.exitCode = problems.length === 0 ? 0 : 1;
