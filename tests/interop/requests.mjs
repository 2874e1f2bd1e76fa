// JSON requests on stdin, JSON answers on stdout, one a line: {"op": NAME, ...}; {"ok": ...} or {"error": "..."}.

import { createInterface } from "node:readline";

export async function answer(operations) {
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answered;
    try {
      answered = { ok: await operations[request.op](request) };
    } catch (error) {
      answered = { error: error?.stack ?? String(error) };
    }
    process.stdout.write(`${JSON.stringify(answered)}\n`);
  }
}
