"use strict";
const root = document.documentElement;
const report = { errors: 0, violations: 0, drawn: 0 };
const publish = () => Object.assign(root.dataset, report);
window.addEventListener("error", () => { report.errors += 1; publish(); });
window.addEventListener("unhandledrejection", () => { report.errors += 1; publish(); });
document.addEventListener("securitypolicyviolation", () => { report.violations += 1; publish(); });

const data = JSON.parse(document.getElementById("data").textContent);
const [low, high] = data.window;
const slider = document.getElementById("slice");
const range = document.getElementById("range");
const views = [...document.querySelectorAll("canvas")];
const panels = Object.fromEntries(views.map((canvas) => [canvas.id, canvas.getContext("2d")]));
let pixels = {}; // of the slice that is shown: name to {width, height, gray}
let pointer = null; // where the pointer is, as parts of width and height
let latest = 0;

async function decode(text) {
  const image = new Image();
  image.src = "data:image/png;base64," + text;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const colors = context.getImageData(0, 0, image.width, image.height).data;
  const gray = new Uint8Array(colors.length / 4);
  for (let i = 0; i < gray.length; i += 1) gray[i] = colors[4 * i];
  return { width: image.width, height: image.height, gray };
}

// blue below 0, red above, gray at 0
function diverging(part) {
  const p = Math.max(-1, Math.min(1, part));
  return p < 0 ? [128 + 108 * p, 128 + 20 * p, 128 - 127 * p] : [128 + 127 * p, 128 - 90 * p, 128 - 100 * p];
}

function paint(context, { width, height }, color) {
  const canvas = context.canvas;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i += 1) image.data.set([...color(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function draw() {
  const span = (range.value / 100) * 255;
  const { source, restored, change } = pixels;
  for (const name of ["source", "restored"]) {
    paint(panels[name], pixels[name], (i) => Array(3).fill(pixels[name].gray[i]));
  }
  paint(panels.difference, source, (i) => diverging((restored.gray[i] - source.gray[i]) / span));
  if (change) {
    paint(panels.change, change, (i) => {
      const z = ((change.gray[i] - 127.5) / 127.5) * data.zRange;
      return diverging(Math.abs(z) > data.threshold ? Math.sign(z) : (0.6 * z) / data.zRange);
    });
  }
  if (pointer) views.forEach(cross);
  values();
  report.drawn = views.length;
  publish();
}

function cross(canvas) {
  const context = canvas.getContext("2d");
  const [x, y] = [pointer.x * canvas.width, pointer.y * canvas.height];
  context.strokeStyle = "#ffd33d";
  context.lineWidth = canvas.width / 512;
  context.beginPath();
  context.moveTo(x, 0); context.lineTo(x, canvas.height);
  context.moveTo(0, y); context.lineTo(canvas.width, y);
  context.stroke();
}

function values() {
  const show = (name, text) => { document.getElementById(name + "-value").textContent = text; };
  if (!pointer) return views.forEach((canvas) => show(canvas.id, ""));
  const at = ({ width, height, gray }) => {
    const [x, y] = [Math.floor(pointer.x * width), Math.floor(pointer.y * height)];
    return gray[Math.min(y, height - 1) * width + Math.min(x, width - 1)];
  };
  const scale = (high - low) / 255;
  const edge = (gray) => (gray === 0 ? "\u2264 " : gray === 255 ? "\u2265 " : "");
  for (const name of ["source", "restored"]) {
    const gray = at(pixels[name]);
    show(name, edge(gray) + (low + gray * scale).toPrecision(3));
  }
  show("difference", ((at(pixels.restored) - at(pixels.source)) * scale).toPrecision(2));
  if (pixels.change) show("change", "z " + (((at(pixels.change) - 127.5) / 127.5) * data.zRange).toFixed(1));
}

async function load() {
  const index = Number(slider.value);
  const ticket = (latest += 1);
  document.getElementById("number").textContent = data.numbers[index] + 1;
  document.getElementById("limit").textContent = (((high - low) * range.value) / 100).toPrecision(3);
  const names = ["source", "restored", "change"].filter((name) => data[name].length);
  const decoded = await Promise.all(names.map((name) => decode(data[name][index])));
  if (ticket !== latest) return; // the slider has moved on
  pixels = Object.fromEntries(names.map((name, i) => [name, decoded[i]]));
  draw();
}

function move(step) {
  slider.value = Number(slider.value) + step;
  load();
}

slider.addEventListener("input", load);
range.addEventListener("input", load);
for (const canvas of views) {
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    pointer = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    draw();
  });
  canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(Math.sign(event.deltaY)); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  });
}
for (const button of document.querySelectorAll("button[data-slice]")) {
  button.addEventListener("click", () => {
    const wanted = Number(button.dataset.slice);
    const distances = data.numbers.map((number) => Math.abs(number - wanted));
    slider.value = distances.indexOf(Math.min(...distances));
    load();
    document.getElementById("source").focus();
  });
}
publish();
load();
