// The client under test of the official suite's client scenarios: the gateway. It starts one whose only server is the
// scenario's, and acts as a plain client in front of it, so that what the scenario sees and judges (requests, headers,
// `_meta`, pauses) is the gateway's own doing. What only an end client can do (fill in a form) is done here, and the
// gateway must carry it.
//
//   driver.mjs [--front own|merged|none] [--client legacy|modern] URL
//
//   --front     where the client asks: /mcp/under (own), /mcp (merged), or the scenario's server itself (none: the
//               gateway is left out, to see whom a failure belongs to)
//   --client    the SDK in front: 1.x, which speaks the legacy era, or 2.x, pinned to 2026-07-28. Without it the one
//               whose era is the scenario's
//
// With CAUSEWAY_HOST=cloudflare the gateway is the Worker, with CAUSEWAY_HOST=spin the component. The suite says the rest in
// MCP_CONFORMANCE_SCENARIO, _PROTOCOL_VERSION and _CONTEXT. The last line of stdout is `driven` if everything that the
// client itself saw was right: the suite does not judge that.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.resolve(import.meta.dirname, '..', '..');
const npm = createRequire(`${process.env.CAUSEWAY_NPM}/package.json`);
const modernRevision = '2026-07-28';
const me = { name: 'driver', version: '1' };
const runner = { cloudflare: 'workerd.mjs', spin: 'spin.mjs' }[process.env.CAUSEWAY_HOST];
const atEdge = runner !== undefined;
// A gateway at the edge serves nobody without a key.
const headers = atEdge ? { authorization: 'Bearer key-of-the-driver' } : {};
// Far more than any scenario takes. The suite itself waits longer, and then ends only the shell that it started this with.
const PATIENCE = 120_000;

const { values: options, positionals } = parseArgs({
    options: { front: { type: 'string', default: 'own' }, client: { type: 'string' } },
    allowPositionals: true,
});
const url = positionals.at(-1);
const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
const revision = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const context = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}');
const era = options.client ?? (revision === modernRevision ? 'modern' : 'legacy');

// A gateway in front of `under`; gives its URL. It ends with this process.
async function gateway(under) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'causeway-driver-'));
    const config = path.join(folder, 'causeway.json');
    const hash = createHash('sha256').update('key-of-the-driver').digest('hex');
    const keys = atEdge ? { keys: { driver: { hash: `sha256:${hash}` } } } : {};
    fs.writeFileSync(config, JSON.stringify({ mcpServers: { under: { url: under } }, ...keys }));
    const target = process.env.CARGO_TARGET_DIR ?? path.join(root, 'target');
    const program = process.env.CAUSEWAY_BIN ?? path.join(target, process.env.CAUSEWAY_PROFILE ?? 'debug', 'causeway');
    const [command, ...args] = atEdge
        ? [process.execPath, path.join(root, 'tests', 'hosts', runner), '--config', config]
        : [program, 'serve', '--config', config, '--listen', '127.0.0.1:0', '--state', 'memory'];
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    process.on('exit', () => {
        child.kill('SIGKILL');
        fs.rmSync(folder, { recursive: true, force: true });
    });
    return new Promise((resolve, reject) => {
        let said = '';
        child.on('error', reject);
        child.on('exit', code => reject(new Error(`the gateway ended with code ${code}:\n${said}`)));
        child.stderr.setEncoding('utf8').on('data', text => {
            process.stderr.write(text);
            said += text;
            const found = /^listening on (\S+)/m.exec(said);
            if (found) resolve(found[1].replace(/\/mcp\/?$/, ''));
        });
    });
}

// A client of either SDK, under one face. `answer` makes the content of a form.
async function connect(endpoint, answer) {
    const capabilities = answer ? { elicitation: { form: { applyDefaults: true } } } : {};
    const fill = request => ({ action: 'accept', content: answer(request.params) });
    if (era === 'legacy') {
        const { Client } = npm('@modelcontextprotocol/sdk/client/index.js');
        const { StreamableHTTPClientTransport } = npm('@modelcontextprotocol/sdk/client/streamableHttp.js');
        const { ElicitRequestSchema } = npm('@modelcontextprotocol/sdk/types.js');
        const client = new Client(me, { capabilities });
        if (answer) client.setRequestHandler(ElicitRequestSchema, fill);
        await client.connect(new StreamableHTTPClientTransport(new URL(endpoint), { requestInit: { headers } }));
        return client;
    }
    const { Client, StreamableHTTPClientTransport } = npm('@modelcontextprotocol/client');
    // Pinned: falling back to an older revision would hide that the modern one does not work.
    const client = new Client(me, { capabilities, versionNegotiation: { mode: { pin: modernRevision } } });
    if (answer) client.setRequestHandler('elicitation/create', fill);
    await client.connect(new StreamableHTTPClientTransport(new URL(endpoint), { requestInit: { headers } }));
    return client;
}

