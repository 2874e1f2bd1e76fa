// What producers do. A scenario: the queues that workers serve, options of Node's worker, `stage` (before any
// worker starts) and `drive` (while workers run, until all is settled). What a handler does stands in the job's
// data (behaviour.mjs and app.py). With `timing`, when things happen is the point: not run by both to be compared.

const give = (value) => ({ do: { op: "return", value } });
const fails = (message, until) => ({ do: { op: "fail", message, ...(until === undefined ? {} : { until }) } });
const waits = (name, value = name) => ({ do: [{ op: "gate", name }, { op: "return", value }] });

const KINDS = ["generate-audio", "generate-dialogue", "generate-image", "generate-course"];
const UNICODE = "héllo wörld ñ 日本語 한국어 🎧👩🏽‍🏫 \u2028\u2029 \u0000 \"quoted\" \\ / \t\n";

const RESULTS = [
  null, true, false, 0, -1, 42, 1.5, -0.25, 1e21, 1e-7, 9007199254740991,
  "", "text", UNICODE, [], {}, [1, "two", null, [3]], { b: 1, a: { nested: [true, null] }, "": "empty key" },
];

// Milliseconds of a rate limit. Whether the queue counts as drained at a job's end depends on its being limited
// then, so the window is longer than a busy machine takes for the jobs that fill it.
const RATE_WINDOW = 500;

// A schedule of every second is set when the second is not over in a moment: its first job is delayed then.
const duringASecond = async () => {
  const left = 1000 - (Date.now() % 1000);
  if (left < 500) await new Promise((resolve) => setTimeout(resolve, left + 20)); // timers may be early
};

// One job of each behaviour on one queue, all waiting before the worker starts.
function batch(jobs, { finished = jobs.length, queues = ["work"], worker, name = "work" } = {}) {
  return {
    queues,
    worker,
    stage: async (c) => {
      for (const [data, options] of jobs) await c.queue("work").add(name, data, options);
    },
    drive: (c) => c.finished("work", finished),
  };
}

// So many jobs on a queue that lets one start in a window (milliseconds).
function globallyLimited(jobs, window) {
  return {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").setGlobalRateLimit(1, window);
      for (let value = 1; value <= jobs; value += 1) await c.queue("work").add("work", give(value));
    },
    drive: (c) => c.finished("work", jobs),
  };
}

// A parent with the given children (each [data, options]); the parent answers with its children's results.
function family(children, { parentFinished = 1, childrenFinished = children.length, parent, worker, data } = {}) {
  return {
    queues: ["course", "parts"],
    worker,
    stage: (c) =>
      c.flow().add({
        name: "generate-course",
        queueName: "course",
        data: data ?? { do: { op: "collect" } },
        opts: { jobId: "the-parent", ...parent },
        children: children.map(([data, options], at) => ({
          name: "generate-audio", queueName: "parts", data, opts: { jobId: `child-${at}`, ...options },
        })),
      }),
    drive: async (c) => {
      await c.finished("parts", childrenFinished);
      await c.finished("course", parentFinished);
    },
  };
}

// A course job that adds its children while it runs; they go on once it waits for them.
function atRunTime(children, { runs = children.length } = {}) {
  return {
    queues: ["course", "parts"],
    stage: (c) =>
      c.queue("course").add("generate-course", {
        do: [{ op: "children", children: children.map((child, at) => ({ key: `part-${at}`, ...child })) }, { op: "collect" }],
      }),
    drive: async (c) => {
      await c.happened("course", "waiting-children");
      for (let run = 0; run < runs; run += 1) await c.open("parts");
      await c.finished("parts", children.length);
      await c.finished("course", 1);
    },
  };
}

const part = ({ do: step }, more = {}) => ({
  name: "generate-audio", queue: "parts", data: { do: [{ op: "gate", name: "parts" }, step] }, ...more,
});

