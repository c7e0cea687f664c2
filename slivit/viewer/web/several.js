// The three planes of one run, or of several beside each other: one scan, one crosshair, one window, one zoom, and over
// each what its run says. There are as many as are shown at once, whichever runs they are of.
import { h } from "./state.js";
import { Planes } from "./planes.js";

export class Several {
  constructor(place, { moved, windowed, zoomed }) {
    Object.assign(this, { place, moved, windowed, zoomed, all: [], runs: [] });
  }

  get shown() { return this.all.slice(0, this.runs.length); }
  of(run) { return this.all[this.runs.indexOf(run)]; }
  others(planes) { return this.shown.filter((one) => one !== planes); }

  make(number) {
    const host = h("div", { class: "plane-host" }), label = h("span", { class: "whose" });
    const planes = new Planes(host, number, {
      moved: (n, cross, value) => { for (const one of this.others(planes)) one.follow(cross); this.moved(n, cross, value); },
      windowed: (low, high) => { for (const one of this.others(planes)) one.setWindow(low, high); this.windowed(low, high); },
      zoomed: (zoom) => { for (const one of this.others(planes)) one.enlarge(zoom); this.zoomed(zoom); },
    });
    Object.assign(planes, { label, cell: h("div", { class: "plane-cell" }, host, label) });
    this.place.append(planes.cell);  // it stays there with its size, as a canvas of no size cannot be drawn
    return planes;
  }

  // Show a scan, once for each run. `place` tells how its slices run and how bright it is, `words` what is said of a run.
  async show(runs, url, place, words) {
    const turn = (this.turn = (this.turn || 0) + 1);
    this.runs = runs;
    while (this.all.length < runs.length) this.all.push(this.make(this.all.length));
    this.all.forEach((planes, i) => {
      planes.cell.classList.toggle("away", i >= runs.length);
      planes.label.hidden = runs.length < 2;
      planes.label.textContent = i < runs.length ? words(Number(runs[i])) : "";
    });
    for (const planes of this.shown) if (turn === this.turn) await planes.show(url, place);
  }

  async overlay(run, name, url, given) { await this.of(run)?.overlay(name, url, given); }
  setWindow(low, high) { for (const planes of this.shown) planes.setWindow(low, high); }
  fade(name, opacity) { for (const planes of this.shown) planes.fade(name, opacity); }
  enlarge(zoom) { for (const planes of this.shown) planes.enlarge(zoom); }
  go(number) { this.all[0]?.go(number); }
  goto(cross) { this.all[0]?.goto(cross); }
  step(by) { this.all[0]?.step(by); }
}
