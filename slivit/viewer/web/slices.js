// One slice at a time, as the model saw it: for OCT, clips and frames, which have no place in space. Where runs are
// compared, a frame for each, side by side.
import { h, put } from "./state.js";

export class Slices {
  constructor(place, moved, names) {
    this.moved = moved;
    this.frames = names.map((name) => {
      const under = h("img", { class: "under", alt: `slice, ${name}`, draggable: "false" });
      const over = h("img", { class: "over", alt: "", draggable: "false" });
      return { under, over, frame: h("div", { class: "frame-of-slice" }, under, over, names.length > 1 && h("span", { class: "whose" }, name)) };
    });
    put(place, ...this.frames.map(({ frame }) => h("div", { class: "cell" }, frame)));
    this.kept = new Map();
  }

  // Show a scan; `picture` gives the address of a slice's picture for a run.
  show(facts, picture) {
    for (const address of this.kept.values()) if (address) URL.revokeObjectURL(address);
    this.kept.clear();
    Object.assign(this, { facts, picture, heats: [] });
    const aspect = Math.min(Math.max(facts.aspect, 0.4), 2.5);
    for (const { frame, over } of this.frames) {
      frame.style.aspectRatio = aspect;
      frame.style.setProperty("--aspect", aspect);
      over.removeAttribute("src");
    }
  }

  // Lay a map over a run's slice: `heat` gives the address of its picture, null takes it away.
  overlay(run, heat, opacity) {
    this.heats[run] = heat;
    this.fade(opacity);
    this.draw();
  }

  fade(opacity) { for (const { over } of this.frames) over.style.opacity = opacity; }
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
    this.frames.forEach(({ under, over }, run) => {
      this.put(under, this.picture(run, this.number));
      this.put(over, this.heats[run] ? this.heats[run](this.number) : "");
    });
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
      if (!this.kept.has(address)) this.kept.set(address, kept);
    }
    return this.kept.get(address);
  }

  // Fetch the other slices, the nearest first, so that the next one is there at once.
  async ahead() {
    const turn = (this.turn = (this.turn || 0) + 1);
    const order = [...this.facts.sampled].sort((a, b) => Math.abs(a - this.number) - Math.abs(b - this.number)).slice(0, 64);
    for (const number of order) {
      for (const run of this.frames.keys()) {
        await this.fetch(this.picture(run, number));
        if (turn === this.turn && this.heats[run]) await this.fetch(this.heats[run](number));
        if (turn !== this.turn) return;
      }
    }
  }
}
