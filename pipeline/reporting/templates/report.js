(() => {
  "use strict";
  // Draws the figures from the page's block of data and lets the reader choose what they show. Without it the page
  // stands as it is; it asks nothing of any host.
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const TEXT = 12, SVG = document.querySelector("svg").namespaceURI;
  const start = { a: 0, e: "relative", x: "auto", off: new Set(), zoom: {}, sort: {}, find: {}, page: {}, anchor: "",
    data: (data.cells[0] || {}).d || "", goal: "bytes", limit: "" };
  // What an address may ask for; of anything else it is as if it were not there.
  const known = { e: ["relative", "absolute"], x: ["auto", "log", "linear"], goal: ["bytes", "error"],
    data: data.cells.map((cell) => cell.d) };
  const fresh = () => ({ ...start, off: new Set(), zoom: {}, sort: {}, find: {}, page: {} });
  let state = fresh();

  // ------------------------------------------------------------------ state in the address
  function plain(text) {
    try { return decodeURIComponent(text); } catch { return text; } // typed by hand
  }
  function readAddress() {
    state = fresh();
    for (const part of location.hash.slice(1).split("&")) {
      const cut = part.indexOf("=");
      if (cut < 0) { state.anchor = plain(part); continue; }
      const key = part.slice(0, cut), value = plain(part.slice(cut + 1)), [head, name] = key.split(/:(.*)/s);
      if (key === "a") state.a = Math.min(Math.max(Number(value) || 0, 0), data.accountings.length - 1);
      else if (key === "limit" ? /^[\d.]+(e[+-]?\d+)?$/i.test(value) && Number(value) >= 0 : known[key] && known[key].includes(value)) state[key] = value;
      else if (key === "off") state.off = new Set(value.split(",").filter((each) => data.methods[each]));
      else if (head === "zoom") { const box = value.split(",").map(Number); if (box.length === 4 && box.every(Number.isFinite)) state.zoom[name] = box; }
      else if (head === "sort" || head === "find") state[head][name] = value;
      else if (head === "page") state.page[name] = Number(value) || 0;
    }
  }
  function writeAddress() {
    const parts = state.anchor ? [encodeURIComponent(state.anchor)] : [];
    for (const key of ["a", "e", "x", "data", "goal", "limit"])
      if (state[key] !== start[key]) parts.push(`${key}=${encodeURIComponent(state[key])}`);
    if (state.off.size) parts.push(`off=${[...state.off].join(",")}`);
    for (const key of ["zoom", "sort", "find", "page"])
      for (const [name, value] of Object.entries(state[key]))
        if (value !== "" && value !== 0) parts.push(`${key}:${name}=${encodeURIComponent(key === "zoom" ? value.map((v) => Number(v.toPrecision(6))) : value)}`);
    try { history.replaceState(null, "", `#${parts.join("&")}`); } catch { /* a page inside another may not */ }
  }

  // ------------------------------------------------------------------ numbers in words
  function significant(value, digits = 3) {
    if (value === 0) return "0";
    const rounded = Number(value.toPrecision(digits)), places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(rounded))));
    return rounded.toLocaleString("en-US", { minimumFractionDigits: Math.min(places, 20), maximumFractionDigits: Math.min(places, 20) });
  }
  function prefixed(value, unit, digits) {
    for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= factor) return `${significant(value / factor, digits)} ${prefix}${unit}`.trim();
    return `${Number.isInteger(value) ? value : significant(value, digits)} ${unit}`.trim();
  }
  function duration(value, digits) {
    if (value === 0) return "0 s";
    for (const [limit, factor, unit] of [[1e-3, 1e6, "µs"], [1, 1e3, "ms"], [120, 1, "s"], [7200, 1 / 60, "min"]])
      if (value < limit) return `${significant(value * factor, digits)} ${unit}`;
    return `${significant(value / 3600, digits)} h`;
  }
  const short = (text) => text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
  const forms = {
    bytes: (v, d = 3) => prefixed(v, "B", d), count: (v, d = 3) => prefixed(v, "", d), seconds: (v, d = 3) => duration(v, d),
    percent: (v, d = 3) => `${significant(100 * v, d)} %`, ratio: (v, d = 3) => `${significant(v, d)}×`,
    number: (v, d = 3) => (Math.abs(v) >= 1e5 ? prefixed(v, "", d) : significant(v, d)),
  };
  const exact = (value, form) => ({ bytes: () => `${value.toLocaleString("en-US")} B`, count: () => value.toLocaleString("en-US"),
    percent: () => `${Number((100 * value).toPrecision(6))} %`, ratio: () => `${Number(value.toPrecision(4))}×`,
    seconds: () => duration(value, 4), number: () => Number(value.toPrecision(6)).toLocaleString("en-US", { maximumSignificantDigits: 6 }) })[form]();
  const said = (s) => (Object.hasOwn(data.said, s) ? data.said[s] : s);
  const named = (m, s) => (s === "default" ? data.methods[m].shown : `${data.methods[m].shown} ${said(s)}`);
  const pencil = document.createElement("canvas").getContext("2d");
  pencil.font = `${TEXT}px ${getComputedStyle(document.querySelector(".drawing svg text") || document.body).fontFamily}`;
  const lengthOf = (text) => pencil.measureText(text).width;
  // A text that is too long for its place without its middle: names differ at their ends.
  function fitting(text, most) {
    let kept = text.length, short = text;
    while (kept > 3 && lengthOf(short) > most) { kept--; short = `${text.slice(0, Math.ceil(kept / 2))}\u2026${text.slice(text.length - Math.floor(kept / 2))}`; }
    return short;
  }

  // ------------------------------------------------------------------ elements
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  function draw(parent, tag, attributes = {}, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }
  const colour = (m) => `var(--${data.methods[m].colour})`;

  // ------------------------------------------------------------------ a figure's numbers, as the switches want them
  function series(spec) {
    const factor = spec.y && spec.y.error && state.e === "absolute" ? data.norm2[spec.y.error] : 1;
    const times = (value) => (value === null || value === undefined ? null : value * factor);
    const points = (spec.points || []).map((p) => ({ ...p, x: p.b ? p.b[state.a] : p.x, xe: p.b ? p.bs[state.a] : p.xe, y: times(p.y), ye: times(p.ye) }));
    const lines = (spec.lines || []).map((line) => ({ ...line, y: line.y.map(times) }));
    // Published sizes are of one accounting; they stand beside ours in that one alone.
    const theirs = state.a === 2 ? (spec.published || []).map((p) => ({ ...p, y: times(p.y) })) : [];
    return { points, lines, theirs };
  }
  function labels(spec) {
    const x = spec.x.format === "bytes" ? `bytes, counted ${data.accountings[state.a]}` : spec.x.label;
    const y = spec.y && (spec.y.error ? `${state.e === "absolute" ? "squared" : "relative"} error` : spec.y.label);
    return { x, y };
  }
  const kindOf = (axis, values) => (state.x === "auto" ? axis.scale : state.x === "log" && values.some((v) => v > 0) ? "log" : "linear");
  function frontier(points) {
    let best = Infinity;
    return new Set([...points].sort((p, q) => p.x - q.x || p.y - q.y).filter((p) => p.y < best && ((best = p.y), true)));
  }

  // ------------------------------------------------------------------ scales
  function limits(values, kind) {
    const usable = values.filter((v) => v !== null && Number.isFinite(v) && (kind === "linear" || v > 0));
    if (!usable.length) return kind === "log" ? [1, 10] : [0, 1];
    let low = Math.min(...usable), high = Math.max(...usable);
    if (kind === "log") { const gap = Math.max((high / low) ** 0.06, 1.1); return [low / gap, high * gap]; }
    const gap = 0.06 * (high - low || Math.abs(high) || 1);
    return [low >= 0 && low < 0.5 * high ? -0.02 * high : low - gap, high + gap];
  }
  function scale(kind, [low, high], from, to) {
    const f = kind === "log" ? Math.log10 : (v) => v, l = f(low), h = f(high);
    const at = (value) => from + ((f(value) - l) / (h - l)) * (to - from);
    at.back = (place) => { const t = l + ((place - from) / (to - from)) * (h - l); return kind === "log" ? 10 ** t : t; };
    at.kind = kind; at.limits = [low, high];
    return at;
  }
  // Whether an axis can have these limits: apart as numbers go, and with room for ticks on either side.
  function sound(kind, [low, high]) {
    const f = kind === "log" ? Math.log10 : (v) => v, ends = [Math.abs(f(low)), Math.abs(f(high))], most = kind === "log" ? 300 : 1e300;
    return f(high) - f(low) > 1e-9 * Math.max(...ends) && ends.every((end) => end < most);
  }
  function ticks(at, most) {
    const [low, high] = at.limits;
    if (at.kind === "log") {
      const decades = Math.log10(high / low), found = [];
      const parts = decades > 2.2 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
      for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) for (const part of parts) if (part * 10 ** p >= low && part * 10 ** p <= high) found.push(part * 10 ** p);
      if (found.length > 1) return found.filter((_, i) => i % Math.ceil(found.length / (most + 1)) === 0);
    }
    const raw = (high - low) / most, unit = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((k) => k * unit >= raw) * unit, found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  // ------------------------------------------------------------------ figures
  const placeless = (count) => `${count} at 0 ${count === 1 ? "has" : "have"} no place on a logarithmic axis.`;
  const charts = [];
  let nextId = 0;
  class Chart {
    constructor(figure, spec) {
      this.figure = figure; this.spec = spec; this.name = figure.dataset.figure; this.id = `clip${nextId++}`;
      this.holder = figure.querySelector(".drawing");
      // Where the switch of accounting redraws it, words of each accounting's own figure.
      const each = (spec.points || []).some((p) => p.b) ? all("figure", figure.closest(".panels")) : [figure];
      this.words = each.map((one) => [one.querySelector(".drawing svg").getAttribute("aria-label"), one.querySelector("figcaption").textContent]);
      this.bar = make("div", { class: "tools" });
      if (!spec.rows) {
        this.button("+", "Zoom in", () => this.zoomBy(0.5));
        this.button("\u2212", "Zoom out", () => this.zoomBy(2));
        this.reset = this.button("Reset", "Reset the zoom", () => this.zoomTo(null));
      }
      this.link("SVG", "image/svg+xml", () => this.file());
      this.link("CSV", "text/csv", () => this.csv());
      this.holder.after(this.bar);
      this.width = 0;
    }
    button(text, label, action) {
      const button = make("button", { type: "button", "aria-label": `${label}: ${this.name}` }, text);
      button.addEventListener("click", action);
      this.bar.append(button);
      return button;
    }
    link(text, type, content) {
      this.bar.append(download(text, `${this.name}.${text.toLowerCase()}`, type, content));
    }
    zoomTo(box) {
      if (box) state.zoom[this.name] = box; else delete state.zoom[this.name];
      this.draw(); writeAddress();
    }
    zoomBy(factor) {
      const spread = (at) => {
        const [a, b] = [at(at.limits[0]), at(at.limits[1])], middle = (a + b) / 2, half = ((b - a) / 2) * factor;
        return [at.back(middle - half), at.back(middle + half)];
      };
      const box = [...spread(this.x), ...spread(this.y)];
      if (sound(this.x.kind, box.slice(0, 2)) && sound(this.y.kind, box.slice(2))) this.zoomTo(box);
    }
    draw(width = this.holder.clientWidth || 480, tall = 312) {
      this.width = Math.max(260, width);
      this.height = tall;
      this.pitch = tall < 300 ? 15 : 19; // of rows: on paper a long figure is made to fit its page, words and all
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("role", "group");
      const [alt, caption] = this.words[state.a] || this.words[0];
      svg.setAttribute("aria-label", alt);
      this.figure.querySelector("figcaption").textContent = caption;
      svg.style.fontSize = `${TEXT}px`;
      this.targets = [];
      if (this.spec.rows) this.rows(svg); else this.plot(svg);
      this.holder.replaceChildren(svg);
      if (this.reset) this.reset.disabled = !state.zoom[this.name];
      if (this.note) { this.note.remove(); this.note = null; }
      if (this.hiddenPoints) this.holder.after((this.note = make("p", { class: "how small" }, this.hiddenPoints)));
    }
    frame(svg, height, left, right, bottom) {
      svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
      svg.setAttribute("width", this.width); svg.setAttribute("height", height);
      this.box = { left, right: this.width - right, top: 12, bottom: height - bottom };
    }
    text(svg, x, y, content, anchor = "start", more = {}) {
      return draw(svg, "text", { x, y, "text-anchor": anchor, "dominant-baseline": "middle", style: "fill: var(--ink)", ...more }, content);
    }
    axes(svg, names) {
      const { left, right, top, bottom } = this.box, grid = "stroke: var(--grid); stroke-width: 1";
      const most = Math.max(2, Math.floor((right - left) / 82)), vertical = Math.max(3, Math.floor((bottom - top) / 46));
      for (const value of ticks(this.x, most)) {
        const at = this.x(value), said = short(forms[this.spec.x.format](value, 2)), half = lengthOf(said) / 2 + 1;
        draw(svg, "path", { d: `M${at} ${top}V${bottom}`, style: grid });
        this.text(svg, Math.min(Math.max(at, half), this.width - half), bottom + 13, said, "middle");
      }
      if (this.y) for (const value of ticks(this.y, vertical)) {
        const at = this.y(value);
        draw(svg, "path", { d: `M${left} ${at}H${right}`, style: grid });
        this.text(svg, left - 6, at, short(forms[this.spec.y.format](value, 3)), "end");
      }
      draw(svg, "path", { d: `M${left} ${bottom}H${right}`, style: "stroke: var(--muted); stroke-width: 1" });
      const told = (name, kind) => (kind === "log" && lengthOf(`${name}, log scale`) < this.width - 12 ? `${name}, log scale` : name);
      const below = told(names.x, this.x.kind), half = lengthOf(below) / 2 + 2;
      this.text(svg, Math.min(Math.max((left + right) / 2, half), this.width - half), bottom + 32, below, "middle");
      if (names.y) this.text(svg, left - 48, 8, told(names.y, this.y.kind), "start", { style: "fill: var(--muted)" });
    }
    plot(svg) {
      const spec = this.spec, shown = series(spec), on = (item) => !state.off.has(item.m), levels = spec.levels || [];
      const dots = spec.dots || [];
      const everyX = [...levels.map((each) => each.x), ...shown.theirs.map((p) => p.x), ...shown.points.map((p) => p.x), ...shown.lines.flatMap((l) => l.x)];
      const everyY = [...dots.map((each) => each[1]), ...shown.theirs.map((p) => p.y), ...shown.points.flatMap((p) => [p.y, p.y + (p.ye || 0), p.y - (p.ye || 0)]), ...shown.lines.flatMap((l) => l.y)];
      const kinds = { x: kindOf(spec.x, everyX), y: kindOf(spec.y, everyY) };
      const hasEnds = shown.lines.some((line) => !line.fit);
      this.frame(svg, this.height, 56, hasEnds && this.width > 460 ? 118 : 18, 46);
      this.box.top = 24;
      let zoom = state.zoom[this.name];
      if (zoom && !(sound(kinds.x, zoom.slice(0, 2)) && sound(kinds.y, zoom.slice(2)))) { delete state.zoom[this.name]; zoom = null; }
      const { left, right, top, bottom } = this.box;
      this.x = scale(kinds.x, zoom ? zoom.slice(0, 2) : limits(everyX, kinds.x), left, right);
      this.y = scale(kinds.y, zoom ? zoom.slice(2) : limits(everyY, kinds.y), bottom, top);
      const drawable = (x, y) => x !== null && y !== null && (kinds.x === "linear" || x > 0) && (kinds.y === "linear" || y > 0);
      const inside = (x, y) => { const a = this.x(x), b = this.y(y); return a >= left - 1 && a <= right + 1 && b >= top - 1 && b <= bottom + 1; };
      const left_out = shown.points.filter((p) => on(p) && !drawable(p.x, p.y)).length;
      this.hiddenPoints = left_out ? placeless(left_out) : "";
      this.axes(svg, labels(spec));
      const clip = draw(draw(draw(svg, "defs"), "clipPath", { id: this.id }), "rect", { x: left, y: top, width: right - left, height: bottom - top });
      clip.setAttribute("class", "clip");
      this.ground(svg);
      const layer = draw(svg, "g", { "clip-path": `url(#${this.id})`, "pointer-events": "none" });
      for (const y of spec.references || []) draw(layer, "path", { d: `M${left} ${this.y(y)}H${right}`, style: "stroke: var(--muted); stroke-dasharray: 4 2" });
      const filled = []; // where the last label of each line of labels ends
      levels.sort((p, q) => p.x - q.x).forEach((level) => {
        const at = this.x(level.x);
        if (at < left || at > right) return;
        draw(layer, "path", { d: `M${at} ${top}V${bottom}`, style: "stroke: var(--muted); stroke-dasharray: 4 2; opacity: .5" });
        const free = filled.findIndex((end) => end < at), line = free < 0 ? filled.length : free;
        filled[line] = at + 8 + 7 * level.text.length;
        const late = at + 3 + 7 * level.text.length > this.width;
        const label = this.text(svg, at + (late ? -3 : 3), top + 8 + 14 * line, level.text, late ? "end" : "start", { class: "name" });
        draw(label, "title", {}, `the whole tensor as ${level.text}: ${exact(level.x, "bytes")}`);
      });
      const points = shown.points.filter((p) => on(p) && drawable(p.x, p.y)), best = spec.frontier ? frontier(points) : null;
      if (best && best.size) {
        const steps = [...best];
        let d = `M${this.x(steps[0].x)} ${this.y(steps[0].y)}`;
        for (const p of steps.slice(1)) d += `H${this.x(p.x)}V${this.y(p.y)}`;
        draw(layer, "path", { d: `${d}H${right}`, style: "fill: none; stroke: var(--muted); stroke-dasharray: 1 3" });
      }
      if (spec.frontier) for (const m of new Set(points.map((p) => p.m))) {
        const own = [...frontier(points.filter((p) => p.m === m))];
        this.path(layer, m, own.map((p) => p.x), own.map((p) => p.y), 0.55);
      }
      const ends = [];
      for (const line of shown.lines.filter(on)) {
        const keep = line.x.map((_, i) => i).filter((i) => drawable(line.x[i], line.y[i]));
        if (!keep.length) continue;
        const xs = keep.map((i) => line.x[i]), ys = keep.map((i) => line.y[i]), last = keep.length - 1;
        this.path(layer, line.m, xs, ys, 0.85, line.theirs ? "2 3" : undefined);
        if (line.fit) { if (inside(xs[last], ys[last])) ends.push({ x: xs[last], y: ys[last], start: [xs[0], ys[0]], text: line.label, m: line.m, fit: true }); continue; }
        if (keep.length > 1) this.hoverable(svg, line, xs, ys);
        const what = line.theirs || line.seed === undefined ? named(line.m, line.s) : `${named(line.m, line.s)}, seed ${line.seed}`;
        if (inside(xs[last], ys[last])) ends.push({ x: xs[last], y: ys[last], m: line.m, text: named(line.m, line.s), hollow: line.theirs, always: line.theirs,
          tip: `${what}: ${exact(ys[last], spec.y.format)} at the end, lowest ${exact(Math.min(...ys), spec.y.format)}, highest ${exact(Math.max(...ys), spec.y.format)}; ${labels(spec).x} ${exact(xs[last], spec.x.format)}` });
      }
      for (const [x, y] of dots) if (on(spec.lines[0]) && drawable(x, y)) draw(layer, "circle", { cx: this.x(x), cy: this.y(y), r: 2, style: `fill: ${colour(spec.lines[0].m)}; opacity: .6` });
      const told = new Set(ends.map((e) => e.text)).size > spec.labels ? this.best(ends) : null;
      for (const p of points) {
        const a = this.x(p.x), b = this.y(p.y), style = `stroke: ${colour(p.m)}; stroke-width: 1`;
        if (p.ye) { const low = kinds.y === "log" && p.y - p.ye <= 0 ? bottom : this.y(p.y - p.ye); draw(layer, "path", { d: `M${a} ${low}V${this.y(p.y + p.ye)}`, style }); }
        if (p.xe && (kinds.x === "linear" || p.x > p.xe)) draw(layer, "path", { d: `M${this.x(p.x - p.xe)} ${b}H${this.x(p.x + p.xe)}`, style });
      }
      for (const p of shown.theirs.filter((each) => on(each) && drawable(each.x, each.y) && inside(each.x, each.y)))
        this.mark(svg, { ...p, hollow: true, tip: `${data.methods[p.m].shown}, published: ${exact(p.x, "bytes")}, ${labels(spec).y} ${exact(p.y, "number")}` });
      const marks = [...points.filter((p) => inside(p.x, p.y)).map((p) => ({ ...p, text: named(p.m, p.s), tip: this.tip(p), labelled: best ? best.has(p) : !hasEnds && !shown.lines.length })),
        ...ends.map((e) => ({ ...e, labelled: e.always || !told || told.has(e) }))];
      for (const mark of marks) if (!mark.fit) this.mark(svg, mark);
      this.names(svg, [...marks, ...(best ? this.unnamed(points, best, shown.theirs) : [])], hasEnds);
    }
    // Of each method without a label at the frontier its most accurate point, under the method's name alone.
    unnamed(points, best, theirs) {
      const named = new Set([...best].map((p) => p.m)), found = new Map(), seen = (p) => { const old = found.get(p.m); if (!old || p.y < old.y) found.set(p.m, p); };
      points.filter((p) => !named.has(p.m)).forEach(seen);
      const own = new Set([...named, ...found.keys()]);
      theirs.filter((p) => !own.has(p.m) && !state.off.has(p.m)).forEach(seen);
      return [...found.values()].map((p) => ({ ...p, labelled: true, text: own.has(p.m) ? data.methods[p.m].shown : `${data.methods[p.m].shown}, published` }));
    }
    // Of each method the curve that ends best: lowest where y is an error or a time.
    best(ends) {
      const found = new Map(), better = (e, f) => (this.spec.y.error || this.spec.y.format === "seconds" ? e.y < f.y : e.y > f.y);
      for (const e of ends) if (!e.always && (!found.has(e.m) || better(e, found.get(e.m)))) found.set(e.m, e);
      return new Set(found.values());
    }
    tip(p) {
      const spread = (e) => (e ? ` ± ${Number(e.toPrecision(3))}` : "");
      const names = labels(this.spec);
      return `${named(p.m, p.s)}: ${names.x} ${exact(p.x, this.spec.x.format)}, ${names.y} ${exact(p.y, this.spec.y.format)}${this.spec.y.format === "percent" ? (p.ye ? ` ± ${Number((100 * p.ye).toPrecision(3))} %` : "") : spread(p.ye)}${p.n === 1 ? " (one run)" : ` (${p.n} seeds)`}`;
    }
    path(parent, m, xs, ys, opacity, dashes = data.methods[m].dash || "none") {
      const d = xs.map((x, i) => `${i ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(ys[i]).toFixed(1)}`).join("");
      draw(parent, "path", { d, style: `fill: none; stroke: ${colour(m)}; stroke-width: 1.4; stroke-dasharray: ${dashes}; opacity: ${opacity}` });
    }
    hoverable(svg, line, xs, ys) {
      const d = xs.map((x, i) => `${i ? "L" : "M"}${this.x(x)} ${this.y(ys[i])}`).join("");
      const path = draw(svg, "path", { d, "clip-path": `url(#${this.id})`, style: "fill: none; stroke: transparent; stroke-width: 9" });
      path.addEventListener("pointermove", (event) => {
        const at = (event.clientX - svg.getBoundingClientRect().left) * (this.width / svg.getBoundingClientRect().width);
        let near = 0;
        for (let i = 1; i < xs.length; i++) if (Math.abs(this.x(xs[i]) - at) < Math.abs(this.x(xs[near]) - at)) near = i;
        showTip(`${named(line.m, line.s)}${line.theirs ? "" : `, seed ${line.seed}`}: ${exact(ys[near], this.spec.y.format)} at ${labels(this.spec).x} ${exact(xs[near], this.spec.x.format)}`, event.clientX, event.clientY);
      });
      path.addEventListener("pointerleave", hideTip);
    }
    mark(svg, mark) {
      const group = draw(svg, "g", { transform: `translate(${this.x(mark.x)} ${mark.at ?? this.y(mark.y)})`, class: "mark", role: "img", "aria-label": mark.tip, tabindex: this.targets.length ? -1 : 0 });
      draw(group, "circle", { r: 11, style: "fill: transparent" });
      draw(group, "path", { d: data.methods[mark.m].path, style: mark.hollow ? `fill: none; stroke: ${colour(mark.m)}; stroke-width: 1.2` : `fill: ${colour(mark.m)}; stroke: var(--card); stroke-width: .8` });
      const show = () => { const box = group.getBoundingClientRect(); showTip(mark.tip, box.left + box.width / 2, box.top); };
      group.addEventListener("pointerenter", show);
      group.addEventListener("pointerleave", hideTip);
      group.addEventListener("focus", show);
      group.addEventListener("blur", hideTip);
      group.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = this.targets[(this.targets.indexOf(group) + step + this.targets.length) % this.targets.length];
        group.setAttribute("tabindex", -1); next.setAttribute("tabindex", 0); next.focus();
      });
      this.targets.push(group);
    }
    // Labels where they touch neither another label nor the edge; a curve's right of its end where there is room.
    names(svg, marks, beside) {
      const taken = [], spots = marks.map((mark) => [this.x(mark.x) - 6, this.y(mark.y) - 6, this.x(mark.x) + 6, this.y(mark.y) + 6]);
      const inView = ([x, y]) => { const p = this.x(x), q = this.y(y); return p >= this.box.left && p <= this.box.right && q >= this.box.top && q <= this.box.bottom; };
      const meets = (p, q) => p[0] < q[2] && q[0] < p[2] && p[1] < q[3] && q[1] < p[3], said = new Set();
      for (const mark of marks) {
        if (!mark.labelled || said.has(mark.text)) continue;
        const shown = mark.fit ? mark.text : fitting(mark.text, 0.45 * this.width), probe = this.text(svg, 0, 0, shown), width = lengthOf(shown) + 2, a = this.x(mark.x), b = this.y(mark.y);
        const around = (x, y) => [[x + 8, y - 9], [x + 8, y + 10], [x - 8 - width, y - 9], [x - 8 - width, y + 10], [x - width / 2, y - 16], [x - width / 2, y + 17]];
        let places = around(a, b);
        if (mark.start && inView(mark.start)) places.push(...around(this.x(mark.start[0]), this.y(mark.start[1])));
        if (beside) places = [[a + 8, b], ...around(a, b), ...[14, -14, 28, -28, 42, -42, 56].flatMap((shift) => [[a + 8, b + shift], [a - 8 - width, b + shift - 10]])];
        let found = null, least = Infinity;
        for (const [x, y] of places) {
          const box = [x, y - 8, x + width, y + 8];
          if (box[0] < this.box.left || box[2] > this.width - 1 || box[1] < 14 || box[3] > this.box.bottom + 2 || taken.some((other) => meets(box, other))) continue;
          const crowd = spots.filter((spot) => meets(box, spot)).length;
          if (crowd < least) { least = crowd; found = [x, y, box]; }
        }
        if (!found) { probe.remove(); continue; }
        said.add(mark.text); taken.push(found[2]);
        const [x, y] = [Math.min(Math.max(a, found[2][0]), found[2][2]), Math.min(Math.max(b, found[2][1]), found[2][3])];
        if (!mark.fit && Math.hypot(x - a, y - b) > 11) draw(svg, "path", { d: `M${a} ${b}L${x} ${y}`, style: "stroke: var(--muted); stroke-width: .7", "pointer-events": "none" });
        probe.setAttribute("x", found[0]); probe.setAttribute("y", found[1]); probe.setAttribute("class", "name");
      }
    }
    // Drag a rectangle with the mouse to look closer; a touch scrolls the page.
    ground(svg) {
      const { left, right, top, bottom } = this.box;
      const ground = draw(svg, "rect", { x: left, y: top, width: right - left, height: bottom - top, style: "fill: transparent; cursor: crosshair" });
      ground.addEventListener("dblclick", () => this.zoomTo(null));
      ground.addEventListener("pointerdown", (event) => {
        if (event.pointerType !== "mouse" || event.button) return;
        const frame = svg.getBoundingClientRect(), ratio = this.width / frame.width;
        const at = (e) => [Math.min(Math.max((e.clientX - frame.left) * ratio, left), right), Math.min(Math.max((e.clientY - frame.top) * ratio, top), bottom)];
        const from = at(event), frameRect = draw(svg, "rect", { style: "fill: var(--focus); opacity: .15", "pointer-events": "none" });
        ground.setPointerCapture(event.pointerId);
        const move = (e) => {
          const to = at(e);
          for (const [key, value] of Object.entries({ x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(to[0] - from[0]), height: Math.abs(to[1] - from[1]) })) frameRect.setAttribute(key, value);
        };
        const end = (e) => {
          ground.removeEventListener("pointermove", move);
          frameRect.remove();
          const to = at(e);
          if (e.type === "pointerup" && Math.abs(to[0] - from[0]) > 8 && Math.abs(to[1] - from[1]) > 8)
            this.zoomTo([this.x.back(Math.min(from[0], to[0])), this.x.back(Math.max(from[0], to[0])), this.y.back(Math.max(from[1], to[1])), this.y.back(Math.min(from[1], to[1]))]);
        };
        ground.addEventListener("pointermove", move);
        ground.addEventListener("pointerup", end, { once: true });
        ground.addEventListener("pointercancel", end, { once: true });
      });
    }
    // One row a quantity and setting, from 1 to its ratio.
    rows(svg) {
      const spec = this.spec, form = spec.x.format, on = spec.rows.filter((row) => !state.off.has(row.m));
      const numbers = on.flatMap((row) => [row.x, row.theirs, ...(row.dots || [])]).filter((v) => v !== undefined && v !== null);
      const kind = kindOf(spec.x, numbers), placed = (v) => kind !== "log" || v > 0, values = numbers.filter(placed);
      const rows = on.filter((row) => placed(row.x)).map((row) => ({ ...row, dots: row.dots && row.dots.filter(placed), theirs: placed(row.theirs) ? row.theirs : undefined }));
      const left_out = on.length - rows.length, base = spec.reference ? spec.reference.x : null, name = (row) => row.label || named(row.m, row.s);
      const groups = [...new Set(rows.map((row) => row.q))];
      const left = Math.min(0.6 * this.width, Math.max(96, ...rows.map((row) => lengthOf(name(row)) + 16)));
      this.hiddenPoints = left_out ? placeless(left_out) : rows.length ? "" : "Nothing is shown of what was compared.";
      this.frame(svg, 70 + rows.length * this.pitch + groups.length * (this.pitch + 5), left, 62, 46);
      const [low, high] = limits(base === null ? values : [base, ...values], kind), room = base === null ? [low, high] : [low < base / 2 ? low : base / 2, Math.max(high, 2 * base)];
      this.x = scale(kind, kind === "log" ? room : [Math.min(0, ...values), base === null ? high : room[1]], this.box.left, this.box.right);
      const from = base === null ? this.box.left : this.x(base);
      this.y = null;
      this.axes(svg, { x: spec.x.label });
      if (base !== null) draw(svg, "path", { d: `M${from} ${this.box.top}V${this.box.bottom}`, style: "stroke: var(--ink)" });
      let height = this.box.top + 8;
      for (const group of groups) {
        this.text(svg, 2, height, group, "start", { "font-weight": 600, class: "name", ...(group.length * 7.4 > this.width ? { "font-size": "11px" } : {}), ...(lengthOf(group) * 1.04 > this.width - 6 ? { textLength: this.width - 6, lengthAdjust: "spacingAndGlyphs" } : {}) });
        height += this.pitch + 1;
        for (const row of rows.filter((each) => each.q === group)) {
          this.text(svg, this.box.left - 10, height, fitting(name(row), this.box.left - 12), "end", { class: "name" });
          draw(svg, "path", { d: `M${from} ${height}H${this.x(row.x)}`, style: `stroke: ${colour(row.m)}; stroke-width: 1.4; opacity: .6` });
          for (const dot of row.dots || []) draw(svg, "circle", { cx: this.x(dot), cy: height, r: 2, style: `fill: ${colour(row.m)}` });
          const ends = [row.x, ...(row.dots || []), ...(row.theirs === undefined ? [] : [row.theirs])].map((v) => this.x(v));
          this.text(svg, Math.max(from, ...ends) + 10, height, forms[form](row.x, row.dots ? 3 : 2), "start", { class: "name" });
          if (row.theirs !== undefined) this.mark(svg, { m: row.m, x: row.theirs, at: height, hollow: true, tip: `${name(row)}: ${group}, published ${exact(row.theirs, form)}` });
          this.mark(svg, { m: row.m, x: row.x, at: height, tip: row.dots ? `${name(row)}: ${group}, ${exact(row.x, form)}${row.half === undefined ? " (one run)" : ` ± ${exact(row.half, form)} (95 % of ${row.dots.length} seeds)`}` : `${name(row)}: ${group}, ${exact(row.x, "ratio")} dense (${exact(row.own, "number")} beside ${exact(row.dense, "number")})` });
          height += this.pitch;
        }
        height += 4;
      }
    }
    csv() {
      const spec = this.spec, shown = series(spec), names = labels(spec);
      if (spec.rows && spec.rows.some((r) => r.dots)) return table([["group", "case", "method", names.x, "half of the 95 % interval", "published", "seeds"], ...spec.rows.map((r) => [r.q, r.label, r.m, r.x, r.half ?? "", r.theirs ?? "", r.dots.join(" ")])]);
      if (spec.rows) return table([["method", "setting", "quantity", "value", "dense", "ratio"], ...spec.rows.map((r) => [r.m, r.s, r.q, r.own, r.dense, r.x])]);
      const head = ["method", "setting", "seed", names.x, `${names.x} standard error`, names.y, `${names.y} standard error`];
      return table([head, ...shown.points.map((p) => [p.m, p.s, "", p.x, p.xe ?? "", p.y, p.ye ?? ""]), ...shown.lines.filter((l) => !l.fit).flatMap((l) => l.x.map((x, i) => [l.m, l.s, l.seed, x, "", l.y[i], ""]))]);
    }
    // A file of its own: the present view, with the colours that the page has now.
    file() {
      const copy = this.holder.querySelector("svg").cloneNode(true), style = getComputedStyle(document.documentElement);
      copy.setAttribute("xmlns", SVG);
      copy.setAttribute("font-family", "sans-serif");
      return copy.outerHTML.replace(/var\(--([\w-]+)\)/g, (_, name) => style.getPropertyValue(`--${name}`).trim());
    }
  }
  const table = (rows) => rows.map((row) => row.map((value) => (/[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : value)).join(",")).join("\n") + "\n";
  function download(text, file, type, content) {
    const link = make("a", { href: `data:${type},`, download: file, "aria-label": `${text} of ${file.replace(/\.\w+$/, "")}` }, text);
    const fill = () => { link.href = `data:${type};charset=utf-8,${encodeURIComponent(content())}`; };
    link.addEventListener("pointerdown", fill);
    link.addEventListener("focus", fill);
    link.addEventListener("click", fill);
    return link;
  }
  const tip = byId("tip");
  function showTip(text, x, y) {
    tip.textContent = text; tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(x - box.width / 2, innerWidth - box.width - 6))}px`;
    tip.style.top = `${y - box.height - 12 < 4 ? y + 20 : y - box.height - 12}px`;
  }
  function hideTip() { tip.hidden = true; }
  // What is focused keeps its words when it is scrolled to.
  addEventListener("scroll", () => {
    const focused = document.activeElement;
    if (!tip.hidden && focused && focused.matches(".mark")) focused.dispatchEvent(new FocusEvent("focus")); else hideTip();
  }, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  // ------------------------------------------------------------------ tables
  const views = [];
  class TableView {
    constructor(holder, pageSize = 0) {
      this.name = holder.dataset.table; this.table = holder.querySelector("table"); this.body = this.table.tBodies[0];
      this.rows = [...this.body.rows]; this.pageSize = pageSize;
      this.heads = all("thead th", this.table);
      this.heads.forEach((head, column) => {
        const button = make("button", { type: "button", class: "sort" });
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          state.sort[this.name] = state.sort[this.name] === `${column}u` ? `${column}d` : `${column}u`;
          this.show(); writeAddress();
        });
      });
      this.input = make("input", { type: "search", "aria-label": `Filter: ${holder.getAttribute("aria-label")}`, placeholder: "filter" });
      this.input.addEventListener("input", () => { state.find[this.name] = this.input.value; state.page[this.name] = 0; this.show(); writeAddress(); });
      this.count = make("span", { class: "count", role: "status" });
      this.bar = make("div", { class: "tools above" }, this.input, this.count);
      if (pageSize) for (const [text, step] of [["Previous", -1], ["Next", 1]]) {
        const button = make("button", { type: "button" }, text);
        button.addEventListener("click", () => { state.page[this.name] = (state.page[this.name] || 0) + step; this.show(); writeAddress(); });
        this.bar.append(button);
        this[text] = button;
      }
      this.bar.append(download("CSV", `${this.name}.csv`, "text/csv", () => this.csv()));
      holder.before(this.bar);
      const parts = (head) => [...(head.querySelector("button") || head).childNodes].map((part) => part.textContent.trim());
      this.whole = this.heads.map((head) => parts(head).filter(Boolean).join(" "));
    }
    value(row, column) {
      const cell = row.cells[column], number = cell.dataset.v ?? (/^[\d.,]+$/.test(cell.textContent) ? cell.textContent.replace(/,/g, "") : "");
      return number === "" ? cell.textContent.trim() : Number(number);
    }
    shown() {
      const words = (state.find[this.name] || "").toLowerCase().split(/\s+/).filter(Boolean), sort = state.sort[this.name];
      const rows = this.rows.filter((row) => words.every((word) => row.textContent.toLowerCase().includes(word)));
      if (!sort) return rows;
      const column = Number(sort.slice(0, -1)), sign = sort.endsWith("u") ? 1 : -1;
      if (!this.heads[column]) return rows;
      const blank = (value) => value === "" || value === "\u2013";  // nothing known: last, whichever way
      return rows.map((row) => [this.value(row, column), row]).sort(([p], [q]) => blank(p) - blank(q) || sign * (typeof p === typeof q ? (p < q ? -1 : p > q ? 1 : 0) : typeof p === "number" ? -1 : 1)).map(([, row]) => row);
    }
    show() {
      const rows = this.shown(), sort = state.sort[this.name] || "";
      if (this.input.value !== (state.find[this.name] || "")) this.input.value = state.find[this.name] || "";
      this.heads.forEach((head, column) => {
        const direction = sort.slice(0, -1) === String(column) ? (sort.endsWith("u") ? "ascending" : "descending") : "none";
        if (direction === "none") head.removeAttribute("aria-sort"); else head.setAttribute("aria-sort", direction);
      });
      let part = rows;
      if (this.pageSize) {
        const pages = Math.max(1, Math.ceil(rows.length / this.pageSize)), page = Math.min(Math.max(state.page[this.name] || 0, 0), pages - 1);
        state.page[this.name] = page;
        part = rows.slice(page * this.pageSize, (page + 1) * this.pageSize);
        this.Previous.disabled = page === 0; this.Next.disabled = page === pages - 1;
      }
      const all = this.rows.length, few = part.length < rows.length;
      this.count.textContent = few ? `${part.length} of ${rows.length} rows${rows.length < all ? ` (${all} in all)` : ""}` : rows.length < all ? `${rows.length} of ${all} rows` : `${all} rows`;
      this.body.replaceChildren(...part);
    }
    csv() {
      return table([this.whole, ...this.shown().map((row) => [...row.cells].map((cell) => cell.dataset.v ?? cell.textContent.trim()))]);
    }
  }
  function allRuns(holder) {
    const runs = data.runs, body = holder.querySelector("tbody"), few = document.querySelector(".few");
    const heads = [["data set", ""], ["method", ""], ["setting", ""], ["seed", ""], ["result", "relative error or accuracy"], ["fit", "time"], ["date", "UTC"], ["threads", ""], ["device", ""], ["machine", ""], ["command", "makes this run again"]];
    holder.querySelector("thead").replaceChildren(make("tr", {}, ...heads.map(([name, unit]) => make("th", { scope: "col" }, name, ...(unit ? [make("span", { class: "unit" }, unit)] : [])))));
    body.replaceChildren(...runs.dataset.map((_, i) => {
      const number = (value, text) => make("td", { class: "number", "data-v": value }, text);
      const folder = `results/runs/${runs.dataset[i]}/${runs.method[i]}/${runs.setting[i]}-s${runs.seed[i]}`;
      return make("tr", {}, make("th", { scope: "row" }, runs.dataset[i]), make("td", {}, data.methods[runs.method[i]].shown), make("td", {}, said(runs.setting[i])), number(runs.seed[i], String(runs.seed[i])),
        number(runs.result[i], significant(runs.result[i], 4)), number(runs.seconds[i], duration(runs.seconds[i])), make("td", {}, runs.date[i].slice(0, 16).replace("T", " ")), number(runs.threads[i], String(runs.threads[i])),
        make("td", {}, runs.device[i]), make("td", {}, runs.machine[i]), make("td", {}, make("code", {}, `snakemake --force ${folder}/metrics.json`)));
    }));
    if (few) few.remove();
    return new TableView(holder, 50);
  }

  // ------------------------------------------------------------------ the chooser
  function choose() {
    const found = byId("chosen");
    if (!found) return;
    const cells = data.cells.filter((cell) => cell.d === state.data), bytes = (cell) => cell.b[state.a];
    const limit = state.limit.trim() === "" ? NaN : Number(state.limit), goal = state.goal; // nothing fits no number
    const fits = cells.filter((cell) => (goal === "bytes" ? bytes(cell) <= limit : cell.e <= limit));
    const better = goal === "bytes" ? (p, q) => p.e - q.e || bytes(p) - bytes(q) : (p, q) => bytes(p) - bytes(q) || p.e - q.e;
    const best = new Map();
    for (const cell of [...fits].sort(better)) if (!best.has(cell.m)) best.set(cell.m, cell);
    const rows = [...best.values()];
    if (!rows.length) {
      const nearest = [...cells].sort((p, q) => (goal === "bytes" ? bytes(p) - bytes(q) : p.e - q.e))[0];
      const what = nearest ? ` The ${goal === "bytes" ? "smallest" : "most accurate"} has ${forms.bytes(bytes(nearest))} and a relative error of ${significant(nearest.e)}.` : "";
      if (Number.isNaN(limit)) { found.replaceChildren(make("p", { class: "how" }, `Give a limit.${what}`)); return; }
      found.replaceChildren(make("p", { class: "how" }, `No run on ${state.data} has at most ${state.limit} ${goal === "bytes" ? "bytes" : "relative error"}, bytes counted ${data.accountings[state.a]}.${what}`));
      return;
    }
    const first = rows[0];
    const answer = make("p", { class: "answer" }, make("strong", {}, named(first.m, first.s)), `: ${forms.bytes(bytes(first))} (counted ${data.accountings[state.a]}), relative error ${significant(first.e)}, fitted in ${duration(first.t)}. Best of each method that was run:`);
    const heads = ["method", "setting", "bytes", "relative error", "fit", "command"];
    const body = rows.map((cell) => {
      const copy = make("button", { type: "button", "aria-label": `Copy the command of ${named(cell.m, cell.s)}` }, "Copy");
      copy.addEventListener("click", async () => {
        try { await navigator.clipboard.writeText(cell.c); copy.textContent = "Copied"; } catch {
          const range = document.createRange();
          range.selectNodeContents(copy.nextElementSibling);
          getSelection().removeAllRanges(); getSelection().addRange(range);
          copy.textContent = "Selected";
        }
      });
      return make("tr", {}, make("th", { scope: "row" }, data.methods[cell.m].shown), make("td", {}, said(cell.s)), make("td", { class: "number" }, forms.bytes(bytes(cell))), make("td", { class: "number" }, significant(cell.e)), make("td", { class: "number" }, duration(cell.t)), make("td", { class: "command" }, copy, make("code", {}, ...cell.c.split(" ").flatMap((word, i) => [i ? " " : "", make("span", {}, word)]))));
    });
    found.replaceChildren(answer, make("div", { class: "table", role: "region", tabindex: "0", "aria-label": "Best setting of each method" }, make("table", {}, make("caption", {}, make("span", {}, "Best setting of each method that was run.")), make("thead", {}, make("tr", {}, ...heads.map((name, i) => make("th", i > 1 && i < 5 ? { scope: "col", class: "number" } : { scope: "col" }, name)))), make("tbody", {}, ...body))));
  }
  function suggestLimit() {
    const cells = data.cells.filter((cell) => cell.d === state.data), own = cells.filter((cell) => cell.m === "neukron");
    const from = (own.length ? own : cells).map((cell) => (state.goal === "bytes" ? cell.b[state.a] : cell.e)).sort((p, q) => p - q);
    const value = from.length ? (state.goal === "bytes" ? from[from.length - 1] : from[0]) : 0;
    state.limit = String(state.goal === "bytes" ? Math.ceil(value) : Math.ceil(value * 1e4) / 1e4);
  }

  // ------------------------------------------------------------------ everything at once
  function show() {
    if (byId("accounting")) { byId("accounting").value = String(state.a); byId("error").value = state.e; }
    byId("axes").value = state.x;
    for (const button of all(".legend button")) button.setAttribute("aria-pressed", String(!state.off.has(button.dataset.method)));
    for (const row of all(".duel tr[data-accounting]")) row.hidden = Number(row.dataset.accounting) !== state.a;
    if (byId("choose")) {
      byId("choose-data").value = state.data; byId("choose-goal").value = state.goal;
      if (byId("choose-limit").value !== state.limit) byId("choose-limit").value = state.limit;
    }
    for (const chart of charts) chart.draw();
    for (const view of views) view.show();
    choose();
  }
  const change = (edit) => { edit(); show(); writeAddress(); };

  readAddress();
  for (const figure of all("figure[data-figure]")) {
    const spec = data.figures[figure.dataset.figure];
    if (figure.dataset.spare !== undefined) figure.hidden = true;
    else if (spec) charts.push(new Chart(figure, spec));
  }
  for (const item of all(".legend li")) {
    const button = make("button", { type: "button", "data-method": item.dataset.method });
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => change(() => {
      if (!state.off.delete(item.dataset.method)) state.off.add(item.dataset.method);
    }));
  }
  for (const holder of all(".table[data-table]")) {
    if (holder.dataset.table === "runs") views.push(allRuns(holder));
    else if (holder.querySelector(".sortable")) views.push(new TableView(holder));
  }
  byId("controls").hidden = false;
  const on = (id, event, edit) => { if (byId(id)) byId(id).addEventListener(event, (e) => change(() => edit(e.target.value))); };
  on("accounting", "change", (value) => { state.a = Number(value); state.zoom = {}; });
  on("error", "change", (value) => { state.e = value; state.zoom = {}; });
  on("axes", "change", (value) => { state.x = value; state.zoom = {}; });
  on("choose-data", "change", (value) => { state.data = value; suggestLimit(); });
  on("choose-goal", "change", (value) => { state.goal = value; suggestLimit(); });
  on("choose-limit", "input", (value) => { state.limit = value; });
  byId("restore").addEventListener("click", () => change(() => { state = fresh(); suggestLimit(); }));
  for (const form of all("form")) form.addEventListener("submit", (event) => event.preventDefault());
  if (byId("choose")) byId("choose").hidden = false;
  if (state.limit === "" && data.cells.length) suggestLimit();
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    state.anchor = link.getAttribute("href").slice(1);
    writeAddress();
    goTo(state.anchor);
  });
  function goTo(anchor) {
    const target = anchor && byId(anchor);
    if (!target) return;
    target.scrollIntoView();
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
  }
  addEventListener("hashchange", () => { readAddress(); if (state.limit === "" && data.cells.length) suggestLimit(); show(); goTo(state.anchor); });
  document.documentElement.classList.add("live");
  show();
  goTo(state.anchor);
  // On paper a figure is drawn anew for its column, so that its words keep their size; what a reader cannot open is open.
  const paper = (chart) => {
    const panels = chart.figure.closest(".panels, .tall");
    if (panels.matches(".aside")) return 388;
    return panels.matches(".panels") && all("figure:not([hidden])", panels).length === 1 ? 660 : 312;
  };
  let opened = [];
  addEventListener("beforeprint", () => {
    for (const chart of charts) chart.draw(paper(chart), 246);
    opened = all("details.notes:not([open])");
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
    for (const chart of charts) chart.draw();
  });
  let waiting = 0;
  new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => { for (const chart of charts) if (chart.holder.clientWidth && Math.abs(chart.holder.clientWidth - chart.width) > 1) chart.draw(); }); }).observe(document.querySelector("main"));
})();
