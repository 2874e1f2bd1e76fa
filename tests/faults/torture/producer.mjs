// Adds the jobs that it reads (one JSON line: where, which, over how many seconds), each until the
// server has said that it has it, and answers with their number. Every job has an id of its own,
// which makes adding it again harmless. With Sentinels, the answer also has for each job which
// primary has acknowledged it: its replication id, and how far its stream was then.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

// The packages of the interop tests, BullMQ 6 among them.
const packages = createRequire(new URL("../../interop/package.json", import.meta.url));
const { Queue } = packages("bullmq");
const { Redis } = packages("ioredis");

const RETRY_MS = 100;
const LANES = 8;

async function addUntilTaken(queue, { name, data, opts }) {
  for (;;) {
    try {
      return await queue.add(name, data, opts);
    } catch (error) {
      process.stderr.write(`${opts.jobId}: ${error.message}\n`);
      await pause(RETRY_MS);
    }
  }
}

// The job may be acknowledged by one primary, and the question answered by the next: again.
async function acknowledgedBy(client, queue, job) {
  for (;;) {
    const { stream } = client;
    await addUntilTaken(queue, job);
    let told;
    try {
      told = await client.info("replication");
    } catch {
      continue;
    }
    if (client.stream === stream) {
      const [, id] = told.match(/master_replid:(\w+)/);
      const [, offset] = told.match(/master_repl_offset:(\d+)/);
      return [id, Number(offset)];
    }
  }
}

async function produce({ host, port, sentinels, queues, jobs, seconds, maxEvents }) {
  const where = sentinels ? { ...sentinels, sentinelRetryStrategy: () => RETRY_MS } : { host, port };
  const retries = { maxRetriesPerRequest: null, retryStrategy: () => RETRY_MS };
  // A primary that was demoted with its connections open is left, and another one asked for.
  const reconnectOnError = (error) => (error.message.includes("READONLY") ? 2 : false);
  const options = { ...where, ...retries, reconnectOnError };
  const connection = sentinels ? new Redis(options) : options;
  connection.on?.("error", () => {});
  const opened = new Map();
  const acknowledged = {};
  for (const name of queues) {
    const queue = new Queue(name, { connection, streams: { events: { maxLen: maxEvents } } });
    queue.on("error", () => {}); // the server is away: that is what this is about
    opened.set(name, queue);
  }
  const began = performance.now();
  let next = 0;
  const lane = async () => {
    while (next < jobs.length) {
      const number = next++;
      const due = began + (seconds * 1000 * number) / jobs.length;
      await pause(Math.max(due - performance.now(), 0));
      const job = jobs[number];
      const queue = opened.get(job.queue);
      if (sentinels) acknowledged[job.opts.jobId] = await acknowledgedBy(connection, queue, job);
      else await addUntilTaken(queue, job);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  await Promise.all([...opened.values()].map((queue) => queue.close()));
  return { added: jobs.length, acknowledged };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await produce(JSON.parse(line)))}\n`);
}
process.exit(0);
