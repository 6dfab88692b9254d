"use strict";
// volumes in NiiVue, one viewer per map, all at the same place; null where there is no WebGL 2
async function volumeView() {
  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) return null;
  probe.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep few contexts
  const viewers = {};
  try {
    const script = document.createElement("script");
    const packed = document.getElementById("niivue").textContent;
    script.textContent = new TextDecoder().decode(await inflate(packed));
    document.head.append(script);
    script.remove(); // it has run
    for (const canvas of panels()) viewers[canvas.id] = await open(canvas);
  } catch (error) {
    console.warn(error);
    for (const canvas of panels()) canvas.replaceWith(canvas.cloneNode()); // a canvas has one kind of context for life
    return null;
  }

  async function open(canvas) {
    const { Niivue, NVImage, DRAG_MODE } = globalThis.niivue;
    const viewer = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 0.83, 0.24, 0.8], dragAndDropEnabled: false,
      crosshairWidth: data.width / 400, crosshairWidthUnit: "mm",
      clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", dragMode: DRAG_MODE.slicer3D,
      isNearestInterpolation: true, isRadiologicalConvention: true, loadingText: "", logLevel: "error",
      multiplanarShowRender: 0, sliceType: data.plane,
    });
    await viewer.attachToCanvas(canvas, false);
    const { file, map, from, to } = contentOf(canvas.id);
    if (map) viewer.addColormap(canvas.id, map);
    const image = await NVImage.new(file, canvas.id + ".nii", map ? canvas.id : "gray", 1, null, from, to);
    viewer.addVolume(image);
    viewer.onLocationChange = ({ mm }) => follow(viewer, mm);
    for (const event of ["pointermove", "wheel"]) canvas.addEventListener(event, () => sameZoom(viewer));
    return viewer;
  }

  function contentOf(name) {
    if (name === "difference") {
      return { file: difference(), map: colors([-1, 0, 1], [0, 128, 255], diverging), from: -limit(), to: limit() };
    }
    const { file, slope, inter } = volumes[name];
    const scale = { file, from: inter, to: inter + 255 * slope };
    if (name !== "change") return scale;
    const [at, steps] = [(z) => Math.round((127.5 * (z + data.zRange)) / data.zRange), 1e-6];
    const t = Math.min(data.threshold, data.zRange * 0.98);
    const z = [-data.zRange, -t - steps, -t, 0, t, t + steps, data.zRange];
    const places = [0, at(-t) - 1, at(-t), 128, at(t), at(t) + 1, 255];
    return { ...scale, map: colors(z, places, (one) => (Math.abs(one) > t ? diverging(Math.sign(one)) : flagged(one))) };
  }

  function colors(values, places, color) {
    const found = values.map(color);
    const channel = (i) => found.map((one) => Math.round(one[i]));
    return { R: channel(0), G: channel(1), B: channel(2), A: values.map(() => 255), I: places };
  }

  // restored minus source: 16 bit with the header of the source, without its intercept
  function difference() {
    const { source, restored } = volumes;
    const start = source.gray.byteOffset;
    const file = new ArrayBuffer(start + 2 * source.gray.length);
    new Uint8Array(file).set(new Uint8Array(source.file, 0, start));
    const header = new DataView(file);
    header.setInt16(70, 4, source.little);
    header.setInt16(72, 16, source.little);
    header.setFloat32(116, 0, source.little);
    for (let i = 0; i < source.gray.length; i += 1) {
      header.setInt16(start + 2 * i, restored.gray[i] - source.gray[i], source.little);
    }
    return file;
  }

  const times = (matrix, vector) => matrix.map((row) => row.reduce((sum, one, i) => sum + one * vector[i], 0));

  function follow(viewer, mm) {
    const [x, y, slice] = times(data.toVoxel, [mm[0], mm[1], mm[2], 1]);
    if (Math.abs(x - place.x) + Math.abs(y - place.y) + Math.abs(slice - place.slice) > 1e-3) {
      show({ x, y, slice: Math.max(0, Math.min(data.shape[2] - 1, slice)) });
    }
  }

  function sameZoom(leader) {
    for (const viewer of Object.values(viewers)) {
      if (viewer === leader || String(viewer.scene.pan2Dxyzmm) === String(leader.scene.pan2Dxyzmm)) continue;
      viewer.scene.pan2Dxyzmm = leader.scene.pan2Dxyzmm.slice();
      viewer.drawScene();
    }
  }

  function grayAt(viewer, name) {
    const frac = viewer.scene.crosshairPos;
    const vox = viewer.frac2vox(frac);
    const { slope, inter } = volumes[name];
    return Math.round((viewer.volumes[0].getValue(vox[0], vox[1], vox[2]) - inter) / slope);
  }

  const plane = document.getElementById("plane");
  plane.value = String(data.plane);
  plane.addEventListener("change", () => {
    for (const viewer of Object.values(viewers)) viewer.setSliceType(Number(plane.value));
  });
  return {
    show({ x, y, slice }) {
      const mm = times(data.toMm, [x, y, slice, 1]);
      for (const viewer of Object.values(viewers)) {
        const frac = viewer.mm2frac(mm, 0, true);
        viewer.scene.crosshairPos = frac.map((one) => Math.max(0, Math.min(1, one)));
        viewer.drawScene();
      }
      const names = Object.keys(volumes);
      values(describe(Object.fromEntries(names.map((name) => [name, grayAt(viewers[name], name)])), volumes));
      report.drawn = Object.keys(viewers).length;
      publish();
    },
    scale() {
      Object.assign(viewers.difference.volumes[0], { cal_min: -limit(), cal_max: limit() });
      viewers.difference.updateGLVolume();
    },
    viewers,
  };
}
