// One slice at a time, as the model saw it: for OCT, clips and frames, which have no place in space. Where runs are
// compared, a frame for each, side by side; explanations and masks lie over it as pictures.
import { h, put, trouble } from "./state.js";

const AHEAD = 64;

export class Slices {
  constructor(place, moved, names) {
    this.moved = moved;
    this.frames = names.map((name) => {
      const under = h("img", { class: "under", alt: `slice, ${name}`, draggable: "false" }), label = h("span", { class: "whose" });
      const frame = h("div", { class: "frame-of-slice" }, under);
      return { under, label, frame, overs: new Map(), cell: h("div", { class: "cell" }, frame, label) };
    });
    put(place, ...this.frames.map(({ cell }) => cell));
    this.kept = new Map();
  }

  // Show a scan; `picture` gives the address of a slice's picture for a run.
  show(facts, picture) {
    for (const address of this.kept.values()) if (address) URL.revokeObjectURL(address);
    this.kept.clear();
    Object.assign(this, { facts, picture });
    this.rest();
    const aspect = Math.min(Math.max(facts.aspect, 0.4), 2.5);
    for (const one of this.frames) {
      one.frame.style.aspectRatio = aspect;
      one.frame.style.setProperty("--aspect", aspect);
      for (const { image } of one.overs.values()) image.remove();
      one.overs.clear();
    }
  }

  // Which runs are shown, and what is said of each.
  beside(runs, words) {
    this.runs = runs.map(Number);
    this.frames.forEach(({ cell, label }, run) => {
      cell.hidden = !this.runs.includes(run);
      label.textContent = words(run);
      label.hidden = runs.length < 2;
    });
  }

  // Nothing is drawn until the next `go`.
  rest() { this.number = undefined; }

  // Lay a map or mask over a run's slices: `address` gives that of its picture, null takes it away.
  lay(run, name, address, opacity) {
    const { frame, overs } = this.frames[run];
    if (!overs.has(name)) {
      if (!address) return;
      const image = h("img", { class: "over", alt: "", draggable: "false", "data-layer": name });
      frame.append(image);
      overs.set(name, { image });
    }
    overs.get(name).address = address;
    overs.get(name).image.style.opacity = opacity;
    this.draw();
  }

  fade(name, opacity) { for (const { overs } of this.frames) if (overs.has(name)) overs.get(name).image.style.opacity = opacity; }
  enlarge(zoom) { for (const { frame } of this.frames) frame.style.transform = zoom === 1 ? "" : `scale(${zoom})`; }

  // The nearest slice that the model saw.
  nearest(number) {
    return this.facts.sampled.reduce((best, n) => (Math.abs(n - number) < Math.abs(best - number) ? n : best));
  }

  step(by) {
    const taken = this.facts.sampled, at = taken.indexOf(this.number);
    this.go(taken[Math.min(Math.max(at + by, 0), taken.length - 1)]);
  }

  go(number) {
    this.number = this.nearest(number);
    this.draw();
    this.moved(this.number);
  }

  draw() {
    if (this.number === undefined || !this.facts) return;
    for (const run of this.runs) {
      const { under, overs } = this.frames[run];
      this.put(under, this.picture(run, this.number));
      for (const { image, address } of overs.values()) this.put(image, address ? address(this.number) : "");
    }
    this.ahead();
  }

  put(image, address) {
    image.dataset.wanted = address;
    const source = (kept) => { if (kept) image.src = kept; else image.removeAttribute("src"); };
    if (!address || this.kept.has(address)) source(this.kept.get(address));
    else this.fetch(address).then((kept) => { if (image.dataset.wanted === address) source(kept); });
  }

  // A picture, kept for the next time; "" where the run did not see that slice.
  async fetch(address) {
    if (!this.kept.has(address)) {
      const answer = await fetch(address);
      const kept = answer.status === 200 ? URL.createObjectURL(await answer.blob()) : "";
      if (answer.status === 422) trouble((await answer.json()).error);
      if (!this.kept.has(address)) this.kept.set(address, kept);
    }
    return this.kept.get(address);
  }

  // Fetch the other slices, the nearest first, so that the next one is there at once.
  async ahead() {
    const turn = (this.turn = (this.turn || 0) + 1);
    const order = [...this.facts.sampled].sort((a, b) => Math.abs(a - this.number) - Math.abs(b - this.number)).slice(0, AHEAD);
    for (const number of order) {
      for (const run of this.runs) {
        await this.fetch(this.picture(run, number));
        for (const { address } of this.frames[run].overs.values()) if (turn === this.turn && address) await this.fetch(address(number));
        if (turn !== this.turn) return;
      }
    }
  }
}
