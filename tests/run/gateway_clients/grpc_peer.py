"""A gRPC service without authorization and a gRPC client, for ../gateway_protocols.py.

`serve` prints its address. It answers every method with the metadata of the call, and `/test/Count` with
the number of the other calls. `call` reads one call per line as JSON (`address`, `method`, `metadata`), and
answers with a line: `code`, and the `answer` of the service.
"""

import json
import sys
from concurrent import futures

import grpc


class Service(grpc.GenericRpcHandler):
    calls = 0

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: self.answer(details, context)
        )

    def answer(self, details, context):
        if details.method == "/test/Count":
            return str(Service.calls).encode()
        Service.calls += 1
        metadata = [list(pair) for pair in details.invocation_metadata if isinstance(pair[1], str)]
        return json.dumps(metadata).encode()


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Service()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def call(address, method, metadata):
    with grpc.insecure_channel(address) as channel:
        try:
            answer = channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return {"code": error.code().name, "answer": error.details()}
    # The service behind a gateway answers with JSON, another one with a message.
    return {"code": "OK", "answer": answer.decode("latin-1")}


if sys.argv[1] == "serve":
    serve()
else:
    for line in sys.stdin:
        print(json.dumps(call(**json.loads(line))), flush=True)
