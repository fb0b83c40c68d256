// The same service in Node with aws-jwt-verify.
import { createServer } from "node:http";
import { JwtVerifier } from "aws-jwt-verify";

const { PORT, ISSUER, JWKS_URL, CLIENT_ID } = process.env;
const verifier = JwtVerifier.create({
  issuer: ISSUER,
  audience: null,
  jwksUri: JWKS_URL,
  customJwtCheck: ({ payload }) => {
    if (payload.token_use !== "access" || payload.client_id !== CLIENT_ID) throw new Error("claims");
  },
});
await verifier.hydrate();
createServer(async (request, response) => {
  try {
    await verifier.verify((request.headers.authorization ?? "").replace(/^Bearer /, ""));
    response.end("ok");
  } catch {
    response.writeHead(401).end();
  }
}).listen(Number(PORT), "127.0.0.1");
