// One job whole.
const MOST_EDITED = 50_000;

function payload(title, value, job) {
  if (value === null) return [];
  const parts = titled(title, code(value.text));
  if (value.size > value.text.length) parts.push(make("p", { class: "soft" }, `The first ${COUNT.format(value.text.length)} of ${COUNT.format(value.size)} characters.`));
  if (value.size > 1000) parts.push(make("button", { type: "button", onclick: () => download(job) }, "Download data and result"));
  return parts;
}

// As text: JavaScript's numbers are shorter than JSON's.
async function download(job) {
  try {
    const query = new URLSearchParams({ queue: job.queue, id: job.id });
    const answer = await fetch(`api/payload?${query}`, { cache: "no-store", headers: headers() });
    const text = await answer.text();
    if (!answer.ok) throw new Error(JSON.parse(text).error);
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `${job.id}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
    paid({ commands: Number(/"commands": (\d+)\}$/.exec(text)?.[1] ?? 0) }, "Data and result read");
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

function attemptsOf(job) {
  const box = make("div");
  const ask = () => look("attempts", { queue: job.queue, id: job.id }, "Attempts read", ({ attempts, complete }) => {
    const rows = attempts.map(({ started_at, ended_at, outcome }, place) => make("tr", {},
      cell(`${place + 1}`, { head: true }), cell(moment(started_at), { label: "started" }), cell(moment(ended_at), { label: "ended" }),
      cell(ended_at === null ? "–" : span(ended_at - started_at), { label: "took", css: "number" }), cell(outcome ?? "it runs", { label: "outcome" })));
    const head = ["run", "started", "ended", "took", "outcome"].map((name) => make("th", { scope: "col", class: name === "took" ? "number" : "" }, name));
    box.replaceChildren(make("table", { class: "stack" }, make("caption", {}, "Runs of this job"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
      ...(complete ? [] : [make("p", { class: "soft" }, "Earlier runs are no longer in the queue’s events.")]));
  });
  box.append(make("button", { type: "button", onclick: ask }, "When each run began and ended (2 to 5 commands)"));
  return titled("runs", box);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function commandOf(job) {
  if (!job.data || job.redacted || job.data.size > job.data.text.length) return [];
  const options = ["priority", "attempts"].filter((name) => job.options[name] > 0).map((name) => ` --${name} ${job.options[name]}`);
  const text = `convolab-worker enqueue ${quoted(job.name)} ${quoted(job.data.text)} --queue ${quoted(job.queue)}${options.join("")}`;
  const node = code(text);
  const copy = async () => {
    getSelection().selectAllChildren(node);
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
    } catch {
      say("It is selected: copy it from here.");
    }
  };
  return titled("as a command", node, make("button", { type: "button", onclick: copy }, "Copy"));
}

// A form that adds a job like this one.
function editOf(job) {
  if (!about.acts || job.hidden) return [];
  const title = make("summary", {}, "edit and run again");
  if (job.redacted) return [make("details", {}, title, make("p", { class: "soft" }, "Its data are not shown whole: add a job by the command line instead."))];
  if ((job.data?.size ?? 0) > Math.min(MOST_EDITED, job.data?.text.length ?? 0)) return [make("details", {}, title, make("p", { class: "soft" }, "Its data are too large to be edited here."))];
  const field = (label, control) => make("label", {}, label, " ", control);
  const name = make("input", { value: job.name, required: "" });
  const data = make("textarea", { rows: 8, spellcheck: "false" }, job.data?.text ?? "null");
  const delay = make("input", { type: "number", min: 0, step: "any", placeholder: "0" });
  const priority = make("input", { type: "number", min: 0, value: job.options.priority || "" });
  const attempts = make("input", { type: "number", min: 1, value: job.options.attempts || "" });
  const wrong = make("p", { class: "bad", role: "alert" });
  const form = make("form", {}, field("name", name), field("data, as JSON", data), field("delay in seconds", delay), field("priority", priority), field("attempts", attempts), wrong, make("button", {}, "Add as a new job"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    try {
      JSON.parse(data.value);
    } catch (error) {
      wrong.textContent = `data: ${error.message}`;
      data.focus();
      return;
    }
    const options = {};
    if (delay.value) options.delay = Number(delay.value);
    if (priority.value) options.priority = Number(priority.value);
    if (attempts.value) options.attempts = Number(attempts.value);
    // The text as it was written: JavaScript would shorten long numbers.
    const rest = JSON.stringify({ action: "enqueue", queue: job.queue, name: name.value, options });
    try {
      const found = await ask("actions", { method: "POST", body: `${rest.slice(0, -1)},"data":${data.value}}`, headers: { "Content-Type": "application/json" } });
      location.hash = `#job?${new URLSearchParams({ queue: job.queue, id: found.id })}`;
      paid(found, `Added job ${found.id}`);
    } catch (error) {
      wrong.textContent = `It was not added: ${error.message}`;
    }
  });
  return [make("details", {}, title, form)];
}

