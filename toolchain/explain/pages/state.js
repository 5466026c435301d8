// The state of the page is its address: whatever is chosen goes there first, and what is shown is read from it.

/** The state that an address asks for, each part by default where there is none such. */
function stateOf(hash) {
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  const one = (name, known, otherwise) => (known.includes(asked.get(name)) ? asked.get(name) : otherwise);
  const whole = (name, n) => { const v = Number(asked.get(name) ?? NaN); return Number.isInteger(v) && v >= 0 && v < n ? v : null; };
  const chosen = layerNamed(asked.get("layer"));
  const found = {
    layer: chosen.name,
    map: one("map", ["occurrence", "selective"], "occurrence"),
    sort: one("sort", sortsOf(chosen), "clustered"),
    class: whole("class", classes.length) ?? seen[0] ?? 0,
    show: one("show", kindsOf(chosen), "all"),
    size: one("size", Object.keys(SIZES), "medium"),
  };
  const shown = kernelsOf(chosen, found.sort, found.class, found.show);
  return { ...found, kernel: whole("kernel", chosen.kernels) ?? shown[0] ?? 0 };
}

/** Change parts of the state; a kernel that the new state would hide makes way for the first one. */
function go(change) {
  const next = new URLSearchParams({ ...state, ...change });
  if (("layer" in change || "show" in change) && !("kernel" in change)) next.delete("kernel");
  address = `#${next}`;
  update(); // now, not when the address has changed: keys come faster
  location.replace(address);
}

const LISTS = ["layer", "map", "sort", "show", "size"]; // parts of the state that change what is in the list
let address = location.hash;

function update() {
  const before = state;
  state = stateOf(address);
  layer = layerNamed(state.layer);
  setColours();
  if (state.layer !== before.layer) showFindings();
  if (LISTS.some((p) => state[p] !== before[p]) || (state.class !== before.class && SORTS[state.sort].isOfClass)) {
    if (state.layer !== before.layer) $("list").scrollTop = 0;
    showList();
  }
  showControls();
  fit();
  for (const made of document.querySelectorAll(".row[aria-selected=true]")) made.setAttribute("aria-selected", "false");
  reveal(state.kernel);
  showRows();
  rows.get(state.kernel)?.setAttribute("aria-selected", "true");
  $("list").setAttribute("aria-activedescendant", rows.has(state.kernel) ? `kernel-${state.kernel}` : "");
  for (const made of document.querySelectorAll(".head")) made.setAttribute("aria-pressed", String(Number(made.dataset.class) === state.class));
  showKernel();
  document.body.dataset.shown = `${state.layer} ${state.kernel}`;
}

// ---- controls ------------------------------------------------------------------------------------------------------
function choices(id, pairs, value) {
  const key = JSON.stringify(pairs);
  if ($(id).pairs !== key) $(id).replaceChildren(...pairs.map(([v, words]) => element("option", { value: v }, words)));
  $(id).pairs = key;
  $(id).value = String(value);
}

function showControls() {
  const shown = (kind) => layer.marks.filter((m) => m.some((f) => f.kind === kind)).length;
  choices("layer", page.layers.map((l) => [l.name, `${l.name} (${count(l.kernels)})`]), state.layer);
  choices("map", [["occurrence", "occurrence (AOM)"], ["selective", "class selectivity (CSM)"]], state.map);
  choices("sort", sortsOf(layer).map((s) => [s, SORTS[s].words]), state.sort);
  choices("class", classes.map((c) => [c, page.classes[c]]), state.class);
  choices("show", [["all", `all (${count(layer.kernels)})`], ...kindsOf(layer).map((f) => [f, `${f} (${count(shown(f))})`])], state.show);
  choices("size", Object.keys(SIZES).map((s) => [s, s]), state.size);
  $("class").disabled = !SORTS[state.sort].isOfClass;
  const [low, high] = state.map === "occurrence" ? ["0", "100 % of images"] : [signed(-layer.scale), signed(layer.scale)];
  $("legend-low").textContent = low;
  $("legend-high").textContent = high;
  const size = layer.positions > 1 ? `${layer.size.join("×")} positions${layer.block > 1 ? `, pooled ${layer.block}×${layer.block} to be shown` : ""}` : "Dense units";
  const value = SORTS[state.sort].value ? SORTS[state.sort].words : SORTS.selectivity.words;
  $("about").textContent = `${size}. Beside the number: ${value}.`;
}

