const VIEWS = { overview: showOverview, costs: show, queues: () => showQueues(), jobs: showJobs, job: showJob, handlers: showHandlers, schedules: showSchedules };

$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
window.addEventListener("hashchange", route);

async function start() {
  const token = sessionStorage.getItem("token");
  try {
    about = await ask("console");
  } catch (error) {
    if (token === null && !$("locked").hidden) return;
    if ($("locked").hidden) put("link", `The server can’t be asked: ${error.message}`);
    return;
  }
  $("locked").hidden = true;
  if (!about.live) {
    put("state", "no worker");
    put("detail", "what Redis says, of all workers");
  }
  route();
  if (about.live) follow();
}

let drawn = 0;  // the minute
setInterval(() => {
  if (snapshot === null) return;
  showState();
  showNow();
  if (view !== "overview" || drawn === Math.floor(now() / 60)) return;
  drawn = Math.floor(now() / 60);
  showHistory();
}, 1000);
start();
