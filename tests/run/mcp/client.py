"""Drives the package mcp of PyPI for ../mcp.py, which describes the commands and the answers.

    client.py session|client SETTINGS

`session` uses ClientSession of version 1 or 2, and `client` uses Client of version 2.
"""

import asyncio
import json
import sys
import urllib.parse
from contextlib import AsyncExitStack

from mcp import ClientSession
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client

try:
    import httpx2 as httpx  # version 2

    SCOPE = "scope"
except ImportError:
    import httpx

    SCOPE = "scopes"

KIND = sys.argv[1]
SETTINGS = json.loads(sys.argv[2])
URL = SETTINGS["url"]
requests = []


class Storage:
    """Keeps tokens in memory."""

    def __init__(self):
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def record(response):
    request = response.request
    try:
        message = json.loads(request.content).get("method", "")
    except Exception:
        message = ""
    path = urllib.parse.urlsplit(str(request.url)).path
    requests.append(f"{request.method} {path} {response.status_code} {message}".strip())


def transport():
    auth = ClientCredentialsOAuthProvider(
        server_url=URL,
        storage=Storage(),
        client_id=SETTINGS["client_id"],
        client_secret=SETTINGS["secret"],
        issuer=SETTINGS["issuer"],
        **{SCOPE: SETTINGS["scope"] or None},
    )
    http = httpx.AsyncClient(auth=auth, timeout=30, event_hooks={"response": [record]})
    return streamable_http_client(URL, http_client=http)


async def connect(stack):
    if KIND == "client":
        from mcp import Client

        return await stack.enter_async_context(Client(transport()))
    streams = await stack.enter_async_context(transport())
    session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
    await session.initialize()
    return session


def causes(error):
    """Yields the errors of a group, and what they were raised from."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from causes(part)
    else:
        yield error


def text_of(error):
    return "; ".join(f"{type(part).__name__}: {part}" for part in causes(error))


def answer(**values):
    print(json.dumps({**values, "requests": requests}), flush=True)
    requests.clear()


async def serve():
    """Executes the commands until an error ends the connection."""
    line = (await asyncio.to_thread(sys.stdin.readline)).strip()
    if not line:
        return False
    assert line == "connect", line
    is_connecting = True
    try:
        async with AsyncExitStack() as stack:
            session = await connect(stack)
            is_connecting = False
            answer(result="connected")
            while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
                if line == "connect":
                    raise RuntimeError("already connected")
                is_connecting = True
                result = await session.call_tool(line.split()[1], {})
                is_connecting = False
                answer(result=result.content[0].text)
    except BaseException as error:
        if is_connecting:
            answer(error=text_of(error))
            return True
        # An error while the session ends is no answer to a command.
        print(text_of(error), file=sys.stderr)
    return False


async def main():
    while await serve():
        pass


asyncio.run(main())
