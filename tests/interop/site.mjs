// Opens each page of the built documentation on a phone and on a desk, and names what does not fit or load.
//   node tests/interop/site.mjs site CHROMIUM [FOLDER]
// With FOLDER, pictures of five pages go there. Exit status: 0 if every page fits, 1 otherwise.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { chromium } from "playwright-core";

const [site, executablePath, pictures] = process.argv.slice(2);
const SIZES = { phone: { width: 360, height: 740 }, desk: { width: 1280, height: 900 } };
const SHOWN = ["index", "tutorial", "handlers", "operating", "comparison"];
const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml" };

const server = http.createServer((request, response) => {
  const file = path.join(site, decodeURIComponent(new URL(request.url, "http://site").pathname));
  if (!fs.existsSync(file) || fs.statSync(file).isDirectory()) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream" });
  return fs.createReadStream(file).pipe(response);
}).listen(0, "127.0.0.1");
await new Promise((resolve) => server.once("listening", resolve));
const address = `http://127.0.0.1:${server.address().port}`;

const pages = fs.readdirSync(site).filter((name) => name.endsWith(".html") && name !== "404.html");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic"] });
let wrong = 0;
const report = (message) => { wrong += 1; console.log(message); };

for (const [size, viewport] of Object.entries(SIZES)) {
  const context = await browser.newContext({ viewport });
  // Nothing is loaded from elsewhere: mermaid's picture stays text.
  await context.route((url) => url.origin !== address, (route) => route.abort());
  const page = await context.newPage();
  for (const name of pages) {
    await page.goto(`${address}/${name}`);
    const seen = await page.evaluate(() => ({
      wider: document.documentElement.scrollWidth - window.innerWidth,
      broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).map((image) => image.src),
    }));
    if (seen.wider > 0) report(`${name} on a ${size}: ${seen.wider} pixels wider than the screen`);
    for (const image of seen.broken) report(`${name}: no picture at ${image}`);
    if (pictures && SHOWN.includes(name.replace(".html", ""))) {
      await page.screenshot({ path: path.join(pictures, `${name}-${size}.png`) });
    }
  }
  if (size === "desk") {
    await page.goto(`${address}/index.html`);
    await page.fill("[data-md-component=search-query]", "retention");
    await page.waitForSelector(".md-search-result__item", { timeout: 15_000 }).catch(() => report("a search finds nothing"));
  }
  await context.close();
}
await browser.close();
server.close();
console.log(wrong ? `${wrong} found` : `${pages.length} pages fit a phone and a desk, and can be searched`);
process.exitCode = wrong ? 1 : 0;
