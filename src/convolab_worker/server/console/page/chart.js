// A bar chart over time: what went well upwards, stacked by name, what failed downwards. Its columns
// are read by the pointer, by the arrow keys, and in a table.
const COLOURS = 6, LEFT = 56;

function shape(name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

// The next number that is easy to read.
function easyNumber(least) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 4, 6, 10].map((part) => part * ten).find((number) => number >= least);
}

class Chart {
  // `upward` and `downward` say what is drawn above and below the line.
  constructor(id, { label, upward, downward }) {
    Object.assign(this, { label, upward, downward, names: [], columns: [], chosen: null });
    this.svg = shape("svg", { role: "slider", tabindex: 0, "aria-label": `${label}: the arrow keys go from column to column`, "aria-valuemin": 0 });
    this.legend = make("p", { class: "legend" });
    this.said = make("p", { class: "soft chart-said" });
    this.table = make("table", {}, make("caption", {}, label), make("thead"), make("tbody"));
    this.details = make("details", {}, make("summary", {}, "as a table"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${label}, as a table` }, this.table));
    $(id).replaceChildren(this.legend, this.svg, this.said, this.details);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    this.details.addEventListener("toggle", () => this.fillTable());
    new ResizeObserver(() => this.draw()).observe($(id));
  }

  // `columns`: {start, up, down}, a number by name each; `seconds` is how long each is.
  show(columns, names, seconds) {
    if (this.chosen !== null && this.columns.length) this.chosen = columns.findIndex(({ start }) => start === this.columns[this.chosen]?.start);
    if (this.chosen === -1) this.chosen = null;
    Object.assign(this, { columns, names, seconds });
    this.draw();
    this.fillTable();
  }

  draw() {
    const width = this.svg.clientWidth, height = 180, left = LEFT, bottom = 22, right = 8;
    if (width < 60 || !this.columns.length) return;
    const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
    const most = easyNumber(Math.max(...this.columns.map(({ up }) => total(up))));
    const worst = Math.max(0, ...this.columns.map(({ down }) => total(down)));
    const lowest = worst && easyNumber(worst), all = most + lowest, space = height - bottom - 10;
    const y = (count) => 8 + ((most - count) / all) * space;
    const step = (width - left - right) / this.columns.length;
    const parts = [], place = (index) => left + index * step;
    for (const count of new Set([most, most / 2, 0, ...(lowest ? [-lowest] : [])])) {
      parts.push(shape("line", { x1: left, x2: width - right, y1: y(count), y2: y(count), class: count ? "grid" : "axis" }));
      if (Number.isInteger(count)) parts.push(shape("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, COUNT.format(Math.abs(count))));
    }
    if (this.chosen !== null) parts.push(shape("rect", { x: place(this.chosen), width: step, y: 0, height: height - bottom, class: "chosen" }));
    this.columns.forEach(({ start, up, down }, index) => {
      let base = 0;
      this.names.forEach((name, number) => {
        if (!up[name]) return;
        parts.push(shape("rect", { x: place(index) + step * 0.1, width: step * 0.8, y: y(base + up[name]), height: Math.max(y(base) - y(base + up[name]), 1), class: `k${Math.min(number, COLOURS - 1)}` }));
        base += up[name];
      });
      const failed = total(down);
      if (failed) parts.push(shape("rect", { x: place(index) + step * 0.1, width: step * 0.8, y: y(0), height: Math.max(y(-failed) - y(0), 1), class: "down" }));
      if (this.isTick(start, width)) parts.push(shape("text", { x: place(index) + step / 2, y: height - 5, "text-anchor": index < 3 ? "start" : index > this.columns.length - 4 ? "end" : "middle" }, this.time(start)));
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-valuemax", this.columns.length - 1);
    this.svg.replaceChildren(...parts);
    this.legend.replaceChildren(...this.names.map((name, number) => make("span", {}, make("i", { class: `swatch k${Math.min(number, COLOURS - 1)}` }), ` ${name}`)),
      ...(this.downward ? [make("span", {}, make("i", { class: "swatch down" }), ` ${this.downward} (downwards)`)] : []));
    const index = this.chosen ?? this.columns.length - 1;
    this.svg.setAttribute("aria-valuenow", index);
    this.svg.setAttribute("aria-valuetext", this.told(index));
    this.said.textContent = this.told(index);
  }

  isTick(start, width) {
    const every = (this.seconds < 900 ? 600 : 10_800) * (width < 500 ? 2 : 1);
    return (start - new Date().getTimezoneOffset() * 60) % every === 0;
  }

  time(start) { return HOUR.format(start * 1000); }

  told(index) {
    const { start, up, down } = this.columns[index];
    const list = (counts, what) => Object.entries(counts).filter(([, count]) => count).map(([name, count]) => `${name} ${COUNT.format(count)}${what}`);
    return `${this.time(start)} to ${this.time(start + this.seconds)}: ${[...list(up, this.upward), ...list(down, this.downward ? ` ${this.downward}` : "")].join(", ") || "nothing"}`;
  }

  point(event) {
    const { left, width } = this.svg.getBoundingClientRect(), inside = event.clientX - left - LEFT;
    const index = Math.floor((inside / (width - LEFT - 8)) * this.columns.length);
    this.choose(index >= 0 && index < this.columns.length ? index : null);
  }

  press(event) {
    const last = this.columns.length - 1, now = this.chosen ?? last;
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1, Home: 0, End: last, PageDown: now - 10, PageUp: now + 10 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(Math.min(Math.max(to, 0), last));
  }

  choose(index) {
    if (index === this.chosen) return;
    this.chosen = index;
    this.draw();
  }

  fillTable() {
    if (!this.details.open) return;
    const names = this.downward ? [...this.names, this.downward] : this.names;
    this.table.tHead.replaceChildren(make("tr", {}, ...["from", ...names].map((name) => make("th", { scope: "col", class: name === "from" ? "" : "number" }, name))));
    const rows = this.columns.filter(({ up, down }) => Object.keys(up).length || Object.keys(down).length).reverse();
    this.table.tBodies[0].replaceChildren(...rows.map(({ start, up, down }) => make("tr", {}, cell(this.time(start), { head: true }),
      ...this.names.map((name) => cell(COUNT.format(up[name] || 0), { css: "number" })),
      ...(this.downward ? [cell(COUNT.format(Object.values(down).reduce((sum, count) => sum + count, 0)), { css: "number" })] : []))));
  }
}

// Columns of the last `count` stretches, those in which nothing was among them.
function columnsOf(stretches, seconds, count) {
  const last = Math.floor(now() / seconds), first = last - count + 1;
  return Array.from({ length: count }, (_, index) => {
    const start = (first + index) * seconds;
    return { start, ...(stretches.get(start) ?? { up: {}, down: {} }) };
  });
}
