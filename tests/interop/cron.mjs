// The moments of many schedules by cron-parser, in the version that bullmq pins, as its workers ask for them.
//
// A line of input is a list of {pattern, tz, after, until, hashSeed, count}; the answer a list of
// {at: [...]} in epoch milliseconds, fewer than count after the last, or {error}.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const load = createRequire(createRequire(import.meta.url).resolve("bullmq"));
const { CronExpressionParser } = load("cron-parser");

// Each from the one before, with a parser of its own, as a worker does for each iteration.
function moments({ pattern, count, after, until, ...options }) {
  const at = [];
  try {
    for (let from = after; at.length < count; from = at.at(-1)) {
      const interval = CronExpressionParser.parse(pattern, { ...options, endDate: until, currentDate: new Date(from) });
      try {
        at.push(interval.next().getTime());
      } catch (error) {
        if (/Out of the time span/.test(error.message)) return { at };
        throw error;
      }
    }
  } catch (error) {
    return { error: error.message };
  }
  return { at };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(JSON.parse(line).map(moments))}\n`);
}