function showJob() {
  const query = { queue: asked.get("queue") || about.queues[0], id: asked.get("id") || "" };
  $("job-body").replaceChildren();
  $("job-actions").replaceChildren();
  put("job-h", `Job ${query.id}`);
  $("job-h").focus();
  return look("job", query, "Job read", ({ job }) => {
    showJobActions(job);
    const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
    const steps = Object.entries(job.steps);
    const parts = [make("dl", { class: "facts" },
      fact("state", job.state), fact("name", job.name), fact("queue", job.queue),
      fact("attempts", attemptsText(job)), fact("starts", `${job.starts}`),
      fact("added", moment(job.timestamp)), fact("started", moment(job.processed_on)), fact("ended", moment(job.finished_on)),
      ...(job.due_at === null ? [] : [fact("due", moment(job.due_at))]), ...(job.trace === null ? [] : [fact("trace", job.trace)]))];
    if (job.reason) parts.push(...titled("reason", code(job.reason)));
    job.stacks.slice().reverse().forEach((stack, place) => parts.push(...titled(place ? `the failure before, ${place}` : "the newest failure", ...stackOf(stack))));
    if (job.starts) parts.push(...attemptsOf(job));
    if (job.hidden) parts.push(make("p", { class: "soft" }, "Payloads are hidden here."));
    parts.push(...payload("progress", job.progress, job), ...payload("data", job.data, job), ...payload("result", job.result, job));
    if (steps.length) parts.push(...titled("recorded steps", make("ul", {}, ...steps.map(([name, text]) => make("li", {}, `${name} `, ...(text === null ? [] : [make("code", {}, text)]))))));
    if (job.logs.length) parts.push(...titled("log, the newest rows", code(job.logs.join("\n"))));
    if (job.parents.length) parts.push(...titled("parents", tree(job.parents)));
    if (job.children.length) parts.push(...titled(`children, ${job.children.length} of ${job.children_count}`, tree(job.children)));
    parts.push(...titled("options", code(JSON.stringify(job.options, null, 2))), ...commandOf(job), ...editOf(job));
    $("job-body").replaceChildren(...parts);
  });
}

function showJobActions(job) {
  const steps = Object.keys(job.steps).length, { queue, state } = job, ids = [job.id], box = $("job-actions");
  const verbs = {
    failed: ["retry", "remove"], completed: ["retry", "remove"], delayed: ["promote", "remove", "cancel"],
    active: ["cancel"], waiting: ["remove", "cancel"], prioritized: ["remove", "cancel"], "waiting-children": ["remove", "cancel"],
  }[state] || ["remove"];
  if (!about.acts) return;
  for (const verb of verbs) {
    const asks = verb === "remove" || verb === "cancel";
    const again = verb === "remove" ? () => { location.hash = `#jobs?${new URLSearchParams({ queue, state })}`; } : showJob;
    box.append(action(verb, { action: verb, queue, state, ids }, asks ? `${verb} job ${job.id}?` : "", again));
    if (verb === "retry" && steps) box.append(action("retry without its recorded steps", { action: verb, queue, state, ids, forget_steps: true }, `Retry job ${job.id}, and run its ${steps} recorded steps anew?`, showJob));
  }
}
