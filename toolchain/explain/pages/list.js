// What is seen: the list of kernels (only rows in view exist), the kernel that is picked, and the address that says so.

const $ = (id) => document.getElementById(id);
const RAMPS = page.ramps; // from 0 to 1, and from −1 over 0 to 1
const SIZES = { small: 24, medium: 44, large: 72 };
const LABEL = 196; // pixels before the maps of a row
const HEAD = Math.min(104, 26 + 7 * Math.max(...page.classes.map((name) => name.length))); // pixels above the rows
const WIDE = 4096; // pixels of maps that are drawn at once
const MOST_TILES = 24; // classes whose maps are shown large
const MOST_LINES = 100; // classes in the table of a kernel
const MOST_FINDINGS = 200; // lines of the list of findings
const dark = matchMedia("screen and (prefers-color-scheme: dark)"); // false on paper, and says when that changes

let state = {}, layer, kernels = [], rows = new Map(), ramps;

/** An element with attributes, text and children; text is never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- colours and maps ----------------------------------------------------------------------------------------------
/** 256 colours along some stops, as the four bytes of a pixel. */
function ramp(stops) {
  const rgb = stops.map((s) => [1, 3, 5].map((i) => parseInt(s.slice(i, i + 2), 16))), made = new Uint8Array(1024);
  for (let i = 0; i < 256; i++) {
    const x = (i / 255) * (stops.length - 1), a = Math.min(Math.floor(x), stops.length - 2);
    made.set([...[0, 1, 2].map((j) => Math.round(rgb[a][j] + (x - a) * (rgb[a + 1][j] - rgb[a][j]))), 255], 4 * i);
  }
  return new Uint32Array(made.buffer);
}

function setColours() {
  const chosen = RAMPS[dark.matches ? "dark" : "light"];
  ramps = { occurrence: ramp(chosen.occurrence), selective: ramp(chosen.selective) };
  const bar = (stops) => `linear-gradient(to right, ${stops.join(", ")})`;
  $("legend-bar").style.background = bar(chosen[state.map || "occurrence"]);
}

