// The player of `rdt data view`. One number, `step`, is the state of the page; `show` draws everything from it.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PALETTE = { light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3aa0dc", "#1b1f24", "#7a4fc0", "#a03030", "#5b6470"],
                  dark: ["#56b4e9", "#ff8c42", "#35c79b", "#e79fc7", "#e6c84f", "#9fd3f5", "#e6e9ed", "#b79cf0", "#ff8f8f", "#a0a9b4"] };
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const LEFT = 46, RIGHT = 8, TOP = 6, BOTTOM = 20; // of a plot, in CSS pixels
let step = 0, playing = false, last = 0, carried = 0;

const element = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
const inside = (runs, at) => runs.some(([first, end]) => first <= at && at <= end);
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (i) => PALETTE[dark.matches ? "dark" : "light"][i % PALETTE.light.length];

// --- cameras
const cameras = data.cameras.map((camera) => {
  const figure = element("figure", document.getElementById("cameras"));
  const scale = Math.min(1, 640 / Math.max(camera.width, camera.height, 1));
  const canvas = element("canvas", figure, { width: camera.width * scale || 320, height: camera.height * scale || 240 });
  element("figcaption", figure, { textContent: `${camera.role.replace("_", " ")}, ${camera.width} × ${camera.height}` });
  return { ...camera, canvas, images: new Map() };
});

function picture(camera, number) { // a decoded picture, kept while it is near
  if (!camera.frames[number]) return null;
  if (!camera.images.has(number)) {
    if (camera.images.size > 120) camera.images.clear();
    const image = new Image();
    image.onload = () => { if (Math.floor(step / camera.every) === number) draw(camera); };
    image.src = "data:image/jpeg;base64," + camera.frames[number];
    camera.images.set(number, image);
  }
  return camera.images.get(number);
}

function draw(camera) {
  const context = camera.canvas.getContext("2d");
  const { width, height } = camera.canvas;
  const number = Math.floor(step / camera.every);
  const image = picture(camera, number);
  for (let ahead = 1; ahead <= 4; ahead++) picture(camera, number + ahead);
  const gone = !image || inside(camera.missing, step);
  if (image && !image.complete) return; // its onload comes back here
  context.clearRect(0, 0, width, height);
  if (image) context.drawImage(image, 0, 0, width, height);
  if (gone) {
    context.fillStyle = "rgba(20, 23, 27, .65)";
    context.fillRect(0, 0, width, height);
    context.fillStyle = "#fff";
    context.textAlign = "center";
    context.font = `${Math.max(10, Math.round(width / 16))}px system-ui, sans-serif`;
    context.fillText(image ? "missing here" : "no picture", width / 2, height / 2);
  }
}

// --- plots
const plots = data.groups.map((group) => {
  const box = element("section", document.getElementById("plots"), { className: "plot" });
  const head = element("h3", box, { textContent: group.title });
  element("small", head, { textContent: group.unit });
  const canvas = element("canvas", box);
  const list = element("ul", box, { className: "legend" });
  const curves = group.curves.map((curve, i) => {
    const button = element("button", element("li", list), { type: "button" });
    button.setAttribute("aria-pressed", "true");
    const swatch = element("i", button);
    button.append(curve.name + " ");
    const value = element("span", button);
    const made = { ...curve, i, button, swatch, value, shown: true };
    button.onclick = () => {
      made.shown = !made.shown;
      button.setAttribute("aria-pressed", String(made.shown));
      paint(plot);
      cursor(plot);
    };
    return made;
  });
  const plot = { ...group, canvas, curves, background: document.createElement("canvas") };
  const seek = (event) => {
    const x = event.clientX - canvas.getBoundingClientRect().left;
    go(Math.round(((x - LEFT) / (canvas.clientWidth - LEFT - RIGHT)) * (data.steps - 1)));
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); seek(event); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
  return plot;
});

function range(plot) {
  let low = Infinity, high = -Infinity;
  for (const curve of plot.curves) if (curve.shown) for (const values of [curve.state, curve.action]) if (values) for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const least = plot.unit === "rad" ? 0.1 : 0.02; // so that rest does not look like motion
  const missing = Math.max(0, least - (high - low)) / 2;
  const margin = missing + 0.05 * (high - low);
  return [low - margin, high + margin];
}

function ticks(low, high, count) {
  const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / size); n * size <= high; n++) found.push(Number((n * size).toPrecision(6)));
  return found;
}

