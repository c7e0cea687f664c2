// The list of scans: search, filters, order, pages, thumbnails. All rows are here; fifty are drawn.
import { ask, h, number, put, set, state, trouble } from "./state.js";

const PAGE = 50;
const MARKS = { right: "\u2713", near: "\u2713", wrong: "\u2717", missed: "\u25bc", "false alarm": "\u25b2", "far off": "\u2717" };
const FLAGS = { wrong: ["wrong", "missed", "false alarm"], missed: ["missed"], alarm: ["false alarm"], far: ["far off"] };

export class Worklist {
  constructor(place, about, open) {
    Object.assign(this, { place, about, open, rows: [], shown: [], reviews: {}, groups: [], runs: [] });
    this.build();
  }

  build() {
    const choice = (key, title, entries) => h("select", { "aria-label": title, title, class: `choose-${key}`,
      onchange: (e) => set({ [key]: e.target.value, page: "0" }) },
      ...entries.map(([value, words]) => h("option", { value, selected: state[key] === value }, words)));
    this.search = h("input", { type: "search", placeholder: "Search scan or patient ( / )", "aria-label": "Search", value: state.q,
      oninput: (e) => set({ q: e.target.value, page: "0" }) });
    const several = this.about.targets.length > 1;
    this.filters = h("div", { class: "filters" }, this.search,
      several && choice("target", "Target", this.about.targets.map((t) => [t, t])),
      choice("filter", "Which scans", this.filterEntries()),
      (this.splits = choice("split", "Split", [["", "all splits"]])),
      (this.group = choice("group", "Subgroup", [["", "all subgroups"]])),
      h("button", { class: "wide", title: "All columns, or the scan beside the list ( w )", onclick: () => this.widen() }, "All columns"));
    this.head = h("thead");
    this.body = h("tbody");
    this.foot = h("div", { class: "pager" });
    this.wrap = h("div", { class: "rows", tabindex: 0, "aria-label": "Scans" }, h("table", { class: "grid" }, this.head, this.body));
    put(this.place, this.filters, this.wrap, this.foot);
  }

  filterEntries() {
    const calls = this.about.two_ways
      ? [["wrong", "wrong calls"], ["missed", "missed"], ["alarm", "false alarms"]]
      : this.about.calls ? [["wrong", "wrong calls"]] : [["far", this.about.dense ? "lowest Dice" : "largest errors"]];
    const differ = this.about.compared ? [["differ", "runs differ"]] : [];
    const unsure = this.about.calls || this.about.compared ? [["unsure", "uncertain"]] : [];
    return [["", "all scans"], ...differ, ...calls, ...unsure, ["noticed", "with warnings"], ...(this.about.dense ? [] : [["known", "with known answer"]]), ["doubted", "doubted"], ["unseen", "not reviewed"]];
  }

  async load() {
    const found = await ask("api/worklist", { target: this.about.exclusive ? "" : state.target });
    Object.assign(this, { rows: found.rows, groups: found.groups, runs: found.runs, unit: found.unit, target: found.target });
    for (const row of this.rows) row.text = `${row.name} ${row.patient} ${row.key}`.toLowerCase();
    this.fill(this.splits, "split", [...new Set(this.rows.map((r) => r.split))].filter(Boolean).map((s) => [s, s]), "all splits");
    const groups = this.groups.flatMap((name, i) => this.values(i).map((v) => [`${name}=${v}`, `${name} ${v}`]));
    this.fill(this.group, "group", groups, "all subgroups");
    this.limit = this.threshold();
    this.draw();
  }

  fill(select, key, entries, all) {
    put(select, ...[["", all], ...entries].map(([value, words]) => h("option", { value, selected: state[key] === value }, words)));
    select.hidden = entries.length < 2;
  }

  values(column) {
    const values = [...new Set(this.rows.map((r) => r.groups[column]))].filter((v) => v !== "");
    return values.length <= 20 ? values.sort((a, b) => (a > b ? 1 : -1)) : [];
  }

  // How unsure a scan is: how far runs differ where several are compared, else how near the threshold it lies.
  doubt(row) { return this.runs.length > 1 && row.spread !== null ? row.spread : row.unsure; }

  // From which uncertainty on a scan counts as uncertain: the upper fifth.
  threshold() {
    const all = this.rows.map((r) => this.doubt(r)).filter((u) => u !== null && u !== undefined).sort((a, b) => a - b);
    return all.length ? all[Math.floor(0.8 * (all.length - 1))] : Infinity;
  }

