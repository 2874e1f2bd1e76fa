const TROUBLED = new Set(["failed", "retried", "lost", "returned"]);
// A hidden page closes its stream, so that it does not keep the process awake.
const HIDDEN_SECONDS = 60;
const STRETCHES = { minutes: { seconds: 60, count: 60 }, quarters: { seconds: 900, count: 96 } };
let snapshot = null, recent = [], offset = 0, filter = "all", stream = null, hiding = 0, back = "minutes";
let past = { minutes: new Map(), quarters: new Map() };
const charts = {
  history: new Chart("history", { label: "What ended", upward: " completed", downward: "failed or retried" }),
  commands: new Chart("curve", { label: "Billable commands", upward: "", downward: "" }),
};

function progressOf(job) {
  if (job.progress === null) return "–";
  const part = job.progress, percent = typeof part === "number" ? part : part.pct ?? part.percent;
  if (typeof percent !== "number") return JSON.stringify(part);
  const box = document.createElement("span"), bar = document.createElement("progress");
  bar.max = 100;
  bar.value = percent;
  bar.setAttribute("aria-label", `progress of job ${job.id}`);
  box.append(bar, ` ${Math.round(percent)} %${typeof part.step === "string" ? `, ${part.step}` : ""}`);
  return box;
}

function showState() {
  const { state, waiting } = snapshot;
  const css = { working: "good", waiting: "good", asleep: "soft", suspended: "soft", connecting: "bad", blocked: "bad", stopping: "warn", stopped: "bad" };
  $("state").className = `pill ${css[state] || ""}`;
  put("state", state);
  let detail = "";
  if (state === "waiting" && waiting.until !== null) {
    const left = Math.max(waiting.until - now(), 0);
    detail = `until ${clock(waiting.until)} (${span(left)}) or the next job; waits are now ${span(waiting.wait)} long, ${span(waiting.longest)} at most`;
  } else if (state === "suspended") detail = "it works only while a wake request is held";
  else if (state === "blocked") detail = "the worker’s event loop does not answer: a handler blocks it";
  else if (state === "asleep") detail = "no connection to Redis until the next wake";
  else if (state === "connecting") detail = "Redis can’t be reached; the worker keeps trying";
  put("detail", detail);
  document.title = `${state} · convolab_worker`;
}

function showNow() {
  const { slots } = snapshot;
  put("running", COUNT.format(slots.running));
  put("free", COUNT.format(slots.free));
  put("parked", COUNT.format(slots.parked));
  put("redis", snapshot.state === "asleep" ? "not needed" : snapshot.connected ? "connected" : "not reachable");
  put("uptime", span(now() - snapshot.started_at));
  put("queues", `queues: ${snapshot.queues.join(", ")}`);
  const problems = [
    ...Object.entries(snapshot.stopped).map(([queue, why]) => `${queue} is ${why}`),
    ...snapshot.unreachable.map((handler) => `no queue of this worker reaches the handler ${handler}`),
  ];
  $("problems").hidden = problems.length === 0;
  put("problems", problems.join("; "));
  fill("jobs", snapshot.jobs.map((job) => [
    cell(jobLink(job), { css: "id", head: true }),
    cell(job.name, { label: "name" }),
    cell(job.queue, { label: "queue" }),
    cell(`${job.attempt} of ${job.max_attempts}`, { label: "attempt", css: "number" }),
    cell(span(Math.max(now() - job.started_at, 0)), { label: "for", css: "number" }),
    cell(progressOf(job), { label: "progress" }),
  ]));
}

function showTrouble() {
  const trouble = snapshot.trouble;
  $("trouble").hidden = trouble === null || view !== "overview";
  if (trouble === null) return;
  const what = {
    blocked: `${trouble.handler || "something"} blocked the event loop for ${span(trouble.blocked_seconds || 0)} or longer`,
    timed_out: `${trouble.handler} ran longer than its time-out`,
    abandoned: `${trouble.handler} did not end when it was cancelled, and was abandoned`,
  }[trouble.what];
  const job = trouble.job_id ? ` while it ran job ${trouble.job_id} (${trouble.job_name} on ${trouble.queue})` : "";
  put("trouble-text", `${clock(trouble.at)}: ${what}${job}. It was at ${trouble.where || "an unknown place"}.`);
  put("trouble-stack", trouble.stack || "");
}

