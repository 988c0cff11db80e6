// A page follows a view by the example of a document, which sends a token. It is cut off, connects again by
// itself, and misses nothing; where it cannot go on, it begins anew.
//
// node follow.mjs URL VIEW DOCUMENT: a server that asks for tokens, a view `k`, `n` that counts events of
// the type Paid by `k`, and the document whose example defines `follow`. The tokens are in the environment.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import http from "node:http";

import { launch, post } from "./shared.mjs";

const [server, view, document] = process.argv.slice(2);
const { HELIOSTAT_READ_TOKEN: reader, HELIOSTAT_WRITE_TOKEN: writer } = process.env;
const { hostname, port } = new URL(server);

const blocks = readFileSync(document, "utf8").split("```js\n").slice(1).map((text) => text.split("\n```")[0]);
const example = blocks.find((text) => text.includes("async function follow("));
assert.ok(example, "the document has the example");

// Between page and server: notes what is asked for, cuts connections, and once names a place that the server
// does not know, which it answers as one that is too long ago.
const asked = [];
const statuses = [];
const open = new Set();
let gone = false;
const proxy = http.createServer((request, response) => {
  const isFeed = request.url.endsWith("/changes");
  if (isFeed) asked.push({ authorization: request.headers.authorization, id: request.headers["last-event-id"] });
  const headers = { ...request.headers };
  if (isFeed && gone) {
    gone = false;
    headers["last-event-id"] = headers["last-event-id"].replace(/^[^-]*/, (run) => "0".repeat(run.length));
  }
  const options = { hostname, port, path: request.url, method: request.method, headers };
  const upstream = http.request(options, (answer) => {
    if (isFeed) statuses.push(answer.statusCode);
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  upstream.on("error", () => response.destroy());
  response.on("close", () => { upstream.destroy(); open.delete(response); });
  if (isFeed) open.add(response);
  upstream.end();
});
await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
const origin = `http://127.0.0.1:${proxy.address().port}`;
const cut = () => { for (const response of open) response.destroy(); };

const asWriter = { authorization: `Bearer ${writer}` };
const browser = await launch();
try {
  const page = await browser.newPage();
  await page.goto(`${origin}/healthz`);
  await page.evaluate((example, path, token) => {
    const seen = { rows: {}, upserts: 0, ticks: 0 };
    globalThis.seen = seen;
    const follow = new Function(`${example}; return follow;`)();
    follow(path, token, (event, data) => {
      if (event === "upsert") { seen.rows[data.row.k] = Number(data.row.n); seen.upserts += 1; }
      if (event === "delete") delete seen.rows[data.row.k];
      if (event === "tick") seen.ticks += 1;
    });
  }, example, `/v1/views/${view}/changes`, reader);
  const until = (rows) => page.waitForFunction(
    (rows) => JSON.stringify(Object.entries(globalThis.seen.rows).sort()) === rows && globalThis.seen.ticks > 0,
    { timeout: 30000, polling: 50 }, JSON.stringify(Object.entries(rows).sort()));
  const upserts = () => page.evaluate(() => globalThis.seen.upserts);

  await until({ a: 2, b: 1 });
  assert.deepEqual(asked, [{ authorization: `Bearer ${reader}`, id: undefined }]);
  await post(server, ["a", "c"], asWriter);
  await until({ a: 3, b: 1, c: 1 });

  // It goes on where it was: only what has changed is told again.
  let before = await upserts();
  cut();
  await post(server, ["c", "d"], asWriter);
  await until({ a: 3, b: 1, c: 2, d: 1 });
  assert.equal(await upserts() - before, 2);
  assert.ok(asked[1].id, "it says where it was");

  // Too long ago: it begins anew, with all rows.
  before = await upserts();
  gone = true;
  cut();
  await post(server, ["e"], asWriter);
  await until({ a: 3, b: 1, c: 2, d: 1, e: 1 });
  assert.equal(await upserts() - before, 5);
  assert.deepEqual(statuses, [200, 200, 410, 200]);
  assert.equal(asked.at(-1).id, undefined);
  console.log("ok");
} finally {
  await browser.close();
  proxy.close();
  proxy.closeAllConnections();
}
