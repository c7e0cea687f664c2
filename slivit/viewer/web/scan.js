// The opened scan: its two views, the window, explanations and masks over it, the strip of its slices.
import { Beside } from "./beside.js";
import { addressOf, ask, h, number, put, set, state, trouble } from "./state.js";
import { Several } from "./several.js";
import { Slices } from "./slices.js";
import { Strip } from "./strip.js";

const DEEP = 12;
const HU = { lung: [-1350, 150], bone: [-160, 1640], brain: [0, 80], "soft tissue": [-160, 240] };
const LAYERS = [["true", "True", "The true mask"], ["predicted", "Predicted", "The predicted mask"], ["difference", "Difference", "Where the two differ"]];
export const DIFFERENCE = ["missed: in the true mask alone", "added: in the predicted mask alone", "another structure"];

export class Scan {
  // `drawn` is told the facts of each scan, `measured` the masks of each run that segments; `opinion` gives a run's
  // words about a scan, `called` those of people.
  constructor(place, about, { drawn, measured, opinion, called }) {
    Object.assign(this, { place, about, drawn, measured, opinion, called, facts: null, found: null, turn: 0, maps: new Map(), cases: new Map() });
    this.title = h("div", { class: "scan-title", "aria-live": "polite" });
    this.tools = h("div", { class: "tools" });
    this.stage = h("div", { class: "stage" });
    this.flat = h("div", { class: "flat" });
    this.deep = h("div", { class: "deep" });
    this.busy = h("div", { class: "busy", role: "status" });
    this.calls = h("div", { class: "calls", hidden: true });
    this.stage.append(this.flat, this.deep, this.busy, this.calls);
    this.stripe = h("div", { class: "strip" });
    this.said = h("p", { class: "said quiet" });
    put(place, this.title, this.tools, this.stage, this.stripe, this.said);
    this.strip = new Strip(this.stripe, (n) => this.view?.go(n), about.dense);
    this.slices = new Slices(this.flat, (n) => this.moved(n), about.runs);
    this.planes = new Several(this.deep, { moved: (n, cross, value) => this.moved(n, cross, value),
      windowed: (low, high) => this.showWindow(low, high), zoomed: (zoom) => set({ zoom: zoom.toFixed(2) }, true) });
    this.stage.addEventListener("wheel", (e) => { if (this.view === this.slices && !e.ctrlKey) { e.preventDefault(); this.step(Math.sign(e.deltaY)); } }, { passive: false });
    this.build();
  }

  build() {
    const button = (words, title, onclick, given = {}) => h("button", { title, onclick, ...given }, words);
    this.views = h("div", { class: "group", role: "group", "aria-label": "View" },
      button("Planes", "Three planes of the whole scan ( v )", () => set({ view: "planes" }), { "data-view": "planes" }),
      button("Slices", "The slices as the model saw them ( v )", () => set({ view: "slices" }), { "data-view": "slices" }));
    this.methods = h("div", { class: "group", role: "group", "aria-label": "Explanation" },
      button("None", "No explanation ( 0 )", () => set({ method: "none" }), { "data-method": "none" }),
      ...this.about.methods.map((m, i) => button(m.title, `${m.says} ( ${i + 1} )`, () => set({ method: m.name }), { "data-method": m.name })));
    this.methods.hidden = this.about.dense;
    this.layers = h("div", { class: "group", role: "group", "aria-label": "Masks", hidden: !this.about.dense },
      ...LAYERS.map(([name, words, title], i) => button(words, `${title} ( ${i + 1} )`, () => this.toggle(name), { "data-layer": name })));
    this.beside = new Beside(this.about.runs);
    this.targets = h("select", { title: "Which output is explained", "aria-label": "Output", onchange: (e) => set({ target: e.target.value }) });
    this.runs = h("select", { title: "Which run is explained", "aria-label": "Run", onchange: (e) => set({ run: e.target.value }) },
      ...this.about.runs.map((name, i) => h("option", { value: i }, name)));
    this.channels = h("select", { title: "Which channel is shown", "aria-label": "Channel", onchange: (e) => set({ channel: e.target.value }) });
    this.runs.hidden = this.about.runs.length < 2;
    this.windows = h("select", { title: "Window: brightness and contrast. Or drag with the right button.", "aria-label": "Window", onchange: (e) => this.preset(e.target.value) });
    this.numbers = h("span", { class: "quiet numbers" });
    const range = (name, words, key) => h("label", { class: "range", title: words }, h("span", {}, name),
      h("input", { type: "range", class: `${key}-slider`, min: 0, max: 100, step: 5, "aria-label": words, value: state[key], oninput: (e) => { set({ [key]: e.target.value }, true); this.fade(); } }));
    this.opacity = range("Colours", "How strongly the explanation shows", "opacity");
    this.fill = range("Masks", "How strongly masks show", "fill");
    this.masks = h("span", { class: "masks" });
    this.zooms = h("div", { class: "group" }, button("\u2212", "Smaller ( - )", () => this.enlarge(1 / 1.25), { "aria-label": "Smaller" }), button("+", "Larger ( + )", () => this.enlarge(1.25), { "aria-label": "Larger" }),
      button("Full", "The scan alone, or the list beside it ( f )", () => set({ wide: state.wide === "2" ? "" : "2" })));
    put(this.tools, this.views, this.channels, this.zooms, this.windows, this.numbers, this.methods, this.layers, this.targets, this.runs, this.beside.menu, this.opacity, this.masks, this.fill);
  }


