// Handlers, from the worker's memory, and schedules.
function policyOf(defaults) {
  const { attempts, backoff, ...kept } = defaults, parts = [];
  if (attempts) parts.push(`${attempts} attempt${attempts === 1 ? "" : "s"}`);
  if (backoff) parts.push(typeof backoff === "object" ? `${backoff.type}${backoff.delay ? ` from ${span(backoff.delay / 1000)}` : ""} between them` : `${span(backoff / 1000)} between them`);
  for (const [name, value] of Object.entries(kept)) parts.push(`${name} ${JSON.stringify(value)}`);
  return parts.join(", ") || "as the job says";
}

function showHandlers() {
  return look("handlers", {}, "Handlers read from memory", ({ handlers }) => {
    fill("handler-list", handlers.map((one) => {
      const types = make("span", {}, `${one.payload} → ${one.result ?? "?"}`);
      if (one.schema) types.append(make("details", {}, make("summary", {}, "schema"), code(JSON.stringify(one.schema, null, 2))));
      const running = (snapshot?.jobs ?? []).filter((job) => one.names.includes(job.name) && (one.queue === null || one.queue === job.queue)).length;
      return [
        cell(one.names.join(", "), { css: "id", head: true }),
        cell(one.kind, { label: "kind" }),
        cell(one.reachable ? one.queue ?? "any" : make("strong", { class: "warn" }, `${one.queue}: no queue of this worker`), { label: "queue", css: "id" }),
        cell(types, { label: "payload and result", css: "id" }),
        cell([one.timeout && span(one.timeout), one.concurrency && `${one.concurrency} at once`, one.rate, one.thread && "thread"].filter(Boolean).join(", ") || "–", { label: "limits" }),
        cell(policyOf(one.defaults), { label: "retries", css: "id" }),
        cell(COUNT.format(running), { label: "running", css: "number" }),
        cell(COUNT.format(snapshot?.parked?.[one.key] ?? 0), { label: "parked", css: "number" }),
        cell(one.handler, { label: "where", css: "id" }),
      ];
    }));
  });
}

// A moment as the clock of a zone shows it.
function zoned(at, zone) {
  try {
    return new Date(at * 1000).toLocaleString([], { timeZone: zone, dateStyle: "medium", timeStyle: "medium" });
  } catch {
    return new Date(at * 1000).toLocaleString();
  }
}

function showSchedules() {
  return look("schedules", {}, "Schedules read", ({ schedules }) => {
    fill("schedule-list", schedules.map((one) => {
      const when = one.cron === null ? `every ${span(one.every)}` : `${one.words ?? "?"}, in ${one.tz ?? "the worker’s zone"}`;
      const pattern = one.cron === null ? [] : [" ", make("code", {}, one.cron)];
      const next = make("ol", { class: "next" }, ...one.next.map((at) => make("li", {}, one.tz ? make("time", { datetime: new Date(at * 1000).toISOString(), title: new Date(at * 1000).toISOString() }, zoned(at, one.tz)) : moment(at))));
      const doing = make("span");
      if (about.acts) doing.append(action("remove", { action: "unschedule", queue: one.queue, schedule: one.id }, `Remove the schedule ${one.id} and its next job?`, showSchedules));
      return [
        cell(one.id, { css: "id", head: true }),
        cell(one.queue, { label: "queue", css: "id" }),
        cell(one.name, { label: "job" }),
        cell(make("span", {}, when, ...pattern, ...(one.problem ? [make("strong", { class: "warn" }, ` ${one.problem}`)] : [])), { label: "when" }),
        cell(next, { label: "next, in its zone" }),
        cell(`${COUNT.format(one.count)}${one.limit === null ? "" : ` of ${COUNT.format(one.limit)}`}`, { label: "jobs so far", css: "number" }),
        cell(doing, { label: "do" }),
      ];
    }));
  });
}
