// What is known of the opened scan: prediction, other runs, a reviewer's notes, calibration, the nearest training scans.
import { DIFFERENCE } from "./scan.js";
import { addressOf, ask, h, number, put, trouble } from "./state.js";

const WORDS = { accept: "Accept", "wrong label": "Wrong label", "bad scan": "Bad scan" };
const KEYS = { accept: "a", "wrong label": "x", "bad scan": "b" };

export class Side {
  constructor(place, about, list, open) {
    Object.assign(this, { place, about, list, open });
    this.who = localStorage.getItem("reviewer") || "";
    this.all = { reviews: [], summary: "" };
  }

  show(facts) {
    this.facts = facts;
    if (!facts) { put(this.place, ); return; }
    const panel = (name, title, ...children) => h("section", { class: `panel ${name}` }, h("h2", {}, title), ...children);
    this.prediction = panel("prediction", this.about.dense ? "Segmentation" : "Prediction", h("div", { class: "big" }, facts.shown), h("div", { class: "quiet" }, facts.what),
      facts.outputs.length > 1 && h("table", { class: "outputs" }, ...facts.outputs.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", {}, value)))),
      ...facts.sentences.map((s) => h("p", {}, s)), ...facts.notes.map((n) => h("p", { class: "quiet note" }, n)));
    const plot = facts.plot && h("img", { class: "plot", src: addressOf(facts, "calibration.svg"), alt: "Predictions of the tested scans against the truth; this one is marked" });
    this.masks = this.about.dense && panel("masks", "Dice by structure", h("p", { class: "quiet" }, "comparing masks ..."));
    this.near = panel("nearest", "Nearest training scans");
    this.notes = panel("notes", "Review");
    put(this.place, ...[this.prediction, this.masks, this.compared(panel), this.notes, !this.about.dense && panel("calibration", facts.trust_title, h("p", {}, facts.trust), plot), !this.about.dense && this.near].filter(Boolean));
    this.drawNotes();
    if (!this.about.dense) this.neighbours();
  }

  // Of runs that segment: Dice and volumes of each structure, by run, in the colours of the planes.
  measured(cases) {
    const runs = [...cases].sort(([a], [b]) => a - b).filter(([, found]) => found.structures), failed = [...cases].filter(([, found]) => found.error);
    const swatch = (colour) => h("i", { class: "swatch", style: `background:rgb(${colour})` }), told = (value, digits) => (value === null ? "\u2013" : number(value, digits));
    const names = runs.map(([run]) => (this.about.runs.length > 1 ? this.about.runs[run] : "predicted")), line = (...words) => h("tr", {}, ...words.map((word) => h("td", {}, word)));
    const table = (heads, cells) => h("table", { class: "outputs" }, line("", ...heads), ...this.about.structures.map((name, i) =>
      h("tr", {}, h("td", {}, swatch(this.about.colours[i % this.about.colours.length]), name), ...cells(i).map((cell) => h("td", {}, cell)))));
    put(this.masks, h("h2", {}, "Dice by structure"), table(names, (i) => runs.map(([, found]) => told(found.structures[i].dice, 3))),
      h("h2", {}, "Volumes in mL"), table(["true", ...names], (i) => [runs.length ? told(runs[0][1].structures[i].true_ml, 2) : "", ...runs.map(([, found]) => told(found.structures[i].predicted_ml, 2))]),
      h("h2", {}, "Difference"), ...DIFFERENCE.map((words, i) => h("p", { class: "quiet" }, swatch(this.about.different[i]), words)),
      ...failed.map(([run, found]) => h("p", { class: "note" }, `${this.about.runs[run]}: ${found.error}`)));
  }

  // What every run, member and reader says of this scan.
  compared(panel) {
    const row = this.list.row(this.facts.key);
    if (!row?.others) return null;
    const line = (name, value, call, run) => h("tr", { "aria-selected": String(run) === this.facts.run }, h("td", {}, name), h("td", {}, value === null ? "\u2013" : number(value, this.about.calls || this.about.dense ? 3 : 2)), h("td", {}, this.words(call)));
    return panel("compare", row.differ ? "Compared: calls differ" : "Compared",
      h("table", { class: "outputs" }, line(this.list.runs[0], row.value, row.call, 0), ...row.others.map(([value, call], i) => line(this.list.runs[i + 1], value, call, i + 1))),
      row.spread !== null && h("p", { class: "quiet" }, `Spread (SD) ${number(row.spread)}.`));
  }

  words(call) { return this.about.exclusive || call === "" ? call : call === "1" ? "positive" : "negative"; }

  async neighbours(build = false) {
    const facts = this.facts;
    const current = () => facts === this.facts;
    let found;
    try { found = await ask(addressOf(facts, "neighbours", build ? { build: 1 } : {})); } catch (error) { if (current()) trouble(error.message); return; }
    if (!current()) return;
    const title = h("h2", {}, "Nearest training scans");
    if (!found.training) { put(this.near, title, h("p", { class: "quiet" }, "The training scans are not known here: the run has no split.csv.")); return; }
    const running = found.state === "running";
    put(this.near, title,
      found.missing > 0 && h("p", { class: "quiet" }, running && found.total ? `reading ${found.done} of ${found.total} ...` : `${found.missing.toLocaleString("en")} of ${found.training.toLocaleString("en")} training scans must be read once for this.`),
      found.missing > 0 && !running && h("button", { class: "compare-near", onclick: () => this.neighbours(true) }, "Compare"),
      h("div", { class: "near" }, ...found.nearest.map((near) => h("figure", near.row === null ? {} : { class: "click", role: "button", tabindex: 0, onclick: () => this.open(near.row), onkeydown: (e) => { if (e.key === "Enter") this.open(near.row); } },
        h("img", { src: addressOf(facts, `neighbour/${near.number}`), alt: "middle slice" }), h("figcaption", {}, h("b", {}, near.answers), h("br"), h("span", { class: "quiet" }, `${near.name}, similarity ${near.similarity}`))))),
      found.unreadable > 0 && h("p", { class: "quiet" }, `${found.unreadable} training scans could not be read.`));
    if (found.state === "failed") trouble(found.error);
    if (running) { await new Promise((done) => setTimeout(done, 200)); if (current()) this.neighbours(true); }
  }

  // Notes: who looks, a verdict, a comment; kept at once, as a line of reviews.csv beside the run.
  drawNotes() {
    const row = this.list.row(this.facts.key);
    const name = h("input", { class: "reviewer", placeholder: "your name", "aria-label": "Your name", value: this.who, onchange: (e) => { this.who = e.target.value.trim(); localStorage.setItem("reviewer", this.who); } });
    const text = h("input", { class: "comment", placeholder: "comment ( c )", "aria-label": "Comment", maxlength: 2000, onkeydown: (e) => { if (e.key === "Enter") this.note("comment"); } });
    const own = row ? this.all.reviews.filter((r) => r.key === row.key) : [];
    put(this.notes, h("h2", {}, "Review"),
      row ? h("div", { class: "review" }, name, h("div", { class: "group" }, ...Object.entries(WORDS).map(([verdict, words]) => h("button", { title: `${words} ( ${KEYS[verdict]} )`, "data-verdict": verdict, "aria-pressed": String(this.list.reviews[row.key]?.[this.who] === verdict), onclick: () => this.note(verdict) }, words))),
        text) : h("p", { class: "quiet" }, "A dropped scan has no place in the list, so no notes are kept."),
      h("ul", { class: "said-by" }, ...own.slice(-6).map((r) => h("li", {}, h("b", {}, r.reviewer), `: ${r.verdict}${r.comment ? `, \u201c${r.comment}\u201d` : ""} `, h("span", { class: "quiet" }, r.time.slice(0, 10))))),
      this.all.summary && h("p", { class: "quiet summary" }, `In this list, ${this.all.summary}.`));
  }

  async note(verdict) {
    const row = this.facts && this.list.row(this.facts.key);
    if (!row) return;
    const [name, text] = [this.notes.querySelector(".reviewer"), this.notes.querySelector(".comment")];
    this.who = name.value.trim();
    if (!this.who) { name.focus(); trouble("Write your name first: notes are kept by name."); return; }
    try {
      await this.keep(await ask("api/reviews", {}, { method: "POST", body: JSON.stringify({ scan: row.n, reviewer: this.who, verdict, comment: text.value }) }));
      trouble("");
    } catch (error) { trouble(error.message); }
  }

  keep(all) {
    const fresh = all.reviews.length !== this.all.reviews.length;
    this.all = all;
    this.list.reviews = {};
    for (const r of all.reviews) if (r.verdict !== "comment") (this.list.reviews[r.key] ||= {})[r.reviewer] = r.verdict;
    if (this.facts) this.drawNotes();
    if (fresh) this.list.draw();
  }
}
