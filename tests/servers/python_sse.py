"""A real server of the HTTP+SSE transport: the official Python SDK, with what the clients in tests/clients use.

python_sse.py PORT
"""

import sys

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("python-sse", instructions="A server of the Python SDK.")


@server.tool()
def echo(text: str) -> str:
    """Says what it is told"""
    return text


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Reports progress"""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await anyio.sleep(0.02)
    return "done"


@server.tool()
async def slow(name: str) -> str:
    """Takes its time, and says on stderr when it is not let"""
    print(f"begun {name}", file=sys.stderr, flush=True)
    try:
        await anyio.sleep(30)
    except BaseException:
        print(f"cancelled {name}", file=sys.stderr, flush=True)
        raise
    return "done"


@server.resource("test://static-text")
def text() -> str:
    return "This is the content of the static text resource."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


server.run("sse", host="127.0.0.1", port=int(sys.argv[1]))
