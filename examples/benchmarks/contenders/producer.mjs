// The producer: adds jobs as a Node application does, pauses and resumes queues.

import { answer, bullmq, connectionOf, emit, versions } from './bullmq.mjs';

const BULK = 1000;
const opened = new Map();

// A job that says when it was sent, so that its worker can tell how long it waited.
function timed({ delay = 0, number = 0 }) {
  const data = { sentAt: Number(process.hrtime.bigint()), delay, number };
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
    for (let left = request.count; left > 0; left -= BULK) {
      const size = Math.min(left, BULK);
      await queueOf(request).addBulk(Array.from({ length: size }, () => ({ name: 'noop', data: {} })));
    }
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
