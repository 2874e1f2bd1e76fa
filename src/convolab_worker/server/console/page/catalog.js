function showHandlers() {
  return look("handlers", {}, "Handlers read from memory", ({ handlers }) => {
    fill("handler-list", handlers.map((one) => [
      cell(one.names.join(", "), { css: "id", head: true }),
      cell(one.kind, { label: "kind" }),
      cell(one.queue ?? "any", { label: "queue", css: "id" }),
      cell(one.payload, { label: "payload", css: "id" }),
      cell(one.result ?? "?", { label: "result", css: "id" }),
      cell([one.timeout && `${one.timeout} s`, one.concurrency && `${one.concurrency} at once`, one.rate, one.thread && "thread"].filter(Boolean).join(", ") || "–", { label: "limits" }),
      cell(Object.keys(one.defaults).length ? JSON.stringify(one.defaults) : "as added", { label: "options of jobs", css: "id" }),
      cell(COUNT.format((snapshot?.jobs ?? []).filter((job) => one.names.includes(job.name) && (one.queue === null || one.queue === job.queue)).length), { label: "running", css: "number" }),
      cell(one.handler, { label: "where", css: "id" }),
    ]));
  });
}

function showSchedules() {
  return look("schedules", {}, "Schedules read", ({ schedules }) => {
    fill("schedule-list", schedules.map((one) => [
      cell(one.id, { css: "id", head: true }),
      cell(one.queue, { label: "queue", css: "id" }),
      cell(one.name, { label: "job" }),
      cell(one.cron === null ? `every ${span(one.every)}` : `${one.cron} in ${one.tz ?? "the worker’s zone"}`, { label: "when" }),
      cell(moment(one.next_at), { label: "next" }),
      cell(COUNT.format(one.count), { label: "jobs so far", css: "number" }),
    ]));
  });
}
