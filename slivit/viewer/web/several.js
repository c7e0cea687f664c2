// The three planes of one run, or of several beside each other: one scan, one crosshair, one window, one zoom, and over
// each what its run says.
import { h } from "./state.js";
import { Planes } from "./planes.js";

export class Several {
  constructor(place, names, { moved, windowed, zoomed }) {
    Object.assign(this, { place, names, moved, windowed, zoomed, all: new Map(), runs: ["0"] });
  }

  get shown() { return this.runs.map((run) => this.all.get(run)).filter(Boolean); }
  get lead() { return this.all.get(this.runs[0]); }
  others(planes) { return this.shown.filter((one) => one !== planes); }

  make(run) {
    const host = h("div", { class: "plane-host" }), label = h("span", { class: "whose" });
    const planes = new Planes(host, Number(run), {
      moved: (n, cross, value) => { for (const one of this.others(planes)) one.follow(cross); this.moved(n, cross, value); },
      windowed: (low, high) => { for (const one of this.others(planes)) one.setWindow(low, high); this.windowed(low, high); },
      zoomed: (zoom) => { for (const one of this.others(planes)) one.enlarge(zoom); this.zoomed(zoom); },
    });
    Object.assign(planes, { label, cell: h("div", { class: "plane-cell" }, host, label) });
    this.place.append(planes.cell);  // it stays there with its size, as a canvas of no size cannot be drawn
    return planes;
  }

  // Show a scan, once for each run. `place` tells how its slices run and how bright it is.
  async show(runs, url, place) {
    const turn = (this.turn = (this.turn || 0) + 1);
    this.runs = runs;
    for (const run of runs) if (!this.all.has(run)) this.all.set(run, this.make(run));
    for (const [run, planes] of this.all) planes.cell.classList.toggle("away", !runs.includes(run));
    for (const run of runs) this.label(run, this.names[Number(run)]);
    for (const planes of this.shown) if (turn === this.turn) await planes.show(url, place);
  }

  label(run, words) {
    const planes = this.all.get(run);
    planes.label.textContent = words;
    planes.label.hidden = this.runs.length < 2;
  }

  async overlay(run, name, url, given) { await this.all.get(run)?.overlay(name, url, given); }
  setWindow(low, high) { for (const planes of this.shown) planes.setWindow(low, high); }
  fade(name, opacity) { for (const planes of this.shown) planes.fade(name, opacity); }
  enlarge(zoom) { for (const planes of this.shown) planes.enlarge(zoom); }
  go(number) { this.lead?.go(number); }
  goto(cross) { this.lead?.goto(cross); }
  step(by) { this.lead?.step(by); }
}
