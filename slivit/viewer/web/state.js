// The state of the page lives in its address, so that every view has a link; asking the server; making elements.

const DEFAULTS = {
  scan: "", target: "", sort: "", filter: "", split: "", group: "", q: "", page: "0", wide: "",
  run: "0", view: "", method: "", slice: "", cross: "", window: "", zoom: "1", channel: "0", opacity: "60", masks: "", fill: "50", layers: "predicted", beside: "",
};
export const state = { ...DEFAULTS };
const listeners = [];

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
}

function write() {
  const kept = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) if (value !== DEFAULTS[key]) kept.set(key, value);
  history.replaceState(null, "", `#${kept}`);
}

let later = 0;
// Change the state. `quiet` changes are shown already: nothing is drawn again, and the address follows a little later.
export function set(changes, quiet = false) {
  for (const [key, value] of Object.entries(changes)) state[key] = String(value);
  if (!quiet) {
    write();
    for (const listener of listeners) listener(changes);
  } else {
    clearTimeout(later);
    later = setTimeout(write, 150);
  }
}

export const onChange = (listener) => listeners.push(listener);
// `own`: what is the default on this page.
export function begin(own) {
  Object.assign(DEFAULTS, own);
  read();
  addEventListener("hashchange", () => { read(); for (const listener of listeners) listener(state); });
}

// Ask for plain values; an error of the server is thrown with its words.
export async function ask(path, query = {}, options = {}) {
  const address = Object.keys(query).length ? `${path}?${new URLSearchParams(query)}` : path;
  const answer = await fetch(address, options);
  const values = answer.headers.get("content-type")?.startsWith("application/json") ? await answer.json() : {};
  if (!answer.ok) throw new Error(values.error || `the page's server answers ${answer.status}; is slivit view still running?`);
  return values;
}

// The address of a part of an opened scan. It is made of what the server told of that scan, never of the state, which
// names the next scan, target or run already while its facts are still on their way.
export function addressOf({ key, run, target, channel }, part, more = {}) {
  return `api/scan/${encodeURIComponent(key)}/${part}?${new URLSearchParams({ run, target, channel, ...more })}`;
}

// An element: properties, "on..." listeners, attributes, and children (texts are never read as HTML).
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  return put(element, ...children);
}

// Replace what an element holds; nothing stands for a child that is not wanted.
export function put(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function trouble(words) {
  const place = document.getElementById("trouble");
  place.textContent = words || "";
  place.hidden = !words;
}

export const number = (value, digits = 3) => (value === null || value === undefined ? "" :
  Number(value).toFixed(Math.abs(value) < 10 ? digits : Math.abs(value) < 100 ? digits - 1 : Math.max(digits - 2, 0)).replace("-", "\u2212"));
