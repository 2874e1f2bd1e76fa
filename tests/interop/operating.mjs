// Adds the same jobs to two queues, lists those of the first and acts on them by Node's own methods,
// for JobClient to do the same with the second.
//
// Input: {"bullmq": package, "url": ..., "prefix": ..., "queues": [theirs, ours],
//         "jobs": [[name, options], ...], "states": [...], "acts": [[method, ...arguments], ...]}
// Output: {"listed": {state: [ids]}, "cleaned": [...], "paused": ...}

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const load = createRequire(import.meta.url);
const Redis = load("ioredis").default;

for await (const line of createInterface({ input: process.stdin })) {
  const { bullmq, url, prefix, queues, jobs, states, acts } = JSON.parse(line);
  const { Queue, Worker } = load(bullmq);
  const connection = new Redis(url, { maxRetriesPerRequest: null });
  const [theirs, ours] = queues.map((name) => new Queue(name, { connection, prefix }));
  for (const queue of [theirs, ours]) {
    await queue.waitUntilReady();
    for (const [name, options] of jobs) {
      await queue.add(name, { for: name }, options);
      await new Promise((resolve) => setTimeout(resolve, 3)); // so that times differ
    }
    const worker = new Worker(queue.name, null, { connection: connection.duplicate(), prefix, name: "node" });
    await worker.waitUntilReady();
    for (const end of ["completed", "failed"]) {
      const job = await worker.getNextJob("token");
      await (end === "completed" ? job.moveToCompleted("spoken", "token", false)
        : job.moveToFailed(new Error("no voice"), "token", false));
    }
    await worker.close();
  }
  const listed = {};
  for (const state of states) listed[state] = (await theirs.getJobs([state])).map((job) => job.id);
  const cleaned = [];
  for (const [method, id, ...rest] of acts) {
    if (method === "clean") cleaned.push(...(await theirs.clean(0, ...rest)));
    else if (id === undefined) await theirs[method]();
    else await (await theirs.getJob(id))[method](...rest);
  }
  const answer = { listed, cleaned, paused: await theirs.isPaused() };
  await theirs.close();
  await ours.close();
  await connection.quit();
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
