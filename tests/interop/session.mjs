// One Node process for a whole test run: JSON requests on stdin, JSON answers on stdout, one a line.
//
//   node session.mjs PACKAGE REDIS_URL      PACKAGE is "bullmq" (6.x) or "bullmq5" (5.x)
//
// A request is {"id": 1, "op": "stage", ...}; its answer {"id": 1, "ok": ...} or {"id": 1, "error": "..."}.
// Requests are served concurrently: a scenario may wait for a worker that lives in another process.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { Context } from "./context.mjs";
import { scenarios } from "./scenarios.mjs";
import { snapshot } from "./snapshot.mjs";

const [packageName, redisUrl] = process.argv.slice(2);
const load = createRequire(import.meta.url);
const bullmq = load(packageName);
const Redis = load("ioredis").default;

const commands = new Redis(redisUrl, { maxRetriesPerRequest: null });
const contexts = new Map();

function scenarioOf(request) {
  const scenario = scenarios[request.scenario];
  if (!scenario) throw new Error(`no scenario is named ${JSON.stringify(request.scenario)}`);
  return scenario;
}

function contextOf(request) {
  const context = contexts.get(request.prefix);
  if (!context) throw new Error(`nothing was staged under the prefix ${request.prefix}`);
  return context;
}

const operations = {
  hello: async () => ({
    bullmq: load(`${packageName}/package.json`).version,
    scenarios: Object.fromEntries(
      Object.entries(scenarios).map(([name, { queues, worker }]) => [name, { queues, worker: worker ?? {} }]),
    ),
  }),

  // Adds what the scenario has waiting before any worker starts.
  stage: async (request) => {
    const context = new Context({ bullmq, commands, Redis, redisUrl, ...request });
    contexts.set(request.prefix, context);
    await context.prepare(scenarioOf(request));
    await scenarioOf(request).stage?.(context);
    return {};
  },

  // Adds one job, as a producer does.
  add: async (request) => {
    const { queue, name, data, opts } = request;
    return (await contextOf(request).queue(queue).add(name, data, opts)).id;
  },

  // Writes a job scheduler, as a producer does; lists them; removes one.
  upsert: async (request) => {
    const { queue, scheduler, repeat, template } = request;
    return (await contextOf(request).queue(queue).upsertJobScheduler(scheduler, repeat, template))?.id ?? null;
  },
  schedulers: async (request) => contextOf(request).queue(request.queue).getJobSchedulers(0, -1, true),
  unschedule: async (request) => contextOf(request).queue(request.queue).removeJobScheduler(request.scheduler),

  // Starts Node's own workers, one for each queue of the scenario.
  work: async (request) => {
    await contextOf(request).startWorkers(scenarioOf(request));
    return {};
  },

  // Plays the producer's part while workers run, and returns when all is settled.
  drive: async (request) => {
    const context = contextOf(request);
    await scenarioOf(request).drive(context);
    return {};
  },

  rest: async (request) => {
    await contextOf(request).stopWorkers();
    return {};
  },

  snapshot: async (request) => snapshot(contextOf(request), scenarioOf(request)),

  forget: async (request) => {
    const context = contextOf(request);
    contexts.delete(request.prefix);
    await context.close();
    return {};
  },
};

async function serve(line) {
  const request = JSON.parse(line);
  let answer;
  try {
    const operation = operations[request.op];
    if (!operation) throw new Error(`no operation is named ${JSON.stringify(request.op)}`);
    answer = { id: request.id, ok: await operation(request) };
  } catch (error) {
    answer = { id: request.id, error: error?.stack ?? String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => void serve(line));
lines.on("close", () => process.exit(0));
