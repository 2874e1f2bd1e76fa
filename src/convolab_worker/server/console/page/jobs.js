// The list of jobs: pages, searches, and actions on those that are listed or on all that match.
const WHEN = { failed: "finished_on", completed: "finished_on", active: "processed_on", delayed: "due_at" };
const VERBS = { failed: ["retry", "remove"], completed: ["retry", "remove"], delayed: ["promote", "remove"], waiting: ["remove"], prioritized: ["remove"], "waiting-children": ["remove"] };
// About what an action on a job costs, with what its script runs inside Redis.
const PRICES = { retry: 12, promote: 9, remove: 21 };
const MOST_MATCHED = 10_000, WINDOW = 500, BODY = 50_000, BATCH = 500;
const known = new Map();  // the counts of queues, as they were last told
let listed = [];

// What was asked for, as the address has it.
function wanted() {
  return {
    queue: asked.get("queue") || about.queues[0], state: asked.get("state") || "failed",
    name: asked.get("name") || "", text: asked.get("text") || "",
  };
}

function filled({ queue, state, name, text }) { return { queue, state, ...(name && { name }), ...(text && { text }) }; }

function chooseQueue(queue) {
  const names = about.queues.includes(queue) ? about.queues : [...about.queues, queue];
  $("look-queue").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  $("look-queue").value = queue;
}

// The price of a look, before it is made.
function showPrice() {
  const state = $("look-state").value, counts = known.get($("look-queue").value);
  const count = counts && (state === "any" ? Object.values(counts).reduce((sum, one) => sum + one, 0) : counts[state]);
  if (!$("look-name").value.trim() && !$("look-text").value.trim()) put("price", "A page of 50 jobs costs 52 to 59 commands.");
  else if (count === undefined) put("price", `A search reads the next ${WINDOW} jobs at most, and costs up to ${WINDOW + 20} commands.`);
  else put("price", `A search reads ${COUNT.format(Math.min(count, WINDOW))} of ${jobs(count)}, and costs up to ${COUNT.format(Math.min(count, WINDOW) + 20)} commands.`);
}

function inWords({ queue, state, name, text }) {
  return `${state} jobs of ${queue}${name && ` named ${name}`}${text && ` with “${text}”`}`;
}

function showFound() {
  const query = wanted();
  fill("found", listed.map((job) => [
    cell(jobLink(job), { css: "id", head: true }),
    cell(job.name, { label: "name" }),
    cell(job.state, { label: "state" }),
    cell(moment(job[WHEN[job.state] || "timestamp"] ?? job.timestamp), { label: "when" }),
    cell(attemptsText(job), { label: "attempts", css: "number" }),
    cell(job.reason && job.state === "failed" ? job.reason : job.progress?.text && job.progress.text !== "0" ? job.progress.text : "–", { label: "reason or progress", css: "reason" }),
  ]));
  const ids = listed.map((job) => job.id).slice(0, BATCH), box = $("all-actions");
  box.replaceChildren();
  if (!about.acts || ids.length === 0 || !(query.state in VERBS)) return;
  for (const verb of VERBS[query.state]) {
    box.append(action(`${verb} the ${jobs(ids.length)} below`, { action: verb, queue: query.queue, state: query.state, ids }, `${verb} ${jobs(ids.length)} of ${query.queue}?`, showJobs));
  }
  const isFiltered = query.name || query.text, count = known.get(query.queue)?.[query.state];
  const most = Math.min(count ?? MOST_MATCHED, MOST_MATCHED);
  box.append(make("button", { type: "button", onclick: findAll }, isFiltered ? `find all that match (up to ${COUNT.format(most + 2)} commands)` : "find all of them (up to 2 commands)"));
}

async function showJobs() {
  const query = wanted();
  chooseQueue(query.queue);
  for (const part of ["state", "name", "text"]) $(`look-${part}`).value = query[part];
  if (about.hides) put("look-text-label", "text in id, name or reason");
  showPrice();
  $("groups-box").hidden = true;
  $("groups-none").hidden = true;
  listed = [];
  await older(filled(query));
}

