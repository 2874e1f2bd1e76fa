// Adds one job with npm's bullmq-otel, and tells which span that was.
//
// The task: {"redisUrl", "prefix", "name"}, and with "metadata" a job that carries that instead of a context.

import { createInterface } from "node:readline";
import { trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { context, propagation } from "@opentelemetry/api";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { Queue } from "bullmq";
import { BullMQOtel } from "bullmq-otel";
import Redis from "ioredis";

const [line] = await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", (text) => resolve([text])));
const { redisUrl, prefix, name, metadata } = JSON.parse(line);
const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator(new W3CTraceContextPropagator());
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));

const connection = new Redis(redisUrl, { maxRetriesPerRequest: null });
const telemetry = metadata === undefined ? new BullMQOtel({ tracerName: "producer" }) : undefined;
const queue = new Queue("work", { connection, prefix, telemetry });
const opts = metadata === undefined ? {} : { telemetry: { metadata } };
const job = await queue.add(name, { text: "Guten Tag" }, opts);
const span = exporter.getFinishedSpans().find((each) => each.name === `add work.${name}`)?.spanContext();
process.stdout.write(`${JSON.stringify({ jobId: job.id, traceId: span?.traceId, spanId: span?.spanId })}\n`);
await queue.close();
await connection.quit();
process.exit(0);
