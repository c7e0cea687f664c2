// One slice at a time, as the model saw it: for OCT, clips and frames, which have no place in space.
import { h, put } from "./state.js";

export class Slices {
  constructor(place, moved) {
    this.moved = moved;
    this.under = h("img", { class: "under", alt: "slice", draggable: false });
    this.over = h("img", { class: "over", alt: "", draggable: false });
    this.frame = h("div", { class: "frame-of-slice" }, this.under, this.over);
    put(place, this.frame);
    this.kept = new Map();
  }

  // Show a scan; `pictures` and `heats` give the address of a slice's picture.
  show(facts, picture) {
    for (const address of this.kept.values()) URL.revokeObjectURL(address);
    this.kept.clear();
    Object.assign(this, { facts, picture, heat: null, zoom: 1 });
    const aspect = Math.min(Math.max(facts.aspect, 0.4), 2.5);
    this.frame.style.aspectRatio = aspect;
    this.frame.style.setProperty("--aspect", aspect);
    this.over.removeAttribute("src");
  }

  overlay(heat, opacity) {
    this.heat = heat;
    this.over.style.opacity = opacity;
    this.draw();
  }

  fade(opacity) { this.over.style.opacity = opacity; }
  enlarge(zoom) { this.frame.style.transform = zoom === 1 ? "" : `scale(${zoom})`; }

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
    this.put(this.under, this.picture(this.number));
    if (this.heat) this.put(this.over, this.heat(this.number));
    else this.over.removeAttribute("src");
    this.ahead();
  }

  put(image, address) {
    image.dataset.wanted = address;
    if (this.kept.has(address)) { image.src = this.kept.get(address); return; }
    this.fetch(address).then((kept) => { if (image.dataset.wanted === address) { if (kept) image.src = kept; else image.removeAttribute("src"); } });
  }

  async fetch(address) {
    if (!this.kept.has(address)) {
      const answer = await fetch(address);
      const kept = answer.ok ? URL.createObjectURL(await answer.blob()) : "";
      if (!this.kept.has(address)) this.kept.set(address, kept);
    }
    return this.kept.get(address);
  }

  // Fetch the other slices, the nearest first, so that the next one is there at once.
  async ahead() {
    const turn = (this.turn = (this.turn || 0) + 1);
    const order = [...this.facts.sampled].sort((a, b) => Math.abs(a - this.number) - Math.abs(b - this.number)).slice(0, 64);
    for (const number of order) {
      await this.fetch(this.picture(number));
      if (this.heat) await this.fetch(this.heat(number));
      if (turn !== this.turn) return;
    }
  }
}
