"use strict";
// Draws nuclei over the slide: outlines where a nucleus is large enough to be seen, a density map otherwise.

const NUCLEI_TILE = 1024; // px of the slide
const OUTLINES_FROM = 0.15; // screen px a px of the slide
const MOST_TILES = 200; // kept in memory, unless more are in view

const state = { hidden: new Set(), tiles: new Map(), density: null, chosen: null, summary: null, frame: null };
window.pnseg = state; // for those who look under the bonnet, and for tests

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

async function fetchJson(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer.json();
}

function color(index, alpha) {
  const [r, g, b] = state.summary.classes[index].color;
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

function describe(summary) {
  document.title = `${summary.name} – pnseg view`;
  element("name").textContent = summary.name;
  const density = summary.per_mm2 === null ? "" : `, ${number(Math.round(summary.per_mm2))} per mm²`;
  element("totals").textContent = `${number(summary.nuclei)} nuclei${density}; ${number(summary.width)} × ${number(summary.height)} px`;
  summary.classes.forEach((each, index) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.dataset.class = each.name;
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](index);
      draw();
    });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = color(index, 1);
    const count = Object.assign(document.createElement("span"), { className: "count", textContent: number(each.count) });
    label.append(box, swatch, each.name, count);
    element("classes").append(label);
  });
}

function openViewer(summary) {
  const viewer = OpenSeadragon({
    element: element("slide"),
    showNavigationControl: false,
    maxZoomPixelRatio: 8,
    animationTime: 0.4,
    gestureSettingsMouse: { clickToZoom: false },
    drawer: "canvas",
    tileSources: {
      width: summary.width,
      height: summary.height,
      tileSize: 256,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: summary.levels - 1,
      getTileUrl: (level, x, y) => `tile/${level}/${x}/${y}.jpg`,
    },
  });
  const canvas = document.createElement("canvas");
  canvas.id = "nuclei";
  Object.assign(canvas.style, { position: "absolute", inset: "0", pointerEvents: "none" });
  viewer.canvas.append(canvas);
  state.viewer = viewer;
  state.canvas = canvas;
  for (const event of ["animation", "open", "resize", "animation-finish"]) viewer.addHandler(event, draw);
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick) choose(viewer.viewport.viewerElementToImageCoordinates(event.position));
  });
  return viewer;
}

// Slide px → screen px: factor and offset.
function placement() {
  const viewport = state.viewer.viewport;
  const origin = viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  const one = viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(1000, 0));
  return { scale: (one.x - origin.x) / 1000, x: origin.x, y: origin.y };
}

function visibleTiles(place) {
  const { width, height } = state.summary;
  const { clientWidth, clientHeight } = element("slide");
  const first = (offset) => Math.max(0, Math.floor(-offset / place.scale / NUCLEI_TILE));
  const last = (offset, screen, size) =>
    Math.min(Math.ceil(size / NUCLEI_TILE) - 1, Math.floor((screen - offset) / place.scale / NUCLEI_TILE));
  const found = [];
  for (let row = first(place.y); row <= last(place.y, clientHeight, height); row++)
    for (let column = first(place.x); column <= last(place.x, clientWidth, width); column++) found.push([column, row]);
  return found;
}

function tile(column, row) {
  const key = `${column}/${row}`;
  if (!state.tiles.has(key)) {
    const [x, y] = [column * NUCLEI_TILE, row * NUCLEI_TILE];
    const entry = { nuclei: [], leftOut: 0, ready: false };
    state.tiles.set(key, entry);
    fetchJson(`nuclei/${x}/${y}/${x + NUCLEI_TILE}/${y + NUCLEI_TILE}.json`)
      .then((answer) => Object.assign(entry, { nuclei: answer.nuclei, leftOut: answer.left_out, ready: true }))
      .then(drawSoon)
      .catch(() => state.tiles.delete(key));
  }
  return state.tiles.get(key);
}

// A tile in view that were forgotten would be asked for again by the next drawing, and that for ever.
function forgetTiles(visible) {
  const most = Math.max(MOST_TILES, 2 * visible.length);
  const inView = new Set(visible.map(([column, row]) => `${column}/${row}`));
  for (const key of state.tiles.keys()) {
    if (state.tiles.size <= most) return;
    if (!inView.has(key)) state.tiles.delete(key);
  }
}

function trace(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
  return path;
}

