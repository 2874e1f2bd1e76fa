// Job schedulers of bullmq at given moments: a line of input is a list of requests, its answer a list of {ok} or {error}.
//
// Each request has the time at which it is served: the clock of this process stands still at it.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const RealDate = Date;
let now = RealDate.now();
globalThis.Date = class extends RealDate {
  constructor(...given) {
    if (given.length) super(...given);
    else super(now);
  }
  static now() {
    return now;
  }
};

const load = createRequire(import.meta.url);
const { Queue, Job } = load("bullmq");
const Redis = load("ioredis").default;
const connection = new Redis(process.argv[2], { maxRetriesPerRequest: null });
const queues = new Map();

function queueOf({ prefix, queue: name }) {
  const key = `${prefix} ${name}`;
  if (!queues.has(key)) queues.set(key, new Queue(name, { prefix, connection, skipMetasUpdate: true }));
  return queues.get(key);
}

const operations = {
  async upsert(request) {
    const { id, repeat, template } = request;
    return (await queueOf(request).upsertJobScheduler(id, repeat, template))?.id ?? null;
  },

  // What a worker does when it has fetched an iteration.
  async next(request) {
    const queue = queueOf(request);
    const job = await Job.fromId(queue, request.id);
    const scheduler = await queue.jobScheduler;
    const how = { override: false, producerId: job.id };
    const { repeatJobKey: key, opts, name, data } = job;
    return (await scheduler.upsertJobScheduler(key, opts.repeat, name, data, opts, how))?.id ?? null;
  },
};

async function serve(request) {
  now = request.now;
  try {
    return { ok: await operations[request.op](request) };
  } catch (error) {
    return { error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answers = [];
  for (const request of JSON.parse(line)) answers.push(await serve(request));
  process.stdout.write(`${JSON.stringify(answers)}\n`);
}
await connection.quit();
