// The kernel that is picked: its maps large, the samples that activate it most, and its numbers for each class.

/** A bar of a value in −most..most, from the middle; or in 0..most, from the left. */
function bar(value, most, isSigned, kind) {
  const made = element("span", { class: `bar ${isSigned ? "signed" : ""}` });
  if (Number.isNaN(value) || !most) return made;
  const share = (100 * Math.min(Math.abs(value) / most, 1)) / (isSigned ? 2 : 1);
  const filled = element("i", { class: `${kind} ${value < 0 ? "below" : "above"}` });
  filled.style.width = `${share}%`;
  filled.style.left = isSigned ? `${value < 0 ? 50 - share : 50}%` : "0";
  made.append(filled);
  return made;
}

/** All classes, or as many as a page bears: those that the kernel is most selective for, in their own order. */
function fewest(k, known, most) {
  if (known.length <= most) return { few: known, told: "" };
  const best = [...known].sort((a, b) => at(layer.selective, layer, k, b) - at(layer.selective, layer, k, a)).slice(0, most);
  return { few: best.sort((a, b) => a - b), told: ` The ${most} classes of ${count(known.length)} that it is most selective for.` };
}

function mapTiles(k) {
  const { few, told } = fewest(k, seen, MOST_TILES);
  const tile = (c) => {
    const [m, s] = [at(layer.occurrence, layer, k, c), at(layer.selective, layer, k, c)];
    const name = page.classes[c];
    return element("figure", {},
      picture(image("occurrence", k, c), 64, `occurrence in ${name}, mean ${percent(m)}`),
      picture(image("selective", k, c), 64, `selectivity for ${name}, mean ${signed(s)}`),
      element("figcaption", { title: name }, element("b", {}, name), element("span", {}, `${percent(m)} · ${signed(s)}`)));
  };
  const pooled = layer.block > 1 ? ` Pooled ${layer.block}×${layer.block} from ${layer.size.join("×")}.` : "";
  return [
    element("h3", {}, "Maps by class"),
    element("p", { class: "about" }, `Left where it is active and how often (AOM), right how much more often than for other classes (CSM).${pooled}${told}`),
    element("div", { class: "tiles" }, ...few.map(tile)),
  ];
}

/** The image of a sample, its pixels as they are embedded: [h, w, 1 or 3]. */
function sampleImage(sample) {
  const images = page.images, place = images ? images.numbers.indexOf(sample) : -1;
  if (place < 0) return null;
  images.bytes = images.bytes || bytes(images.pixels);
  const { height: h, width: w, channels: n } = images, drawn = new ImageData(w, h);
  for (let i = 0; i < h * w; i++) {
    const of = (j) => images.bytes[(place * h * w + i) * n + (n === 3 ? j : 0)];
    drawn.data.set([of(0), of(1), of(2), 255], 4 * i);
  }
  return drawn;
}

/** What the kernel makes of a sample, [h, w], from 0 to its own largest activation there. */
function activation(k, t) {
  const { shown, most, maps } = layer.top, size = shown[0] * shown[1], first = (k * most + t) * size;
  return coloured(maps.subarray(first, first + size), shown, ramps.occurrence);
}

function topSamples(k) {
  const { samples, values, labels, most } = layer.top, sample = (t) => samples[k * most + t];
  const found = range(most).filter((t) => sample(t) >= 0);
  const tile = (t) => {
    const place = k * most + t, label = page.classes[labels[place]] ?? "no label", drawn = sampleImage(sample(t));
    return element("figure", {},
      drawn ? picture(drawn, 64, `sample ${sample(t)}, ${label}`) : "",
      layer.positions > 1 ? picture(activation(k, t), 64, `activation by sample ${sample(t)}`) : "",
      element("figcaption", { title: label }, element("b", {}, label), element("span", {}, `no. ${sample(t)} · ${short(values[place])}`)));
  };
  const pooled = layer.top.block > 1 && layer.positions > 1 ? ` Largest of each ${layer.top.block}×${layer.top.block}.` : "";
  return [
    element("h3", {}, "Samples that activate it most"),
    found.length
      ? element("p", { class: "about" }, `By the largest activation at any position; it stands behind the number of the sample.${pooled}`)
      : element("p", { class: "missing" }, most ? "None activates it." : "Left out: there are too many kernels for a page."),
    element("div", { class: "tiles" }, ...found.map(tile)),
  ];
}

function classTable(k) {
  const given = layer.attributed, { few, told } = fewest(k, classes, MOST_LINES);
  const columns = [
    { words: "active", of: (c) => at(layer.occurrence, layer, k, c), text: percent, most: 1 },
    { words: "selectivity", of: (c) => at(layer.selective, layer, k, c), text: signed, isSigned: true },
  ];
  if (given) {
    columns.push(
      { words: "E to the class", of: (c) => at(given.expected, layer, k, c), text: short, isSigned: true },
      { words: "E on its images", of: (c) => at(given.own, layer, k, c), text: short, isSigned: true });
  }
  for (const c of columns) c.most ??= Math.max(...few.map((j) => Math.abs(c.of(j)) || 0));
  const line = (c) => element("tr", { class: c === state.class ? "picked" : null },
    element("th", { scope: "row", title: page.classes[c] }, page.classes[c]),
    element("td", { class: "n" }, page.samples[c] ? count(page.samples[c]) : "none"),
    ...columns.map((o) => element("td", { class: "n" }, bar(o.of(c), o.most, o.isSigned, "fill"), element("span", {}, o.text(o.of(c))))));
  const about = given
    ? "E: expected attribution to the softmax output of the class, over all images and over those of the class."
    : "No attributions: the layer was not ranked. Name it with --layers.";
  return [
    element("h3", {}, "By class"), element("p", { class: "about" }, about + told),
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", {}), element("th", { class: "n", scope: "col" }, "n"),
        ...columns.map((o) => element("th", { class: "n", scope: "col" }, o.words)))),
      element("tbody", {}, ...few.map(line)))),
  ];
}

/** Everything about one kernel, in place of the last one. */
function showKernel() {
  const k = state.kernel, place = kernels.indexOf(k), given = layer.attributed;
  const fact = (name, text) => element("div", {}, element("b", {}, text), element("span", {}, name));
  const facts = [fact("selectivity s(k)", short(layer.selectivity[k]))];
  if (given) facts.push(fact("rank, −E of the loss", short(given.rank[k])));
  facts.push(fact(`in this order, of ${count(kernels.length)}`, place < 0 ? "not shown" : count(place + 1)));
  $("kernel").replaceChildren(
    element("h2", {}, `Kernel ${k}`, element("span", {}, ` of ${layer.name}`)),
    ...layer.marks[k].map((f) => element("p", { class: "finding" }, element("i", { class: `kind k-${f.kind}` }, f.kind), ` ${f.words}`)),
    element("div", { class: "facts" }, ...facts),
    ...(layer.positions > 1 ? mapTiles(k) : []), ...topSamples(k), ...classTable(k));
}
