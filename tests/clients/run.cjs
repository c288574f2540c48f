// Real clients, through the gateway, to real servers: every client uses every server, merged and as it is.
//   run.cjs [--direct] [CLIENT]...      CAUSEWAY_HOST=cloudflare|spin: through the Worker or the component
//                                       --direct: without the gateway, each client with the servers of its era
const { spawn, execFile } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: pause } = require('node:timers/promises');

const root = path.join(__dirname, '..', '..');
const built = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), process.env.CAUSEWAY_PROFILE ?? 'debug');
const program = name => path.join(built, name);
const npm = name => path.join(process.env.CAUSEWAY_NPM, 'node_modules', name);
const key = 'key-of-the-clients';
const children = [];

const clients = {
    sdk1: { era: 'legacy', command: [process.execPath, path.join(__dirname, 'sdk1.cjs')] },
    sdk2: { era: 'modern', command: [process.execPath, path.join(__dirname, 'sdk2.cjs')] },
    python: { era: 'modern', command: [process.env.CAUSEWAY_PYTHON, path.join(__dirname, 'python_sdk.py')] },
    'python-legacy': {
        era: 'legacy',
        command: [process.env.CAUSEWAY_PYTHON, path.join(__dirname, 'python_sdk.py')],
        env: { CAUSEWAY_CLIENT_MODE: 'legacy' },
    },
    rmcp: { era: 'modern', command: [program('causeway-rmcp'), 'client'] },
    'rmcp-legacy': { era: 'legacy', command: [program('causeway-rmcp'), 'client', '--legacy'] },
};

// The same SDKs as clients that only speak stdio.
for (const name of ['sdk1', 'sdk2', 'python', 'python-legacy']) {
    const CAUSEWAY_STDIO = process.env.CAUSEWAY_BIN ?? program('causeway');
    // The JavaScript SDKs take an answer at once and a notification a moment later, when nobody waits for it any
    // more: a last progress that comes out of the pipe together with the answer is lost.
    const lossy = name.startsWith('sdk');
    clients[`${name}-stdio`] = { ...clients[name], env: { ...clients[name].env, CAUSEWAY_STDIO }, lossy };
}

// What the fixture, the SDK's server and the rmcp server have in common.
const usual = {
    echo: { name: 'echo', arguments: { text: 'hello' } },
    progress: { name: 'test_tool_with_progress', arguments: {} },
    resource: 'test://static-text',
    prompt: { name: 'test_prompt_with_arguments', arguments: { arg1: 'a', arg2: 'b' } },
    missing: 'test://nothing',
};

const servers = {
    modern: { eras: ['modern'], command: port => [program('causeway-fixture'), '--era', 'modern', '--listen', `127.0.0.1:${port}`] },
    legacy: { eras: ['legacy'], command: port => [program('causeway-fixture'), '--era', 'legacy', '--listen', `127.0.0.1:${port}`] },
    sdk2: { eras: ['modern'], command: port => [process.execPath, path.join(__dirname, '..', 'servers', 'sdk2.cjs'), `${port}`] },
    rmcp: { eras: ['modern', 'legacy'], command: port => [program('causeway-rmcp'), 'serve', `127.0.0.1:${port}`] },
    everything: {
        eras: ['legacy'],
        command: () => [process.execPath, npm('@modelcontextprotocol/server-everything/dist/index.js'), 'streamableHttp'],
        plan: {
            echo: { name: 'echo', arguments: { message: 'hello' } },
            progress: { name: 'trigger-long-running-operation', arguments: { duration: 0.2, steps: 4 } },
            resource: 'demo://resource/static/document/features.md',
            prompt: { name: 'args-prompt', arguments: { city: 'Paris' } },
            missing: 'demo://nothing',
        },
    },
};

// The same over the oldest transport; what it is, the gateway finds out.
servers['everything-sse'] = {
    ...servers.everything,
    eras: [],
    path: '/sse',
    command: () => [...servers.everything.command().slice(0, -1), 'sse'],
};

const freePort = () =>
    new Promise(resolve => {
        const probe = net.createServer().listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });

// Starts a program and gives what it writes to stderr, as it grows.
function start(name, [command, ...args], env = {}) {
    const said = { text: '' };
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
    child.stderr.on('data', chunk => (said.text += chunk));
    child.on('error', error => (said.text += `${name}: ${error.message}`));
    children.push(child);
    return said;
}

async function reachable(port) {
    for (let n = 0; n < 400; n++) {
        const open = await new Promise(resolve => {
            const socket = net.connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
            socket.on('connect', () => socket.destroy());
        });
        if (open) return;
        await pause(25);
    }
    throw new Error(`nobody listens on port ${port}`);
}

async function startServers() {
    const urls = {};
    for (const [name, server] of Object.entries(servers)) {
        const port = await freePort();
        start(name, server.command(port), { PORT: `${port}` });
        await reachable(port);
        urls[name] = `http://127.0.0.1:${port}${server.path ?? '/mcp'}`;
    }
    return urls;
}

