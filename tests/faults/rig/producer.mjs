// Adds the jobs that it reads (one JSON line) at their times, wakes the service after each with the
// waker of the documentation, and answers with their number. It ends when its input does.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

// The packages of the interop tests, BullMQ 6 among them.
const { Queue } = createRequire(new URL("../../interop/package.json", import.meta.url))("bullmq");

async function produce({ host, port, waker, jobs }) {
  const { wake } = await import(waker);
  const queues = new Map();
  const began = performance.now();
  for (const { at, queue, name, data, opts } of jobs) {
    await pause(Math.max(at * 1000 - (performance.now() - began), 0));
    if (!queues.has(queue)) queues.set(queue, new Queue(queue, { connection: { host, port } }));
    await queues.get(queue).add(name, data, opts);
    wake(opts.delay ?? 0);
  }
  await Promise.all([...queues.values()].map((queue) => queue.close()));
  return { added: jobs.length };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await produce(JSON.parse(line)))}\n`);
}
process.exit(0);
