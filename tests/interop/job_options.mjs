// Jobs with options of every shape, for either worker, and what became of them as Node tells it.
//
// Each line of input is {op, ...}: "stage" writes, for each case, a queue of jobs that all have its options; "work" has
// Node's workers run those of a prefix until nothing moves; "report" tells what is left of each queue.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const load = createRequire(import.meta.url);
const { FlowProducer, Queue, UnrecoverableError, Worker, Job } = load("bullmq");
const Redis = load("ioredis").default;
const commands = new Redis(process.argv[2], { maxRetriesPerRequest: null });
const JOBS = ["good-1", "good-2", "bad-1", "bad-2"];
const connection = { url: process.argv[2], maxRetriesPerRequest: null };

const operations = {
  // As Node's add writes them, where it takes the options; otherwise as another program might.
  async stage({ prefix, cases }) {
    const refused = [];
    for (const [number, opts] of cases.entries()) {
      const queue = new Queue(`q${number}`, { prefix, connection });
      for (const name of JOBS) {
        try {
          await queue.add(name, {}, { ...opts, jobId: name });
        } catch (error) {
          refused.push(number);
          const base = `${prefix}:q${number}`;
          const fields = { name, data: "{}", opts: JSON.stringify(opts), timestamp: Date.now(), delay: 0, priority: 0 };
          await commands.hset(`${base}:${name}`, fields);
          await commands.lpush(`${base}:wait`, name);
          await commands.zadd(`${base}:marker`, 0, "0");
        }
      }
      await queue.close();
    }
    return refused;
  },

  // Jobs of tests/interop/options_fuzz.py: by Node's add or its flows, or as another program might write them.
  async stage_jobs({ prefix, cases }) {
    const flow = new FlowProducer({ prefix, connection: commands });
    for (const [number, { jobs }] of cases.entries()) {
      const name = `q${number}`;
      const queue = new Queue(name, { prefix, connection: commands });
      await queue.waitUntilReady();
      for (const [at, job] of jobs.entries()) await stageOne(queue, flow, job, `w${at}`);
      await queue.close();
    }
    await flow.close();
    return {};
  },

  async work({ prefix, count, quiet, name, stalled = 30_000 }) {
    let moved = Date.now();
    const errors = Array.from({ length: count }, () => []);
    const workers = Array.from({ length: count }, (_, number) => {
      const worker = new Worker(
        `q${number}`,
        async (job) => {
          moved = Date.now();
          for (const row of ["a", "b", "c"]) await job.log(row);
          if (job.name?.startsWith("bad")) throw new Error("no");
          return behave(job);
        },
        {
          prefix,
          connection,
          lockDuration: 600_000,
          name,
          stalledInterval: stalled,
          settings: { backoffStrategy },
        },
      );
      worker.on("error", ({ message }) => errors[number].push(message));
      return worker;
    });
    await Promise.all(workers.map((worker) => worker.waitUntilReady()));
    moved = Date.now(); // to become ready takes longer than that on a busy machine
    const last = Date.now() + 4 * quiet; // a job that its script fails on is recovered and run again for ever
    while (Date.now() - moved < quiet && Date.now() < last) await new Promise((resolve) => setTimeout(resolve, 50));
    const told = errors.map((messages) => [...messages]); // without those of connections that are closed now
    await Promise.all(workers.map((worker) => worker.close(true)));
    return told;
  },

  // Adds a job to a queue of any name, and waits for its result.
  async wait({ prefix, queue: name }) {
    const queue = new Queue(name, { prefix, connection });
    const { id } = await queue.add("work", {});
    let job;
    do {
      await new Promise((resolve) => setTimeout(resolve, 10));
      job = await Job.fromId(queue, id);
    } while (!job.finishedOn);
    await queue.close();
    return job.returnvalue;
  },

  async report({ prefix, count }) {
    const told = [];
    for (let number = 0; number < count; number += 1) {
      const queue = new Queue(`q${number}`, { prefix, connection });
      const jobs = {};
      for (const name of JOBS) {
        const job = await Job.fromId(queue, name);
        jobs[name] = job && {
          state: await job.getState(),
          attempts: job.attemptsMade,
          starts: job.attemptsStarted,
          reason: job.failedReason ?? null,
          traces: job.stacktrace?.length ?? 0,
          rows: (await queue.getJobLogs(name)).count,
        };
      }
      told.push(jobs);
      await queue.close();
    }
    return told;
  },
};

function backoffStrategy(_, type) {
  if (type === "custom") return 0;
  if (type === "never") return -1;
  throw new Error(`no strategy is named ${type}`);
}

// What a fuzzed job does is in its data, where that is an object.
function behave({ data, attemptsMade }) {
  const does = data?.do;
  if (does === "unrecoverable") throw new UnrecoverableError(does);
  if (attemptsMade < ({ fail: 6, once: 1, twice: 2 }[does] ?? 0)) throw new Error(does);
  const isObject = data !== null && typeof data === "object" && !Array.isArray(data);
  return isObject && "value" in data ? data.value : data;
}

async function stageOne(queue, flow, { how, name, data, opts, fields, state, children }, id) {
  if (how === "add" || how === "flow") {
    try {
      const job = { name, data: JSON.parse(data), opts, queueName: queue.name };
      if (how === "add") await queue.add(name, job.data, opts);
      else
        await flow.add({
          ...job,
          children: children.map((child) => ({ ...child, data: JSON.parse(child.data), queueName: queue.name })),
        });
      return;
    } catch {
      // Node refuses it; another program might not.
    }
  }
  const base = queue.qualifiedName;
  const at = typeof opts.jobId === "string" && opts.jobId ? opts.jobId : id;
  const written = { name, data, opts: JSON.stringify(opts), timestamp: "1700000000000", delay: "0", priority: "0" };
  const hash = Object.entries({ ...written, ...fields }).filter(([, value]) => value !== null);
  await commands.hset(`${base}:${at}`, Object.fromEntries(hash));
  await commands.lpush(`${base}:${state ?? "wait"}`, at);
  await commands.zadd(`${base}:marker`, 0, "0");
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await operations[request.op](request) };
  } catch (error) {
    answer = { error: error.stack };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await commands.quit();