/** The findings of the layer; one about kernels leads to the first of them. */
function showFindings() {
  const line = (f) => {
    if (!f.kernels.length) return element("li", {}, element("b", {}, f.kind), ` ${f.words}`);
    const to = { layer: layer.name, show: f.kind, kernel: f.kernels[0] };
    const follow = (event) => { event.preventDefault(); go(to); };
    return element("li", {}, element("a", { href: `#${new URLSearchParams(to)}`, onclick: follow }, f.kind), ` ${f.words}`);
  };
  const all = layer.findings, more = all.length - MOST_FINDINGS;
  $("findings").replaceChildren(...all.slice(0, MOST_FINDINGS).map(line),
    ...(more > 0 ? [element("li", {}, `and ${count(more)} more: choose what to show above.`)] : []));
  $("findings-box").hidden = !all.length;
  $("findings-count").textContent = `Findings (${count(all.length)})`;
}

/** Let both halves of the page end with the window, but for a window that is too low or too narrow. */
function fit() {
  const room = innerHeight - $("list").getBoundingClientRect().top - scrollY - 16;
  document.body.style.setProperty("--room", `${Math.max(room, 380)}px`);
  document.body.style.setProperty("--head", `${HEAD}px`);
  document.body.style.setProperty("--label", `${LABEL}px`);
}

for (const id of ["layer", "map", "sort", "class", "show", "size"]) {
  $(id).addEventListener("change", () => go({ [id]: $(id).value }));
}
$("find").addEventListener("change", () => {
  const k = Number($("find").value);
  if (!Number.isInteger(k) || k < 0 || k >= layer.kernels || $("find").value === "") return;
  go(kernels.includes(k) ? { kernel: k } : { kernel: k, show: "all" });
});
$("list").addEventListener("scroll", () => requestAnimationFrame(() => showRows()), { passive: true });
$("list").addEventListener("click", (event) => {
  const head = event.target.closest(".head"), picked = event.target.closest(".row");
  if (head) go({ class: head.dataset.class, sort: "class" });
  else if (picked) go({ kernel: picked.dataset.kernel });
});

/** The kernel so many rows further on. */
function step(by) {
  const place = Math.max(0, kernels.indexOf(state.kernel));
  const next = kernels[Math.max(0, Math.min(kernels.length - 1, place + by))];
  if (next !== undefined) go({ kernel: next });
}

const inView = () => Math.max(1, Math.floor(($("list").clientHeight - HEAD) / rowHeight()) - 1);
const turned = (list, value, by) => list[(list.indexOf(value) + by + list.length) % list.length];
const KEYS = {
  ArrowDown: () => step(1), ArrowUp: () => step(-1), j: () => step(1), k: () => step(-1),
  PageDown: () => step(inView()), PageUp: () => step(-inView()), Home: () => step(-Infinity), End: () => step(Infinity),
  m: () => go({ map: turned(["occurrence", "selective"], state.map, 1) }),
  s: () => go({ sort: turned(sortsOf(layer), state.sort, 1) }),
  f: () => go({ show: turned(["all", ...kindsOf(layer)], state.show, 1) }),
  "[": () => go({ layer: turned(page.layers.map((l) => l.name), state.layer, -1) }),
  "]": () => go({ layer: turned(page.layers.map((l) => l.name), state.layer, 1) }),
  "<": () => go({ class: turned(classes, state.class, -1) }), ">": () => go({ class: turned(classes, state.class, 1) }),
  "/": () => $("find").focus(),
};
addEventListener("keydown", (event) => {
  const isWriting = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && isWriting) $("list").focus();
  if (isWriting || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("hashchange", () => {
  if (location.hash === address) return;
  address = location.hash;
  update();
});
addEventListener("resize", () => { fit(); showRows(); });
addEventListener("toggle", () => { fit(); showRows(); }, { capture: true });
dark.addEventListener("change", () => { setColours(); showRows(true); showKernel(); });
update();
