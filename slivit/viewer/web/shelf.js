// The runs of a folder: a study, a sweep, the runs of a plan. Each is opened by itself, or several beside each other.
import { ask, h, put, trouble } from "./state.js";

async function start() {
  const { folder, runs } = await ask("api/shelf");
  document.title = `slivit: ${folder}`;
  document.getElementById("run").textContent = folder;
  const chosen = [];
  const compare = h("button", { class: "compare-runs", onclick: () => { location.href = `open/${chosen.join()}/`; } }, "Compare");
  const draw = () => {
    const first = runs.find((r) => r.number === chosen[0]);
    compare.disabled = chosen.length < 2;
    compare.textContent = chosen.length < 2 ? "Compare" : `Compare ${chosen.length} runs`;
    for (const box of document.querySelectorAll("#shelf input")) box.disabled = Boolean(first) && box.dataset.task !== first.task;
  };
  const pick = (run) => (e) => {
    if (e.target.checked) chosen.push(run.number); else chosen.splice(chosen.indexOf(run.number), 1);
    draw();
  };
  const heads = ["compare", "run", "model", "task", "measured"];
  put(document.getElementById("shelf"), h("div", { class: "filters" }, compare), h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, ...heads.map((words) => h("th", {}, words)))),
    h("tbody", {}, ...runs.map((run) => h("tr", {},
      h("td", {}, h("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, "data-task": run.task, onchange: pick(run) })),
      h("td", {}, run.error ? run.name : h("a", { href: `open/${run.number}/` }, run.name)),
      h("td", {}, run.model), h("td", {}, run.task),
      h("td", {}, run.error || "", ...run.metrics.map((m) => h("div", {}, `${m.name} ${m.value} `, h("span", { class: "quiet" }, m.interval)))))))));
  draw();
}

start().catch((error) => trouble(error.message));
