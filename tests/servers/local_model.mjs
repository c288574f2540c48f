// The official SDKs of OpenAI and Anthropic in front of a real model behind the gateway: whatever it says, it comes whole,
// as it is said, with its own counts.
//
//   node local_model.mjs GATEWAY KEY MODEL        says `ok` at the end

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.CAUSEWAY_NPM, "package.json"));
const { OpenAI } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");

const [base, key, model] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
const asked = { model, max_tokens: 5, temperature: 0, messages: [{ role: "user", content: "Once upon a time" }] };

const whole = await openai.chat.completions.create(asked);
assert.ok(whole.choices[0].message.content.length > 0);
assert.ok(whole.usage.completion_tokens <= 5 && whole.usage.prompt_tokens > 0);

let text = "";
let pieces = 0;
for await (const chunk of await openai.chat.completions.create({ ...asked, stream: true })) {
  const more = chunk.choices[0]?.delta?.content ?? "";
  text += more;
  pieces += more ? 1 : 0;
}
assert.equal(text, whole.choices[0].message.content);
assert.ok(pieces > 1);

const message = await anthropic.messages.create(asked);
assert.equal(message.content.map((block) => block.text ?? "").join(""), text);
assert.ok(message.usage.output_tokens <= 5 && message.usage.input_tokens > 0);
const streamed = await anthropic.messages.stream(asked).finalMessage();
assert.deepEqual(streamed.content.map((block) => block.text), message.content.map((block) => block.text));
assert.equal(streamed.stop_reason, message.stop_reason);
console.log("ok");
