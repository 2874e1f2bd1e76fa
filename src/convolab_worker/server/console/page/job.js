function payload(title, value, job) {
  if (value === null) return [];
  const parts = titled(title, code(value.text));
  if (value.size > value.text.length) parts.push(make("p", { class: "soft" }, `The first ${COUNT.format(value.text.length)} of ${COUNT.format(value.size)} characters.`));
  if (value.size > 1000) parts.push(make("button", { type: "button", onclick: () => download(job) }, "Download data and result"));
  return parts;
}

async function download(job) {
  try {
    const found = await ask(`payload?${new URLSearchParams({ queue: job.queue, id: job.id })}`);
    const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(found, null, 2)])), download: "job.json" });
    link.click();
    URL.revokeObjectURL(link.href);
    paid(found, "Data and result read");
  } catch (error) {
    say(`It could not be read: ${error.message}`);
  }
}

function stackOf(parts) {
  return parts.filter((part) => part.text.trim()).map((part) => part.whose === "library"
    ? make("details", {}, make("summary", {}, "library frames"), code(part.text))
    : code(part.text, part.whose));
}

function tree(relatives) {
  return make("ul", { class: "tree" }, ...relatives.map((one) => make("li", {}, jobLink(one, `${one.name || "?"} ${one.id}`), ` ${one.state} on ${one.queue}`)));
}

function showJob() {
  const query = { queue: asked.get("queue") || about.queues[0], id: asked.get("id") || "" };
  $("job-body").replaceChildren();
  $("job-actions").replaceChildren();
  put("job-h", `Job ${query.id}`);
  $("job-h").focus();
  return look("job", query, "Job read", ({ job }) => {
    const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
    const steps = Object.entries(job.steps), { queue } = job, ids = [job.id], box = $("job-actions");
    const buttons = {
      failed: ["retry", "remove"], completed: ["retry", "remove"], delayed: ["promote", "remove", "cancel"],
      active: ["cancel"], waiting: ["remove", "cancel"], prioritized: ["remove", "cancel"], "waiting-children": ["remove", "cancel"],
    }[job.state] || ["remove"];
    if (about.acts) {
      for (const verb of buttons) {
        const again = verb === "remove" ? () => { location.hash = `#jobs?${new URLSearchParams({ queue, state: job.state })}`; } : showJob;
        box.append(action(verb, { action: verb, queue, ids }, verb === "remove" || verb === "cancel" ? `${verb} job ${job.id}?` : "", again));
        if (verb === "retry" && steps.length) box.append(action("retry without its recorded steps", { action: verb, queue, ids, forget_steps: true }, `Retry job ${job.id}, and run its ${steps.length} recorded steps anew?`, showJob));
      }
    }
    const parts = [make("dl", { class: "facts" },
      fact("state", job.state), fact("name", job.name), fact("queue", queue),
      fact("attempts", `${job.attempts_made} of ${job.max_attempts}`), fact("starts", `${job.starts}`),
      fact("added", moment(job.timestamp)), fact("started", moment(job.processed_on)), fact("ended", moment(job.finished_on)),
      ...(job.due_at === null ? [] : [fact("due", moment(job.due_at))]), ...(job.trace === null ? [] : [fact("trace", job.trace)]))];
    if (job.reason) parts.push(...titled("reason", code(job.reason)));
    job.stacks.slice().reverse().forEach((stack, place) => parts.push(...titled(place ? `attempt before, ${place}` : "the newest failure", ...stackOf(stack))));
    if (job.hidden) parts.push(make("p", { class: "soft" }, "Payloads are hidden here."));
    parts.push(...payload("progress", job.progress, job), ...payload("data", job.data, job), ...payload("result", job.result, job));
    if (steps.length) parts.push(...titled("recorded steps", make("ul", {}, ...steps.map(([name, text]) => make("li", {}, `${name} `, ...(text === null ? [] : [make("code", {}, text)]))))));
    if (job.logs.length) parts.push(...titled("log, the newest rows", code(job.logs.join("\n"))));
    if (job.parents.length) parts.push(...titled("parents", tree(job.parents)));
    if (job.children.length) parts.push(...titled(`children, ${job.children.length} of ${job.children_count}`, tree(job.children)));
    parts.push(...titled("options", code(JSON.stringify(job.options, null, 2))));
    if (job.data && job.data.size === job.data.text.length) parts.push(...titled("as a command", code(`convolab-worker enqueue ${quoted(job.name)} ${quoted(JSON.stringify(JSON.parse(job.data.text)))} --queue ${quoted(queue)}`)));
    $("job-body").replaceChildren(...parts);
  });
}
