// The official SDK 2.x, a modern client: connects, uses everything once, prints what it got as JSON.
//   sdk2.cjs URL PLAN [KEY]      PLAN: JSON, see run.cjs; CAUSEWAY_STDIO: go through this program's `stdio`
const tools = require('node:module').createRequire(`${process.env.CAUSEWAY_NPM}/package.json`);
const { Client, StreamableHTTPClientTransport } = tools('@modelcontextprotocol/client');
const { StdioClientTransport } = tools('@modelcontextprotocol/client/stdio');
const { stdio, use } = require('./use.cjs');

const [url, plan, key] = process.argv.slice(2);
const headers = key ? { authorization: `Bearer ${key}` } : {};
// Pinned: falling back to an older revision would hide that the modern one does not work.
const client = new Client(
    { name: 'sdk2', version: '1' },
    { versionNegotiation: { mode: { pin: '2026-07-28' } } },
);
const transport = process.env.CAUSEWAY_STDIO
    ? new StdioClientTransport(stdio(url, key))
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });

(async () => {
    await client.connect(transport);
    const got = await use(client, JSON.parse(plan), onprogress => [{ onprogress }]);
    console.log(JSON.stringify({ client: 'sdk 2.x', revision: client.getNegotiatedProtocolVersion?.(), ...got }));
    await client.close();
})().catch(error => {
    console.error(error);
    process.exit(1);
});
