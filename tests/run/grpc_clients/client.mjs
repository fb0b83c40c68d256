// Calls a health service with @grpc/grpc-js or with @connectrpc/connect-node for ../grpc_clients.py, which
// describes the calls and the answers.

import { createInterface } from "node:readline";

import { createFileRegistry, fromJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import grpc from "@grpc/grpc-js";

const POLICY = {
  methodConfig: [
    {
      name: [{ service: "grpc.health.v1.Health" }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

const METHODS = {
  unary: "/grpc.health.v1.Health/Check",
  streaming: "/grpc.health.v1.Health/Watch",
};

function withGrpcJs({ address, token, kind, policy }) {
  const options = policy ? { "grpc.service_config": JSON.stringify(POLICY) } : {};
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
  const metadata = new grpc.Metadata();
  if (token) {
    metadata.set("authorization", `Bearer ${token}`);
  }
  const bytes = (message) => message;
  const deadline = { deadline: Date.now() + 20000 };
  const empty = Buffer.alloc(0);
  return new Promise((resolve) => {
    let challenge = null;
    const end = (error) => {
      client.close();
      challenge ??= error?.metadata?.get("www-authenticate")[0] ?? null;
      const code = grpc.status[error ? error.code : 0];
      resolve({ code, message: error ? error.details : "", challenge });
    };
    if (kind === "unary") {
      client.makeUnaryRequest(METHODS[kind], bytes, bytes, empty, metadata, deadline, end);
      return;
    }
    const call = client.makeServerStreamRequest(METHODS[kind], bytes, bytes, empty, metadata, deadline);
    call.on("metadata", (seen) => {
      challenge = seen.get("www-authenticate")[0] ?? null;
    });
    call.on("data", () => {});
    call.on("error", end);
    call.on("end", () => end(null));
  });
}

const registry = createFileRegistry(
  fromJson(FileDescriptorSetSchema, {
    file: [
      {
        name: "health.proto",
        package: "grpc.health.v1",
        syntax: "proto3",
        messageType: [{ name: "HealthCheckRequest" }, { name: "HealthCheckResponse" }],
        service: [
          {
            name: "Health",
            method: [
              {
                name: "Check",
                inputType: ".grpc.health.v1.HealthCheckRequest",
                outputType: ".grpc.health.v1.HealthCheckResponse",
              },
              {
                name: "Watch",
                inputType: ".grpc.health.v1.HealthCheckRequest",
                outputType: ".grpc.health.v1.HealthCheckResponse",
                serverStreaming: true,
              },
            ],
          },
        ],
      },
    ],
  }),
);
const service = registry.getService("grpc.health.v1.Health");

const TRANSPORTS = {
  grpc: (baseUrl) => createGrpcTransport({ baseUrl }),
  "grpc-web": (baseUrl, httpVersion) => createGrpcWebTransport({ baseUrl, httpVersion }),
  connect: (baseUrl, httpVersion) => createConnectTransport({ baseUrl, httpVersion }),
};

async function withConnect({ address, token, kind, http }, protocol) {
  const client = createClient(service, TRANSPORTS[protocol](`http://${address}`, http));
  const options = {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    timeoutMs: 20000,
  };
  try {
    if (kind === "unary") {
      await client.check({}, options);
    } else {
      for await (const _ of client.watch({}, options));
    }
    return { code: "OK", message: "", challenge: null };
  } catch (error) {
    const { code, rawMessage, metadata } = ConnectError.from(error);
    const name = Code[code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
    return { code: name, message: rawMessage, challenge: metadata.get("www-authenticate") };
  }
}

const protocol = process.argv[2];
for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  const answer = protocol === "grpc-js" ? await withGrpcJs(call) : await withConnect(call, protocol);
  console.log(JSON.stringify(answer));
}
process.exit();
