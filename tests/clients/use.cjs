// What both JavaScript clients have in common.

// What an entry of mcp.json says: the command of a server, here one that is somewhere else.
exports.stdio = (url, key) => ({
    command: process.env.CAUSEWAY_STDIO,
    args: ['stdio', '--url', url],
    env: key ? { CAUSEWAY_KEY: key } : {},
});

// All items of a list, page by page.
async function all(list, key) {
    const items = [];
    let cursor;
    do {
        const page = await list(cursor ? { cursor } : {});
        items.push(...page[key]);
        cursor = page.nextCursor;
    } while (cursor);
    return items;
}

// Uses each thing that the plan names and says what came of it.
exports.use = async (client, plan, watching) => {
    const tools = await all(params => client.listTools(params), 'tools');
    const echo = await client.callTool(plan.echo);
    const progress = [];
    await client.callTool(plan.progress, ...watching(told => progress.push(told.progress)));
    const resource = await client.readResource({ uri: plan.resource });
    const prompt = await client.getPrompt(plan.prompt);
    let missing;
    try {
        await client.readResource({ uri: plan.missing });
    } catch (error) {
        missing = error.code;
    }
    return {
        tools: tools.map(tool => tool.name),
        echo: echo.content[0].text,
        progress,
        resource: resource.contents[0].text,
        prompt: prompt.messages[0].content.text,
        missing,
    };
};
