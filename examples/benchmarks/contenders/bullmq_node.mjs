// Contender: bullmq's Node worker, one for each queue, with a handler that does nothing.

import { answer, bullmq, connectionOf, emit, versions } from './bullmq.mjs';

const [url, queues, concurrency, options] = process.argv.slice(2);

async function nothing(job) {
  const { sentAt, delay, number } = job.data;
  if (sentAt !== undefined) {
    const sinceSent = (Number(process.hrtime.bigint()) - sentAt) / 1e6;
    emit('started', { delay_ms: sinceSent - delay, number });
  }
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
  usage: () => {
    const { user, system } = process.cpuUsage();
    return { cpu_seconds: (user + system) / 1e6 };
  },
});