function showCommands() {
  const { used, projected, budget, by_purpose: purposes, curve } = snapshot.commands;
  put("used", COUNT.format(used));
  put("projected", projected === null ? "too early to say" : COUNT.format(projected));
  put("budget", budget === null ? "none set" : COUNT.format(budget));
  const bar = $("budget-bar");
  bar.hidden = budget === null;
  if (budget !== null) {
    const part = used / budget;
    bar.classList.toggle("over", used > budget || (projected ?? 0) > budget);
    bar.firstElementChild.style.width = `${Math.min(part, 1) * 100}%`;
    bar.setAttribute("aria-label", `${Math.round(part * 100)} % of the budget is used`);
  }
  const totals = new Map();
  for (const [, spent] of curve) for (const [name, count] of Object.entries(spent)) totals.set(name, (totals.get(name) || 0) + count);
  const names = [...totals.keys()].sort((one, other) => totals.get(other) - totals.get(one));
  const others = names.splice(COLOURS - 1);
  if (others.length) names.push("others");
  const stretches = new Map(curve.map(([start, spent]) => {
    const up = Object.fromEntries(names.map((name) => [name, spent[name] || 0]));
    if (others.length) up.others = others.reduce((sum, name) => sum + (spent[name] || 0), 0);
    return [start, { up, down: {} }];
  }));
  charts.commands.show(columnsOf(stretches, 900, 96), names, 900);
  const rows = Object.entries(purposes).filter(([, counts]) => counts.billable > 0);
  rows.sort(([, one], [, other]) => other.billable - one.billable);
  fill("purposes", rows.map(([purpose, counts]) => [
    cell(purpose, { head: true }),
    cell(COUNT.format(counts.sent), { css: "number" }),
    cell(COUNT.format(counts.billable), { css: "number" }),
  ]));
}

function showKinds() {
  const times = (of, what) => [["median", "median"], ["p95", "95 %"], ["p99", "99 %"], ["max", "longest"]].map(([key, label]) =>
    cell(of[key] === null ? "–" : `${key === "max" ? "" : "≤ "}${span(of[key])}`, { label: `${what}, ${label}`, css: "number" }));
  fill("kinds", Object.entries(snapshot.kinds).map(([kind, did]) => [
    cell(kind, { head: true }),
    cell(did.rate.toFixed(1), { label: "per minute", css: "number" }),
    cell(COUNT.format(did.outcomes.completed || 0), { label: "completed", css: "number" }),
    cell(COUNT.format(did.outcomes.failed || 0), { label: "failed", css: did.outcomes.failed ? "number bad" : "number" }),
    cell(COUNT.format(did.outcomes.retried || 0), { label: "retried", css: "number" }),
    ...times(did.took, "took"), ...times(did.waited, "waited"),
  ]));
}

function keepHistory(grown) {
  for (const [name, stretches] of Object.entries(grown)) {
    const known = past[name];
    for (const [start, kinds] of stretches) {
      const up = {}, down = {};
      for (const [kind, outcomes] of Object.entries(kinds)) {
        if (outcomes.completed) up[kind] = outcomes.completed;
        const failed = (outcomes.failed || 0) + (outcomes.retried || 0) + (outcomes.lost || 0);
        if (failed) down[kind] = failed;
      }
      known.set(start, { up, down });
    }
    while (known.size > STRETCHES[name].count) known.delete(Math.min(...known.keys()));
  }
}

function showHistory() {
  const { seconds, count } = STRETCHES[back];
  charts.history.show(columnsOf(past[back], seconds, count), Object.keys(snapshot?.kinds ?? {}), seconds);
}

