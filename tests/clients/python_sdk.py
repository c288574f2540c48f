"""The official Python SDK: connects, uses everything once, prints what it got as JSON.

python_sdk.py URL PLAN [KEY]      PLAN: JSON, see run.cjs; CAUSEWAY_CLIENT_MODE: legacy, or a revision to insist on;
                                  CAUSEWAY_STDIO: go through this program's `stdio`
"""

import asyncio
import json
import os
import sys

from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client


async def main(url: str, plan: str, key: str = "") -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    mode = os.environ.get("CAUSEWAY_CLIENT_MODE", "2026-07-28")
    if program := os.environ.get("CAUSEWAY_STDIO"):
        env = {"CAUSEWAY_KEY": key} if key else {}
        server = StdioServerParameters(command=program, args=["stdio", "--url", url], env=env)
        async with Client(stdio_client(server), mode=mode) as client:
            print(json.dumps(await use(client, json.loads(plan))))
        return
    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode) as client:
            print(json.dumps(await use(client, json.loads(plan))))


async def use(client: Client, plan: dict) -> dict:
    tools, cursor = [], None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    echo = await client.call_tool(plan["echo"]["name"], plan["echo"]["arguments"])
    progress = []

    async def told(done, total, message):
        progress.append(done)

    await client.call_tool(plan["progress"]["name"], plan["progress"]["arguments"], progress_callback=told)
    resource = await client.read_resource(plan["resource"])
    prompt = await client.get_prompt(plan["prompt"]["name"], plan["prompt"]["arguments"])
    missing = None
    try:
        await client.read_resource(plan["missing"])
    except MCPError as error:
        missing = error.error.code
    return {
        "client": "python",
        "revision": client.protocol_version,
        "tools": [tool.name for tool in tools],
        "echo": echo.content[0].text,
        "progress": progress,
        "resource": resource.contents[0].text,
        "prompt": prompt.messages[0].content.text,
        "missing": missing,
    }


asyncio.run(main(*sys.argv[1:]))
