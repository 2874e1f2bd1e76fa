// A browser in front of the worker's status page: JSON requests on stdin, JSON answers on stdout, one a line.
//
//   node console_browser.mjs URL CHROMIUM PROFILE
//
// A request is {"op": NAME, ...}; its answer {"ok": ...} or {"error": "..."}.

import { chromium } from "playwright-core";

import { answer } from "./requests.mjs";

const [url, executablePath, profile] = process.argv.slice(2);
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const browser = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, headless: true });
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(15_000);
const faults = [];
page.on("pageerror", (error) => faults.push(error.message));
page.on("console", (message) => {
  if (message.type() === "error" && !message.text().includes("401")) faults.push(message.text());
});

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
  press: async ({ name }) => {
    await page.getByRole("button", { name, exact: true }).focus();
    await page.keyboard.press("Enter");
    return {};
  },
  // By keyboard too: a link has the focus, Enter follows it.
  follow: async ({ name }) => {
    await page.getByRole("link", { name, exact: true }).first().focus();
    await page.keyboard.press("Enter");
    return {};
  },
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
  faults: async () => faults,
};

process.stdout.write(`${JSON.stringify({ ok: "ready" })}\n`);
await answer(operations);
await browser.close();
process.exit(0);
