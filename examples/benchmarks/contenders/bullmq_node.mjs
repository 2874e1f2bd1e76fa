// Contender: bullmq's Node worker, one for each queue, with a handler that does nothing.

import { answer, bullmq, connectionOf, emit, versions } from './bullmq.mjs';

const [url, queues, concurrency, options] = process.argv.slice(2);

let kept = [];

async function nothing(job) {
  const { sentAt, delay, number, keep, sleep } = job.data;
  if (sentAt !== undefined) {
    const delay_ms = (Number(process.hrtime.bigint()) - sentAt) / 1e6 - delay;
    if (keep) kept.push(delay_ms);
    else emit('started', { delay_ms, number });
  }
  if (sleep) await new Promise((resolve) => setTimeout(resolve, sleep));
}

const workers = queues.split(',').map(
  (queue) =>
    new bullmq.Worker(queue, nothing, {
      connection: connectionOf(url),
      concurrency: Number(concurrency),
      ...JSON.parse(options),
    }),
);
await Promise.all(workers.map((worker) => worker.waitUntilReady()));
emit('ready', { versions: versions() });

await answer({
  kept: () => {
    const delays_ms = kept;
    kept = [];
    return { delays_ms };
  },
  usage: () => {
    const { user, system } = process.cpuUsage();
    return { cpu_seconds: (user + system) / 1e6 };
  },
});
