// A service in TypeScript that adds a dialogue and waits for it. What it may add, and what comes back,
// is in jobs.d.ts, which `make schema` writes: a misspelt job, queue or field does not compile.

import { Queue, QueueEvents } from "bullmq";
import type { TypedQueue } from "./jobs.js";

const name = "dialogue-generation";
const connection = { url: process.env.REDIS_URL ?? "redis://localhost:6379" };
const queue: TypedQueue<typeof name> = new Queue(name, { connection });
const events = new QueueEvents(name, { connection, lastEventId: "0" });

const job = await queue.add("generate-dialogue", {
  episodeId: "fox-and-grapes",
  dialogueId: "from-typescript",
  language: "es",
  dialogueLength: 4,
});
const dialogue = await job.waitUntilFinished(events, 60_000);
console.log(JSON.stringify({ lines: dialogue.lines, file: dialogue.file }));

await Promise.all([events.close(), queue.close()]);
