"use strict";
const root = document.documentElement;
const report = { errors: 0, violations: 0, drawn: 0, viewer: "" };
const publish = () => Object.assign(root.dataset, report);
window.addEventListener("error", () => { report.errors += 1; publish(); });
window.addEventListener("unhandledrejection", () => { report.errors += 1; publish(); });
document.addEventListener("securitypolicyviolation", () => { report.violations += 1; publish(); });

const data = JSON.parse(document.getElementById("data").textContent);
const [low, high] = data.window;
const slider = document.getElementById("slice");
const range = document.getElementById("range");
const panels = () => [...document.querySelectorAll("canvas")];
let volumes = {}; // name to {header, gray, shape, slope, inter}
let view = null; // {show(place), scale()}
// where the views stand: column, row and slice of the whole volume, from 0; no column and row, no cross
let place = { x: null, y: null, slice: data.numbers[slider.value] };

// blue below 0, red above, gray at 0
function diverging(part) {
  const p = Math.max(-1, Math.min(1, part));
  return p < 0 ? [128 + 108 * p, 128 + 20 * p, 128 - 127 * p] : [128 + 127 * p, 128 - 90 * p, 128 - 100 * p];
}

// of a change z: full color above the threshold
function flagged(z) {
  return diverging(Math.abs(z) > data.threshold ? Math.sign(z) : (0.6 * z) / data.zRange);
}

const limit = () => ((high - low) * range.value) / 100;

async function inflate(text) {
  const packed = Uint8Array.from(atob(text.trim()), (one) => one.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// a NIfTI-1 file of 8 bit
async function readVolume(text) {
  const file = await inflate(text);
  const bytes = new DataView(file);
  const little = bytes.getInt32(0, true) === 348;
  return {
    file,
    little,
    shape: [42, 44, 46].map((at) => bytes.getInt16(at, little)),
    slope: bytes.getFloat32(112, little),
    inter: bytes.getFloat32(116, little),
    gray: new Uint8Array(file, bytes.getFloat32(108, little)),
  };
}

function values(texts) {
  for (const canvas of panels()) document.getElementById(canvas.id + "-value").textContent = texts[canvas.id] || "";
}

function show(next) {
  const last = data.numbers.length - 1;
  Object.assign(place, next);
  const distances = data.numbers.map((number) => Math.abs(number - place.slice));
  slider.value = Math.min(last, distances.indexOf(Math.min(...distances)));
  document.getElementById("number").textContent = Math.round(place.slice) + 1;
  document.getElementById("limit").textContent = limit().toPrecision(3);
  return view.show(place);
}

function move(step) {
  slider.value = Number(slider.value) + step;
  return show({ slice: data.numbers[slider.value] });
}

function listen() {
  slider.addEventListener("input", () => move(0));
  range.addEventListener("input", () => { view.scale(); show({}); });
  for (const canvas of panels()) {
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
      if (step) { event.preventDefault(); event.stopPropagation(); move(step); }
    });
  }
  for (const button of document.querySelectorAll("button[data-slice]")) {
    button.addEventListener("click", () => {
      const { slice, x, y } = button.dataset;
      show({ slice: Number(slice), x: Number(x), y: Number(y) });
      document.getElementById("source").focus();
    });
  }
}

async function start() {
  if (data.volumes) {
    for (const [name, text] of Object.entries(data.volumes)) volumes[name] = await readVolume(text);
    view = await volumeView();
  }
  report.viewer = view ? "niivue" : "plain";
  document.getElementById(`${report.viewer}-hint`).hidden = false;
  view = view || plainView();
  listen();
  const flag = data.flag || {};
  await show(report.viewer === "niivue" ? { x: data.shape[0] / 2, y: data.shape[1] / 2, ...flag } : {});
  publish();
}
