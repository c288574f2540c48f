"""The official Python SDKs of OpenAI and Anthropic in front of the gateway: only the base URL and the key are changed.

    python models_sdk.py GATEWAY KEY MODEL...      each model is asked everything; says `ok` at the end
"""

import json
import sys

import anthropic as anthropic_sdk
import openai as openai_sdk

base, key, *models = sys.argv[1:]
openai = openai_sdk.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
anthropic = anthropic_sdk.Anthropic(base_url=base, api_key=key, max_retries=0)

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = [{"city": "Paris"}, {"city": "Rome"}]
QUESTION = {"role": "user", "content": "The weather in Paris and Rome?"}


def same(got, expected):
    assert got == expected, f"{got!r} instead of {expected!r}"


def refuses(error, work):
    try:
        work()
    except error as refused:
        return refused
    raise AssertionError(f"it is not refused with {error.__name__}")


def with_openai(model):
    def ask(content, **more):
        return openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], **more
        )

    plain = ask("Hello")
    same(plain.choices[0].message.content, "You said: Hello")
    same(plain.usage.total_tokens, 30)

    text, usage = "", None
    for chunk in ask("Hello", stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    same(text, "You said: Hello")
    same(usage.completion_tokens, 9)

    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    with openai.chat.completions.stream(model=model, messages=[QUESTION], tools=tools) as stream:
        called = stream.get_final_completion().choices[0]
    same(called.finish_reason, "tool_calls")
    calls = called.message.tool_calls
    same([json.loads(call.function.arguments) for call in calls], CITIES)
    said = {
        "role": "assistant",
        "content": called.message.content,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ],
    }
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in calls]
    after = openai.chat.completions.create(model=model, messages=[QUESTION, said, *results], tools=tools)
    same(after.choices[0].message.content, "The tools say sun and sun.")

    url = {"url": f"data:image/png;base64,{PNG}"}
    image = ask([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": url}])
    same(image.choices[0].message.content, "An image of 12 characters.")


def with_anthropic(model):
    def asking(message, **more):
        return {"model": model, "max_tokens": 4000, "messages": [message], **more}

    hello = {"role": "user", "content": "Hello"}
    plain = anthropic.messages.create(**asking(hello))
    same(plain.content[0].text, "You said: Hello")
    same(plain.usage.output_tokens, 9)

    with anthropic.messages.stream(**asking(hello)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    same(text, "You said: Hello")
    same(final.stop_reason, "end_turn")

    tools = [{"name": "weather", "input_schema": SCHEMA}]
    with anthropic.messages.stream(**asking(QUESTION, tools=tools)) as stream:
        called = stream.get_final_message()
    same(called.stop_reason, "tool_use")
    calls = [block for block in called.content if block.type == "tool_use"]
    same([call.input for call in calls], CITIES)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sun"} for call in calls]
    conversation = [
        QUESTION,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": results},
    ]
    after = anthropic.messages.create(model=model, max_tokens=4000, messages=conversation, tools=tools)
    same(after.content[0].text, "The tools say sun and sun.")

    thinking = {"type": "enabled", "budget_tokens": 2000}
    with anthropic.messages.stream(**asking({"role": "user", "content": "Think"}, thinking=thinking)) as stream:
        thought = stream.get_final_message()
    same(thought.content[0].thinking, "Let me think.")
    same(thought.content[1].text, "You said: Think")
    assert anthropic.messages.count_tokens(model=model, messages=[hello]).input_tokens > 0


def refusals():
    # Asked through a conversion: what passes through is refused by the provider, if at all.
    model = next((name for name in models if not name.startswith("openai")), models[0])
    refused = refuses(
        openai_sdk.BadRequestError,
        lambda: openai.chat.completions.create(model=model, messages=[], n=2),
    )
    same(refused.param, "n")
    refuses(
        anthropic_sdk.BadRequestError,
        lambda: anthropic.messages.create(model=models[0], max_tokens=9, messages=[]),
    )
    if key != "none":
        stranger = openai_sdk.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0)
        lost = anthropic_sdk.Anthropic(base_url=base, api_key="wrong", max_retries=0)
        refuses(openai_sdk.AuthenticationError, lambda: stranger.models.list())
        refuses(anthropic_sdk.AuthenticationError, lambda: lost.models.list())
    listed = [model.id for model in openai.models.list()]
    same(listed, [model.id for model in anthropic.models.list()])
    assert listed


for model in models:
    for name, work in [("openai", with_openai), ("anthropic", with_anthropic)]:
        try:
            work(model)
        except Exception as error:
            raise AssertionError(f"{name} to {model}") from error
refusals()
print("ok")
