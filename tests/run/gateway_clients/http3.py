"""An HTTP/3 client for ../gateway_protocols.py. It reads one request per line as JSON (`port`, `method`,
`target`, `headers`), and answers with a line: `status`, and the `challenge`."""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.answer = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated) and not self.answer.done():
            self.answer.set_result({":status": f"closed: {event.reason_phrase}"})
        for received in self.http.handle_event(event):
            if isinstance(received, HeadersReceived) and not self.answer.done():
                pairs = ((name.decode(), value.decode()) for name, value in received.headers)
                self.answer.set_result(dict(pairs))

    async def send(self, method, target, headers):
        stream = self._quic.get_next_available_stream_id()
        pairs = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", target)]
        pairs += [tuple(line.split(": ", 1)) for line in headers]
        encoded = [(name.lower().encode(), value.encode()) for name, value in pairs]
        self.http.send_headers(stream, encoded, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self.answer, 20)


async def send(port, method, target, headers):
    settings = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name="localhost"
    )
    try:
        async with connect("127.0.0.1", port, configuration=settings, create_protocol=Client) as client:
            answer = await client.send(method, target, headers)
    except ConnectionError as error:
        # For example, before the server has a certificate.
        return {"status": f"no connection: {error!r}", "challenge": None}
    return {"status": answer[":status"], "challenge": answer.get("www-authenticate")}


for line in sys.stdin:
    print(json.dumps(asyncio.run(send(**json.loads(line)))), flush=True)
