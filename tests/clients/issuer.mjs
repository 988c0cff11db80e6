// An issuer of tokens, by Node's own cryptography: it has keys, shows the public ones, and signs.
//
// node issuer.mjs: says its address on standard output.
//   GET /keys                       the public keys, as a JSON Web Key Set; 503 while it is away
//   POST /sign {alg, claims, …}     a token. `kid` and `header` change its head, `secret` signs by HMAC
//   POST /rotate                    other keys from now on, with other names
//   POST /away, /back               stop and go on showing keys
//   GET /reads                      how often keys were asked for

import crypto from "node:crypto";
import http from "node:http";

const KINDS = {
  RS256: ["rsa", { modulusLength: 2048 }],
  ES256: ["ec", { namedCurve: "P-256" }],
  EdDSA: ["ed25519", {}],
};
let generation = 0;
let keys = {};
let away = false;
let reads = 0;

const rotate = () => {
  generation += 1;
  for (const [alg, [type, options]] of Object.entries(KINDS)) {
    keys[alg] = { kid: `${alg}-${generation}`, ...crypto.generateKeyPairSync(type, options) };
  }
};
rotate();

const set = () => ({
  keys: [
    // Neither of these is for signatures.
    { kty: "oct", kid: "secret", k: "c2VjcmV0" },
    { ...keys.RS256.publicKey.export({ format: "jwk" }), kid: "for-encryption", use: "enc" },
    ...Object.entries(keys).map(([alg, { kid, publicKey }]) => (
      { ...publicKey.export({ format: "jwk" }), kid, alg, use: "sig" })),
  ],
});

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

const sign = ({ alg, by = alg, kid = keys[by]?.kid, header = {}, claims, secret }) => {
  const signed = `${encode({ alg, typ: "JWT", kid, ...header })}.${encode(claims)}`;
  if (alg === "none") return `${signed}.`;
  // HMAC by the text of a public key, as those do who mix up algorithms.
  if (secret) {
    const key = keys[secret].publicKey.export({ format: "pem", type: "spki" });
    return `${signed}.${crypto.createHmac("sha256", key).update(signed).digest("base64url")}`;
  }
  const { privateKey } = keys[by];
  const digest = by === "EdDSA" ? null : "sha256";
  const key = by === "ES256" ? { key: privateKey, dsaEncoding: "ieee-p1363" } : privateKey;
  return `${signed}.${crypto.sign(digest, Buffer.from(signed), key).toString("base64url")}`;
};

const server = http.createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  const answer = (status, text) => { response.statusCode = status; response.end(text); };
  switch (`${request.method} ${request.url}`) {
    case "GET /keys":
      reads += 1;
      return away ? answer(503, "away") : answer(200, JSON.stringify(set()));
    case "POST /sign": return answer(200, sign(JSON.parse(body)));
    case "POST /rotate": rotate(); return answer(200, "");
    case "POST /away": away = true; return answer(200, "");
    case "POST /back": away = false; return answer(200, "");
    case "GET /reads": return answer(200, String(reads));
    default: return answer(404, "");
  }
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
