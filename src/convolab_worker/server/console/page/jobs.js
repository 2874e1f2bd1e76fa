function chooseQueue(queue) {
  const names = about.queues.includes(queue) ? about.queues : [...about.queues, queue];
  $("look-queue").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  $("look-queue").value = queue;
}

const WHEN = { failed: "finished_on", completed: "finished_on", active: "processed_on", delayed: "due_at" };

function showFound() {
  const state = asked.get("state") || "failed", queue = $("look-queue").value;
  fill("found", listed.map((job) => [
    cell(jobLink(job), { css: "id", head: true }),
    cell(job.name, { label: "name" }),
    cell(moment(job[WHEN[state] || "timestamp"] ?? job.timestamp), { label: "when" }),
    cell(`${job.attempts_made} of ${job.max_attempts}`, { label: "attempts", css: "number" }),
    cell(job.reason && state === "failed" ? job.reason : job.progress?.text && job.progress.text !== "0" ? job.progress.text : "–", { label: "reason or progress", css: "reason" }),
  ]));
  const ids = listed.map((job) => job.id).slice(0, 500), all = jobs(ids.length), box = $("all-actions");
  box.replaceChildren();
  if (!about.acts || ids.length === 0) return;
  const verbs = { failed: ["retry", "remove"], completed: ["retry", "remove"], delayed: ["promote", "remove"], waiting: ["remove"], prioritized: ["remove"] }[state] || [];
  for (const verb of verbs) box.append(action(`${verb} the ${all} below`, { action: verb, queue, ids }, `${verb} ${all} of ${queue}?`, showJobs));
}

async function showJobs() {
  const queue = asked.get("queue") || about.queues[0], state = asked.get("state") || "failed", text = asked.get("text") || "";
  chooseQueue(queue);
  $("look-state").value = state;
  $("look-text").value = text;
  $("look-text-label").hidden = about.hides;
  $("groups-box").hidden = true;
  $("groups-none").hidden = true;
  listed = [];
  await older({ queue, state, ...(text && { text }) });
}

function older(query) {
  return look("jobs", query, "Jobs read", (found) => {
    const known = new Set(listed.map((job) => job.id));
    listed.push(...found.jobs.filter((job) => !known.has(job.id)));
    showFound();
    $("older").hidden = found.after === null;
    $("older").onclick = () => older({ ...query, after: found.after });
  });
}

function showGroups() {
  const queue = $("look-queue").value;
  return look("failures", { queue }, "Failures grouped", ({ groups }) => {
    listed = [];
    $("found").hidden = $("found-none").hidden = $("older").hidden = true;
    $("all-actions").replaceChildren();
    $("groups-box").hidden = false;
    fill("groups", groups.map((group) => {
      const act = make("span"), all = jobs(group.ids.length);
      if (about.acts) act.append(action(`retry ${all}`, { action: "retry", queue, ids: group.ids }, `retry ${all} named ${group.name} of ${queue}?`, showGroups));
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