  // Open what the state says; `moved` ones of its values alone change what is drawn.
  async open() {
    const turn = (this.turn += 1);
    this.place.classList.remove("empty");
    trouble(""); // now, as what goes wrong meanwhile is to be seen
    this.wait("reading ...");
    const asked = { key: state.scan, run: state.run };
    let facts;
    try { facts = { ...await ask(`api/scan/${encodeURIComponent(asked.key)}`, { run: asked.run, target: state.target }), ...asked }; } catch (error) {
      if (turn === this.turn) { this.facts = null; this.wait(""); this.place.classList.add("empty"); this.drawn(null); put(this.title, h("h2", {}, "This scan cannot be shown")); trouble(error.message); }
      return;
    }
    if (turn !== this.turn) return;
    Object.assign(this, { facts, found: null, placeOf: null, fresh: state.slice === "", maps: new Map(), cases: new Map() });
    facts.channel = facts.channels[Number(state.channel)] ? state.channel : "0";
    put(this.targets, ...facts.outputs.map(([name]) => h("option", { value: name, selected: name === facts.target }, name)));
    this.targets.hidden = facts.outputs.length < 2;
    put(this.channels, ...facts.channels.map((name, i) => h("option", { value: i, selected: facts.channel === String(i) }, name)));
    this.channels.hidden = facts.channels.length < 2;
    put(this.title, h("h2", {}, facts.name), h("span", { class: "quiet" }, [facts.patient !== facts.path && facts.patient, facts.split].filter(Boolean).join(" \u00b7 ")),
      h("span", { class: "grow" }), h("span", { class: "quiet" }, `${facts.shape.join(" \u00d7 ")}${facts.spacing ? `, ${facts.spacing.map((s) => number(s, 2)).join(" \u00d7 ")} mm` : ""}`));
    this.strip.number = Number(state.slice) || facts.sampled[Math.floor(facts.sampled.length / 2)];
    this.strip.show(facts.shape[0], facts.sampled, null);
    this.slices.show(facts, (run, n) => addressOf(facts, `slice/${n}`, { run }));
    this.drawn(facts);
    await this.show();
  }

  // Show the opened scan anew, in the view and beside the runs that the state says.
  async show() {
    if (!this.facts) return;
    this.placeOf = null;
    const runs = this.besides();
    this.stage.classList.toggle("four", runs.length > 2);
    this.beside.draw(this.facts.run);
    this.strip.others(runs.filter((run) => run !== this.facts.run).map((run) => ({ name: this.about.runs[run], run: Number(run) })));
    const called = this.called(this.facts.key);
    this.calls.hidden = !called.length;
    put(this.calls, ...called.map(([name, words]) => h("div", {}, h("b", {}, name), ` ${words}`)));
    await this.look();
    await this.explain();
  }

