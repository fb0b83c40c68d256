// Prints a JWK Set and a token that its key signed.
import { generateKeyPairSync, sign } from "node:crypto";

const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const keys = [{ ...publicKey.export({ format: "jwk" }), kid: "one", alg: "RS256", use: "sig" }];
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const now = Math.floor(Date.now() / 1000);
const claims = {
  sub: process.env.CLIENT_ID, token_use: "access", scope: "activity/*", iss: process.env.ISSUER,
  exp: now + 3600, iat: now, version: 2, jti: "one", client_id: process.env.CLIENT_ID,
};
const input = `${part({ kid: "one", alg: "RS256" })}.${part(claims)}`;
const signature = sign("sha256", Buffer.from(input), privateKey).toString("base64url");
console.log(JSON.stringify({ jwks: { keys }, token: `${input}.${signature}` }));