function drawOutlines(context, place) {
  let shown = 0;
  let leftOut = 0;
  context.setTransform(place.ratio * place.scale, 0, 0, place.ratio * place.scale, place.ratio * place.x, place.ratio * place.y);
  const visible = visibleTiles(place);
  for (const [column, row] of visible) {
    const entry = tile(column, row);
    leftOut += entry.leftOut;
    for (const nucleus of entry.nuclei) {
      const [id, kind, rings] = nucleus;
      if (state.hidden.has(kind)) continue;
      nucleus[3] ??= trace(rings);
      const chosen = id === state.chosen;
      context.lineWidth = (chosen ? 3.5 : 1.5) / place.scale;
      context.strokeStyle = chosen ? "#00e5ff" : color(kind, 1);
      context.stroke(nucleus[3]);
      if (element("fill").checked) {
        context.fillStyle = color(kind, 0.35);
        context.fill(nucleus[3]);
      }
      shown++;
    }
  }
  forgetTiles(visible);
  state.shown = shown;
  element("hint").textContent = leftOut ? `${number(leftOut)} nuclei are not drawn: zoom in` : "";
}

function drawDensity(context, place) {
  const { cell, counts } = state.density;
  const shown = counts.filter((_, index) => !state.hidden.has(index));
  if (!shown.length) return;
  const total = shown[0].map((line, y) => line.map((_, x) => shown.reduce((sum, grid) => sum + grid[y][x], 0)));
  const top = total.reduce((most, line) => line.reduce((a, b) => Math.max(a, b), most), 1);
  context.setTransform(place.ratio, 0, 0, place.ratio, 0, 0);
  total.forEach((line, y) =>
    line.forEach((count, x) => {
      if (!count) return;
      context.fillStyle = `rgba(230, ${Math.round(170 * (1 - count / top))}, 0, ${0.15 + (0.6 * count) / top})`;
      const side = cell * place.scale;
      context.fillRect(place.x + x * side, place.y + y * side, side + 0.5, side + 0.5);
    }),
  );
  element("hint").textContent = "Density of nuclei; zoom in for outlines.";
}

// Many tiles may arrive between two frames.
function drawSoon() {
  state.frame ??= requestAnimationFrame(draw);
}

function draw() {
  if (state.frame !== null) cancelAnimationFrame(state.frame);
  state.frame = null;
  if (!state.viewer?.world.getItemCount() || !state.density) return;
  const { canvas } = state;
  const { clientWidth, clientHeight } = element("slide");
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== clientWidth * ratio || canvas.height !== clientHeight * ratio) {
    Object.assign(canvas, { width: clientWidth * ratio, height: clientHeight * ratio });
    Object.assign(canvas.style, { width: `${clientWidth}px`, height: `${clientHeight}px` });
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!element("outlines").checked) return;
  const place = { ...placement(), ratio };
  (place.scale >= OUTLINES_FROM ? drawOutlines : drawDensity)(context, place);
}

async function choose(point) {
  const [column, row] = [point.x, point.y].map((value) => Math.floor(value / NUCLEI_TILE));
  const context = state.canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  // A nucleus that straddles tiles belongs to the one that holds its middle.
  for (let dy = -1; dy <= 1; dy++)
    for (let dx = -1; dx <= 1; dx++)
      for (const [id, kind, rings] of state.tiles.get(`${column + dx}/${row + dy}`)?.nuclei ?? [])
        if (!state.hidden.has(kind) && context.isPointInPath(trace(rings), point.x, point.y)) return show(id);
  return show(null);
}

async function show(id) {
  state.chosen = id;
  const section = element("nucleus");
  section.hidden = id === null;
  draw();
  if (id === null) return;
  const row = await fetchJson(`nucleus/${id}.json`);
  section.querySelector("h2").textContent = `Nucleus ${number(id)}`;
  const table = section.querySelector("table");
  table.replaceChildren();
  for (const [name, { value, unit }] of Object.entries(row)) {
    if (name === "id" || name.startsWith("bbox_")) continue;
    const line = table.insertRow();
    line.insertCell().textContent = name.replaceAll("_", " ");
    const digits = typeof value === "number" ? Number(value.toPrecision(5)).toString() : value;
    const shown = ["probability", "IoU", "label"].includes(unit) ? "" : ` ${unit}`;
    line.insertCell().textContent = `${digits}${shown}`;
  }
}

async function start() {
  state.summary = await fetchJson("summary.json");
  state.density = await fetchJson("density.json");
  describe(state.summary);
  const viewer = openViewer(state.summary);
  element("home").addEventListener("click", () => viewer.viewport.goHome());
  for (const id of ["outlines", "fill"]) element(id).addEventListener("change", draw);
  document.addEventListener("keydown", (event) => {
    if (event.key === "o") element("outlines").click();
  });
}

start().catch((error) => {
  element("hint").textContent = `The result cannot be shown: ${error.message}`;
});