  takes(row) {
    if (state.split && row.split !== state.split) return false;
    if (state.q && !row.text.includes(state.q.toLowerCase())) return false;
    if (state.group) {
      const [name, value] = [state.group.slice(0, state.group.indexOf("=")), state.group.slice(state.group.indexOf("=") + 1)];
      if (String(row.groups[this.groups.indexOf(name)]) !== value) return false;
    }
    const verdicts = Object.values(this.reviews[row.key] || {});
    switch (state.filter) {
      case "": return true;
      case "differ": return row.differ;
      case "unsure": return this.doubt(row) !== null && this.doubt(row) >= this.limit;
      case "noticed": return row.notes.length > 0;
      case "known": return row.truth !== "";
      case "doubted": return verdicts.some((v) => v !== "accept");
      case "unseen": return verdicts.length === 0;
      default: return (FLAGS[state.filter] || []).includes(row.flag);
    }
  }

  // Of runs that segment: Dice and volumes of each structure.
  parts() {
    const one = this.about.structures.length === 1;
    return this.about.structures.flatMap((name, i) => [
      !one && { key: `dice${i}`, title: `Dice ${name}`, by: (r) => r.parts[i][0], show: i < 2 ? "mid" : "more", cell: (r) => [number(r.parts[i][0])] },
      !one && { key: `hd${i}`, title: `HD95 ${name}`, by: (r) => r.parts[i][3], show: "more", cell: (r) => [number(r.parts[i][3], 1)], help: `95% Hausdorff distance of ${name} in mm` },
      { key: `ml${i}`, title: `mL ${name}`, by: (r) => r.parts[i][1], show: one ? "" : "more", cell: (r) => [number(r.parts[i][1], 2), h("small", {}, r.parts[i][2] === null ? "" : `true ${number(r.parts[i][2], 2)}`)], help: "Predicted volume, and the true one below" },
    ]).filter(Boolean);
  }

  columns() {
    const others = this.runs.slice(1).map((name, i) => ({ key: `run${i + 1}`, title: name, by: (r) => r.others[i][0] ?? r.others[i][1], cell: (r) => this.said(...r.others[i]) }));
    const compared = others.length ? [...others, { key: "spread", title: "differ", by: (r) => (r.differ ? 10 : 0) + (r.spread ?? 0), cell: (r) => [number(r.spread), r.differ ? h("small", { class: "flag missed" }, "calls differ") : ""], help: "Spread (SD) of the predictions; and whether the calls differ" }] : [];
    return [
      { key: "name", title: "scan", by: (r) => r.name, cell: (r) => [h("b", { title: r.name }, r.name.replace(/\.nii(\.gz)?$/, "")), h("small", {}, [r.name.startsWith(r.patient) ? "" : r.patient, r.split].filter(Boolean).join(" · "))], class: "name" },
      { key: "value", title: this.runs.length > 1 ? this.runs[0] : this.about.calls ? "probability" : this.about.dense ? "Dice" : "predicted", by: (r) => r.value, cell: (r) => this.said(r.value, r.call) },
      ...compared,
      this.about.dense && { key: "hd95", title: "HD95", by: (r) => r.hd95, cell: (r) => (r.hd95 === null ? [] : [number(r.hd95, 1), h("small", {}, "mm")]), help: "95% Hausdorff distance in mm, the mean of the structures that are both there and found" },
      ...this.parts(),
      !this.about.dense && { key: "truth", title: "known", by: (r) => (this.about.calls ? r.truth : r.truth === "" ? null : Number(r.truth)), cell: (r) => [this.about.calls ? r.truth : number(r.truth === "" ? null : r.truth, 2)] },
      !this.about.dense && { key: "flag", title: this.about.calls ? "call" : "error", by: (r) => (this.about.calls ? r.flag : r.error), cell: (r) => this.flag(r), help: "Whether the call is right; of values, how far off they are" },
      this.about.calls && { key: "unsure", title: "unsure", show: "mid", by: (r) => r.unsure, cell: (r) => [h("i", { class: "meter", style: `--part:${Math.round(100 * (r.unsure ?? 0))}%`, title: number(r.unsure) })], help: "1 at the threshold, 0 as far from it as can be" },
      this.about.calls && !this.about.exclusive && { key: "observed", title: "observed", by: (r) => r.observed?.[0] ?? null, show: "more", cell: (r) => (r.observed ? [`${(100 * r.observed[0]).toFixed(0)}%`, h("small", {}, r.observed[1] === null ? "" : `${(100 * r.observed[1]).toFixed(0)} to ${(100 * r.observed[2]).toFixed(0)}%`)] : []), help: "Of the test scans with a probability like this one, the share that was positive, with its interval" },
      ...this.groups.map((name, i) => ({ key: `group${i}`, title: name, by: (r) => (r.groups[i] === "" ? null : r.groups[i]), show: "more", cell: (r) => [String(r.groups[i])] })),
      { key: "notes", title: "warnings", by: (r) => (r.notes.length ? r.notes.join() : null), show: "more", cell: (r) => [r.notes.join("; ")], class: "text" },
      { key: "review", title: "review", show: "mid", by: (r) => Object.values(this.reviews[r.key] || {}).join() || null, cell: (r) => Object.entries(this.reviews[r.key] || {}).map(([who, v]) => h("small", { class: v === "accept" ? "quiet" : "flag missed", title: who }, v)) },
    ].filter(Boolean);
  }

