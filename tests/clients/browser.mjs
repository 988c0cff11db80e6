// A browser's EventSource follows a view. It is cut off, connects again by itself, and misses nothing.
//
// node browser.mjs URL VIEW: the server, and a view `k`, `n` that counts events of the type Paid by `k`.

import assert from "node:assert";
import net from "node:net";

import { launch, post } from "./shared.mjs";

const [server, view] = process.argv.slice(2);
const { hostname, port } = new URL(server);

// Between browser and server, so that connections can be cut.
const sockets = new Set();
const proxy = net.createServer((client) => {
  const upstream = net.connect(Number(port), hostname);
  for (const [from, to] of [[client, upstream], [upstream, client]]) {
    sockets.add(from);
    from.on("error", () => to.destroy());
    from.on("close", () => { sockets.delete(from); to.destroy(); });
    from.pipe(to);
  }
});
await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
const origin = `http://127.0.0.1:${proxy.address().port}`;

const browser = await launch();
try {
  const page = await browser.newPage();
  await page.goto(`${origin}/healthz`);
  await page.evaluate((path) => {
    const seen = { rows: {}, upserts: 0, opened: 0, ticks: 0 };
    globalThis.seen = seen;
    const source = new EventSource(path);
    source.onopen = () => { seen.opened += 1; };
    source.addEventListener("upsert", (e) => {
      const { row } = JSON.parse(e.data);
      seen.rows[row.k] = Number(row.n);
      seen.upserts += 1;
    });
    source.addEventListener("delete", (e) => { delete seen.rows[JSON.parse(e.data).row.k]; });
    source.addEventListener("tick", () => { seen.ticks += 1; });
  }, `/v1/views/${view}/changes`);
  const until = (rows, opened) => page.waitForFunction(
    (rows, opened) => JSON.stringify(Object.entries(globalThis.seen.rows).sort()) === rows
      && globalThis.seen.opened >= opened && globalThis.seen.ticks > 0,
    { timeout: 30000, polling: 50 }, JSON.stringify(Object.entries(rows).sort()), opened);

  await until({ a: 2, b: 1 }, 1);
  await post(server, ["a", "c"]);
  await until({ a: 3, b: 1, c: 1 }, 1);
  const before = await page.evaluate(() => globalThis.seen.upserts);
  for (const socket of sockets) socket.destroy();
  await post(server, ["c", "d"]);
  await until({ a: 3, b: 1, c: 2, d: 1 }, 2);
  const after = await page.evaluate(() => globalThis.seen.upserts);
  assert.equal(after - before, 2, "only what has changed was told again");
  console.log("ok");
} finally {
  await browser.close();
  proxy.close();
  for (const socket of sockets) socket.destroy();
}