const basics = {
  "results of every JSON type": batch(RESULTS.map((value) => [give(value)])),
  "result undefined or None": batch([[{ do: { op: "undefined" } }]]),
  "all four kinds": {
    queues: ["work"],
    stage: async (c) => {
      for (const name of KINDS) await c.queue("work").add(name, give(name));
    },
    drive: (c) => c.finished("work", KINDS.length),
  },
  "data null": batch([[null]]),
  "data arrays": batch([[[]], [[1, [2, [3]], "x"]]]),
  "data scalars": batch([[0], [17], [-1.5], [true], [false], [""], ["text"]]),
  "data unicode": batch([[{ text: UNICODE, "ключ": "значение" }], [UNICODE]]),
  "large payload": batch([[{ text: "ä".repeat(300_000) }], [give(Array.from({ length: 20_000 }, (_, at) => at))]]),
  "custom job id": batch([[give(1), { jobId: "my-id" }], [give(2), { jobId: "my-id" }]], { finished: 1 }),
  "bulk": {
    queues: ["work"],
    stage: (c) =>
      c.queue("work").addBulk(
        Array.from({ length: 25 }, (_, at) => ({
          name: KINDS[at % 4], data: give({ at }), opts: at % 5 ? {} : { priority: 1 + (at % 3) },
        })),
      ),
    drive: (c) => c.finished("work", 25),
  },
};

const failures = {
  "failure": batch([[fails("no such voice")]]),
  "failure with an empty message": batch([[fails("")]]),
  "failure with unicode": batch([[fails(UNICODE)]]),
  "unrecoverable failure": batch([[{ do: { op: "unrecoverable", message: "bad text" } }, { attempts: 5, backoff: 10 }]]),
  "attempts without backoff": batch([[fails("again", 2), { attempts: 3 }], [fails("always"), { attempts: 3 }]]),
  "attempts and LIFO without backoff": batch([[fails("again", 1), { attempts: 2, lifo: true }], [give(1)]]),
  "attempts and priority without backoff": batch([[fails("again", 1), { attempts: 2, priority: 3 }], [give(1), { priority: 3 }]]),
  "attempts with a number as backoff": batch([[fails("again", 1), { attempts: 3, backoff: 40 }]]),
  "attempts with fixed backoff": batch([[fails("again", 2), { attempts: 3, backoff: { type: "fixed", delay: 40 } }]]),
  "attempts with exponential backoff": batch([
    [fails("again", 3), { attempts: 4, backoff: { type: "exponential", delay: 20 } }],
  ]),
  "attempts exhausted with backoff": batch([[fails("always"), { attempts: 2, backoff: { type: "fixed", delay: 20 } }]]),
  "attempts with jitter": batch([
    [fails("again", 1), { attempts: 2, backoff: { type: "fixed", delay: 40, jitter: 0.5 } }],
  ]),
  "attempts with exponential backoff and jitter": batch([
    [fails("again", 2), { attempts: 3, backoff: { type: "exponential", delay: 32, jitter: 0.25 } }],
  ]),
  "attempts with custom backoff": batch([[fails("again", 2), { attempts: 3, backoff: { type: "linear" } }]]),
  "attempts with custom backoff by the job's data": batch([
    [{ ...fails("again", 1), pause: 60 }, { attempts: 3, backoff: { type: "by message" } }],
  ]),
  "attempts with custom backoff of zero": batch([
    [{ ...fails("at once", 1), pause: 0 }, { attempts: 3, backoff: { type: "by message" } }],
  ]),
  "attempts that custom backoff ends": batch([
    [{ ...fails("enough"), pause: 30 }, { attempts: 3, backoff: { type: "by message" } }],
  ]),
  "attempts with zero delay": batch([[fails("again", 1), { attempts: 2, backoff: { type: "fixed", delay: 0 } }]]),
  "stack trace limit": batch([
    [fails("always"), { attempts: 4, stackTraceLimit: 2 }],
    [fails("always"), { attempts: 2, stackTraceLimit: 0 }],
  ]),
  "queue limited by a handler": batch(
    [[{ do: [{ op: "limit", delay: 200 }, { op: "return", value: "done" }] }], [give(2)]], { worker: { concurrency: 1 } },
  ),
  "data updated by a handler": batch(
    [[{ do: [{ op: "update", value: give("updated") }, { op: "fail", message: "no" }] }, { attempts: 2 }]],
  ),
  "run later without using an attempt": batch([[{ do: [{ op: "later", delay: 60 }, { op: "return", value: "done" }] }]]),
};

