// Everything that a run left behind: every Redis key as it stands, and what Node's API says of every job.

const STATES = [
  "waiting", "active", "delayed", "prioritized", "paused", "waiting-children", "completed", "failed",
];

export async function snapshot(context, scenario) {
  const keys = {};
  for (const key of await context.keys()) keys[key] = await dump(context, key);
  const api = {};
  for (const name of scenario.queues) api[name] = await report(context, name);
  return { keys, api, observed: context.observed };
}

async function dump({ commands }, key) {
  const type = await commands.type(key);
  const expires = (await commands.pttl(key)) >= 0;
  return { type, expires, value: await READERS[type](commands, key) };
}

const READERS = {
  none: async () => null,
  string: (redis, key) => redis.get(key),
  hash: (redis, key) => redis.hgetall(key),
  list: (redis, key) => redis.lrange(key, 0, -1),
  set: async (redis, key) => (await redis.smembers(key)).sort(),
  zset: async (redis, key) => pairs(await redis.zrange(key, 0, -1, "WITHSCORES")),
  stream: async (redis, key) =>
    (await redis.xrange(key, "-", "+")).map(([id, fields]) => [id, Object.fromEntries(pairs(fields))]),
};

function pairs(flat) {
  const found = [];
  for (let at = 0; at < flat.length; at += 2) found.push([flat[at], flat[at + 1]]);
  return found;
}

async function report(context, name) {
  const queue = context.queue(name);
  const added = (await context.events(name)).filter(({ event }) => event === "added");
  const jobs = {};
  for (const { jobId } of added) jobs[jobId] = await describe(context, queue, jobId);
  const listed = {};
  for (const state of STATES) listed[state] = (await queue.getJobs([state])).map((job) => job?.id ?? null).sort();
  return {
    jobs,
    listed,
    counts: await queue.getJobCounts(),
    paused: await queue.isPaused(),
    metrics: {
      completed: await queue.getMetrics("completed"),
      failed: await queue.getMetrics("failed"),
    },
    schedulers: await queue.getJobSchedulers(),
  };
}

async function describe(context, queue, id) {
  const job = await queue.getJob(id);
  const state = await queue.getJobState(id);
  if (!job) return { state, job: null };
  return {
    state,
    job: job.toJSON(),
    processedBy: job.processedBy ?? null,
    deferredFailure: job.deferredFailure ?? null,
    logs: await queue.getJobLogs(id),
    childrenValues: await job.getChildrenValues(),
    ignoredFailures: await job.getIgnoredChildrenFailures(),
    failedChildrenValues: await job.getFailedChildrenValues(),
    dependencies: await job.getDependencies(),
    dependencyCounts: await job.getDependenciesCount(),
  };
}
