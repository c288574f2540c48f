// What the era matrix drives (tests/suite/tests/matrix), as an author of a server on the official SDK 2.x writes it. Names and
// answers are those of the fixture, so that one table of rows serves both.
const { createHash } = require('node:crypto');
const { setTimeout: pause } = require('node:timers/promises');

const image = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const audio = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=';
const levels = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency'];

// States are tied to the request that they were made for.
const binding = ({ mcpReq }) => mcpReq.method;

module.exports = ({ inputRequired, inputResponse, createRequestStateCodec, z }) => {
    const codec = createRequestStateCodec({ key: createHash('sha256').update('features').digest(), ttlSeconds: 120, bind: binding });
    const says = value => ({ content: [{ type: 'text', text: typeof value === 'string' ? value : JSON.stringify(value) }] });
    const form = (key, message) =>
        inputRequired.elicit({
            message,
            requestedSchema: { type: 'object', properties: { [key]: { type: 'string' } }, required: [key] },
        });
    const model = prompt =>
        inputRequired.createMessage({
            messages: [{ role: 'user', content: { type: 'text', text: prompt } }],
            systemPrompt: 'Be brief.',
            maxTokens: 100,
        });
    const page = () => inputRequired.elicitUrl({ url: 'https://example.com/visit/1', message: 'Please visit this page.' });

    // The bare answer to `key`: of this round, or of one before. Undefined if it is still to be asked.
    const answered = (ctx, key) => {
        const known = { ...ctx.mcpReq.requestState()?.answers, ...ctx.mcpReq.inputResponses };
        return inputResponse(known, key).kind === 'missing' ? undefined : known[key];
    };
    const ask = async (ctx, inputRequests) => {
        const answers = { ...ctx.mcpReq.requestState()?.answers, ...ctx.mcpReq.inputResponses };
        return inputRequired({ inputRequests, requestState: await codec.mint({ answers }, ctx) });
    };
    // A tool that asks one thing and says what it was told.
    const asksOnce = (key, request, finish = says) => async (arguments_, ctx) => {
        const answer = answered(ctx, key);
        return answer === undefined ? ask(ctx, { [key]: request(arguments_) }) : finish(answer);
    };

    const options = { requestState: { verify: codec.verify } };

    function register(server, { handler, facts }) {
        const tool = (name, inputSchema, work, more = {}) =>
            server.registerTool(name, { description: `Tries ${name}`, inputSchema: z.object(inputSchema), ...more }, work);
        const report = async (ctx, progress, total) => {
            const progressToken = ctx.mcpReq._meta?.progressToken;
            if (progressToken === undefined) return;
            await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total } });
        };

        const via = { via: z.string().optional(), key: z.string().optional() };
        tool('ask_form', via, asksOnce('name', () => form('name', 'What is your name?')));
        tool('ask_url', {}, asksOnce('page', page));
        tool('needs_url', {}, asksOnce('page', page, ({ action }) => says(action)));
        tool('ask_model', { prompt: z.string() }, asksOnce('model', ({ prompt }) => model(prompt)));
        tool('ask_roots', {}, asksOnce('roots', () => inputRequired.listRoots()));
        tool('ask_all', {}, async (_, ctx) => {
            const questions = { name: form('name', 'What is your name?'), model: model('What is the capital of France?'), roots: inputRequired.listRoots() };
            const open = Object.entries(questions).filter(([key]) => answered(ctx, key) === undefined);
            if (open.length) return ask(ctx, Object.fromEntries(open));
            return says(Object.fromEntries(Object.keys(questions).map(key => [key, answered(ctx, key)])));
        });
        tool('ask_later', {}, async (_, ctx) => {
            const name = answered(ctx, 'name');
            if (name === undefined) return ask(ctx, { name: form('name', 'What is your name?') });
            const roots = answered(ctx, 'roots');
            return roots === undefined ? ask(ctx, { roots: inputRequired.listRoots() }) : says({ name, roots });
        });
        tool('ask_twice', {}, async (_, ctx) => {
            const first = answered(ctx, 'name');
            if (first === undefined) return ask(ctx, { name: form('name', 'What is your name?') });
            if (first.action !== 'accept') return says({ stopped: first.action });
            const second = answered(ctx, 'wish');
            if (second === undefined) return ask(ctx, { wish: form('wish', `What does ${first.content.name} want?`) });
            return says({ name: first.content.name, wish: second.content?.wish });
        });
        tool('ask_progress', {}, async (_, ctx) => {
            const answer = answered(ctx, 'name');
            if (answer === undefined) {
                await report(ctx, 1, 3);
                return ask(ctx, { name: form('name', 'What is your name?') });
            }
            await report(ctx, 2, 3);
            await report(ctx, 3, 3);
            return says(answer);
        });
        tool('progress', { steps: z.number() }, async ({ steps }, ctx) => {
            for (let step = 1; step <= steps; step++) {
                await report(ctx, step, steps);
                await pause(5);
            }
            return says('done');
        });
        tool('log', {}, async (_, ctx) => {
            for (const level of levels) await ctx.mcpReq.log(level, level, 'fixture');
            return says('logged');
        });
        const takeTime = async (ctx, call, ms = 10_000) => {
            try {
                await pause(ms, undefined, { signal: ctx.mcpReq.signal });
            } catch (error) {
                facts.stopped.push(`tools/call ${call}`);
                throw error;
            }
        };
        const time = { ms: z.number().optional(), key: z.string().optional() };
        tool('slow', { ...time, quiet: z.boolean().optional() }, async ({ ms, key, quiet }, ctx) => {
            if (!quiet) await report(ctx, 1, 2);
            await takeTime(ctx, `slow ${key}`, ms);
            return says('slowly done');
        });
        tool('ask_slow', time, async ({ ms, key }, ctx) => {
            const answer = answered(ctx, 'name');
            if (answer === undefined) return ask(ctx, { name: form('name', 'What is your name?') });
            await report(ctx, 1, 2);
            await takeTime(ctx, `ask_slow ${key}`, ms);
            return says(answer);
        });
        tool('cancelled_calls', {}, async () => says(facts.stopped));
        tool('change', { list: z.string() }, async ({ list }) => {
            handler().notify[`${list}Changed`]();
            return says('changed');
        });
        tool('update', { uri: z.string() }, async ({ uri }) => {
            handler().notify.resourceUpdated(uri);
            return says('updated');
        });
        tool('content', {}, async () => ({
            content: [
                { type: 'text', text: 'plain text' },
                { type: 'image', data: image, mimeType: 'image/png' },
                { type: 'resource', resource: { uri: 'test://embedded', mimeType: 'text/plain', text: 'embedded' } },
                { type: 'audio', data: audio, mimeType: 'audio/wav' },
                { type: 'resource_link', uri: 'test://static-text', name: 'static-text', mimeType: 'text/plain' },
                { type: 'text', text: '{"answer":42}' },
            ],
            structuredContent: { answer: 42 },
        }));
        const structured = value => async () => ({ ...says(value), structuredContent: value });
        tool('structured', {}, structured({ answer: 42 }), { outputSchema: z.object({ answer: z.number() }) });
        tool('structured_list', {}, structured([1, 2, 3]), { outputSchema: z.array(z.number()) });

        server.registerPrompt('test_simple_prompt', { description: 'Takes nothing' }, () => ({
            messages: [{ role: 'user', content: { type: 'text', text: 'This is a simple prompt for testing.' } }],
        }));
        server.registerPrompt('ask_prompt', { description: 'Asks for a name' }, async ctx => {
            const answer = answered(ctx, 'name');
            if (answer === undefined) return ask(ctx, { name: form('name', 'What is your name?') });
            return { messages: [{ role: 'user', content: { type: 'text', text: JSON.stringify(answer) } }] };
        });
        server.registerResource('asking', 'test://asking', { mimeType: 'text/plain' }, async (uri, ctx) => {
            const answer = answered(ctx, 'name');
            if (answer === undefined) return ask(ctx, { name: form('name', 'What is your name?') });
            return { contents: [{ uri: uri.href, mimeType: 'text/plain', text: JSON.stringify(answer) }] };
        });
        server.registerResource('watched-resource', 'test://watched-resource', { mimeType: 'text/plain' }, async uri => ({
            contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'Watched resource content' }],
        }));
    }
    return { options, register };
};
