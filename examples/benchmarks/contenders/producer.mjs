// The producer: adds jobs as a Node application does, pauses and resumes queues.

import { answer, bullmq, connectionOf, emit, versions } from './bullmq.mjs';

const BULK = 1000;
const BULK_BYTES = 16e6;
const opened = new Map();

// A job that says when it was sent, so that its worker can tell, or keep, how long it waited.
function timed({ delay = 0, number = 0, keep, sleep }) {
  const data = { sentAt: Number(process.hrtime.bigint()), delay, number, keep, sleep };
  return { name: 'noop', data, opts: delay ? { delay } : {} };
}

function queueOf({ url, queue }) {
  const key = `${url} ${queue}`;
  if (!opened.has(key)) {
    opened.set(key, new bullmq.Queue(queue, { connection: connectionOf(url) }));
  }
  return opened.get(key);
}

emit('ready', { versions: versions() });

await answer({
  open: async (request) => {
    await queueOf(request).waitUntilReady();
  },
  bulk: async (request) => {
    const { count, size = 0, sleep = 0, spread = false } = request;
    const text = size && { text: 'x'.repeat(size) };
    // Evenly over half to one and a half times as long, in an order that repeats nothing; whole
    // milliseconds, as setTimeout drops their parts.
    const sleepOf = (n) => (spread ? Math.round(sleep * (0.5 + ((n * 0.618034) % 1))) : sleep);
    const dataOf = (n) => ({ ...text, ...(sleep && { sleep: sleepOf(n) }) });
    const most = Math.max(1, Math.min(BULK, Math.floor(BULK_BYTES / (size + 1))));
    for (let left = count; left > 0; left -= most) {
      const length = Math.min(left, most);
      await queueOf(request).addBulk(Array.from({ length }, (_, n) => ({ name: 'noop', data: dataOf(left - n) })));
    }
  },
  // Adds at an even rate, whatever becomes of the jobs. A job is sent when it is due by that rate:
  // a producer that falls behind does not hide how long its jobs wait.
  flow: async (request) => {
    const { rate, count } = request;
    const start = Number(process.hrtime.bigint()) + 5e6;
    const added = [];
    for (let sent = 0; sent < count; ) {
      const due = Math.min(count, Math.floor(((Number(process.hrtime.bigint()) - start) / 1e9) * rate) + 1);
      const jobs = [];
      for (; sent < due; sent++) {
        const data = { sentAt: start + (sent / rate) * 1e9, delay: 0, number: sent, keep: true };
        jobs.push({ name: 'noop', data });
      }
      if (jobs.length === 1) added.push(queueOf(request).add(jobs[0].name, jobs[0].data));
      else if (jobs.length) added.push(queueOf(request).addBulk(jobs));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await Promise.all(added);
  },
  // How long it takes to add jobs one after the other, several at a time, and in bulk.
  time: async (request) => {
    const { count, bulk, at_once: atOnce } = request;
    const queue = queueOf(request);
    const data = { text: 'x'.repeat(100) };
    const { user, system } = process.cpuUsage();
    const start = process.hrtime.bigint();
    if (bulk) {
      await queue.addBulk(Array.from({ length: count }, () => ({ name: 'noop', data })));
    } else {
      let left = count;
      const one = async () => {
        while (left-- > 0) await queue.add('noop', data);
      };
      await Promise.all(Array.from({ length: atOnce }, one));
    }
    const seconds = Number(process.hrtime.bigint() - start) / 1e9;
    const used = process.cpuUsage();
    return { seconds, cpu_seconds: (used.user + used.system - user - system) / 1e6 };
  },
  add: async (request) => {
    const { name, data, opts } = timed(request);
    await queueOf(request).add(name, data, opts);
  },
  batch: async (request) => {
    await queueOf(request).addBulk(request.jobs.map(timed));
  },
  pause: async (request) => {
    await queueOf(request).pause();
  },
  resume: async (request) => {
    await queueOf(request).resume();
  },
  leave: async ({ url }) => {
    for (const [key, queue] of opened) {
      if (key.startsWith(`${url} `)) {
        opened.delete(key);
        await queue.close();
      }
    }
  },
});
