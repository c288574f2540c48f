// A real server of the modern era: the official SDK 2.x, with what the clients in tests/clients use and, from features.cjs,
// what the era matrix drives.
//   sdk2.cjs [PORT]      prints `listening on URL` on stderr
// GET /facts says what the server saw of its clients; POST /facts forgets it.
const tools = require('node:module').createRequire(`${process.env.CAUSEWAY_NPM}/package.json`);
const sdk = tools('@modelcontextprotocol/server');
const { McpServer, createMcpHandler } = sdk;
const { z } = tools('zod');
const http = require('node:http');
const { Readable } = require('node:stream');
const { buffer } = require('node:stream/consumers');
const { setTimeout: pause } = require('node:timers/promises');

const features = require('./features.cjs')({ ...sdk, z });
const facts = { stopped: [], called: [], told: [], listeners: 0, streams: 0 };

function build() {
    const capabilities = {
        logging: {},
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { subscribe: true, listChanged: true },
    };
    const server = new McpServer(
        { name: 'sdk2', version: '1' },
        { instructions: 'A server of the official SDK.', capabilities, ...features.options },
    );
    features.register(server, { handler: () => handler, facts });
    const text = text => ({ content: [{ type: 'text', text }] });
    server.registerTool(
        'echo',
        { description: 'Says what it is told', inputSchema: z.object({ text: z.string() }) },
        async ({ text: said }) => text(said),
    );
    server.registerTool('fail', { description: 'Always fails' }, async () => ({ ...text('it went wrong'), isError: true }));
    server.registerTool(
        'test_tool_with_progress',
        { description: 'Reports progress', inputSchema: z.object({}) },
        async (_, { mcpReq }) => {
            const progressToken = mcpReq._meta?.progressToken;
            for (const progress of [0, 50, 100]) {
                if (progressToken !== undefined)
                    await mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
                await pause(20);
            }
            return text('done');
        },
    );
    server.registerResource('static-text', 'test://static-text', { mimeType: 'text/plain' }, async uri => ({
        contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'This is the content of the static text resource.' }],
    }));
    server.registerPrompt(
        'test_prompt_with_arguments',
        { argsSchema: z.object({ arg1: z.string(), arg2: z.string() }) },
        ({ arg1, arg2 }) => ({
            messages: [
                { role: 'user', content: { type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` } },
            ],
        }),
    );
    return server;
}

// Modern only: the gateway in front is what serves legacy clients.
const handler = createMcpHandler(build, { legacy: 'reject' });

const listener = http.createServer(async (request, response) => {
    const body = ['GET', 'HEAD'].includes(request.method) ? undefined : await buffer(request);
    if (request.url === '/facts') {
        if (request.method === 'POST') for (const list of ['stopped', 'called', 'told']) facts[list].length = 0;
        return response.end(JSON.stringify(facts));
    }
    const method = request.headers['mcp-method'];
    facts.told.push(method);
    if (request.headers['mcp-name']) facts.called.push(request.headers['mcp-name']);
    const listens = method === 'subscriptions/listen';
    if (listens) facts.listeners++;
    const gone = new AbortController();
    response.on('close', () => {
        gone.abort();
        if (!listens) return;
        facts.listeners--;
        facts.stopped.push(method);
    });
    const url = `http://${request.headers.host}${request.url}`;
    const asked = new Request(url, {
        method: request.method,
        headers: request.headers,
        body,
        signal: gone.signal,
    });
    const answer = await handler.fetch(asked);
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    response.flushHeaders();
    if (answer.body) Readable.fromWeb(answer.body).on('error', () => response.destroy()).pipe(response);
    else response.end();
});
listener.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
    console.error(`listening on http://127.0.0.1:${listener.address().port}/mcp`);
});
