// The views: what is asked of Redis is asked once, by whoever goes there, and says what it cost.
let about = null, view = "", asked = new URLSearchParams(), spent = 0, turn = 0;

function say(text) { put("said", text); }

function paid({ commands }, what) {
  spent += commands;
  put("spent", COUNT.format(spent));
  say(`${what}, for ${COUNT.format(commands)} commands.`);
}

async function ask(path, options = {}) {
  const answer = await fetch(`api/${path}`, {
    cache: "no-store", ...options, headers: { ...headers(), ...options.headers },
  });
  const found = await answer.json();
  if (answer.status === 401) showLocked(sessionStorage.getItem("token") !== null);
  if (!answer.ok) throw new Error(found.error || `the server answered ${answer.status}`);
  return found;
}

async function look(path, query, what, show) {
  const mine = ++turn;
  say("asking …");
  try {
    const found = await ask(`${path}?${new URLSearchParams(query)}`);
    if (mine !== turn) return;
    show(found);
    paid(found, what);
  } catch (error) {
    if (mine === turn) say(`It could not be read: ${error.message}`);
  }
}

function sure(question) {
  const dialog = $("sure");
  put("sure-text", question);
  dialog.showModal();
  return new Promise((answer) => {
    const end = (value) => () => { dialog.close(); answer(value); };
    $("sure-yes").onclick = end(true);
    $("sure-no").onclick = end(false);
    dialog.oncancel = () => answer(false);
  });
}

async function act(order, question, done) {
  if (question && !(await sure(question))) return;
  try {
    const body = JSON.stringify(order);
    const found = await ask("actions", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    await done(found);
    paid(found, `Done: ${order.action}, ${COUNT.format(found.done)}`);
  } catch (error) {
    say(`It was not done: ${error.message}`);
  }
}

function action(text, order, question, done) {
  return make("button", { type: "button", onclick: () => act(order, question, done) }, text);
}

function arrange() {
  $("nav").hidden = about === null;
  for (const link of document.querySelectorAll("nav a")) {
    link.hidden = link.hasAttribute("data-live") && !about?.live;
    const here = link.hash === `#${view}` || (view === "job" && link.hash === "#jobs");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const section of document.querySelectorAll("[data-view]")) {
    const isReady = about !== null && (snapshot !== null || !section.classList.contains("live"));
    section.hidden = !isReady || section.dataset.view !== view;
  }
  if (snapshot !== null) showTrouble();
}

function route() {
  if (about === null) return;
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  view = name in VIEWS ? name : about.live ? "overview" : "queues";
  asked = new URLSearchParams(query || "");
  turn += 1;
  say("");
  arrange();
  VIEWS[view]();
}
