// Which runs stand beside each other, in planes and slices: four at most, the one that is looked at among them.
import { h, put, set, state } from "./state.js";

export const MOST = 4;

export class Beside {
  constructor(names) {
    this.names = names;
    this.words = h("summary", { title: "Which runs stand beside each other: four at most" });
    this.boxes = h("div", { class: "menu" });
    this.menu = h("details", { class: "beside", hidden: names.length < 2 }, this.words, this.boxes);
    this.menu.addEventListener("keydown", (e) => { if (e.key === "Escape" && this.menu.open) { e.stopPropagation(); this.menu.open = false; this.words.focus(); } });
    addEventListener("click", (e) => { if (!this.menu.contains(e.target)) this.menu.open = false; });
  }

  // The runs that are shown, in their order; `lead` is the one that is looked at.
  chosen(lead) {
    const all = this.names.map((_, run) => String(run));
    const wanted = state.beside ? state.beside.split(",").filter((run) => all.includes(run)) : all.slice(0, MOST);
    return [lead, ...wanted.filter((run) => run !== lead)].slice(0, MOST).sort((a, b) => a - b);
  }

  draw(lead) {
    const chosen = this.chosen(lead), full = chosen.length >= MOST;
    this.words.textContent = `Beside: ${chosen.length} of ${this.names.length}`;
    put(this.boxes, ...this.names.map((name, i) => {
      const run = String(i), on = chosen.includes(run);
      const change = (e) => set({ beside: (e.target.checked ? [...chosen, run] : chosen.filter((one) => one !== run)).join() });
      return h("label", {}, h("input", { type: "checkbox", checked: on, disabled: run === lead || (full && !on), onchange: change }), name);
    }));
  }
}