const order = {
  "delays": batch([[give("late"), { delay: 2000 }], [give("soon"), { delay: 1000 }], [give("now")]]),
  "delays, ten of them": {
    ...batch(Array.from({ length: 10 }, (_, at) => [give(at + 1), { delay: 60 * (at + 1) }])),
    timing: true,
  },
  "delay and priority": {
    queues: ["work"],
    stage: async (c) => {
      const together = { delay: 1000, timestamp: Date.now() };
      await c.queue("work").add("work", give("a"), { ...together, priority: 5 });
      await c.queue("work").add("work", give("b"), { ...together, priority: 1 });
      await c.queue("work").add("work", give("now"), { priority: 9 });
    },
    drive: (c) => c.finished("work", 3),
  },
  "priorities": batch([9, 1, 5, 1, 2_097_151].map((priority) => [give(priority), { priority }]).concat([[give("none")]])),
  "LIFO": batch([[give(1)], [give(2), { lifo: true }], [give(3)], [give(4), { lifo: true }]]),
};

const deduplication = {
  "deduplication simple": batch(
    [
      [give(1), { deduplication: { id: "same" } }],
      [give(2), { deduplication: { id: "same" } }],
      [give(3), { deduplication: { id: "other" } }],
    ],
    { finished: 2 },
  ),
  "deduplication freed by failure": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", fails("no"), { deduplication: { id: "same" } }),
    drive: async (c) => {
      await c.finished("work", 1);
      await c.queue("work").add("work", give(2), { deduplication: { id: "same" } });
      await c.finished("work", 2);
    },
  },
  "deduplication throttle": {
    queues: ["work"],
    stage: async (c) => {
      for (const value of [1, 2]) {
        await c.queue("work").add("work", give(value), { deduplication: { id: "same", ttl: 60_000 } });
      }
    },
    drive: async (c) => {
      await c.finished("work", 1);
      await c.queue("work").add("work", give(3), { deduplication: { id: "same", ttl: 60_000 } });
      await c.queue("work").add("work", give(4));
      await c.finished("work", 2);
      c.observe("the job that holds the key", await c.queue("work").getDeduplicationJobId("same"));
    },
  },
  "deduplication key removed": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", give(1), { deduplication: { id: "same", ttl: 60_000 } }),
    drive: async (c) => {
      await c.finished("work", 1);
      c.observe("keys removed", await c.queue("work").removeDeduplicationKey("same"));
      await c.queue("work").add("work", give(2), { deduplication: { id: "same" } });
      await c.finished("work", 2);
    },
  },
  "deduplication debounce": batch(
    [1, 2, 3].map((value) => [
      give(value), { delay: 80, deduplication: { id: "same", ttl: 80, extend: true, replace: true } },
    ]),
    { finished: 1 },
  ),
  "deduplication keepLastIfActive": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", waits("first"), { deduplication: { id: "same", keepLastIfActive: true } }),
    drive: async (c) => {
      await c.happened("work", "active", "1");
      for (const value of [2, 3, 4]) {
        await c.queue("work").add("work", give(value), { deduplication: { id: "same", keepLastIfActive: true } });
      }
      await c.open("first");
      await c.finished("work", 2);
    },
  },
};

// Modes that decide about a second and a third job while the first one waits.
const dedupeModes = {
  "ttl": [{ ttl: 60_000 }, {}],
  "ttl that each job extends": [{ ttl: 60_000, extend: true }, {}],
  "replace while delayed": [{ replace: true }, { delay: 80 }],
  "ttl and replace": [{ ttl: 80, replace: true }, { delay: 80 }],
  "keepLastIfActive while waiting": [{ keepLastIfActive: true }, {}],
};
for (const [name, [mode, options]] of Object.entries(dedupeModes)) {
  deduplication[`deduplication ${name}`] = batch(
    [1, 2, 3].map((value) => [give(value), { ...options, deduplication: { id: "same", ...mode } }]),
    { finished: 1 },
  );
}

