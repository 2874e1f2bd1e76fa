// Bull Board on a queue, and a browser in front of it: JSON requests on stdin, JSON answers on stdout, one a line.
//
//   node bull_board.mjs REDIS_URL PREFIX QUEUE CHROMIUM PROFILE
//
// The first line out is {"url": ...}. A request is {"op": NAME, ...}; its answer {"ok": ...} or {"error": "..."}.

import { createBullBoard } from "@bull-board/api";
import { BullMQAdapter } from "@bull-board/api/bullMQAdapter";
import { ExpressAdapter } from "@bull-board/express";
import { Queue } from "bullmq";
import express from "express";
import Redis from "ioredis";
import { chromium } from "playwright-core";

import { answer } from "./requests.mjs";

const [redisUrl, prefix, queueName, executablePath, profile] = process.argv.slice(2);
const PATIENCE_MS = 15_000;
const VIEWPORT = { width: 1280, height: 900 };
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
const queue = new Queue(queueName, { connection, prefix });
const adapter = new ExpressAdapter();
createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter: adapter });
const server = express().use(adapter.getRouter()).listen(0, "127.0.0.1");
await new Promise((resolve) => server.once("listening", resolve));
const url = `http://127.0.0.1:${server.address().port}`;
const browser = await chromium.launchPersistentContext(profile, {
  executablePath, args: FLAGS, headless: true, viewport: VIEWPORT,
});
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(PATIENCE_MS);

// Buttons of a job that are a picture only: their names come with the pointer.
const pictures = () => page.locator("main button:not([role=tab]):not([aria-haspopup])").filter({ hasNotText: /./ });

const operations = {
  add: async ({ name, data, opts }) => (await queue.add(name, data, opts)).id,

  // The page of the jobs in one state, once it shows every text of `expect`; and its picture.
  show: async ({ status, tab, expect = [], picture }) => {
    await page.goto(`${url}/queue/${encodeURIComponent(queueName)}?status=${status}`);
    if (tab) await page.getByRole("tab", { name: tab, exact: true }).first().click();
    for (const text of expect) await page.locator("main").getByText(text).first().waitFor();
    if (picture) await page.screenshot({ path: picture });
    return page.locator("main").innerText();
  },

  // Presses a button of the page, by its text, or one of the first job's, by its place and the name that it shows.
  press: async ({ name, at }) => {
    const button = at === undefined ? page.getByRole("button", { name, exact: true }) : pictures().nth(at);
    if (at !== undefined) {
      await button.hover();
      await page.locator("[data-open]").getByText(name, { exact: true }).first().waitFor();
    }
    await button.click();
    await page.getByRole("button", { name: "Confirm", exact: true }).click();
    await page.getByText("Are you sure?").waitFor({ state: "hidden" });
    return {};
  },

  // Lets a job that waits at the gate go on (behaviour.mjs).
  open: async ({ gate }) => connection.rpush(`${prefix}:gate:${gate}`, "open"),
};

process.stdout.write(`${JSON.stringify({ url })}\n`);
await answer(operations);
await browser.close();
process.exit(0);
