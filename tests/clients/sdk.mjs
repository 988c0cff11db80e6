// The official SDK for JavaScript as a client: argument 1 is the server's address.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(process.env.HELIOSTAT_NODE_MODULES + "/");
const { CloudEvent, HTTP, emitterFor, httpTransport, Mode } = require("cloudevents");

const url = process.argv[2] + "/v1/events";

function event(number, attributes) {
  return new CloudEvent({
    type: "com.example.sdk", source: "/javascript", id: `js-${number}`,
    data: { number, text: "ä€😀" }, ...attributes,
  });
}

async function post(message) {
  const answer = await fetch(url, { method: "POST", headers: message.headers, body: message.body });
  const body = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(body));
  return body;
}

const subject = "sdk/javascript";
const structured = await post(HTTP.structured(event(1, { subject, expectedversion: 0, traceparent: "00-1" })));
assert.deepEqual([structured.accepted, structured.streams], [1, { [subject]: 1 }]);
const binary = await post(HTTP.binary(event(2, { subject, expectedversion: 1, dataversion: 2 })));
assert.deepEqual([binary.accepted, binary.streams], [1, { [subject]: 2 }]);
// The SDK's own transport, and a batch of what it serialises.
const sent = await emitterFor(httpTransport(url), { mode: Mode.BINARY })(event(3, { subject }));
assert.equal(JSON.parse(sent.body).accepted, 1);
const batch = await post({
  headers: { "content-type": "application/cloudevents-batch+json" },
  body: JSON.stringify([event(4, { subject }), event(2, { subject, dataversion: 2 })]),
});
assert.deepEqual([batch.accepted, batch.duplicates], [1, 1]);

const stream = await (await fetch(process.argv[2] + "/v1/streams/sdk%2Fjavascript")).json();
assert.deepEqual(stream.events.map((e) => e.id), ["js-1", "js-2", "js-3", "js-4"]);
assert.ok(stream.events.every((e) => e.data.text === "ä€😀"));
assert.equal(stream.events[0].metadata.traceparent, "00-1");
assert.equal(stream.events[1].version, 2);
console.log("javascript: structured, binary, transport, batch: ok");
