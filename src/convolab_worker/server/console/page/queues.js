// Queues, as Redis has them for all workers.
function showQueues(find = {}) {
  return look("queues", find, "Queues read", ({ queues }) => {
    for (const queue of queues) {
      known.set(queue.name, queue.counts);
      if (!about.queues.includes(queue.name)) about.queues.push(queue.name);
    }
    fill("queue-list", queues.map((queue) => {
      const counts = make("span");
      for (const [state, count] of Object.entries(queue.counts)) {
        if (count === 0 || state === "paused") continue;
        counts.append(make("a", { href: `#jobs?${new URLSearchParams({ queue: queue.name, state })}` }, `${COUNT.format(count)} ${state}`), " ");
      }
      if (!counts.hasChildNodes()) counts.append("none");
      const state = make("span", {}, queue.paused ? "paused " : "open ");
      const order = queue.paused ? "resume" : "pause";
      if (about.acts) state.append(action(order, { action: order, queue: queue.name }, order === "pause" ? `Pause ${queue.name}? No worker starts a job of it until it is resumed.` : "", () => showQueues(find)));
      const problems = queue.problems.length ? make("strong", { class: "warn" }, queue.problems.join("; ")) : "none";
      return [
        cell(queue.name, { css: "id", head: true }),
        cell(counts, { label: "jobs" }),
        cell(moment(queue.oldest_waiting), { label: "oldest waiting" }),
        cell(workersOf(queue), { label: "workers", css: "id" }),
        cell(limitsOf(queue), { label: "limits" }),
        cell(problems, { label: "problems" }),
        cell(state, { label: "state" }),
      ];
    }));
  });
}

function workersOf({ workers, addresses }) {
  if (workers === null) return "the server does not tell";
  return workers.map((name) => `${name || "Node"}${addresses[name] ? ` (${addresses[name]})` : ""}`).join(", ") || "none";
}

function limitsOf({ concurrency, rate_limit: rate, limited_for: left }) {
  return [
    concurrency !== null && `${COUNT.format(concurrency)} at once`,
    rate !== null && `${COUNT.format(rate[0])} in ${span(rate[1])}`,
    left !== null && `reached, for ${span(left)}`,
  ].filter(Boolean).join(", ") || "none";
}

$("queues-again").addEventListener("click", () => showQueues());
$("queues-find").addEventListener("click", () => showQueues({ find: "all" }));