const removal = Object.fromEntries(
  Object.entries({
    "true": true,
    "false": false,
    "0": 0,
    "2": 2,
    "count": { count: 1 },
    "age": { age: 0 },
    "age and count": { age: 3600, count: 2 },
    "age and limit": { age: 0, limit: 1 },
  }).flatMap(([name, keep]) => [
    [`removeOnComplete ${name}`, batch([1, 2, 3].map((value) => [give(value), { removeOnComplete: keep }]))],
    [`removeOnFail ${name}`, batch([1, 2, 3].map((value) => [fails(`no ${value}`), { removeOnFail: keep }]))],
  ]),
);

// For jobs that say nothing themselves.
removal["a worker's own removal"] = {
  ...batch([
    [give(1)], [give(2)], [give(3), { removeOnComplete: false }], [give(4)],
    [fails("no 5")], [fails("no 6"), { removeOnFail: true }], [fails("no 7")], [fails("no 8")],
  ]),
  worker: { removeOnComplete: { count: 1 }, removeOnFail: { age: 3600, count: 1 } },
};

const flows = {
  "flow": family([[give("a")], [give({ b: 1 })], [give(null)]]),
  "flow that waits for a retry": family([[fails("again", 1), { attempts: 2, backoff: 20 }], [give(2)]]),
  "flow failParentOnFailure": family([[fails("bad part"), { failParentOnFailure: true }], [give(2)]]),
  "flow failParentOnFailure after attempts": family([[fails("bad part"), { failParentOnFailure: true, attempts: 2 }]]),
  "flow ignoreDependencyOnFailure": family([[fails("bad part"), { ignoreDependencyOnFailure: true }], [give(2)]]),
  "flow continueParentOnFailure": family([[fails("bad part"), { continueParentOnFailure: true }], [give(2)]]),
  "flow continueParentOnFailure, the other children dropped": family(
    [[fails("bad part"), { continueParentOnFailure: true }], [give(2), { delay: 3_600_000 }]],
    { childrenFinished: 1, data: { do: [{ op: "drop" }, { op: "collect" }] } },
  ),
  "flow continueParentOnFailure, another child pending": family(
    [[fails("bad part"), { continueParentOnFailure: true }], [give(2), { delay: 3_600_000 }]],
    { childrenFinished: 1 },
  ),
  "flow removeDependencyOnFailure": family([[fails("bad part"), { removeDependencyOnFailure: true }], [give(2)]]),
  "flow without an option leaves its parent waiting": family([[fails("bad part")], [give(2)]], { parentFinished: 0 }),
  "flow with a prioritized parent": family([[give(1)]], { parent: { priority: 4 } }),
  "flow with children removed on completion": family([[give(1), { removeOnComplete: true }], [give(2), { removeOnComplete: true }]]),
  "flow with a failing child removed": family([
    [fails("bad part"), { failParentOnFailure: true, removeOnFail: true }],
  ]),
  "flow over three generations": {
    queues: ["course", "parts"],
    stage: (c) =>
      c.flow().add({
        name: "generate-course", queueName: "course", data: { do: { op: "collect" } }, opts: { jobId: "top" },
        children: [
          {
            name: "generate-dialogue", queueName: "parts", data: { do: { op: "collect" } },
            opts: { jobId: "middle", failParentOnFailure: true },
            children: [
              { name: "generate-audio", queueName: "parts", data: fails("leaf broke"), opts: { jobId: "leaf", failParentOnFailure: true } },
            ],
          },
        ],
      }),
    drive: async (c) => {
      await c.finished("parts", 2);
      await c.finished("course", 1);
    },
  },
  "children at run time": atRunTime([part(give("a")), part(give("b"))]),
  "children at run time, one fails": atRunTime([part(fails("bad part"))]),
  "children at run time, failure ignored": atRunTime([part(fails("bad part"), { on_failure: "ignore" }), part(give("b"))]),
  "children at run time, failure continued": atRunTime([part(give("b")), part(fails("bad part"), { on_failure: "continue" })]),
  "children at run time, failure removed": atRunTime([part(fails("bad part"), { on_failure: "remove" }), part(give("b"))]),
  "children at run time with attempts": atRunTime([part(fails("again", 1), { attempts: 2 })], { runs: 2 }),
  "children at run time on the parent's queue": {
    queues: ["course"],
    stage: (c) =>
      c.queue("course").add("generate-course", {
        do: [
          { op: "children", children: [{ name: "generate-audio", queue: "course", key: "audio", data: give("a") }] },
          { op: "collect" },
        ],
      }),
    drive: (c) => c.finished("course", 2),
  },
};

