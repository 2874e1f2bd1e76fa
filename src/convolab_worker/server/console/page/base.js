"use strict";
const $ = (id) => document.getElementById(id);
const COUNT = new Intl.NumberFormat("en");
// Making one takes longer than the rest of a row.
const CLOCK = new Intl.DateTimeFormat([], { timeStyle: "medium" });
const MOMENT = new Intl.DateTimeFormat([], { dateStyle: "short", timeStyle: "medium" });
const HOUR = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

function put(id, text) {
  const node = $(id);
  if (node.textContent !== text) node.textContent = text;
}

function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function clock(at) { return CLOCK.format(at * 1000); }
function now() { return Date.now() / 1000 + offset; }

function cell(text, { label, css, head } = {}) {
  const node = document.createElement(head ? "th" : "td");
  if (head) node.scope = "row";
  if (css) node.className = css;
  if (label) node.dataset.label = label;
  if (text instanceof Node) node.append(text);
  else node.textContent = text;
  return node;
}

function fill(id, rows) {
  const body = $(id).tBodies[0];
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  }));
  $(id).hidden = rows.length === 0;
  const none = $(`${id}-none`);
  if (none) none.hidden = rows.length > 0;
}

function make(tag, attributes = {}, ...parts) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...parts);
  return node;
}

// A handler may allow more attempts than the job says.
function attemptsText(job) {
  return job.attempts_made > job.max_attempts ? `${job.attempts_made}` : `${job.attempts_made} of ${job.max_attempts}`;
}

function jobLink({ queue, id }, text = id) {
  return make("a", { href: `#job?${new URLSearchParams({ queue, id })}` }, text);
}

function moment(at) {
  if (at === null || at === undefined) return "–";
  const date = new Date(at * 1000);
  return make("time", { datetime: date.toISOString(), title: date.toISOString() }, MOMENT.format(date));
}

function jobs(count) { return `${COUNT.format(count)} job${count === 1 ? "" : "s"}`; }

function titled(title, ...parts) { return [make("h3", {}, title), ...parts]; }
function code(text, css = "") { return make("pre", { tabindex: "0", class: css }, text); }

