// Calls the waker of the documentation (its first argument) as the lines of its input say.

import { createInterface } from "node:readline";

const { wake } = await import(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  const { times, delay } = JSON.parse(line);
  for (let time = 0; time < times; time++) wake(delay);
  process.stdout.write(`${JSON.stringify({ times })}\n`);
}
process.exit(0);