  besides() { return this.beside.chosen(this.facts.run); }
  said_of(run) { return [this.about.runs[run], this.opinion(this.facts.key, run)].filter(Boolean).join(": "); }
  toggle(name) {
    const chosen = state.layers.split(",").filter(Boolean);
    set({ layers: (chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name]).join() });
  }

  // Show another channel of the same scan.
  async channel() {
    if (!this.facts) return;
    const at = this.strip.number, facts = (this.facts = { ...this.facts, channel: state.channel });
    this.slices.show(facts, (run, n) => addressOf(facts, `slice/${n}`, { run }));
    this.strip.number = at;
    this.fresh = false;
    await this.show();
  }

  wait(words) { this.busy.textContent = words; this.busy.hidden = !words; }

  // Show the scan in the view of the state, or in the one that fits it.
  async look() {
    const turn = (this.looks = (this.looks || 0) + 1), facts = this.facts;
    if (!facts) return;
    const possible = this.about.planes;
    const wanted = state.view || (facts.placed && facts.shape[0] >= DEEP ? "planes" : "slices");
    const planes = possible && wanted === "planes";
    for (const b of this.views.children) { b.setAttribute("aria-pressed", b.dataset.view === (planes ? "planes" : "slices")); b.disabled = b.dataset.view === "planes" && !possible; }
    this.flat.hidden = planes;
    this.deep.hidden = !planes;
    this.view = planes ? null : this.slices;
    this.windows.hidden = this.numbers.hidden = !planes;
    this.slices.beside(this.besides(), (run) => this.said_of(run));
    if (!planes) { this.wait(""); this.slices.go(this.strip.number); await this.lay(); return; }
    this.slices.rest();
    this.wait("reading the whole scan ...");
    try {
      if (!this.placeOf) {
        const place = await ask(addressOf(facts, "place"));
        if (turn !== this.looks) return;
        await this.planes.show(this.besides(), addressOf(facts, "volume.nii"), place, (run) => this.said_of(run));
        if (turn !== this.looks) return;
        this.placeOf = place;
        this.presets(place);
      }
    } catch (error) { if (turn === this.looks) { this.wait(""); trouble(error.message); set({ view: "slices" }); } return; }
    this.view = this.planes;
    this.wait("");
    if (state.window) { const [low, high] = state.window.split(",").map(Number); this.planes.setWindow(low, high); this.showWindow(low, high); }
    if (Number(state.zoom) !== 1) this.planes.enlarge(Number(state.zoom));
    if (state.cross && !this.fresh) this.planes.goto(state.cross.split(",").map(Number));
    else this.planes.go(this.strip.number);
    await this.lay();
  }

  presets(place) {
    put(this.windows, h("option", { value: "" }, "window: auto"), h("option", { value: "full" }, "full range"), ...(place.hu ? Object.keys(HU).map((name) => h("option", { value: name }, name)) : []));
    this.showWindow(place.low, place.high, true);
  }

  preset(name) {
    const place = this.placeOf;
    const [low, high] = HU[name] || (name === "full" ? [place.least, place.most] : [place.low, place.high]);
    this.planes.setWindow(low, high);
    this.showWindow(low, high, true);
    set({ window: name ? `${low},${high}` : "" }, true);
  }

  showWindow(low, high, chosen = false) {
    const close = high - low < 10 ? 2 : 0;
    this.numbers.textContent = `W ${(high - low).toFixed(close)} L ${((high + low) / 2).toFixed(close)}`;
    if (!chosen) {
      const named = Object.entries(HU).find(([, w]) => w[0] === low && w[1] === high);
      this.windows.value = named && this.placeOf?.hu ? named[0] : "";
      set({ window: `${low.toPrecision(5)},${high.toPrecision(5)}` }, true);
    }
  }

  // Ask for the explanation until it is there.
  async explain() {
    const turn = this.turn, facts = this.facts, method = state.method;
    for (const b of this.methods.children) b.setAttribute("aria-pressed", b.dataset.method === method);
    if (!facts) return;
    if (this.about.dense) { await this.segment(facts); return; }
    this.found = null;
    this.maps = new Map();
    if (method === "none") { this.said.textContent = ""; await this.plain(); return; }
    this.said.textContent = "computing ...";
    const current = () => turn === this.turn && method === state.method && facts === this.facts;
    const found = await this.asked(facts, facts.run, method, current);
    if (!found) return;
    this.said.textContent = found.scores ? this.about.methods.find((m) => m.name === method).says : found.error;
    if (found.scores) {
      this.found = { ...found, method };
      this.maps.set(facts.run, this.found);
      this.strip.show(facts.shape[0], this.found.slices, this.found.scores);
      if (this.fresh && this.view) this.view.go(this.found.best);
      this.fresh = false;
      await this.lay();
    } else await this.plain();
    for (const run of this.besides().filter((one) => one !== facts.run)) {
      const other = await this.asked(facts, run, method, current);
      if (!other) return;
      this.strip.other(Number(run), other);
      if (!other.scores) continue;
      this.maps.set(run, { ...other, method });
      await this.lay();
    }
  }

  // Of runs that segment: ask for the masks of each until they are there.
  async segment(facts) {
    const runs = this.besides().sort((a, b) => (b === facts.run) - (a === facts.run));
    this.said.textContent = "comparing masks ...";
    for (const run of runs) {
      const found = await this.made(facts, run);
      if (facts !== this.facts) return;
      this.cases.set(run, found);
      if (run === facts.run) this.said.textContent = found.error || found.notes.join(" ");
      this.measured(this.cases);
      await this.lay();
    }
  }

  async made(facts, run) {
    for (;;) {
      try {
        const found = await ask(addressOf(facts, "masks", { run }));
        if (found.structures || found.state === "failed" || facts !== this.facts) return { notes: [], layers: [], ...found };
      } catch (error) { return { notes: [], layers: [], error: error.message }; }
    }
  }

  // Ask for a method's scores of a run until they are there; null where nobody waits any more.
  async asked(facts, run, method, current) {
    for (;;) {
      let found;
      try { found = await ask(addressOf(facts, "explain", { method, run })); } catch (error) { found = { state: "failed", error: error.message }; }
      if (!current()) return null;
      if (found.scores || found.state === "failed") return found;
      if (run === facts.run) this.said.textContent = found.total ? `computing ${found.done} of ${found.total} ...` : "computing ...";
    }
  }

  // No explanation: neither bars nor colours.
  async plain() {
    this.strip.show(this.facts.shape[0], this.facts.sampled, null);
    this.maps = new Map();
    await this.lay();
  }

  // Put the explanation's map and the chosen masks over the planes, or over the slices.
  async lay() {
    const facts = this.facts;
    if (!facts) return;
    this.opacity.hidden = !this.found?.map;
    this.drawMasks();
    for (const run of this.view ? this.besides() : []) {
      for (const { name, on, volume, look, cut } of this.over(facts, run)) {
        if (facts !== this.facts) return;
        if (this.view === this.slices) this.slices.lay(Number(run), name, on ? cut : null, look.opacity);
        else await this.planes.overlay(run, name, on ? volume : null, look);
      }
    }
  }

  // What may lie over a run's scan: a name, whether it is wanted, its volume, its look, and its picture over a slice.
  over(facts, run) {
    const opacity = state.fill / 100, masks = state.masks.split(","), layers = state.layers.split(","), found = this.maps.get(run);
    const made = this.cases.get(run)?.layers || [], method = found?.method;
    const lie = (name, on, volume, look, part, more = {}) => ({ name, on, look, volume: addressOf(facts, volume, { run, ...more }), cut: (n) => addressOf(facts, `${part}/${n}`, { run, ...more }) });
    return [lie("map", Boolean(found?.map), "map.nii", { colormap: "inferno", opacity: state.opacity / 100, cal_min: 140, cal_max: 255, colormap_type: 2 }, "heat", { method }),
      ...facts.masks.map((mask) => lie(`mask ${mask.name}`, masks.includes(mask.name), `mask/${mask.number}.nii`, { opacity, colormap_label: table(this.about.colours, mask.colour) }, `cut/${mask.number}`)),
      ...LAYERS.filter(([name]) => made.includes(name)).map(([name]) => lie(`layer ${name}`, layers.includes(name), `layer/${name}.nii`,
        { opacity, colormap_label: table(name === "difference" ? this.about.different : this.about.colours) }, `cut/${name}`))];
  }

  drawMasks() {
    const chosen = state.masks.split(",").filter(Boolean);
    put(this.masks, ...this.facts.masks.map((mask) => h("label", { class: "mask" }, h("input", { type: "checkbox", checked: chosen.includes(mask.name),
      onchange: (e) => { set({ masks: (e.target.checked ? [...chosen, mask.name] : chosen.filter((m) => m !== mask.name)).join() }); } }), mask.name)));
    this.fill.hidden = !(this.about.dense || chosen.length);
    for (const b of this.layers.children) b.setAttribute("aria-pressed", String(state.layers.split(",").includes(b.dataset.layer)));
  }

  fade() {
    const masks = [...(this.facts?.masks || []).map((mask) => `mask ${mask.name}`), ...LAYERS.map(([name]) => `layer ${name}`)];
    for (const view of [this.slices, this.planes]) {
      view.fade("map", state.opacity / 100);
      for (const name of masks) view.fade(name, state.fill / 100);
    }
  }

  moved(slice, cross, value) {
    this.strip.at(slice);
    if (value !== null && value !== undefined) this.strip.label.textContent += `, value ${number(value, 1)}`;
    set({ slice, cross: cross ? cross.map((c) => c.toFixed(4)).join() : state.cross }, true);
  }

  step(by) { if (this.view) this.view.step(by); }
  end(last) { if (this.view) this.view.go(last ? this.facts.shape[0] - 1 : 0); }
  enlarge(by) {
    const zoom = Math.min(Math.max(Number(state.zoom) * by, 0.5), 12);
    set({ zoom: zoom.toFixed(2) }, true);
    if (this.view === this.planes) this.planes.enlarge(zoom);
    else this.slices.enlarge(zoom);
  }
}

// The colours of a mask's labels; each mask begins with another one.
function table(colours, first = 0) {
  const lut = [0, 0, 0, 0];
  for (let i = 0; i < 32; i += 1) lut.push(...colours[(first + i) % colours.length], 255);
  return { lut, min: 0, max: 32, labels: [] };
}