function showReasons(reasons) {
  fill("reasons", reasons.map((one) => [
    cell(COUNT.format(one.count), { css: "number", head: true }),
    cell(COUNT.format(one.final), { label: "of them for good", css: "number" }),
    cell(one.name, { label: "name" }),
    cell(one.queue, { label: "queue" }),
    cell(jobLink(one, one.reason), { label: "newest reason", css: "reason" }),
    cell(moment(one.at), { label: "newest" }),
  ]));
}

function showRecent() {
  const shown = recent.filter((entry) => filter === "all" || TROUBLED.has(entry.outcome));
  const css = { completed: "good", failed: "bad", lost: "bad", retried: "warn", returned: "warn" };
  fill("recent", shown.map((entry) => [
    cell(clock(entry.at), { css: "number", head: true }),
    cell(entry.outcome, { label: "outcome", css: css[entry.outcome] || "" }),
    cell(jobLink(entry), { label: "job", css: "id" }),
    cell(entry.name, { label: "name" }),
    cell(entry.queue, { label: "queue" }),
    cell(span(entry.duration), { label: "took", css: "number" }),
    cell(span(entry.waited), { label: "waited", css: "number" }),
    cell(entry.reason || "–", { label: "reason", css: "reason" }),
  ]));
}

function show() {
  if (snapshot === null) return;
  showState();
  showNow();
  showTrouble();
  if (view === "costs") showCommands();
  if (view !== "overview") return;
  showKinds();
  showHistory();
}

function showOverview() {
  show();
  showRecent();
}

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function showLocked(wasTried) {
  snapshot = null;
  sessionStorage.removeItem("token");
  about = null;
  arrange();
  $("locked").hidden = false;
  $("refused").hidden = !wasTried;
  put("state", "locked");
  put("detail", "");
  put("link", "");
  $("token").focus();
}

function receive(event, data) {
  const found = JSON.parse(data);
  if (event === "recent") {
    recent = found;
    return view === "overview" ? showRecent() : undefined;
  }
  if (event === "history") return keepHistory(found);
  if (event === "reasons") return showReasons(found);
  const isFirst = snapshot === null;
  snapshot = found;
  if (isFirst) arrange();
  offset = snapshot.now - Date.now() / 1000;
  show();
}

// EventSource can't send the token; the same stream is read here, event by event.
async function listen() {
  const wasTried = sessionStorage.getItem("token") !== null;
  stream = new AbortController();
  const answer = await fetch("events", { headers: headers(), cache: "no-store", signal: stream.signal });
  if (answer.status === 401) return showLocked(wasTried);
  if (!answer.ok) throw new Error(`the worker answered ${answer.status}`);
  put("link", "Live.");
  past = { minutes: new Map(), quarters: new Map() };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the worker closed the connection");
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map((line) => {
        const at = line.indexOf(":");
        return [line.slice(0, at), line.slice(at + 1).trimStart()];
      }));
      if (fields.data) receive(fields.event, fields.data);
    }
  }
}

async function follow() {
  for (let pause = 1; ; pause = Math.min(pause * 2, 30)) {
    try {
      if (document.visibilityState === "hidden") {
        await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
      }
      await listen();
      return;
    } catch (error) {
      if ($("link").textContent === "Live.") pause = 1;
      if (error.name === "AbortError") put("link", "Paused while this page was hidden.");
      else put("link", `No connection to the worker (${error.message}); trying again.`);
    }
    await new Promise((go) => setTimeout(go, pause * 1000));
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.visibilityState === "hidden") hiding = setTimeout(() => stream?.abort(), HIDDEN_SECONDS * 1000);
});

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
  start();
});

// Of buttons of which one is pressed.
function choosing(selector, choose) {
  const buttons = document.querySelectorAll(selector);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      choose(button);
    });
  }
}
choosing("[data-filter]", (button) => { filter = button.dataset.filter; showRecent(); });
choosing("[data-back]", (button) => { back = button.dataset.back; showHistory(); });