/** Levels 0…255 as colours of a ramp, [h, w]. */
function coloured(levels, [h, w], colours) {
  const drawn = new ImageData(w, h), pixels = new Uint32Array(drawn.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colours[levels[i]];
  return drawn;
}

/** The map of one kernel and class, [h, w]. */
function image(kind, k, c) {
  const levels = kind === "occurrence"
    ? occurrenceMap(layer, k, c)
    : Uint8ClampedArray.from(selectivityMap(layer, k, c), (v) => 127.5 * (1 + v / layer.scale));
  return coloured(levels, layer.shown, ramps[kind]);
}

const stage = document.createElement("canvas");

/** Put an image into a box of a canvas, each of its pixels a block. */
function put(context, drawn, x, y, width, height) {
  stage.width = drawn.width;
  stage.height = drawn.height;
  stage.getContext("2d").putImageData(drawn, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(stage, x, y, width, height);
}

function canvas(width, height, label, draw) {
  const sharp = Math.min(devicePixelRatio || 1, 2);
  const made = element("canvas", { role: "img", "aria-label": label, width: width * sharp, height: height * sharp });
  made.style.width = `${width}px`;
  made.style.height = `${height}px`;
  const context = made.getContext("2d");
  context.scale(sharp, sharp);
  draw(context);
  return made;
}

/** A map as a picture of its own, at its proportions. */
function picture(drawn, side, label) {
  const scale = side / Math.max(drawn.width, drawn.height);
  const [w, h] = [Math.max(4, drawn.width * scale), Math.max(4, drawn.height * scale)];
  return canvas(w, h, label, (context) => put(context, drawn, 0, 0, w, h));
}

// ---- the list of kernels -------------------------------------------------------------------------------------------
const cell = () => SIZES[state.size];
const rowHeight = () => (layer.positions > 1 ? cell() : Math.max(20, cell() / 2));

/** The classes whose maps are drawn: all of them, or those about the part in view. */
function columns() {
  if (classes.length * cell() <= WIDE) return [0, classes.length];
  const first = Math.max(0, Math.floor($("list").scrollLeft / cell() / 16) * 16 - 16);
  return [first, Math.min(classes.length, first + Math.floor(WIDE / cell()))];
}

function drawRow(k, from, to) {
  const size = cell(), height = rowHeight(), gap = 1;
  return canvas((to - from) * size, height, `maps of kernel ${k}`, (context) => {
    for (let c = from; c < to; c++) {
      if (page.samples[c]) put(context, image(state.map, k, c), (c - from) * size, 0, size - gap, height - gap);
    }
  });
}

function row(k, place, from, to) {
  const { value } = SORTS[state.sort], shown = value ? short(value(layer, k, state.class)) : short(layer.selectivity[k]);
  const kinds = [...new Set(layer.marks[k].map((f) => f.kind))];
  const label = element("div", { class: "label" }, element("b", {}, String(k)), element("span", { class: "value" }, shown),
    element("span", { class: "kinds" }, ...kinds.map((kind) => element("i", { class: `kind k-${kind}`, title: kind }, kind))));
  const made = element("div", {
    class: "row", id: `kernel-${k}`, role: "option", "aria-selected": String(k === state.kernel), "data-kernel": k,
    "aria-label": [`kernel ${k}`, shown, ...kinds].join(", "), "aria-setsize": kernels.length, "aria-posinset": place + 1,
  }, label, drawRow(k, from, to));
  made.style.top = `${HEAD + place * rowHeight()}px`;
  made.style.height = `${rowHeight()}px`;
  made.lastChild.style.marginLeft = `${from * cell()}px`;
  return made;
}

function heads(from, to) {
  return range(to - from).map((i) => {
    const c = from + i, n = page.samples[c];
    const made = element("button", {
      type: "button", class: `head${n ? "" : " empty"}`, "data-class": c, tabindex: -1, "aria-pressed": String(c === state.class),
      title: `${page.classes[c]}: ${n ? `${count(n)} samples` : "no samples"}; click to sort by selectivity for it`,
    }, element("span", {}, page.classes[c]));
    made.style.left = `${LABEL + c * cell()}px`;
    made.style.width = `${cell() - 1}px`;
    return made;
  });
}

/** Make the rows that came into view and drop the others. */
function showRows(anew = false) {
  const list = $("list"), height = rowHeight(), [from, to] = columns();
  const first = Math.max(0, Math.floor((list.scrollTop - HEAD) / height) - 4);
  const last = Math.min(kernels.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + 4);
  const key = `${from} ${to}`;
  if (anew || rows.key !== key) {
    for (const made of rows.values()) made.remove();
    rows = new Map();
    rows.key = key;
    $("heads").replaceChildren(...heads(from, to));
  }
  const wanted = new Set(kernels.slice(first, last));
  for (const [k, made] of rows) if (!wanted.has(k)) { made.remove(); rows.delete(k); }
  for (let place = first; place < last; place++) {
    const k = kernels[place];
    if (rows.has(k)) continue;
    rows.set(k, row(k, place, from, to));
    $("space").append(rows.get(k));
  }
}

function showList() {
  kernels = kernelsOf(layer, state.sort, state.class, state.show);
  $("space").style.height = `${HEAD + kernels.length * rowHeight()}px`;
  $("space").style.width = `${LABEL + classes.length * cell()}px`;
  $("none").hidden = kernels.length > 0;
  const of = kernels.length === layer.kernels ? "" : ` of ${count(layer.kernels)}`;
  $("shown").textContent = `${count(kernels.length)}${of} kernels`;
  showRows(true);
}

function reveal(k) {
  const place = kernels.indexOf(k), list = $("list"), height = rowHeight();
  if (place < 0) return;
  const top = HEAD + place * height;
  if (top - HEAD < list.scrollTop) list.scrollTop = top - HEAD;
  else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
}
