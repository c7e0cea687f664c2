// Three planes in the scan's own space by NiiVue, as the installed package ipyniivue holds it. That package is a widget
// of notebooks: what drives it is a model with values, listeners and messages, which the class Model gives it.
import { h, put } from "./state.js";

class Model {
  constructor(values, told = () => {}) {
    Object.assign(this, { values, told, handlers: {}, _comm_live: false });
    this.widget_manager = { get_model: async (id) => Model.all.get(id) };
  }
  static all = new Map();
  get(key) { return this.values[key]; }
  set(key, value) { this.values[key] = value; this.fire(`change:${key}`); }
  on(event, handler) { (this.handlers[event] ||= []).push(handler); }
  off(event, handler) { this.handlers[event] = (this.handlers[event] || []).filter((h) => handler && h !== handler); }
  fire(event, ...given) { for (const handler of this.handlers[event] || []) handler(...given); }
  send(message) { this.told(message); }
  save_changes() {}
  send_sync_message() {}
}

const OPTIONS = {
  sliceType: 3, multiplanarShowRender: 0, multiplanarPadPixels: 4, multiplanarEqualSize: false, isRadiologicalConvention: true, isOrientationTextVisible: true, showAllOrientationMarkers: true,
  isCornerOrientationText: false, crosshairColor: [0.34, 0.71, 0.91, 0.9], crosshairWidth: 0.3, crosshairWidthUnit: "percent", backColor: [0, 0, 0, 1], fontColor: [1, 0.85, 0.2, 1],
  fontSizeScaling: 0.5, fontMinPx: 16, dragAndDropEnabled: false, dragMode: 0, isColorbar: false, isNearestInterpolation: false, loadingText: "", logLevel: "error",
  viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", showLegend: false, isSliceMM: false, sagittalNoseLeft: true,
  mouseEventConfig: { leftButton: { primary: 8, withShift: 3, withCtrl: 8 }, rightButton: 0, centerButton: 3 },
};
const LAYER = { path: {}, data: null, paired_img_path: {}, paired_img_url: null, paired_img_data: null, colorbar_visible: false, colormap_negative: "",
  cal_min_neg: null, cal_max_neg: null, frame_4d: 0, colormap_type: 0, colormap_invert: false, modulation_image: null, modulate_alpha: 0, colormap_label: null };

const SLOW = 30, REST = 250;  // ms of one drawing, and of rest after which all points are drawn again

export class Planes {
  // `number`: of these planes on the page; the package holds one viewer in each copy of its script.
  constructor(place, number, { moved, windowed, zoomed }) {
    this.host = h("div", { class: "planes" });
    put(place, this.host);
    Object.assign(this, { number, moved, windowed, zoomed, layers: new Map(), waiting: new Map(), cross: [0.5, 0.5, 0.5], zoom: 1, count: 0 });
  }

  begin() { return (this.begun ||= this.start()); }

  async start() {
    const { default: widget } = await import(this.number ? `../niivue.js?copy=${this.number}` : "../niivue.js");
    this.model = new Model({ opts: OPTIONS, volumes: [], meshes: [], height: 400, background_masks_overlays: 0, draw_lut: null, draw_opacity: 0.8,
      draw_fill_overwrites: true, graph: null, scene: null, overlay_outline_width: 0, overlay_alpha_shader: 1 }, (message) => this.heard(message));
    await widget.initialize({ model: this.model });
    await widget.render({ model: this.model, el: this.host });
    this.canvas = this.host.querySelector("canvas");
    this.canvas.setAttribute("aria-label", "Three planes of the scan");
    this.listen();
  }

  heard({ event, data }) {
    if (event === "image_loaded") { this.waiting.get(data.id)?.(); this.waiting.delete(data.id); }
    if (event === "location_change" && this.place) { this.cross = [...data.frac]; this.tell(data); }
  }

  tell(data) { this.moved(this.slice(), this.cross, data && data.values?.length ? data.values[0].value : null); }

  // Right button: the window, across for its width and down for its level. Control and wheel: zoom.
  listen() {
    let from = null;
    const catchIt = (e) => { e.stopImmediatePropagation(); e.preventDefault(); };
    this.canvas.addEventListener("mousedown", (e) => {
      if (e.button !== 2) return;
      from = { x: e.clientX, y: e.clientY, low: this.low, high: this.high };
      catchIt(e);
    }, true);
    addEventListener("mousemove", (e) => {
      if (!from) return;
      const span = this.place.high - this.place.low;
      const width = Math.max(from.high - from.low + ((e.clientX - from.x) / 250) * span, span / 500);
      const level = (from.high + from.low) / 2 + ((e.clientY - from.y) / 250) * span;
      this.setWindow(level - width / 2, level + width / 2);
      this.windowed(this.low, this.high);
    });
    addEventListener("mouseup", () => { from = null; });
    this.canvas.addEventListener("wheel", (e) => {
      if (!e.ctrlKey) return;
      catchIt(e);
      this.enlarge(this.zoom * (e.deltaY < 0 ? 1.15 : 1 / 1.15));
      this.zoomed(this.zoom);
    }, { capture: true, passive: false });
    new ResizeObserver(() => this.say("resize_listener")).observe(this.host);
  }

