function showQueues(find = {}) {
  return look("queues", find, "Queues read", ({ queues }) => {
    for (const queue of queues) if (!about.queues.includes(queue.name)) about.queues.push(queue.name);
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
      return [
        cell(queue.name, { css: "id", head: true }),
        cell(counts, { label: "jobs" }),
        cell(moment(queue.oldest_waiting), { label: "oldest waiting" }),
        cell(queue.workers === null ? "not told" : queue.workers.map((one) => one || "Node").join(", ") || "none", { label: "workers", css: "id" }),
        cell(queue.concurrency === null ? "none" : `${queue.concurrency} at once`, { label: "limit" }),
        cell(state, { label: "state" }),
      ];
    }));
  });
}
