"""Calls a health service with grpcio for ../grpc_clients.py, which describes the calls and the answers."""

import json
import sys

import grpc

POLICY = {
    "methodConfig": [
        {
            "name": [{"service": "grpc.health.v1.Health"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def call(address, token, kind, policy, **_):
    options = [("grpc.service_config", json.dumps(POLICY))] if policy else []
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options) as channel:
        try:
            if kind == "unary":
                method = channel.unary_unary("/grpc.health.v1.Health/Check")
                method(b"", timeout=20, metadata=metadata)
            else:
                method = channel.unary_stream("/grpc.health.v1.Health/Watch")
                list(method(b"", timeout=20, metadata=metadata))
        except grpc.RpcError as error:
            seen = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
            challenge = dict(seen).get("www-authenticate")
            return {
                "code": error.code().name,
                "message": error.details(),
                "challenge": challenge,
            }
    return {"code": "OK", "message": "", "challenge": None}


for line in sys.stdin:
    print(json.dumps(call(**json.loads(line))), flush=True)
