// Contender: bullmq's Node worker.

import { createSocket } from 'node:dgram';

import { bullmq, connectionOf } from '../contenders/bullmq.mjs';

const connection = connectionOf(process.env.RECOVERY_URL);
if (process.argv[2] === 'add') {
  const queue = new bullmq.Queue('recovery', { connection });
  await queue.add('hold', {});
  await queue.close();
} else {
  new bullmq.Worker(
    'recovery',
    () =>
      new Promise(() => {
        createSocket('udp4').send(`${process.pid}`, Number(process.env.RECOVERY_PORT), '127.0.0.1');
      }),
    { connection },
  );
}
