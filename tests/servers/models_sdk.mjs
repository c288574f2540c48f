// The official SDKs of OpenAI and Anthropic in front of the gateway: nothing but the base URL and the key is changed.
//
//   node models_sdk.mjs GATEWAY KEY MODEL...      each model is asked everything; says `ok` at the end

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.CAUSEWAY_NPM, "package.json"));
const { OpenAI } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");

const [base, key, ...models] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });

const png = "iVBORw0KGgo=";
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

async function withOpenai(model) {
  const ask = (content, more = {}) =>
    openai.chat.completions.create({ model, messages: [{ role: "user", content }], ...more });
  const plain = await ask("Hello");
  assert.equal(plain.choices[0].message.content, "You said: Hello");
  assert.equal(plain.usage.total_tokens, 30);

  let text = "";
  let usage;
  const stream = await ask("Hello", { stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "You said: Hello");
  assert.equal(usage.completion_tokens, 9);

  const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];
  const runner = openai.chat.completions.stream({
    model,
    messages: [{ role: "user", content: "The weather in Paris and Rome?" }],
    tools,
  });
  const called = (await runner.finalChatCompletion()).choices[0];
  assert.equal(called.finish_reason, "tool_calls");
  const calls = called.message.tool_calls;
  assert.deepEqual(calls.map((call) => JSON.parse(call.function.arguments)), [{ city: "Paris" }, { city: "Rome" }]);
  const results = calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sun" }));
  const after = await openai.chat.completions.create({
    model,
    messages: [{ role: "user", content: "The weather in Paris and Rome?" }, called.message, ...results],
    tools,
  });
  assert.equal(after.choices[0].message.content, "The tools say sun and sun.");

  const image = await ask([
    { type: "text", text: "What is it?" },
    { type: "image_url", image_url: { url: `data:image/png;base64,${png}` } },
  ]);
  assert.equal(image.choices[0].message.content, "An image of 12 characters.");
}

async function withAnthropic(model) {
  const ask = (content, more = {}) =>
    anthropic.messages.create({ model, max_tokens: 4000, messages: [{ role: "user", content }], ...more });
  const plain = await ask("Hello");
  assert.equal(plain.content[0].text, "You said: Hello");
  assert.equal(plain.usage.output_tokens, 9);

  const stream = anthropic.messages.stream({ model, max_tokens: 4000, messages: [{ role: "user", content: "Hello" }] });
  let text = "";
  stream.on("text", (more) => (text += more));
  const final = await stream.finalMessage();
  assert.equal(text, "You said: Hello");
  assert.equal(final.stop_reason, "end_turn");

  const tools = [{ name: "weather", input_schema: schema }];
  const question = { role: "user", content: "The weather in Paris and Rome?" };
  const called = await anthropic.messages
    .stream({ model, max_tokens: 4000, messages: [question], tools })
    .finalMessage();
  assert.equal(called.stop_reason, "tool_use");
  const calls = called.content.filter((block) => block.type === "tool_use");
  assert.deepEqual(calls.map((call) => call.input), [{ city: "Paris" }, { city: "Rome" }]);
  const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "sun" }));
  const after = await anthropic.messages.create({
    model,
    max_tokens: 4000,
    messages: [question, { role: "assistant", content: called.content }, { role: "user", content: results }],
    tools,
  });
  assert.equal(after.content[0].text, "The tools say sun and sun.");

  const thought = await anthropic.messages
    .stream({
      model,
      max_tokens: 4000,
      thinking: { type: "enabled", budget_tokens: 2000 },
      messages: [{ role: "user", content: "Think" }],
    })
    .finalMessage();
  assert.equal(thought.content[0].thinking, "Let me think.");
  assert.equal(thought.content[1].text, "You said: Think");
  assert.ok((await anthropic.messages.countTokens({ model, messages: [{ role: "user", content: "Hello" }] })).input_tokens);
}

async function refusals() {
  // Asked through a conversion: what passes through is refused by the provider, if at all.
  const model = models.find((name) => !name.startsWith("openai")) ?? models[0];
  await assert.rejects(
    openai.chat.completions.create({ model, messages: [], n: 2 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "n",
  );
  const stranger = new OpenAI({ baseURL: `${base}/v1`, apiKey: "wrong", maxRetries: 0 });
  const lost = new Anthropic({ baseURL: base, apiKey: "wrong", maxRetries: 0 });
  if (key !== "none") {
    await assert.rejects(stranger.models.list(), (error) => error instanceof OpenAI.AuthenticationError);
    await assert.rejects(lost.models.list(), (error) => error instanceof Anthropic.AuthenticationError);
  }
  await assert.rejects(
    anthropic.messages.create({ model: models[0], max_tokens: 9, messages: [] }),
    (error) => error instanceof Anthropic.BadRequestError,
  );
  const listed = [];
  for await (const model of openai.models.list()) listed.push(model.id);
  const paged = [];
  for await (const model of anthropic.models.list()) paged.push(model.id);
  assert.deepEqual(listed, paged);
  assert.ok(listed.length > 0);
}

for (const model of models) {
  await withOpenai(model).catch((error) => assert.fail(`openai to ${model}: ${error.stack}`));
  await withAnthropic(model).catch((error) => assert.fail(`anthropic to ${model}: ${error.stack}`));
}
await refusals();
console.log("ok");
