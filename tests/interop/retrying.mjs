// Fails the same jobs on two queues with Node's own worker, then retries or removes those of the
// first by Node's API, for the command line to do the same with the second.
//
// Input: {"bullmq": package, "url": ..., "prefix": ..., "queues": [theirs, ours],
//         "jobs": [[name, options], ...], "act": "retry" | "remove",
//         "opts": what retry() gets}

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const load = createRequire(import.meta.url);
const Redis = load("ioredis").default;
const apart = () => new Promise((resolve) => setTimeout(resolve, 3)); // so that times of failure differ

for await (const line of createInterface({ input: process.stdin })) {
  const { bullmq, url, prefix, queues, jobs, act, opts } = JSON.parse(line);
  const { Queue, Worker } = load(bullmq);
  const connection = new Redis(url, { maxRetriesPerRequest: null });
  for (const [place, name] of queues.entries()) {
    const queue = new Queue(name, { connection, prefix });
    await queue.waitUntilReady();
    for (const [job, options] of jobs) await queue.add(job, { for: job }, options);
    const failing = new Worker(name, async () => {
      await apart();
      throw new Error("no voice");
    }, { connection: connection.duplicate(), prefix, name: "node" });
    failing.on("error", () => {});
    await new Promise((resolve) => {
      let left = jobs.length;
      failing.on("failed", (job) => {
        if (job.finishedOn && --left === 0) resolve();
      });
    });
    await failing.close();
    if (place === 0) {
      for (const job of (await queue.getFailed()).reverse()) {  // the oldest first
        await (act === "retry" ? job.retry("failed", opts) : job.remove());
      }
    }
    await queue.close();
  }
  await connection.quit();
  process.stdout.write(`${JSON.stringify({ done: true })}\n`);
}
process.exit(0);
