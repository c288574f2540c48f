// The official SDK 1.x, a legacy client: connects, uses everything once, prints what it got as JSON.
//   sdk1.cjs URL PLAN [KEY]      PLAN: JSON, see run.cjs; CAUSEWAY_STDIO: go through this program's `stdio`
const tools = require('node:module').createRequire(`${process.env.CAUSEWAY_NPM}/package.json`);
const { Client } = tools('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = tools('@modelcontextprotocol/sdk/client/stdio.js');
const { StreamableHTTPClientTransport } = tools('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { stdio, use } = require('./use.cjs');

const [url, plan, key] = process.argv.slice(2);
const headers = key ? { authorization: `Bearer ${key}` } : {};
const client = new Client({ name: 'sdk1', version: '1' });
const transport = process.env.CAUSEWAY_STDIO
    ? new StdioClientTransport(stdio(url, key))
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
// Pipes have no use for the revision, so their transport does not keep it.
transport.setProtocolVersion ??= revision => (transport.protocolVersion = revision);

(async () => {
    await client.connect(transport);
    const got = await use(client, JSON.parse(plan), onprogress => [undefined, { onprogress }]);
    console.log(JSON.stringify({ client: 'sdk 1.x', revision: transport.protocolVersion, ...got }));
    await transport.terminateSession?.();
    await client.close();
})().catch(error => {
    console.error(error);
    process.exit(1);
});
