// Shared by programs of pages: Chromium, and events of the type Paid for pages that follow a view.

import assert from "node:assert";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.HELIOSTAT_NODE_MODULES}/`);

export const launch = (...more) => require("puppeteer-core").launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", ...more],
});

// Posts an event for each `k`, and waits for the views.
export const post = async (server, ks, headers = {}) => {
  const events = ks.map((k) => ({ type: "Paid", data: { k, amount: 1 } }));
  const answer = await fetch(`${server}/v1/events?wait=views`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(events),
  });
  assert.equal(answer.status, 200);
};