  // What a run says of a scan, in words.
  opinion(n, run) {
    const row = this.row(n);
    if (!row) return "";
    const [value, call] = run ? row.others?.[run - 1] || [null, ""] : [row.value, row.call];
    if (value === null && !call) return "";
    const words = this.about.exclusive || call === "" ? call : call === "1" ? "positive" : "negative";
    return [this.about.dense && "Dice", value === null ? "" : number(value, this.about.calls || this.about.dense ? 3 : 2), this.unit, words].filter(Boolean).join(" ");
  }

  // What people call a scan, by name.
  called(n) {
    const row = this.row(n), first = this.about.runs.length;
    const calls = this.runs.slice(first).map((name, i) => [name, ...(row?.others?.[first - 1 + i] || [null, ""])]);
    return calls.filter(([, value, call]) => value !== null || call).map(([name, value, call]) => [name,
      this.about.calls ? (this.about.exclusive ? call : call === "1" ? "positive" : "negative") : `${number(value, 2)} ${this.unit}`.trim()]);
  }

  said(value, call) {
    if (value === null && !call) return [h("span", { class: "quiet" }, "\u2013")];
    const words = this.about.exclusive ? call : this.about.calls && call !== "" ? (call === "1" ? "positive" : "negative") : "";
    return [value === null ? "" : number(value, this.about.calls || this.about.dense ? 3 : 2), h("small", {}, words)];
  }

  flag(row) {
    const error = this.about.calls ? "" : number(row.error, 2);
    if (!row.flag) return [error];
    const quiet = row.flag === "right" || row.flag === "near";
    return [h("span", { class: `flag ${row.flag.replace(" ", "-")}` }, `${MARKS[row.flag]} ${this.about.calls ? row.flag : error}`), !this.about.calls && !quiet ? h("small", {}, row.flag) : ""];
  }

  // The rows that are shown, in their order: by default what has a prediction comes first.
  choose() {
    const [key, order] = state.sort.split(":");
    const columns = this.columns();
    const column = columns.find((c) => c.key === key) || columns.find((c) => c.key === (this.runs.length > 1 ? "spread" : this.about.dense ? "value" : ""));
    this.shown = this.rows.filter((row) => this.takes(row));
    if (!column) { this.shown.sort((a, b) => (a.value === null) - (b.value === null) || a.n - b.n); return columns; }
    const sign = order === "up" || (!key && column.key === "value") ? 1 : -1;  // the lowest Dice comes first
    const empty = (v) => v === null || v === undefined || v === "";
    this.shown.sort((a, b) => {
      const [x, y] = [column.by(a), column.by(b)];
      const next = () => (a.value === null) - (b.value === null) || (this.about.dense ? a.value - b.value : 0) || a.n - b.n;
      if (empty(x) || empty(y)) return empty(x) - empty(y) || next();
      return (x > y ? sign : x < y ? -sign : 0) || next();
    });
    return columns;
  }

