"use strict";
// slices on plain canvases: of pictures, and of volumes where there is no WebGL 2
function plainView() {
  const views = panels();
  const contexts = Object.fromEntries(views.map((canvas) => [canvas.id, canvas.getContext("2d")]));
  let pixels = {}; // of the slice that is shown: name to {width, height, gray, slope, inter}
  let pointer = null; // where the pointer is, as parts of width and height
  let latest = 0;

  async function decode(name, index) {
    const image = new Image();
    image.src = "data:image/png;base64," + data.pictures[name][index];
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const colors = context.getImageData(0, 0, image.width, image.height).data;
    const gray = new Uint8Array(colors.length / 4);
    for (let i = 0; i < gray.length; i += 1) gray[i] = colors[4 * i];
    const [from, to] = name === "change" ? [-data.zRange, data.zRange] : data.window;
    return { width: image.width, height: image.height, gray, slope: (to - from) / 255, inter: from };
  }

  function cut(name, index) {
    const { gray, slope, inter, shape: [width, height] } = volumes[name];
    const from = gray.subarray(index * width * height, (index + 1) * width * height);
    const turned = new Uint8Array(width * height);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const [column, row] = [data.flips[0] ? width - 1 - x : x, data.flips[1] ? height - 1 - y : y];
        turned[y * width + x] = from[row * width + column];
      }
    }
    return { width, height, gray: turned, slope, inter };
  }

  function paint(context, { width, height }, color) {
    const canvas = context.canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i += 1) image.data.set([...color(i), 255], 4 * i);
    context.putImageData(image, 0, 0);
  }

  function draw() {
    const span = limit() / pixels.source.slope;
    const { source, restored, change } = pixels;
    for (const name of ["source", "restored", "interval"].filter((one) => pixels[one])) {
      paint(contexts[name], pixels[name], (i) => Array(3).fill(pixels[name].gray[i]));
    }
    paint(contexts.difference, source, (i) => diverging((restored.gray[i] - source.gray[i]) / span));
    if (change) paint(contexts.change, change, (i) => flagged(change.inter + change.gray[i] * change.slope));
    if (pointer) views.forEach(cross);
    values(pointer ? texts() : {});
    report.drawn = views.length;
    publish();
  }

  function cross(canvas) {
    const context = contexts[canvas.id];
    const [x, y] = [pointer.x * canvas.width, pointer.y * canvas.height];
    context.strokeStyle = "#ffd33d";
    context.lineWidth = canvas.width / 512;
    context.beginPath();
    context.moveTo(x, 0); context.lineTo(x, canvas.height);
    context.moveTo(0, y); context.lineTo(canvas.width, y);
    context.stroke();
  }

  function texts() {
    const at = ({ width, height, gray }) => {
      const [x, y] = [Math.floor(pointer.x * width), Math.floor(pointer.y * height)];
      return gray[Math.min(y, height - 1) * width + Math.min(x, width - 1)];
    };
    const grays = Object.fromEntries(Object.entries(pixels).map(([name, one]) => [name, at(one)]));
    return describe(grays, pixels);
  }

  async function load(index) {
    const ticket = (latest += 1);
    const names = data.volumes ? Object.keys(volumes) : Object.keys(data.pictures);
    const found = await Promise.all(names.map((name) => (data.volumes ? cut(name, index) : decode(name, index))));
    if (ticket !== latest) return; // the slider has moved on
    pixels = Object.fromEntries(names.map((name, i) => [name, found[i]]));
    draw();
  }

  for (const canvas of views) {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      pointer = { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
      draw();
    });
    canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); move(Math.sign(event.deltaY)); });
  }
  return { show: () => load(Number(slider.value)), scale: () => {} };
}

// the values at a place in words: grays by name, and {slope, inter} of each
function describe(grays, scales) {
  const value = (name) => scales[name].inter + grays[name] * scales[name].slope;
  const edge = (gray) => (gray === 0 ? "\u2264 " : gray === 255 ? "\u2265 " : "");
  const short = (one, digits) => String(Number(one.toPrecision(digits)));
  const texts = { difference: short(value("restored") - value("source"), 2) };
  for (const name of ["source", "restored"]) texts[name] = edge(grays[name]) + short(value(name), 3);
  if ("change" in grays) texts.change = "z " + value("change").toFixed(1);
  if ("interval" in grays) texts.interval = "\u00b1 " + short(value("interval"), 2);
  return texts;
}