function paint(plot) { // the curves, on a canvas of their own: they change only with size and colours
  const ratio = window.devicePixelRatio || 1, width = plot.canvas.clientWidth, height = plot.canvas.clientHeight;
  for (const canvas of [plot.canvas, plot.background]) { canvas.width = width * ratio; canvas.height = height * ratio; }
  const context = plot.background.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const [low, high] = range(plot);
  const x = (at) => LEFT + (at / Math.max(data.steps - 1, 1)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (height - TOP - BOTTOM);
  plot.x = x; plot.y = y;
  context.font = "11px system-ui, sans-serif";
  context.lineWidth = 1;
  context.strokeStyle = ink("--rule");
  context.fillStyle = ink("--muted");
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const tick of ticks(low, high, 4)) {
    context.beginPath(); context.moveTo(LEFT, y(tick)); context.lineTo(width - RIGHT, y(tick)); context.stroke();
    context.fillText(String(tick), LEFT - 6, y(tick));
  }
  context.textAlign = "center";
  const marks = ticks(0, Math.max((data.steps - 1) / data.rate_hz, 1e-3), Math.max(2, Math.floor(width / 90)));
  for (const second of marks) context.fillText(second + (second === marks[marks.length - 1] ? " s" : ""), Math.min(x(second * data.rate_hz), width - 14), height - 8);
  context.globalAlpha = 0.5;
  for (const [first, end] of data.invalid) context.fillRect(x(first - 0.5), height - BOTTOM, Math.max(1, x(end + 0.5) - x(first - 0.5)), 3);
  context.lineJoin = "round";
  for (const curve of plot.curves) {
    curve.swatch.style.background = colour(curve.i);
    if (!curve.shown) continue;
    context.strokeStyle = colour(curve.i);
    for (const [values, dash, thickness, alpha] of [[curve.action, [5, 4], 1.2, 0.8], [curve.state, [], 1.7, 1]]) {
      if (!values) continue;
      context.globalAlpha = alpha;
      context.lineWidth = thickness;
      context.setLineDash(dash);
      context.beginPath();
      values.forEach((value, n) => context[n ? "lineTo" : "moveTo"](x(n * data.stride), y(value)));
      context.stroke();
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }
}

function cursor(plot) {
  const context = plot.canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, plot.canvas.width, plot.canvas.height);
  context.drawImage(plot.background, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.strokeStyle = ink("--ink");
  context.lineWidth = 1;
  context.beginPath(); context.moveTo(plot.x(step), TOP); context.lineTo(plot.x(step), plot.canvas.clientHeight - BOTTOM + 4); context.stroke();
  const n = Math.min(Math.round(step / data.stride), Math.ceil(data.steps / data.stride) - 1);
  for (const curve of plot.curves) {
    const values = curve.state || curve.action;
    curve.value.textContent = values[n].toFixed(3);
    if (!curve.shown) continue;
    context.fillStyle = colour(curve.i);
    context.beginPath(); context.arc(plot.x(step), plot.y(values[n]), 3, 0, 2 * Math.PI); context.fill();
  }
}

// --- the player
const seek = document.getElementById("seek"), now = document.getElementById("now"), play = document.getElementById("play");

function show() {
  seek.value = step;
  now.textContent = `${(step / data.rate_hz).toFixed(2)} s, step ${step} of ${data.steps - 1}`;
  const phrase = data.instruction_of_step ? data.instruction_of_step[step] : 0;
  document.getElementById("instruction").textContent = data.instructions[phrase];
  cameras.forEach(draw);
  plots.forEach(cursor);
}

function go(to) {
  step = Math.max(0, Math.min(data.steps - 1, to));
  carried = 0;
  show();
}

function toggle(on = !playing) {
  playing = on;
  if (playing && step === data.steps - 1) step = 0;
  play.textContent = playing ? "Stop" : "Play";
  last = performance.now();
  if (playing) requestAnimationFrame(tick);
}

function tick(time) {
  if (!playing) return;
  carried += (Math.max(0, time - last) / 1000) * data.rate_hz * Number(document.getElementById("speed").value);
  last = time;
  const whole = Math.floor(carried);
  if (whole > 0) {
    carried -= whole;
    step = Math.min(step + whole, data.steps - 1);
    show();
  }
  if (step === data.steps - 1) toggle(false); else requestAnimationFrame(tick);
}

function repaint() { plots.forEach(paint); show(); }

seek.addEventListener("input", () => go(Number(seek.value)));
play.addEventListener("click", () => toggle());
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const second = Math.max(1, Math.round(data.rate_hz));
  const moves = { ArrowLeft: step - (event.shiftKey ? second : 1), ArrowRight: step + (event.shiftKey ? second : 1), Home: 0, End: data.steps - 1 };
  if (event.key === " ") { if (event.target.tagName === "BUTTON") event.target.blur(); toggle(); } else if (event.key in moves) { toggle(false); go(moves[event.key]); } else return;
  event.preventDefault();
});
new ResizeObserver(repaint).observe(document.getElementById("plots"));
dark.addEventListener("change", repaint);
repaint();
