"use strict";
// What is on the page, in numbers: arrays out of base64, layers, orders and filters. Nothing here touches the document
// but for the block of data.

const page = JSON.parse(document.getElementById("data").textContent);
function bytes(text) {
  const raw = atob(text), made = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) made[i] = raw.charCodeAt(i);
  return made;
}
const floats = (text) => new Float32Array(bytes(text).buffer); // little-endian, as every browser's machine is
const range = (n) => Array.from({ length: n }, (_, i) => i);
const classes = range(page.classes.length);
const seen = classes.filter((c) => page.samples[c] > 0);

const opened = new Map();

/** A layer with its arrays, unpacked when it is first looked at. */
function layerNamed(name) {
  const packed = page.layers.find((l) => l.name === name) || page.layers[0];
  if (!opened.has(packed.name)) opened.set(packed.name, unpacked(packed));
  return opened.get(packed.name);
}

function unpacked(packed) {
  const layer = { ...packed, maps: bytes(packed.maps), top: { ...packed.top, maps: bytes(packed.top.maps) } };
  for (const name of ["occurrence", "selective", "selectivity"]) layer[name] = floats(packed[name]);
  layer.top.values = floats(packed.top.values);
  layer.attributed = packed.attributed && Object.fromEntries(
    Object.entries(packed.attributed).map(([name, text]) => [name, floats(text)]));
  layer.positions = layer.shown[0] * layer.shown[1];
  layer.marks = range(layer.kernels).map(() => []);
  for (const found of layer.findings) for (const k of found.kernels) layer.marks[k].push(found);
  layer.scale = largestSelectivity(layer);
  return layer;
}

/** 255 M^{k,c}, [positions]: of the images of class c, the share whose activation of kernel k there is above 0. */
function occurrenceMap(layer, k, c) {
  const at = (k * classes.length + c) * layer.positions;
  return layer.maps.subarray(at, at + layer.positions);
}

const summed = {}; // of the kernel that was asked for last: its classes are asked for one after the other

/** Σ 255 M^{k,d} over the classes d that have samples, [positions]. */
function sumOver(layer, k) {
  if (summed.layer !== layer || summed.k !== k) {
    const sum = new Int32Array(layer.positions);
    for (const d of seen) occurrenceMap(layer, k, d).forEach((v, i) => (sum[i] += v));
    Object.assign(summed, { layer, k, sum });
  }
  return summed.sum;
}

/** S^{k,c}, [positions]: the mean of M^{k,c} − M^{k,d} over the other classes d that have samples (eq. 3). */
function selectivityMap(layer, k, c) {
  const own = occurrenceMap(layer, k, c), sum = sumOver(layer, k), n = seen.length;
  return Float32Array.from(own, (v, i) => (n > 1 ? (n * v - sum[i]) / (n - 1) / 255 : 0));
}

/** The largest |S| of a layer, which its colours end at: |n M − ΣM| / (n − 1), without a map for each class. */
function largestSelectivity(layer) {
  const { maps, positions } = layer, n = seen.length;
  let most = 0;
  for (let k = 0; k < layer.kernels && n > 1; k++) {
    const first = k * classes.length * positions;
    for (let i = 0; i < positions; i++) {
      let low = 255, high = 0, sum = 0;
      for (const c of seen) {
        const v = maps[first + c * positions + i];
        sum += v;
        if (v < low) low = v;
        if (v > high) high = v;
      }
      most = Math.max(most, n * high - sum, sum - n * low);
    }
  }
  return most / 255 / Math.max(n - 1, 1) || 1;
}

const at = (array, layer, k, c) => array[k * classes.length + c];

// ---- orders: a value for each kernel, the largest first; null keeps the given one --------------------------------------
const SORTS = {
  clustered: { words: "similar rows together", value: null },
  index: { words: "number", value: null },
  selectivity: { words: "selectivity s(k)", value: (l, k) => l.selectivity[k] },
  class: { words: "selectivity for the class", isOfClass: true, value: (l, k, c) => at(l.selective, l, k, c) },
  occurrence: { words: "occurrence in the class", isOfClass: true, value: (l, k, c) => at(l.occurrence, l, k, c) },
  rank: { words: "rank, −E of the loss", isAttributed: true, value: (l, k) => l.attributed.rank[k] },
  attribution: {
    words: "attribution E to the class", isOfClass: true, isAttributed: true,
    value: (l, k, c) => at(l.attributed.expected, l, k, c),
  },
};

const sortsOf = (layer) => Object.keys(SORTS).filter((s) => layer.attributed || !SORTS[s].isAttributed);
const kindsOf = (layer) => [...new Set(layer.findings.filter((f) => f.kernels.length).map((f) => f.kind))];

/** The kernels that are shown, in their order. */
function kernelsOf(layer, sort, c, show) {
  const order = sort === "clustered" ? [...layer.order] : range(layer.kernels);
  const value = SORTS[sort].value;
  if (value) {
    const of = order.map((k) => { const v = value(layer, k, c); return Number.isNaN(v) ? -Infinity : v; });
    order.sort((a, b) => of[b] - of[a] || a - b);
  }
  return show === "all" ? order : order.filter((k) => layer.marks[k].some((f) => f.kind === show));
}

// ---- words ---------------------------------------------------------------------------------------------------------
const percent = (v) => (Number.isNaN(v) ? "–" : `${(100 * v).toFixed(v > 0 && v < 0.0995 ? 1 : 0)} %`);
const minus = (text) => text.replace("-", "−");
const signed = (v) => (Number.isNaN(v) ? "–" : Math.abs(v) < 0.005 ? "0.00" : `${v > 0 ? "+" : ""}${minus(v.toFixed(2))}`);
const count = (n) => n.toLocaleString("en");
function short(v) {
  if (Number.isNaN(v)) return "–";
  const size = Math.abs(v);
  if (size >= 1000 && size < 1e6) return minus(count(Math.round(v)));
  return v === 0 ? "0" : minus(size < 0.001 || size >= 1e6 ? v.toExponential(1) : v.toPrecision(3));
}
