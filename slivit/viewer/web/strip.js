// The slices of a scan from end to end: which ones the model took, how much each counts, and where the view is.
import { h, put } from "./state.js";

export class Strip {
  // `whole`: a model that sees every slice, so that nothing is said of which ones.
  constructor(place, go, whole) {
    Object.assign(this, { go, whole });
    this.bars = h("div", { class: "bars" });
    this.slider = h("input", { type: "range", class: "slice-slider", "aria-label": "Slice", min: 0, oninput: (e) => go(Number(e.target.value)) });
    this.label = h("output", { class: "slice-label quiet" });
    this.rest = h("div", { class: "rest" });
    put(place, this.label, this.slider, this.bars, this.rest);
    this.bars.addEventListener("click", (e) => {
      const box = this.bars.getBoundingClientRect();
      go(Math.floor(((e.clientX - box.left) / box.width) * this.depth));
    });
  }

  // `taken`: the numbers of the slices that the model saw; `scores`: one each, or null.
  show(depth, taken, scores) {
    Object.assign(this, { depth, taken: new Set(taken) });
    this.slider.max = depth - 1;
    put(this.bars, ...bars(depth, taken, scores), (this.now = h("span", { class: "now" })));
    this.bars.classList.toggle("scored", Boolean(scores));
    this.at(this.number ?? 0);
  }

  // Room for the bars of the other runs, below.
  others(runs) {
    this.lines = new Map(runs.map(({ run }) => [run, h("div", { class: "bars scored small" })]));
    put(this.rest, ...runs.map(({ name, run }) => h("div", { class: "other", hidden: true }, h("small", {}, name), this.lines.get(run))));
  }

  // The bars of another run, or why it has none.
  other(run, { slices, scores, error }) {
    const line = this.lines.get(run);
    if (!line) return;
    line.classList.toggle("scored", Boolean(scores));
    put(line, ...(scores ? bars(this.depth, slices, scores) : [h("small", {}, error)]));
    line.parentElement.hidden = false;
  }

  at(number) {
    this.number = number;
    this.slider.value = number;
    this.now.style.left = `${((number + 0.5) / this.depth) * 100}%`;
    this.label.textContent = `slice ${number} of 0 to ${this.depth - 1}${this.whole ? "" : this.taken.has(number) ? ", seen by the model" : ", not seen by the model"}`;
  }
}

// A bar for each slice that the model saw, from a common line; what speaks against the output hangs below it.
function bars(depth, taken, scores) {
  const top = Math.max(0, ...(scores || [])), bottom = Math.min(0, ...(scores || []));
  const span = top - bottom || 1, base = (-100 * bottom) / span;
  const width = Math.max(100 / depth, 0.35);
  return taken.map((number, i) => {
    const score = scores ? scores[i] : null;
    const height = score === null ? 0 : (100 * Math.abs(score)) / span;
    const words = score === null ? `slice ${number}, seen by the model` : `slice ${number}: ${score.toPrecision(3)}`;
    return h("span", { class: "bar", title: words, "data-slice": number, style: `left:${((number + 0.5) / depth) * 100 - width / 2}%;width:${width}%` },
      h("i", { class: score < 0 ? "against" : "", style: `bottom:${score < 0 ? base - height : base}%;height:${height}%` }));
  });
}
