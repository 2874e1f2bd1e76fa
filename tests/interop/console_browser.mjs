// A browser in front of the worker's status page: JSON requests on stdin, JSON answers on stdout, one a line.
//
//   node console_browser.mjs URL CHROMIUM PROFILE
//
// A request is {"op": NAME, ...}; its answer {"ok": ...} or {"error": "..."}.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

import { answer } from "./requests.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const [url, executablePath, profile] = process.argv.slice(2);
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--enable-precise-memory-info",
];
const browser = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, headless: true });
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(15_000);
const faults = [];
page.on("pageerror", (error) => faults.push(error.message));
page.on("console", (message) => {
  if (message.type() === "error" && !message.text().includes("401")) faults.push(message.text());
});

async function reach(tag, name) {
  const wanted = page.locator(tag, { hasText: name }).filter({ visible: true });
  await wanted.first().waitFor();
  for (let steps = 0; steps < 300; steps += 1) {
    const isThere = await page.evaluate(({ tag, name }) => {
      const at = document.activeElement;
      return at.matches(tag) && at.innerText.trim() === name;
    }, { tag, name });
    if (isThere) {
      await page.keyboard.press("Enter");
      return { steps };
    }
    await page.keyboard.press("Tab");
  }
  throw new Error(`Tab does not lead to ${name}`);
}

const operations = {
  open: async ({ width, scheme, hash }) => {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme: scheme });
    if (hash) await page.goto("about:blank");
    await page.goto(hash ? `${url}#${hash}` : url);
    return page.title();
  },
  // By keyboard alone: the token's field has the focus, Enter sends it.
  unlock: async ({ token }) => {
    await page.locator("#token:focus").waitFor();
    await page.keyboard.type(token);
    await page.keyboard.press("Enter");
    return {};
  },
  waitFor: async ({ selector, text }) => {
    await page.locator(selector).filter({ hasText: text ?? "" }).first().waitFor();
    return page.locator(selector).first().innerText();
  },
  // By keyboard alone: Tab goes to a button or a link, Enter presses or follows it.
  press: async ({ name }) => reach("button", name),
  follow: async ({ name }) => reach("a", name),
  type: async ({ selector, text }) => {
    await page.locator(selector).fill(text);
    await page.keyboard.press("Enter");
    return {};
  },
  // A key on what has the focus then; what is told of it, as a screen reader reads it.
  key: async ({ selector, key }) => {
    const node = page.locator(selector).first();
    await node.focus();
    await page.keyboard.press(key);
    return node.getAttribute("aria-valuetext");
  },
  reload: async () => {
    await page.reload();
    return {};
  },
  download: async ({ name }) => {
    const [file] = await Promise.all([page.waitForEvent("download"), reach("button", name)]);
    return { name: file.suggestedFilename(), text: await readFile(await file.path(), "utf8") };
  },
  fill: async ({ selector, text }) => {
    await page.locator(selector).fill(text);
    return {};
  },
  choose: async ({ selector, value }) => {
    await page.locator(selector).selectOption(value);
    return {};
  },
  buttons: async ({ selector }) => page.locator(`${selector} button`).allInnerTexts(),
  rows: async ({ table }) => page.locator(`${table} tbody tr`).allInnerTexts(),
  look: async ({ picture }) => {
    await page.screenshot({ path: picture });
    return page.evaluate(() => ({
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      ground: getComputedStyle(document.body).backgroundColor,
      injected: document.querySelectorAll("main b, main script").length,
      unnamed: [...document.querySelectorAll("button, input, progress, [role=img], [role=region], table")]
        .filter((node) => !node.closest("[hidden]"))
        .filter((node) => !(node.textContent.trim() && node.tagName === "BUTTON") && !node.labels?.length
          && !node.getAttribute("aria-label") && !node.getAttribute("aria-labelledby") && !node.caption)
        .map((node) => node.outerHTML.slice(0, 80)),
    }));
  },
  // When the page was painted first, and when it showed so many running jobs (ms after the request).
  paint: async ({ jobs }) => {
    await page.addInitScript((count) => {
      const look = () => {
        const rows = document.querySelectorAll("#jobs tbody tr").length;
        if (rows >= count) globalThis.jobsShownAt = performance.now();
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    }, jobs);
    await page.goto(url);
    await page.waitForFunction(() => globalThis.jobsShownAt);
    return page.evaluate(() => ({
      first: performance.getEntriesByName("first-contentful-paint")[0].startTime,
      jobs: globalThis.jobsShownAt,
      requests: performance.getEntriesByType("resource").map(({ name }) => new URL(name).pathname),
    }));
  },
  // What axe-core finds wrong with the page as it stands.
  axe: async () => {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 120)).join(" | ")}`);
  },
  expand: async ({ selector }) => {
    await page.locator(`${selector} > summary`).evaluateAll((nodes) => nodes.forEach((node) => node.click()));
    return {};
  },
  // A day of events, one in half an hour, as an open page gets them; what it has in memory on the way.
  day: async ({ status, run }) => {
    const session = await page.context().newCDPSession(page);
    const memory = async () => {
      await session.send("HeapProfiler.collectGarbage");
      const { nodes } = await session.send("Memory.getDOMCounters");
      return { nodes, heap: await page.evaluate(() => performance.memory.usedJSHeapSize) };
    };
    const told = [];
    for (let hour = 0; hour < 24; hour += 1) {
      await page.evaluate(({ status, run, hour }) => {
        const start = Math.floor(status.now / 900) * 900;
        for (let minute = hour * 60; minute < (hour + 1) * 60; minute += 30) {
          const at = start + minute * 60, kinds = { audio: { completed: minute % 7, failed: minute % 3 } };
          receive("history", JSON.stringify({ minutes: [[at, kinds]], quarters: [[Math.floor(at / 900) * 900, kinds]] }));
          receive("recent", JSON.stringify(Array.from({ length: 100 }, (_, place) => ({ ...run, at, id: `${minute}-${place}` }))));
          receive("reasons", JSON.stringify([{ ...run, at, count: minute, final: 0 }]));
          receive("status", JSON.stringify({ ...status, now: at, ended: minute }));
        }
      }, { status, run, hour });
      if (hour % 11 === 1) told.push(await memory());
    }
    return told;
  },
  faults: async () => faults,
};

process.stdout.write(`${JSON.stringify({ ok: "ready" })}\n`);
await answer(operations);
await browser.close();
process.exit(0);
