// Pages in a browser that try to use a server and its ClickHouse. Prints what each of them got, as JSON:
// {page: {attempt: outcome}}. An outcome is what could be read ("200 …"), or why it could not.
//
// node pages.mjs SERVER CLICKHOUSE PAGE_PORT LOGIN: the addresses, the port of pages of other origins, and
// what is added to ClickHouse's addresses ("" or "&user=…&password=…").

import http from "node:http";

import { launch } from "./shared.mjs";

const [server, clickhouse, pagePort, login] = process.argv.slice(2);

// Any name leads to this machine, as for an attacker who has a name of their own point here.
const NAMES = "MAP *.example 127.0.0.1";
const PAGE = "<!doctype html><title>page</title><iframe name=hidden></iframe>";

const pages = http.createServer((request, response) => {
  response.setHeader("content-type", "text/html");
  response.end(PAGE);
});
await new Promise((done) => pages.listen(Number(pagePort), "127.0.0.1", done));

// Runs in the page.
const attempts = async (server, clickhouse, login) => {
  const outcomes = {};
  const within = (promise) => Promise.race([
    promise, new Promise((done) => setTimeout(() => done("nothing came"), 3000)),
  ]);
  const attempt = async (name, attempt) => {
    try { outcomes[name] = await within(attempt()); } catch (error) { outcomes[name] = `${error}`; }
  };
  const read = async (answer) => {
    if (answer.type === "opaque") return "opaque";
    return `${answer.status} ${(await answer.text()).slice(0, 500)}`;
  };
  const event = (by) => JSON.stringify({ type: "Planted", data: { by } });
  const json = { "content-type": "application/json" };
  const post = (url, body, options = {}) => async () => read(await fetch(url, { method: "POST", body, ...options }));
  const get = (url, options = {}) => async () => read(await fetch(url, options));
  const submit = (url, enctype, fields) => async () => {
    const form = Object.assign(document.createElement("form"), { action: url, method: "post", enctype, target: "hidden" });
    for (const [name, value] of fields) form.append(Object.assign(document.createElement("input"), { name, value }));
    document.body.append(form);
    const loaded = new Promise((done) => { document.querySelector("iframe").onload = done; });
    form.submit();
    await loaded;
    // A page can read an answer of its own origin, and none of another one.
    try { return `loaded ${document.querySelector("iframe").contentDocument.body.innerText.slice(0, 500)}`; } catch { return "opaque"; }
  };

  // Post events.
  const events = `${server}/v1/events`;
  await attempt("post json", post(events, event("json"), { headers: json }));
  await attempt("post text", post(events, event("text"), { mode: "no-cors" }));
  await attempt("post text with cookies", post(events, event("cookies"), { mode: "no-cors", credentials: "include" }));
  await attempt("post a blob", post(events, new Blob([event("blob")]), { mode: "no-cors" }));
  await attempt("post by beacon", async () => `${navigator.sendBeacon(events, event("beacon"))}`);
  await attempt("post json by xhr", () => new Promise((done) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", events);
    xhr.setRequestHeader("content-type", "application/json");
    xhr.onload = () => done(`${xhr.status} ${xhr.responseText}`);
    xhr.onerror = () => done("error");
    xhr.send(event("xhr"));
  }));
  await attempt("post a form of text", submit(events, "text/plain", [['{"type":"Planted","data":{"by":"', 'form"}}']]));
  await attempt("post a form", submit(events, "application/x-www-form-urlencoded", [["type", "Planted"]]));
  await attempt("post a form of parts", submit(events, "multipart/form-data", [["type", "Planted"]]));

  // Dismiss, retry, rebuild.
  for (const [name, path] of [
    ["dismiss", "/v1/dead-letters/dismiss"], ["retry", "/v1/dead-letters/retry"], ["rebuild", "/v1/views/orders/rebuild"],
  ]) {
    await attempt(`${name} by json`, post(server + path, "{}", { headers: json }));
    await attempt(`${name} by text`, post(server + path, "{}", { mode: "no-cors" }));
    await attempt(`${name} by nothing`, post(server + path, undefined, { mode: "no-cors" }));
    await attempt(`${name} by form`, submit(server + path, "text/plain", [["{}", ""]]));
  }

  // Read.
  for (const path of ["/v1/views", "/v1/views/orders/rows", "/v1/events", "/v1/dead-letters", "/metrics", "/healthz"]) {
    await attempt(`read ${path}`, get(server + path));
    await attempt(`read ${path} without cors`, get(server + path, { mode: "no-cors" }));
  }
  const changes = `${server}/v1/views/orders/changes`;
  await attempt("follow by event source", () => new Promise((done) => {
    const source = new EventSource(changes);
    source.addEventListener("upsert", (told) => { source.close(); done(`200 ${told.data}`); });
    source.onerror = () => { source.close(); done("error"); };
  }));
  await attempt("follow by web socket", () => new Promise((done) => {
    const socket = new WebSocket(changes.replace("http", "ws"));
    socket.onopen = () => { socket.close(); done("200 open"); };
    socket.onerror = () => done("error");
  }));
  await attempt("read as a script", () => new Promise((done) => {
    const script = Object.assign(document.createElement("script"), { src: `${server}/v1/views` });
    script.onload = () => done("200 loaded");
    script.onerror = () => done("error");
    document.body.append(script);
  }));

  // ClickHouse.
  const query = (sql) => `${clickhouse}/?query=${encodeURIComponent(sql)}${login}`;
  const plant = "CREATE TABLE heliostat_internal.planted (a Int8) ENGINE = Memory";
  await attempt("query", get(query("SELECT * FROM heliostat.orders")));
  await attempt("query with cors", get(`${query("SELECT * FROM heliostat.orders")}&add_http_cors_header=1`));
  await attempt("query without cors", get(query("SELECT 1"), { mode: "no-cors" }));
  await attempt("alter by text", post(`${clickhouse}/?${login.slice(1)}`, plant, { mode: "no-cors" }));
  await attempt("alter by address", post(query(plant.replace("planted", "planted_2")), "", { mode: "no-cors" }));
  await attempt("alter by form", submit(query("DROP VIEW heliostat.orders"), "text/plain", [["a", "b"]]));
  await attempt("alter by get", get(query("DROP VIEW heliostat.orders"), { mode: "no-cors" }));
  return outcomes;
};

// The browser's own protection is turned off: the server's is what is tried.
const browser = await launch(
  `--host-resolver-rules=${NAMES}`,
  "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights",
);
try {
  const told = {};
  const port = (url) => new URL(url).port;
  const visit = async (name, address, server, clickhouse) => {
    const page = await browser.newPage();
    // A rebound page comes from the attacker, even though its name is the server's by then.
    if (name.startsWith("rebound")) {
      await page.setRequestInterception(true);
      page.on("request", (request) => (request.url() === address
        ? request.respond({ contentType: "text/html", body: PAGE }) : request.continue()));
    }
    await page.goto(address);
    told[name] = await page.evaluate(attempts, server, clickhouse, login);
    await page.close();
  };
  await visit("of the same site", `http://127.0.0.1:${pagePort}/`, server, clickhouse);
  await visit("of another site", `http://evil.example:${pagePort}/`, server, clickhouse);
  const rebound = (url) => `http://rebound.example:${port(url)}`;
  await visit("rebound to the server", `${rebound(server)}/page`, rebound(server), clickhouse);
  await visit("rebound to clickhouse", `${rebound(clickhouse)}/page`, server, rebound(clickhouse));
  console.log(JSON.stringify(told));
} finally {
  await browser.close();
  pages.close();
}