const reports = {
  "progress": batch([
    [{ do: [{ op: "progress", value: 10 }, { op: "return", value: 1 }] }],
    [{ do: [{ op: "progress", value: { stage: "voices", done: [1, 2], text: UNICODE } }] }],
    [{ do: [{ op: "progress", value: "half" }] }],
    [{ do: [{ op: "progress", value: true }] }],
  ]),
  "progress of a failing job": batch([[{ do: [{ op: "progress", value: 40 }, { op: "fail", message: "then it broke" }] }]]),
  "logs": batch([
    [{ do: [{ op: "log", line: "first" }, { op: "log", line: UNICODE }, { op: "return", value: 1 }] }],
    [{ do: ["a", "b", "c"].map((line) => ({ op: "log", line })) }, { keepLogs: 2 }],
  ]),
};

const control = {
  "pause and resume": {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").pause();
      await c.queue("work").add("work", give(1));
    },
    drive: async (c) => {
      c.observe("counts while paused", await c.queue("work").getJobCounts());
      await c.queue("work").resume();
      await c.finished("work", 1);
    },
  },
  "pause while a job runs": {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").add("work", waits("first"));
      await c.queue("work").add("work", give(2));
    },
    drive: async (c) => {
      await c.happened("work", "active", "1");
      await c.queue("work").pause();
      await c.open("first");
      await c.finished("work", 1);
      c.observe("waiting while paused", await c.queue("work").getWaitingCount());
      await c.queue("work").resume();
      await c.finished("work", 2);
    },
  },
  "promote a delayed job": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", give(1), { delay: 3_600_000 }),
    drive: async (c) => {
      const [job] = await c.queue("work").getDelayed();
      await job.promote();
      await c.finished("work", 1);
    },
  },
  "retry a failed job": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", fails("no", 1)),
    drive: async (c) => {
      await c.finished("work", 1);
      await (await c.queue("work").getJob("1")).retry();
      await c.finished("work", 2);
    },
  },
  "retry a completed job": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", give(1)),
    drive: async (c) => {
      await c.finished("work", 1);
      await (await c.queue("work").getJob("1")).retry("completed", { resetAttemptsMade: true });
      await c.finished("work", 2);
    },
  },
  "remove and clean while a job runs": {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").add("work", waits("first"));
      for (const value of [2, 3, 4]) await c.queue("work").add("work", give(value));
    },
    drive: async (c) => {
      await c.happened("work", "active", "1");
      await c.queue("work").remove("2");
      const refused = await (await c.queue("work").getJob("1")).remove().catch((error) => error.message);
      c.observe("removing the running job", refused ?? null);
      c.observe("cleaned", await c.queue("work").clean(0, 1, "wait"));
      await c.open("first");
      await c.finished("work", 2);
    },
  },
  "retry all failed jobs": {
    queues: ["work"],
    stage: async (c) => {
      for (const message of ["a", "b", "c"]) await c.queue("work").add("work", fails(message));
    },
    drive: async (c) => {
      await c.finished("work", 3);
      await c.queue("work").pause(); // so that the order of the retries is the script's alone
      await c.queue("work").retryJobs({ state: "failed" });
      await c.queue("work").resume();
      await c.finished("work", 6);
    },
  },
  "promote all delayed jobs": {
    queues: ["work"],
    stage: async (c) => {
      for (const value of [1, 2, 3]) await c.queue("work").add("work", give(value), { delay: 3_600_000 + value });
    },
    drive: async (c) => {
      await c.queue("work").pause();
      await c.queue("work").promoteJobs();
      await c.queue("work").resume();
      await c.finished("work", 3);
    },
  },
  "promote, remove and retry while a job runs": {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").add("work", fails("no", 1), { jobId: "again" });
      await c.queue("work").add("work", waits("first"), { jobId: "running" });
      await c.queue("work").add("work", give("promoted"), { jobId: "promoted", delay: 3_600_000 });
      await c.queue("work").add("work", give("removed"), { jobId: "removed", delay: 3_600_000 });
    },
    drive: async (c) => {
      await c.happened("work", "active", "running");
      await (await c.queue("work").getJob("again")).retry();
      await (await c.queue("work").getJob("promoted")).promote();
      await (await c.queue("work").getJob("removed")).remove();
      await c.open("first");
      await c.finished("work", 4);
    },
  },
  "clean completed and failed jobs while a job runs": {
    queues: ["work"],
    stage: async (c) => {
      for (const value of [1, 2]) await c.queue("work").add("work", give(value));
      await c.queue("work").add("work", fails("no"));
      await c.queue("work").add("work", waits("last"));
    },
    drive: async (c) => {
      await c.finished("work", 3);
      await c.happened("work", "active", "4");
      c.observe("cleaned", [
        (await c.queue("work").clean(0, 10, "completed")).sort(), await c.queue("work").clean(0, 10, "failed"),
      ]);
      await c.open("last");
      await c.finished("work", 4);
    },
  },
  "drain while a job runs": {
    queues: ["work"],
    stage: async (c) => {
      await c.queue("work").add("work", waits("first"));
      for (const value of [2, 3]) await c.queue("work").add("work", give(value));
      await c.queue("work").add("work", give(4), { delay: 3_600_000 });
    },
    drive: async (c) => {
      await c.happened("work", "active", "1");
      await c.queue("work").drain(true);
      await c.open("first");
      await c.finished("work", 1);
    },
  },
  "change data, priority and delay": {
    queues: ["work"],
    stage: async (c) => {
      const later = await c.queue("work").add("work", give(1), { delay: 3_600_000 });
      const low = await c.queue("work").add("work", give(2), { priority: 10 });
      const changed = await c.queue("work").add("work", give(3), { priority: 5 });
      await low.changePriority({ priority: 1 });
      await changed.updateData(give("changed"));
      await later.changeDelay(50);
    },
    drive: (c) => c.finished("work", 3),
  },
  "global concurrency": {
    queues: ["work"],
    worker: { concurrency: 3 },
    stage: async (c) => {
      await c.queue("work").setGlobalConcurrency(1);
      for (const value of [1, 2, 3, 4]) await c.queue("work").add("work", give(value));
    },
    drive: (c) => c.finished("work", 4),
  },
  "global rate limit": globallyLimited(2, RATE_WINDOW),
  "global rate limit, on time": { ...globallyLimited(6, 60), timing: true },
  "rate limit of the worker": {
    ...batch([1, 2, 3].map((value) => [give(value)])),
    worker: { limiter: { max: 1, duration: RATE_WINDOW } },
  },
  "rate limit of the worker, on time": {
    ...batch([1, 2, 3, 4, 5, 6].map((value) => [give(value)])),
    worker: { limiter: { max: 1, duration: 60 } },
    timing: true,
  },
  "rate limit of the worker that lets two start": {
    ...batch([1, 2, 3, 4].map((value) => [give(value)])),
    worker: { limiter: { max: 2, duration: RATE_WINDOW }, concurrency: 1 },
  },
  "worker metrics": { ...batch([[give(1)], [fails("no")]]), worker: { metrics: { maxDataPoints: 10 } } },
};

