// The operator page: asks for /state five times a second and draws it; buttons are forms that work without this script.
"use strict";
const EVERY_MS = 200, PATIENCE_MS = 2000, OLD_MS = 500; // an older picture or tick is not shown as live
const BEFORE_S = 5, AFTER_S = 3; // of a plot
const $ = (id) => document.getElementById(id);
const element = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
let session = null, refused = "", again = 0; // the last answer that was no; the timer of a stop that has to be repeated

// --- orders
async function send(form) {
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS),
    });
    refused = answer.ok ? "" : await answer.text();
    if (refused && form.id === "estop") throw new Error(refused);
  } catch (error) {
    refused = `${form.action} has not arrived: ${error.message}`;
    if (form.id === "estop") {
      refused = `THE EMERGENCY STOP HAS NOT ARRIVED and is sent again; use the robot's own. (${error.message})`;
      clearTimeout(again);
      again = setTimeout(send, EVERY_MS, form);
    }
  }
  warn(refused);
}

for (const form of document.forms) form.addEventListener("submit", (event) => {
  event.preventDefault();
  document.activeElement.blur(); // the space bar is the emergency stop again
  send(form);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.matches("input:not([type=hidden])")) return;
  event.preventDefault(); // or it would press the button that has the focus
  if (!event.repeat) send($("estop"));
});
document.addEventListener("keyup", (event) => { if (event.key === " " && !event.target.matches("input")) event.preventDefault(); });

// --- what is seen
function warn(words) { $("lost").hidden = !words; $("lost").textContent = words; }

async function look() {
  try {
    const answer = await fetch("/state", { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(await answer.text());
    const state = await answer.json();
    if (session !== null && session !== state.session) location.reload(); // another session at the same port
    session = state.session;
    document.body.classList.remove("lost");
    show(state);
  } catch (error) {
    document.body.classList.add("lost");
    $("mode").textContent = "unknown";
    warn(`${refused} No news from the robot: what you see is old (${error.message}).`);
  }
  setTimeout(look, EVERY_MS);
}

const ms = (value) => (value === null ? "–" : value >= 10_000 ? `${(value / 1000).toFixed(0)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
const pair = (values) => (values ? values.map(ms).join(" / ") : "–");

function show(state) {
  const { ticks, inference } = state;
  const silent = ticks.age_ms === null || ticks.age_ms > OLD_MS;
  const words = [];
  if (state.mode === "fault") words.push(`FAULT: ${state.why}. ${state.ended ? "End this session and begin another." : "When it is safe: Reset, then Start."}`);
  if (silent) words.push(`The control process is silent (${ms(ticks.age_ms)}).`);
  if (refused) words.push(refused);
  warn(words.join(" "));
  $("mode").textContent = state.actor === "operator" ? `${state.mode}, a person leads` : state.mode;
  $("mode").className = state.mode === "run" ? "good" : state.mode === "hold" ? "" : "bad";
  $("why").textContent = state.why;
  $("told").textContent = state.instruction;
  $("start").querySelector("button").disabled = state.mode !== "hold";
  $("reset").querySelector("button").disabled = state.mode !== "fault";
  facts([
    ["inference, median / 99 %", pair(inference.latency_ms), `${inference.requests} requests, ${inference.failures} failed`],
    ["heartbeat of the inference", ms(inference.age_ms), inference.why],
    [`tick late, median / 99 % of ${ticks.window_s} s`, pair(ticks.late_ms), `${ticks.missed} missed since the start`],
    ["ticks changed by a limit", String(ticks.limited), `of the last ${ticks.window_s} s`],
  ]);
  for (const [role, camera] of Object.entries(state.cameras)) {
    const figure = document.querySelector(`figure[data-role="${role}"]`);
    const old = camera.age_ms === null || camera.age_ms > OLD_MS;
    figure.className = old || camera.problem ? "bad" : "";
    figure.querySelector("span").textContent = [camera.age_ms === null ? "has never come" : `${ms(camera.age_ms)} old`, camera.problem].filter(Boolean).join(": ");
  }
  draw(state.joints);
  $("events").replaceChildren(...state.events.reverse().map(({ at, mode, why }) => {
    const row = document.createElement("tr");
    for (const words of [at, mode, why]) element("td", row, { textContent: words });
    return row;
  }));
}

function facts(rows) {
  const boxes = $("facts").children;
  rows.forEach(([what, value, more], i) => {
    const box = boxes[i] || element("div", $("facts"), { className: "fact", innerHTML: "<small></small><b></b><small></small>" });
    [what, value, more].forEach((words, k) => { box.children[k].textContent = words; });
  });
}

// --- plots: one of each joint, in units of its own; the curves are stretched, their thickness is not
const plots = [];

function plot(name, unit) {
  const box = element("section", $("joints"));
  const head = element("h3", box);
  element("span", head, { textContent: name });
  const value = element("span", head, { className: "muted" });
  const svg = box.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
  svg.setAttribute("viewBox", `${-BEFORE_S} 0 ${BEFORE_S + AFTER_S} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  const curve = (kind) => {
    const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    path.setAttribute("class", kind);
    return path;
  };
  curve("now").setAttribute("d", "M0 0V1");
  return { unit, value, curves: Object.fromEntries(["chunk", "commanded", "measured"].map((kind) => [kind, curve(kind)])) };
}

function draw({ names, units, times_s, measured, commanded, chunk }) {
  names.forEach((name, i) => {
    plots[i] ||= plot(name, units[i]);
    const points = {
      measured: times_s.map((t, n) => [t, measured[n]?.[i]]),
      commanded: times_s.map((t, n) => [t, commanded[n]?.[i]]),
      chunk: chunk ? chunk.times_s.map((t, n) => [t, chunk.rows[n]?.[i]]) : [],
    };
    const seen = Object.values(points).flat().filter(([t, value]) => value !== undefined && t >= -BEFORE_S && t <= AFTER_S).map(([, value]) => value);
    if (!seen.length) return;
    const low = Math.min(...seen), high = Math.max(...seen);
    const middle = (low + high) / 2, span = Math.max(high - low, units[i] === "rad" ? 0.1 : 0.04) * 1.15; // rest does not look like motion
    for (const [kind, row] of Object.entries(points)) {
      let d = "", pen = "M";
      for (const [t, value] of row) {
        if (value === undefined) { pen = "M"; continue; }
        d += `${pen}${t.toFixed(2)} ${(0.5 - (value - middle) / span).toFixed(3)}`;
        pen = "L";
      }
      plots[i].curves[kind].setAttribute("d", d);
    }
    const last = measured.at(-1);
    plots[i].value.textContent = last ? `${last[i].toFixed(3)} ${units[i]}` : "–";
  });
}

// --- cameras: the next picture is asked for when the last one is there
for (const image of document.querySelectorAll(".cameras img")) {
  const address = image.getAttribute("src");
  const next = () => setTimeout(() => { image.src = `${address}?${Date.now()}`; }, EVERY_MS);
  image.addEventListener("load", next);
  image.addEventListener("error", next);
  next();
}
look();