async function startGateway(urls) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'causeway-clients-'));
    const file = path.join(folder, 'causeway.json');
    const hash = `sha256:${createHash('sha256').update(key).digest('hex')}`;
    const mcpServers = Object.fromEntries(Object.entries(urls).map(([name, url]) => [name, { url }]));
    fs.writeFileSync(file, JSON.stringify({ mcpServers, keys: { clients: { hash } } }));
    const causeway = process.env.CAUSEWAY_BIN ?? program('causeway');
    const runner = { cloudflare: 'workerd.mjs', spin: 'spin.mjs' }[process.env.CAUSEWAY_HOST];
    const command =
        runner !== undefined
            ? [process.execPath, path.join(root, 'tests', 'hosts', runner), '--config', file]
            : [causeway, 'serve', '--config', file, '--listen', '127.0.0.1:0'];
    const said = start('causeway', command, { XDG_STATE_HOME: folder });
    for (let n = 0; n < 400; n++) {
        const found = /listening on (\S+?)(\/mcp)?\s/.exec(said.text);
        if (found) return found[1];
        await pause(25);
    }
    throw new Error(`the gateway did not start:\n${said.text}`);
}

function prefixed(plan, prefix) {
    const named = thing => ({ ...thing, name: `${prefix}${thing.name}` });
    return { ...plan, echo: named(plan.echo), progress: named(plan.progress), prompt: named(plan.prompt) };
}

const run = (command, args, env) =>
    new Promise(resolve => {
        const options = { env: { ...process.env, ...env }, timeout: 60_000, maxBuffer: 64 << 20 };
        execFile(command, args, options, (error, stdout, stderr) => resolve({ error, stdout, stderr }));
    });

// What is wrong with what a client got; nothing if all is well.
function wrong(got, plan, { era, lossy }) {
    const problems = [];
    const want = (is, what) => is || problems.push(what);
    want(era === 'modern' ? got.revision === '2026-07-28' : got.revision?.startsWith('2025-'), `revision ${got.revision}`);
    want(got.tools.includes(plan.echo.name), `tools ${got.tools}`);
    want(got.echo?.includes('hello'), `echo ${got.echo}`);
    want(got.progress.length >= (lossy ? 2 : 3) && got.progress.every((at, n, all) => n === 0 || at > all[n - 1]), `progress ${got.progress}`);
    want(got.resource?.length > 0, `resource ${got.resource}`);
    want(got.prompt?.length > 0, `prompt ${got.prompt}`);
    want(typeof got.missing === 'number', `missing ${got.missing}`);
    return problems;
}

async function main() {
    const direct = process.argv.includes('--direct');
    const chosen = process.argv.slice(2).filter(arg => !arg.startsWith('--'));
    const unknown = chosen.filter(name => !clients[name]);
    if (unknown.length) throw new Error(`no client is called ${unknown}; there are ${Object.keys(clients)}`);
    const urls = await startServers();
    const base = direct ? undefined : await startGateway(urls);
    let bad = 0;
    let tried = 0;
    for (const name of chosen.length ? chosen : Object.keys(clients)) {
        const client = clients[name];
        for (const [server, { eras, plan = usual }] of Object.entries(servers)) {
            if (direct && !eras.includes(client.era)) continue;
            const ways = direct
                ? [[urls[server], plan, undefined]]
                : [[`${base}/mcp/${server}`, plan, key], [`${base}/mcp`, merged(server, plan), key]];
            for (const [url, used, secret] of ways) {
                const [command, ...args] = client.command;
                const more = secret ? [secret] : [];
                const { error, stdout, stderr } = await run(command, [...args, url, JSON.stringify(used), ...more], client.env);
                const problems = error ? [stderr.trim().split('\n').slice(-8).join('\n    ') || `no answer (${error.signal ?? error.code})`] : wrong(JSON.parse(stdout), used, client);
                const what = `${name} → ${direct ? '' : new URL(url).pathname + ' → '}${server}`;
                console.log(problems.length ? `✗ ${what}: ${problems.join('; ')}` : `✓ ${what}`);
                bad += problems.length ? 1 : 0;
                tried += 1;
            }
        }
    }
    console.log(`clients: ${tried - bad} of ${tried} pairs of client and server passed`);
    return bad;
}

// At /mcp a resource that an earlier server has, too, is offered under the later server's name.
function merged(server, plan) {
    const names = Object.keys(servers);
    const owner = names.find(name => (servers[name].plan ?? usual).resource === plan.resource);
    const resource = owner === server ? plan.resource : `${server}+${plan.resource}`;
    return { ...prefixed(plan, `${server}__`), resource };
}

main()
    .then(
        bad => (process.exitCode = bad ? 1 : 0),
        error => {
            console.error(error.message);
            process.exitCode = 1;
        },
    )
    .finally(() => children.forEach(child => child.kill()));