// A job whose worker took it and died: in active, its lock run out.
async function abandon(c) {
  const dead = new c.bullmq.Worker("work", null, {
    connection: c.dedicated(), prefix: c.prefix, lockDuration: 20, autorun: false, name: "dead",
  });
  const job = await dead.getNextJob("dead:0", { block: false });
  while (await c.commands.exists(`${c.prefix}:work:${job.id}:lock`)) await c.commands.ping();
  await dead.close(true);
}

const accidents = {
  "a job that a dead worker left": {
    queues: ["work"],
    worker: { stalledInterval: 100 },
    stage: async (c) => {
      await c.queue("work").add("work", give(1));
      await abandon(c);
    },
    drive: (c) => c.finished("work", 1),
  },
  "a job that stalled too often": {
    queues: ["work"],
    worker: { stalledInterval: 100, maxStalledCount: 0 },
    stage: async (c) => {
      await c.queue("work").add("work", give(1), { attempts: 3 });
      await abandon(c);
    },
    drive: (c) => c.finished("work", 1),
  },
  "a queue obliterated while a job runs": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", waits("first")),
    drive: async (c) => {
      await c.happened("work", "active", "1");
      await c.queue("work").obliterate({ force: true });
      await c.open("first");
      await c.queue("work").add("work", give(2), { jobId: "after" });
      await c.happened("work", "completed", "after");
    },
  },
  "a lock that another worker holds": {
    queues: ["work"],
    stage: (c) => c.queue("work").add("work", waits("first")),
    drive: async (c) => {
      await c.happened("work", "active", "1");
      await c.commands.set(`${c.prefix}:work:1:lock`, "another-worker:1");
      await c.open("first");
      await c.queue("work").add("work", give(2));
      await c.happened("work", "completed", "2");
    },
  },
};

