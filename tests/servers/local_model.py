"""The official Python SDKs of OpenAI and Anthropic in front of a real model behind the gateway.

    python local_model.py GATEWAY KEY MODEL        says `ok` at the end
"""

import sys

import anthropic as anthropic_sdk
import openai as openai_sdk

base, key, model = sys.argv[1:]
openai = openai_sdk.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
anthropic = anthropic_sdk.Anthropic(base_url=base, api_key=key, max_retries=0)
asked = {
    "model": model,
    "max_tokens": 5,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Once upon a time"}],
}


def same(got, expected):
    assert got == expected, f"{got!r} instead of {expected!r}"


whole = openai.chat.completions.create(**asked)
assert whole.choices[0].message.content
assert whole.usage.completion_tokens <= 5 and whole.usage.prompt_tokens > 0

pieces = []
for chunk in openai.chat.completions.create(**asked, stream=True):
    if chunk.choices and chunk.choices[0].delta.content:
        pieces.append(chunk.choices[0].delta.content)
same("".join(pieces), whole.choices[0].message.content)
assert len(pieces) > 1

# This SDK has no word for it.
told = {**asked, "extra_body": {"temperature": asked["temperature"]}}
del told["temperature"]
message = anthropic.messages.create(**told)
same("".join(block.text for block in message.content), "".join(pieces))
assert message.usage.output_tokens <= 5 and message.usage.input_tokens > 0
with anthropic.messages.stream(**told) as stream:
    same("".join(stream.text_stream), "".join(pieces))
    same(stream.get_final_message().stop_reason, message.stop_reason)
print("ok")
