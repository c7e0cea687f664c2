// The page: puts list, scan and side together, and listens to keys, drops and the address.
import { ask, begin, h, onChange, put, set, state, trouble } from "./state.js";
import { Scan } from "./scan.js";
import { Side } from "./side.js";
import { Worklist } from "./worklist.js";

const KEYS = [["\u2191 \u2193", "previous, next scan"], ["\u2190 \u2192", "previous, next slice"], ["Page Up, Page Down", "five slices"], ["Home, End", "first, last slice"], ["/", "search"],
  ["1 2 3", "occlusion, rollout, Grad-CAM, or true mask, predicted mask, difference; 0 none"], ["v", "planes or slices"], ["+ \u2212", "zoom"], ["w", "all columns, or the scan beside the list"], ["f", "the scan alone, or the list beside it"], ["a x b", "accept, wrong label, bad scan"], ["c", "comment"],
  ["right button", "window: across for width, down for level"], ["Shift and left button", "move the planes"], ["Ctrl and wheel", "zoom"]];

async function start() {
  const about = await ask("api/about");
  begin({ method: about.method });
  about.compared = about.opinions > 1;
  document.getElementById("desk").classList.toggle("compared", about.compared);
  document.title = `slivit: ${about.run}`;
  document.getElementById("run").textContent = about.run;
  document.getElementById("shelf").hidden = !location.pathname.includes("/open/");
  document.getElementById("about").textContent = `${about.model} for ${(about.dense ? about.structures : about.targets).join(", ")}. For research; not a medical device.`;
  if (about.targets.length > 1 && !about.targets.includes(state.target)) state.target = "";
  const open = (n) => set({ scan: n, slice: "", cross: "", wide: state.wide === "2" ? "2" : "" });
  const list = new Worklist(document.getElementById("list"), about, open);
  const side = new Side(document.getElementById("side"), about, list, open);
  const scan = new Scan(document.getElementById("scan"), about, { drawn: (facts) => side.show(facts), measured: (cases) => side.measured(cases), opinion: (n, run) => list.opinion(n, run), called: (n) => list.called(n) });
  let shown = "";

  async function apply(changes = state) {
    if ("target" in changes) await list.load(); else list.draw();
    const wanted = `${state.run}|${state.scan}|${state.target}`;
    list.select();
    if (state.scan === "") return;
    if (wanted !== shown) { shown = wanted; await scan.open(); return; }
    if ("channel" in changes) { await scan.channel(); return; }
    if ("beside" in changes) { await scan.show(); return; }
    if ("view" in changes) await scan.look();
    if ("method" in changes) await scan.explain();
    if ("masks" in changes || "layers" in changes) await scan.lay();
  }

  listen(list, scan, side);
  await list.load();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));  // the list is painted before all else
  side.keep(await ask("api/reviews"));
  onChange((changes) => apply(changes).catch((error) => trouble(error.message)));
  if (state.scan && list.row(state.scan) === undefined && !state.scan.startsWith("dropped")) {
    const found = list.rows.find((r) => r.key === state.scan || r.key.endsWith(`/${state.scan}`));
    state.scan = found ? String(found.n) : "";
  }
  if (state.scan === "" && list.shown.length) set({ scan: list.shown[0].n }); else await apply();
  if (!list.rows.length && state.scan === "") trouble("There is no list of scans: the run has no split.csv. Drop a scan on the page, or start slivit view with a CSV.");
}

function listen(list, scan, side) {
  document.getElementById("link").addEventListener("click", async (e) => {
    try { await navigator.clipboard.writeText(location.href); e.target.textContent = "Copied"; } catch { prompt("The link to this view", location.href); }
    setTimeout(() => { e.target.textContent = "Copy link"; }, 1500);
  });
  const dialog = document.getElementById("keys");
  put(dialog, h("h2", {}, "Keys and mouse"), h("table", {}, ...KEYS.map(([k, words]) => h("tr", {}, h("td", {}, h("kbd", {}, k)), h("td", {}, words)))), h("button", { onclick: () => dialog.close() }, "Close"));
  document.getElementById("help").addEventListener("click", () => dialog.showModal());
  const methods = ["none", ...scan.about.methods.map((m) => m.name)];
  const does = {
    ArrowUp: () => list.step(-1), ArrowDown: () => list.step(1), ArrowLeft: () => scan.step(-1), ArrowRight: () => scan.step(1),
    PageUp: () => scan.step(5), PageDown: () => scan.step(-5), Home: () => scan.end(false), End: () => scan.end(true),
    "/": () => { if (state.wide === "2") list.widen("2"); list.search.focus(); }, "?": () => dialog.showModal(), w: () => list.widen(), f: () => list.widen("2"), v: () => set({ view: scan.deep.hidden ? "planes" : "slices" }),
    "+": () => scan.enlarge(1.25), "=": () => scan.enlarge(1.25), "-": () => scan.enlarge(1 / 1.25),
    a: () => side.note("accept"), x: () => side.note("wrong label"), b: () => side.note("bad scan"), c: () => document.querySelector(".comment")?.focus(),
    ...Object.fromEntries(scan.about.dense
      ? ["", "true", "predicted", "difference"].map((name, i) => [String(i), () => set({ layers: name })])
      : methods.map((m, i) => [String(i), () => set({ method: m })])),
  };
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || dialog.open) return;
    if (e.key === "Escape") { document.activeElement.blur(); return; }
    if (e.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
    const arrows = e.key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(e.key);
    if (e.target.matches("input[type=range]") && arrows) return;
    if (does[e.key]) { e.preventDefault(); does[e.key](); }
  });
  const files = document.getElementById("files");
  files.addEventListener("change", () => { drop(files.files); files.value = ""; });
  addEventListener("dragover", (e) => { e.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (e) => { e.preventDefault(); document.body.classList.remove("dropping"); if (e.dataTransfer.files.length) drop(e.dataTransfer.files); });
}

async function drop(chosen) {
  const form = new FormData();
  for (const file of chosen) form.append("files", file, file.name);
  trouble("");
  try {
    const { key } = await ask("api/drop", {}, { method: "POST", body: form });
    set({ scan: key, slice: "", cross: "", wide: "" });
  } catch (error) { trouble(error.message); }
}

start().catch((error) => trouble(error.message));