function older(query) {
  return look("jobs", query, "Jobs read", (found) => {
    const seen = new Set(listed.map((job) => job.id));
    listed.push(...found.jobs.filter((job) => !seen.has(job.id)));
    if (found.total !== null) known.set(query.queue, { ...known.get(query.queue), [query.state]: found.total });
    showFound();
    const total = known.get(query.queue)?.[query.state];
    put("found-count", `${jobs(listed.length)} shown${total === undefined || query.name || query.text ? "" : ` of ${COUNT.format(total)}`}${found.looked_at > found.jobs.length ? `; ${COUNT.format(found.looked_at)} were looked at` : ""}`);
    $("older").hidden = found.after === null;
    $("older").onclick = () => older({ ...query, after: found.after });
  });
}

// The ids of all that match; then one question with their number.
function findAll() {
  const query = wanted();
  return look("matching", filled(query), "Ids read", ({ ids, looked_at, more }) => {
    const box = $("all-actions"), all = jobs(ids.length);
    box.replaceChildren(make("p", {}, `${all} match${more ? `, of the newest ${COUNT.format(looked_at)}` : ""}.`));
    if (ids.length) box.append(...VERBS[query.state].map((verb) => make("button", { type: "button", onclick: () => actOnAll(verb, query, ids) }, `${verb} all ${COUNT.format(ids.length)}`)));
    box.querySelector("button")?.focus();
  });
}

async function actOnAll(verb, query, ids) {
  const price = COUNT.format(PRICES[verb] * ids.length);
  if (!(await sure(`${verb} all ${COUNT.format(ids.length)} ${inWords(query)}? That costs about ${price} commands.`))) return;
  let done = 0, commands = 0, tried = 0, goesOn = true;
  const stop = make("button", { type: "button", onclick: () => { goesOn = false; } }, "Stop");
  $("all-actions").replaceChildren(stop);
  stop.focus();
  try {
    for (const batch of batches(ids)) {
      if (!goesOn) break;
      say(`${verb}: ${COUNT.format(done)} of ${COUNT.format(ids.length)} …`);
      const body = JSON.stringify({ action: verb, queue: query.queue, state: query.state, ids: batch });
      const found = await ask("actions", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      done += found.done;
      commands += found.commands;
      tried += batch.length;
    }
    await showJobs();
    paid({ commands }, `${goesOn ? "Done" : `Stopped after ${COUNT.format(tried)}`}: ${verb}, ${COUNT.format(done)} of ${COUNT.format(ids.length)}`);
  } catch (error) {
    spent += commands;
    say(`${verb}: done to ${COUNT.format(done)} of ${COUNT.format(ids.length)}, then ${error.message}`);
  }
}

// Parts of a list of ids that fit into a request each.
function* batches(ids) {
  let batch = [], size = 0;
  for (const id of ids) {
    const more = new TextEncoder().encode(JSON.stringify(id)).length + 1;
    if (batch.length && (batch.length === BATCH || size + more > BODY)) {
      yield batch;
      [batch, size] = [[], 0];
    }
    batch.push(id);
    size += more;
  }
  if (batch.length) yield batch;
}

function showGroups() {
  const queue = $("look-queue").value;
  return look("failures", { queue }, "Failures grouped", ({ groups }) => {
    listed = [];
    $("found").hidden = $("found-none").hidden = $("older").hidden = true;
    put("found-count", "");
    $("all-actions").replaceChildren();
    $("groups-box").hidden = false;
    fill("groups", groups.map((group) => {
      const act = make("span"), all = jobs(group.ids.length);
      if (about.acts) act.append(action(`retry ${all}`, { action: "retry", queue, state: "failed", ids: group.ids }, `retry ${all} named ${group.name} of ${queue}?`, showGroups));
      return [
        cell(COUNT.format(group.ids.length), { css: "number", head: true }),
        cell(group.name, { label: "name" }),
        cell(jobLink({ queue, id: group.ids[0] }, group.reason || "no reason"), { label: "reason", css: "reason" }),
        cell(moment(group.newest), { label: "newest" }),
        cell(act, { label: "do" }),
      ];
    }));
  });
}

$("look").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = filled({ queue: $("look-queue").value, state: $("look-state").value, name: $("look-name").value.trim(), text: $("look-text").value.trim() });
  const hash = `#jobs?${new URLSearchParams(query)}`;
  if (location.hash === hash) route();
  else location.hash = hash;
});
$("look").addEventListener("input", showPrice);
$("open-job").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `#job?${new URLSearchParams({ queue: $("look-queue").value, id: $("open-id").value.trim() })}`;
});
$("group").addEventListener("click", showGroups);