// The tools as they come over the wire: the modern SDK leaves out by itself what the gateway has to leave out.
async function listed(endpoint, client) {
    if (era === 'legacy') return (await client.listTools()).tools;
    const meta = { protocolVersion: modernRevision, clientInfo: me, clientCapabilities: {} };
    const named = Object.fromEntries(Object.entries(meta).map(([key, value]) => [`io.modelcontextprotocol/${key}`, value]));
    const response = await fetch(endpoint, {
        method: 'POST',
        headers: {
            ...headers,
            'content-type': 'application/json',
            accept: 'application/json, text/event-stream',
            'mcp-protocol-version': modernRevision,
            'mcp-method': 'tools/list',
        },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: { _meta: named } }),
    });
    const body = await response.text();
    const events = body.split('\n').filter(line => line.startsWith('data: {'));
    return JSON.parse(events.length ? events.at(-1).slice(6) : body).result.tools;
}

// What the client does in each scenario, and what it must see. `call` takes the server's own name of a tool.
const acts = {
    initialize: async ({ client }) => {
        await client.listTools();
    },
    tools_call: async ({ names, call }) => {
        assert.deepEqual(await names(), ['add_numbers']);
        assert.equal(await call('add_numbers', { a: 5, b: 3 }), 'The sum of 5 and 3 is 8');
    },
    'elicitation-sep1034-client-defaults': async ({ call }) => {
        assert.match(await call('test_client_elicitation_defaults'), /^Elicitation completed/);
    },
    'sse-retry': async ({ call }) => {
        assert.equal(await call('test_reconnection'), 'Reconnection test completed successfully');
    },
    'request-metadata': async ({ names }) => {
        assert.deepEqual(await names(), []);
    },
    'sep-2322-client-request-state': async ({ names, call }) => {
        assert.equal((await names()).length, 4);
        // The unrelated call is made while the other waits for its form.
        const [echoed, unrelated] = await Promise.all([call('test_mrtr_echo_state'), call('test_mrtr_unrelated')]);
        assert.deepEqual([echoed, unrelated], ['echo-state-ok', 'unrelated-ok']);
        assert.equal(await call('test_mrtr_no_state'), 'no-state-ok');
        // This server breaks its own revision; the gateway passes on what came, and the modern SDK will not have it.
        const told = await call('test_mrtr_no_result_type').catch(error => error.data?.violation ?? error.message);
        assert.equal(told, era === 'modern' ? 'missing-resultType' : 'no-result-type-test-ok');
    },
    'http-standard-headers': async ({ client, names, call, shown }) => {
        for (const name of await names()) assert.equal(await call(name), 'Headers test completed');
        const { resources } = await client.listResources();
        assert.equal(resources.length, 2);
        for (const { uri } of resources) await client.readResource({ uri });
        const { prompts } = await client.listPrompts();
        assert.deepEqual(prompts.map(prompt => prompt.name), [shown('test_prompt')]);
        await client.getPrompt({ name: shown('test_prompt') });
    },
    'http-custom-headers': async ({ names, call }) => {
        assert.deepEqual(await names(), ['test_custom_headers', 'test_custom_headers_null']);
        assert.equal(context.toolCalls.length, 2);
        for (const { name, arguments: given } of context.toolCalls) {
            assert.equal(await call(name, given), 'Custom headers test completed');
        }
    },
    // Calls whatever it is shown, as a model would.
    'http-invalid-tool-headers': async ({ names, call }) => {
        const seen = await names();
        for (const name of seen) await call(name, { region: 'us-west1' });
        assert.deepEqual(seen, ['valid_tool']);
    },
    // The server has no tools/call: the error must come back, and the schema stay unread.
    'json-schema-ref-no-deref': async ({ names, call }) => {
        assert.deepEqual(await names(), ['lookup_user']);
        await assert.rejects(call('lookup_user', { id: 'a', profile: {} }), { code: -32601 });
    },
    'json-schema-2020-12-preservation': async ({ tools, call }) => {
        const focal = (await tools()).find(tool => tool.name === 'json_schema_2020_12_tool');
        assert.equal(await call('json_schema_echo', { schema: focal.inputSchema }), 'echoed');
    },
};

// What a form gets: nothing, so that defaults must do, or what the schema wants.
const forms = {
    'elicitation-sep1034-client-defaults': () => ({}),
    'sep-2322-client-request-state': () => ({ confirmed: true }),
};

async function main() {
    const act = acts[scenario];
    if (!act) throw new Error(`nobody has said what a client does in the scenario ${scenario}`);
    const merged = options.front === 'merged';
    const base = options.front === 'none' ? undefined : await gateway(url);
    const endpoint = base ? `${base}/mcp${merged ? '' : '/under'}` : url;
    const client = await connect(endpoint, forms[scenario]);
    const shown = name => (merged ? `under__${name}` : name);
    const own = tool => ({ ...tool, name: merged ? tool.name.replace(/^under__/, '') : tool.name });
    const tools = async () => {
        // The SDK mirrors arguments of tools that it has listed itself.
        await client.listTools();
        return (await listed(endpoint, client)).map(own);
    };
    const names = async () => (await tools()).map(tool => tool.name);
    const call = async (name, given = {}) => {
        const result = await client.callTool({ name: shown(name), arguments: given });
        return result.content[0].text;
    };
    await act({ client, tools, names, call, shown });
    await client.close();
    console.log('driven');
}

setTimeout(() => {
    console.error(`not done within ${PATIENCE} ms`);
    process.exit(1);
}, PATIENCE).unref();
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(1));
main().then(
    () => process.exit(0),
    error => {
        console.error(error);
        process.exit(1);
    },
);
