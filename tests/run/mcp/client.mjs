// Drives @modelcontextprotocol/sdk for ../mcp.py, which describes the commands and the answers.

import { createInterface } from "node:readline";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { ClientCredentialsProvider } from "@modelcontextprotocol/sdk/client/auth-extensions.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { url, issuer, client_id, secret, scope } = JSON.parse(process.argv[2]);
let requests = [];

async function recording(target, options = {}) {
  const response = await fetch(target, options);
  let message = "";
  try {
    message = JSON.parse(options.body).method ?? "";
  } catch {}
  const path = new URL(String(target)).pathname;
  requests.push([options.method ?? "GET", path, response.status, message].join(" ").trim());
  return response;
}

let client;
const commands = {
  async connect() {
    client = new Client({ name: "tower-cognito", version: "1" });
    const authProvider = new ClientCredentialsProvider({
      clientId: client_id,
      clientSecret: secret,
      expectedIssuer: issuer,
      scope: scope || undefined,
    });
    const transport = new StreamableHTTPClientTransport(new URL(url), {
      authProvider,
      fetch: recording,
    });
    await client.connect(transport);
    return "connected";
  },
  async call(name) {
    const result = await client.callTool({ name });
    return result.content[0].text;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(" ");
  let answer;
  try {
    answer = { result: await commands[command](...words) };
  } catch (error) {
    answer = { error: `${error.constructor.name}: ${error.message}` };
  }
  console.log(JSON.stringify({ ...answer, requests }));
  requests = [];
}
process.exit();