  say(type, data = []) { this.model.fire("msg:custom", { type, data }, []); }
  scene(values) { this.model.set("scene", values); this.say("draw_scene"); }

  layer(url, given) {
    const id = `layer${this.number}x${(this.count += 1)}`;  // all planes share one table of models
    const model = new Model({ ...LAYER, id, url, name: "scan.nii", colormap: "gray", opacity: 1, cal_min: null, cal_max: null, ...given });
    Model.all.set(id, model);
    return { id, model };
  }

  // Hand the layers over, the scan first, and wait until new ones are read.
  async put() {
    const layers = [...this.layers.values()];
    const fresh = layers.filter((layer) => !layer.read);
    const read = fresh.map((layer) => new Promise((done) => { this.waiting.set(layer.id, done); layer.read = true; }));
    this.model.set("volumes", layers.map((layer) => `IPY_MODEL_${layer.id}`));
    await Promise.all(read);
    await new Promise((done) => setTimeout(done, 0));
  }

  // Show a scan. `place` tells how its slices run and how bright it is.
  async show(url, place) {
    const turn = (this.turn = (this.turn || 0) + 1);
    await this.begin();
    if (turn !== this.turn) return;
    for (const layer of this.layers.values()) Model.all.delete(layer.id);
    this.layers.clear();
    this.place = null;
    this.model.set("opts", { ...OPTIONS, isOrientationTextVisible: place.placed });  // what has no place has no right
    Object.assign(this, { low: place.low, high: place.high, cross: [0.5, 0.5, 0.5] });
    this.layers.set("scan", this.layer(url, { cal_min: place.low, cal_max: place.high }));
    await this.put();
    if (turn !== this.turn) return;
    this.place = place;
    this.say("resize_listener");
    this.enlarge(1);
    this.timed();
  }

  // Whether drawing takes long, as it does without a graphics card. Reading a point back waits until all is drawn; the
  // first drawing also hands the scan over, and does not count.
  timed() {
    const gl = this.canvas.getContext("webgl2"), point = new Uint8Array(4);
    const drawn = () => { const begun = performance.now(); this.say("draw_scene"); gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, point); return performance.now() - begun; };
    drawn();
    this.slow = drawn() > SLOW;
  }

  // Where drawing takes long, fewer points are drawn while the planes move, and all of them once they rest.
  move(values) {
    this.model.set("scene", values);
    if (this.slow && !this.coarse) this.points(true); else this.say("draw_scene");
    if (!this.slow) return;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.points(false), REST);
  }

  points(coarse) {
    this.coarse = coarse;
    this.host.classList.toggle("coarse", coarse);
    this.say("resize_listener");
  }

  setWindow(low, high) {
    Object.assign(this, { low, high });
    const layer = this.layers.get("scan");
    if (!layer) return;
    layer.model.values.cal_min = low;
    layer.model.values.cal_max = high;
    layer.model.fire("change:cal_min");
    layer.model.fire("change:cal_max");
  }

  // Lay something over the scan, or take it away where `url` is null.
  async overlay(name, url, given = {}) {
    const before = this.layers.get(name);
    if (before?.url === url) { if (url) this.fade(name, given.opacity); return; }
    if (before) { Model.all.delete(before.id); this.layers.delete(name); }
    if (url) this.layers.set(name, { ...this.layer(url, given), url });
    await this.put();
  }

  fade(name, opacity) { this.layers.get(name)?.model.set("opacity", opacity); }

  enlarge(zoom) {
    this.zoom = Math.min(Math.max(zoom, 0.5), 12);
    this.scene({ pan2Dxyzmm: [0, 0, 0, this.zoom] });
  }

  // The number of the slice under the crosshair, and back.
  slice() {
    const { axis, flipped, shape } = this.place;
    const part = flipped ? 1 - this.cross[axis] : this.cross[axis];
    return Math.min(Math.max(Math.floor(part * shape[0]), 0), shape[0] - 1);
  }

  go(number) {
    const { axis, flipped, shape } = this.place;
    const part = (Math.min(Math.max(number, 0), shape[0] - 1) + 0.5) / shape[0];
    this.cross[axis] = flipped ? 1 - part : part;
    this.goto(this.cross);
  }

  follow(cross) { this.cross = [...cross]; this.move({ crosshairPos: [...cross] }); }
  goto(cross) { this.follow(cross); this.tell(null); }
  step(by) { this.go(this.slice() + by); }
}