const schedulers = {
  "scheduler every": {
    queues: ["work"],
    stage: (c) => c.queue("work").upsertJobScheduler("tick", { every: 500, limit: 3 }, { name: "work", data: give("tick") }),
    drive: (c) => c.finished("work", 3),
  },
  "scheduler every with a failing job": {
    queues: ["work"],
    stage: (c) =>
      c.queue("work").upsertJobScheduler("tick", { every: 500, limit: 2 }, { name: "work", data: fails("no"), opts: { attempts: 1 } }),
    drive: (c) => c.finished("work", 2),
  },
  "scheduler cron with a time zone": {
    queues: ["work"],
    stage: async (c) => {
      await duringASecond();
      await c.queue("work").upsertJobScheduler(
        "cron", { pattern: "* * * * * *", tz: "Europe/Lisbon", limit: 1 }, { name: "work", data: give("cron") },
      );
    },
    drive: (c) => c.finished("work", 1),
  },
  "scheduler cron with a limit": {
    queues: ["work"],
    stage: async (c) => {
      await duringASecond();
      const schedule = { pattern: "* * * * * *", limit: 2 };
      await c.queue("work").upsertJobScheduler("cron", schedule, { name: "work", data: give("cron") });
    },
    drive: (c) => c.finished("work", 2),
  },
  "scheduler whose end has come": {
    queues: ["work"],
    stage: async (c) => {
      const endDate = Date.now() + 500;
      await c.queue("work").pause();
      await c.queue("work").upsertJobScheduler("tick", { every: 100, endDate }, { name: "work", data: give("tick") });
      await c.eventually(() => c.commands.ping(), () => Date.now() > endDate + 5);
    },
    drive: async (c) => {
      await c.queue("work").resume();
      await c.finished("work", 1);
    },
  },
  "scheduler with options for its jobs": {
    queues: ["work"],
    stage: (c) =>
      c.queue("work").upsertJobScheduler(
        "tick", { every: 500, limit: 2 },
        { name: "work", data: fails("again", 1), opts: { attempts: 2, removeOnComplete: true, priority: 3 } },
      ),
    drive: (c) => c.until("work", (seen) => seen.filter(({ event }) => event === "completed").length === 2, "two iterations"),
  },
  "scheduler that goes on": {
    queues: ["work"],
    stage: (c) =>
      c.queue("work").upsertJobScheduler(
        "daily", { pattern: "0 15 3 * * *", tz: "America/New_York" }, { name: "work", data: give("daily"), opts: { priority: 2 } },
      ),
    drive: async (c) => {
      const [job] = await c.queue("work").getDelayed();
      await job.promote();
      await c.finished("work", 1);
      await c.until("work", (seen) => seen.filter(({ event }) => event === "delayed").length >= 2, "the next iteration");
    },
  },
  "scheduler removed": {
    queues: ["work"],
    stage: (c) => c.queue("work").upsertJobScheduler("tick", { every: 3_600_000 }, { name: "work", data: waits("tick") }),
    drive: async (c) => {
      await c.happened("work", "delayed"); // the second iteration, added as the first is taken
      c.observe("removed", await c.queue("work").removeJobScheduler("tick"));
      await c.open("tick");
      await c.finished("work", 1);
    },
  },
};

