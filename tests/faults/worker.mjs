// A worker of BullMQ's for Node, beside ours on one queue. Its first line of input says where, and
// which package (BullMQ 6 or 5); it notes each start and end in the ledger as tests/faults/app.py
// does, and works until its input ends.

import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../interop/package.json", import.meta.url));
const Redis = require("ioredis");
const GATE_POLL_MS = 10;

const lines = createInterface({ input: process.stdin });
const [line] = await once(lines, "line");
const { bullmq, port, queue, ledgerUrl, ledgerName, options } = JSON.parse(line);
const ledger = new Redis(ledgerUrl);

function note(what, id) {
  const entry = { id, pid: process.pid, at: Date.now() / 1000 };
  return ledger.rpush(`${ledgerName}:${what}`, JSON.stringify(entry));
}

async function held(id) {
  const starts = await ledger.lrange(`${ledgerName}:starts`, 0, -1);
  return starts.filter((entry) => JSON.parse(entry).id === id).length === 1;
}

async function run({ id, data }) {
  await note("starts", id);
  if (data.seconds) await new Promise((resolve) => setTimeout(resolve, data.seconds * 1000));
  while (data.do === "first-hold" && (await held(id))) {
    await new Promise((resolve) => setTimeout(resolve, GATE_POLL_MS));
  }
  await note("ends", id);
  return id;
}

const { Worker } = require(bullmq);
const worker = new Worker(queue, run, { connection: { host: "127.0.0.1", port }, ...options });
worker.on("error", (error) => process.stderr.write(`${error.message}\n`));
await worker.waitUntilReady();
process.stdout.write(`${JSON.stringify({ ready: true })}\n`);
await once(lines, "close");
await worker.close();
process.exit(0);