  draw() {
    const columns = this.choose();
    const [key, order] = state.sort.split(":");
    const page = Math.min(Number(state.page) || 0, Math.max(Math.ceil(this.shown.length / PAGE) - 1, 0));
    this.drawn = this.shown.slice(page * PAGE, (page + 1) * PAGE);
    put(this.head, h("tr", {}, h("th", { class: "thumb" }, h("span", { class: "unseen" }, "picture")), ...columns.map((c) => h("th", {
      class: c.show || "", "aria-sort": c.key === key ? (order === "up" ? "ascending" : "descending") : "none" },
      h("button", { title: c.help || `Order by ${c.title}`, onclick: () => set({ sort: c.key === key && order !== "up" ? `${c.key}:up` : `${c.key}:down`, page: "0" }) },
        `${c.title}${c.key === key ? (order === "up" ? " \u25b4" : " \u25be") : ""}`)))));
    put(this.body, ...this.drawn.map((row) => h("tr", { "data-row": row.n, "aria-selected": String(row.n) === state.scan, onclick: () => this.open(row.n) },
      h("td", { class: "thumb" }, h("span", { class: "frame" })), ...columns.map((c) => h("td", { class: `${c.class || ""}${c.show ? ` ${c.show}` : ""}` }, ...c.cell(row))))));
    const last = Math.min((page + 1) * PAGE, this.shown.length);
    const turn = (by) => () => set({ page: page + by });
    put(this.foot, 
      h("button", { onclick: turn(-1), disabled: page === 0, "aria-label": "Previous page" }, "\u2039"),
      h("span", {}, this.shown.length ? `${page * PAGE + 1} to ${last} of ${this.shown.length.toLocaleString("en")}` : "No scan is like that."),
      h("button", { onclick: turn(1), disabled: last >= this.shown.length, "aria-label": "Next page" }, "\u203a"),
      h("span", { class: "quiet" }, this.counts()));
    const desk = document.getElementById("desk").classList;
    desk.toggle("listing", state.wide === "1");
    desk.toggle("reading", state.wide === "2");
    this.wrap.classList.toggle("full", state.wide === "1");
    this.pictures();
    if (!this.marked) { performance.mark("worklist"); this.marked = true; }
  }

  counts() {
    const count = (flag) => this.shown.filter((r) => r.flag === flag).length;
    return ["missed", "false alarm", "wrong"].map((f) => [count(f), f]).filter(([n]) => n).map(([n, f]) => `${n} ${f}${f === "false alarm" && n > 1 ? "s" : ""}`).join(", ");
  }

  // Pictures are asked for until they are there; the server makes those first that are on the screen.
  async pictures() {
    const turn = (this.turn = (this.turn || 0) + 1);
    let missing = this.drawn.map((r) => r.n);
    while (missing.length && turn === this.turn) {
      let found;
      try { found = await ask("api/thumbnails", { rows: missing.join() }); } catch (error) { trouble(error.message); return; }
      if (turn !== this.turn) return;
      for (const n of found.ready) this.picture(n, found.failed[n]);
      missing = missing.filter((n) => !found.ready.includes(n));
      this.left = found.left;
      if (missing.length) await new Promise((done) => setTimeout(done, 400));
    }
    if (!this.left) return;  // else the members of an ensemble are still being asked
    await new Promise((done) => setTimeout(done, 3000));
    if (turn === this.turn) this.load();
  }

  picture(n, failed) {
    const frame = this.body.querySelector(`tr[data-row="${n}"] .frame`);
    if (!frame) return;
    if (failed) { frame.title = failed; frame.textContent = "!"; return; }
    put(frame, h("img", { src: `api/thumbnail/${n}`, alt: "", width: 44, height: 44 }));
  }

  select() {
    for (const line of this.body.children) line.setAttribute("aria-selected", String(line.dataset.row === state.scan));
    this.body.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  }

  // The next or previous scan of the list as it is ordered and filtered, across pages.
  step(by) {
    const at = this.shown.findIndex((r) => String(r.n) === state.scan);
    const next = this.shown[Math.min(Math.max(at + by, 0), this.shown.length - 1)];
    if (!next || String(next.n) === state.scan) return;
    const page = Math.floor(this.shown.indexOf(next) / PAGE);
    if (String(page) !== state.page) set({ page });
    this.open(next.n);
  }

  // The list alone with all its columns ("1"), the scan alone ("2"), or both.
  widen(what = "1") { set({ wide: state.wide === what ? "" : what }); }
  row(n) { return this.rows[Number(n)]; }
}