// The application's own four queues, its API waiting for every job.
const APPLICATION = [
  ["audio-generation", "generate-audio", { episodeId: "e1", dialogueId: "d1", speed: 0.9, pauseMode: true, userId: "u1" }],
  ["dialogue-generation", "generate-dialogue", { episodeId: "e1", speakers: ["A", "B"], variationCount: 2, jlptLevel: "N5" }],
  ["image-generation", "generate-image", { episodeId: "e1", dialogueId: "d1", imageCount: 3 }],
  ["course-generation", "generate-course", { courseId: "c1" }],
];
const APPLICATION_QUEUES = APPLICATION.map(([queue]) => queue);

const application = {
  "an API waits for its jobs": {
    queues: APPLICATION_QUEUES,
    drive: async (c) => {
      for (const [queueName, name, data] of APPLICATION) {
        const events = await c.queueEvents(queueName);
        const progress = {};
        events.on("progress", ({ jobId, data: value }) => (progress[jobId] ??= []).push(value));
        const works = {
          ...data,
          do: [{ op: "progress", value: { percent: 100 } }, { op: "return", value: { name, data } }],
        };
        const breaks = {
          ...data,
          do: [{ op: "progress", value: 40 }, { op: "fail", message: `no ${name}: 日本語` }],
        };
        const good = await c.queue(queueName).add(name, works);
        const result = await good.waitUntilFinished(events, c.patience);
        const bad = await c.queue(queueName).add(name, breaks, { attempts: 2 });
        const reason = await bad.waitUntilFinished(events, c.patience).then(() => null, (error) => error.message);
        c.observe(name, { result, reason, worked: progress[good.id], broke: progress[bad.id] });
      }
    },
  },
  "an API lists the workers": {
    queues: APPLICATION_QUEUES,
    stage: async (c) => {
      for (const [queueName, name] of APPLICATION) await c.queue(queueName).add(name, give(name));
    },
    drive: async (c) => {
      for (const queueName of APPLICATION_QUEUES) {
        await c.finished(queueName, 1);
        const workers = await c.eventually(() => c.queue(queueName).getWorkers(), (found) => found.length > 0);
        c.observe(queueName, workers.map(({ name, rawname }) => ({ name, rawname })));
      }
    },
  },
};

// For tests that add jobs themselves.
const open = { "an open queue": { queues: ["work"], timing: true, drive: async () => {} } };

const groups = {
  "results and data": basics,
  "failures and attempts": failures,
  "order": order,
  "deduplication": deduplication,
  "removal": removal,
  "flows": flows,
  "progress and logs": reports,
  "control": control,
  "accidents": accidents,
  "job schedulers": schedulers,
  "an API": application,
};

export const scenarios = Object.assign({ ...open }, ...Object.values(groups));

// The names of those that are run by both workers and compared, by what they are about.
export const compared = Object.fromEntries(
  Object.entries(groups).map(([about, group]) => [about, Object.keys(group).filter((name) => !group[name].timing)]),
);
