// Runs the client scenarios one by one, in every way; see `client` next to it, which says how to call it.
//
// One by one because the suite, when it runs many, does not look at how its command ended, and counts a scenario that
// nobody has asked anything as passed. Here a scenario has passed if the suite says so, without a warning, if at least
// one check succeeded, and if the client at the other end of the gateway is content as well.
import { execFile, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

const here = import.meta.dirname;
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'causeway-conformance-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(1));

const { values: options, positionals } = parseArgs({
    options: { front: { type: 'string' }, client: { type: 'string' }, scenario: { type: 'string', multiple: true } },
    allowPositionals: true,
});
const versions = positionals.length ? positionals : ['2025-06-18', '2025-11-25', '2026-07-28'];
const fronts = options.front ? [options.front] : ['own', 'merged'];
const clients = options.client ? [options.client] : ['legacy', 'modern'];

function scenarios(version) {
    const text = execFileSync('conformance', ['list', '--client', '--spec-version', version], { encoding: 'utf8' });
    const all = [...text.matchAll(/^ +- (\S+) \[/gm)].map(([, name]) => name);
    return all.filter(name => !name.startsWith('auth/') && (options.scenario ?? all).includes(name));
}

// `VERSION CLIENT FRONT SCENARIO: why` on each line; `*` stands for every one, and each of them must fail.
function knownFailures() {
    const lines = fs.readFileSync(path.join(here, 'expected-failures-client.txt'), 'utf8').split('\n');
    return lines.filter(line => line.trim() && !line.startsWith('#')).map(line => {
        const found = /^(\S+) (\S+) (\S+) (\S+): +\S/.exec(line);
        if (!found) throw new Error(`expected-failures-client.txt: not "VERSION CLIENT FRONT SCENARIO: why": ${line}`);
        return { line, parts: found.slice(1), failed: 0, passed: 0 };
    });
}

function run({ version, client, front, scenario }) {
    const results = fs.mkdtempSync(path.join(folder, 'run-'));
    // The suite gives the command to a shell.
    const command = `'${process.execPath}' '${path.join(here, 'driver.mjs')}' --front ${front} --client ${client}`;
    const args = ['client', '--command', command, '--scenario', scenario, '--spec-version', version, '-o', results];
    // The suite's own patience is too short for a machine that has much else to do.
    args.push('--timeout', '150000');
    return new Promise(resolve => {
        execFile('conformance', args, { timeout: 200_000 }, (error, stdout, stderr) => {
            const said = `${stdout}${stderr}`;
            const closing = /^Passed: .*$/m.exec(said)?.[0] ?? 'the suite did not come to its end';
            const overall = /OVERALL: (\w+)/.exec(said)?.[1] ?? 'FAILED';
            const read = name => fs.readFileSync(fs.globSync(path.join(results, '**', name))[0] ?? os.devNull, 'utf8');
            const driven = /^driven$/m.test(read('stdout.txt'));
            const passed = !error && overall === 'PASSED' && driven && !closing.startsWith('Passed: 0/');
            const why = `${said.slice(said.indexOf('Test Results:'))}\n${driven ? '' : read('stderr.txt')}`;
            resolve({ version, client, front, scenario, closing, overall, driven, passed, why });
        });
    });
}

const known = knownFailures();
const applicable = versions.flatMap(version =>
    scenarios(version).flatMap(scenario =>
        fronts.flatMap(front => clients.map(client => ({ version, client, front, scenario }))),
    ),
);
const waiting = [...applicable];
const done = [];
let bad = 0;
async function work() {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
        const got = await run(next);
        done.push(got);
        const names = [got.version, got.client, got.front, got.scenario];
        const entry = known.find(({ parts }) => parts.every((part, at) => part === '*' || part === names[at]));
        if (entry) entry[got.passed ? 'passed' : 'failed'] += 1;
        const expected = got.passed !== Boolean(entry);
        const mark = expected ? (got.passed ? '✓' : '~') : '✗';
        const client = got.driven ? '' : ' (the client was not content)';
        const listed = entry ? (got.passed ? ' [listed, but it passes]' : ' [known]') : '';
        console.log(`${mark} ${names.join(' ')}: ${got.closing}, ${got.overall}${client}${listed}`);
        if (!expected && !got.passed) console.log(got.why.trimEnd().replace(/^/gm, '    '));
        bad += expected ? 0 : 1;
    }
}
// They wait more than they work.
await Promise.all(Array.from({ length: os.availableParallelism() + 1 }, work));

if (fronts.length > 1 && clients.length > 1 && !options.scenario && !positionals.length) {
    for (const { line, failed, passed } of known.filter(({ failed, passed }) => !failed && !passed)) {
        console.log(`✗ listed, but there is no such run any more: ${line}`);
        bad += 1;
    }
}
console.log();
for (const version of versions) {
    const own = done.filter(got => got.version === version);
    const passed = own.filter(got => got.passed).length;
    const checks = own.reduce((sum, { closing }) => sum + Number(/^Passed: (\d+)/.exec(closing)?.[1] ?? 0), 0);
    console.log(`conformance client ${version}: ${passed} of ${own.length} runs passed, ${checks} checks`);
}
process.exitCode = bad || !done.length ? 1 : 0;
