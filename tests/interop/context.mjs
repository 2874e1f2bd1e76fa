// What a scenario gets: queues under one prefix, gates, and waiting for events instead of sleeping.

import { Behaviour, backoffStrategy } from "./behaviour.mjs";

const PATIENCE_MS = 8000;

export class Context {
  constructor({ bullmq, commands, Redis, redisUrl, prefix, workerName, patience }) {
    Object.assign(this, { bullmq, commands, Redis, redisUrl, prefix, workerName });
    this.patience = patience ?? PATIENCE_MS;
    this.queues = new Map();
    this.closers = [];
    this.workers = [];
    this.observed = {};
  }

  connection() {
    return this.commands;
  }

  queue(name) {
    if (!this.queues.has(name)) {
      const queue = new this.bullmq.Queue(name, { connection: this.commands, prefix: this.prefix });
      this.queues.set(name, queue);
      this.closers.push(() => queue.close());
    }
    return this.queues.get(name);
  }

  // Queues write their own meta when they are opened: all of them before the scenario begins.
  async prepare({ queues }) {
    for (const name of queues) await this.queue(name).waitUntilReady();
  }

  flow() {
    const flow = new this.bullmq.FlowProducer({ connection: this.commands, prefix: this.prefix });
    this.closers.push(() => flow.close());
    return flow;
  }

  async queueEvents(name) {
    const events = new this.bullmq.QueueEvents(name, {
      connection: this.dedicated(),
      prefix: this.prefix,
      lastEventId: "0",
    });
    this.closers.push(() => events.close());
    await events.waitUntilReady();
    return events;
  }

  // A connection that a blocking read may keep for itself.
  dedicated() {
    const connection = new this.Redis(this.redisUrl, { maxRetriesPerRequest: null });
    this.closers.push(() => connection.disconnect());
    return connection;
  }

  // Notes something that the producer saw; compared like everything else.
  observe(name, value) {
    this.observed[name] = value === undefined ? null : value;
  }

  async events(name) {
    return readStream(await this.commands.xrange(`${this.prefix}:${name}:events`, "-", "+"));
  }

  // Waits until the queue's event stream satisfies the predicate.
  async until(name, satisfied, what = "an event") {
    const key = `${this.prefix}:${name}:events`;
    const deadline = Date.now() + this.patience;
    const seen = [];
    let last = "0";
    this.reader ??= this.dedicated();
    while (Date.now() < deadline) {
      const reply = await this.reader.xread("BLOCK", 100, "STREAMS", key, last);
      if (reply) {
        const fresh = reply[0][1];
        last = fresh[fresh.length - 1][0];
        seen.push(...readStream(fresh));
      }
      if (satisfied(seen)) return seen;
    }
    const story = seen.map((event) => `${event.event}:${event.jobId ?? ""}`).join(" ");
    throw new Error(`waited ${this.patience} ms on ${name} for ${what}; saw ${story}`);
  }

  // Waits until `count` jobs of the queue have completed or failed for good.
  finished(name, count) {
    const over = ({ event }) => event === "completed" || event === "failed";
    return this.until(name, (seen) => seen.filter(over).length >= count, `${count} finished jobs`);
  }

  happened(name, event, jobId, count = 1) {
    const same = (entry) => entry.event === event && (jobId === undefined || entry.jobId === jobId);
    return this.until(name, (seen) => seen.filter(same).length >= count, `${count} × ${event} of ${jobId ?? "any job"}`);
  }

  // Asks again and again until the answer satisfies the predicate.
  async eventually(ask, satisfied) {
    const deadline = Date.now() + this.patience;
    for (;;) {
      const answer = await ask();
      if (satisfied(answer)) return answer;
      if (Date.now() > deadline) throw new Error(`waited ${this.patience} ms, last for ${JSON.stringify(answer)}`);
    }
  }

  // Lets one job that waits at the gate go on.
  async open(gate) {
    await this.commands.rpush(`${this.prefix}:gate:${gate}`, "open");
  }

  async startWorkers({ queues, worker = {} }) {
    const behaviour = new Behaviour(this);
    for (const name of queues) {
      const started = new this.bullmq.Worker(name, (job, token) => behaviour.run(job, token), {
        connection: this.dedicated(),
        prefix: this.prefix,
        concurrency: 1,
        name: this.workerName,
        settings: { backoffStrategy },
        ...worker,
      });
      started.on("error", () => {});
      this.workers.push(started);
    }
    await Promise.all(this.workers.map((each) => each.waitUntilReady()));
  }

  async stopWorkers() {
    await Promise.all(this.workers.map((each) => each.close()));
    this.workers = [];
  }

  async close() {
    await this.stopWorkers();
    for (const name of await this.keys()) await this.commands.unlink(name);
    for (const close of this.closers.reverse()) await close();
  }

  async keys() {
    const found = [];
    let cursor = "0";
    do {
      const [next, batch] = await this.commands.scan(cursor, "MATCH", `${this.prefix}:*`, "COUNT", 1000);
      cursor = next;
      found.push(...batch);
    } while (cursor !== "0");
    return [...new Set(found)].sort();
  }
}

function readStream(entries) {
  return entries.map(([id, fields]) => {
    const event = { id };
    for (let at = 0; at < fields.length; at += 2) event[fields[at]] = fields[at + 1];
    return event;
  });
}
