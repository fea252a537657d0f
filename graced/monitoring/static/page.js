// The page: asks three times in two seconds' rhythm while it is looked at, and shows what it is told.
// Whatever is told goes into the page as text, never as markup.
"use strict";

const EVERY_MS = 2000;
const ANSWER_MS = 10000;  // for an answer
const LATE_S = 60;
const MOST_EVENTS = 3000;
const MOST_SHOWN = 60;
const SVG = "http://www.w3.org/2000/svg";
const place = (id) => document.getElementById(id);
let events = [];
let hours = 24;
let lost = 0;
let seen = Date.now();
let known = {};  // pools, as told last

function make(tag, attributes, ...children) {
  const node = tag.includes(":") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Replace what is in a place if it has changed; what was unfolded stays so, and text that is marked.
function show(id, told, draw) {
  const where = place(id);
  const text = JSON.stringify(told);
  if (where.told === text || (where.told && where.contains(getSelection().anchorNode) && !getSelection().isCollapsed)) return;
  const open = new Set([...where.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  where.told = text;
  where.replaceChildren(...draw(told));
  for (const each of where.querySelectorAll("details")) each.open = open.has(each.dataset.key);
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds / 3600) % 24} h`;
}

const size = (bytes) => (bytes ? `${(bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0)} MB` : "");
const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
const when = (at) => new Date(at).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

// The daemon

function showStatus(status) {
  document.title = `${status.ready ? "" : "⚠ "}${status.name}`;
  place("name").textContent = status.name;
  const state = place("state");
  state.textContent = status.ready ? status.state : `${status.state}, not ready`;
  state.className = `pill ${status.ready ? "good" : "slow"}`;
  place("facts").textContent = `generation ${status.generation} · up ${span(status.uptime)} · pid ${status.pid} · ${status.version}`;
  const trouble = troubles(status);
  place("trouble").hidden = trouble.length === 0;
  show("trouble", trouble, (lines) => lines.map((line) => make("p", {}, line)));
  const schedules = status.schedules || {};
  place("schedules").hidden = Object.keys(schedules).length === 0;
  show("schedules", schedules, scheduleTable);
  show("pools", status.pools, (pools) => Object.entries(pools).map(([name, pool]) => card(name, pool)));
}

function troubles(status) {
  const lines = [];
  const last = status.last_reload;
  if (last && !last.ok) lines.push(`reload ${last.incomplete ? "incomplete" : "refused"} at ${when(last.at)}: ${last.reason}`);
  for (const [name, pool] of Object.entries(status.pools)) {
    if (pool.backoff) {
      const next = pool.backoff.next_start_in;
      lines.push(`pool ${name} is in back-off after ${count(pool.backoff.failures, "failure")}, ` +
        (next === null ? "trying one worker" : `next start in ${span(next)}`));
    }
    const queue = pool.queue;
    if (queue && queue.trouble) lines.push(`queue ${name}: ${queue.trouble}`);
    if (queue && queue.paused) lines.push(`queue ${name} is paused`);
    if (queue && queue.dead) lines.push(`queue ${name}: ${count(queue.dead, "dead job")}`);
  }
  for (const [name, schedule] of Object.entries(status.schedules || {})) {
    if (schedule.late > LATE_S) lines.push(`schedule ${name} is ${span(schedule.late)} late`);
  }
  return lines;
}

function scheduleTable(schedules) {
  const rows = Object.entries(schedules).map(([name, s]) => make("tr", {}, ...[name, s.pool, s.last ? when(s.last * 1000) : "",
    s.next ? when(s.next * 1000) : "", s.late ? span(s.late) : ""].map((cell) => make("td", {}, cell))));
  return [make("h2", {}, "Schedules"), make("div", { class: "wide card" }, make("table", {},
    make("thead", {}, make("tr", {}, ...["schedule", "pool", "last", "next", "late"].map((h) => make("th", {}, h)))),
    make("tbody", {}, ...rows)))];
}

function card(name, pool) {
  const workers = pool.workers;
  const facts = [["ready", `${pool.ready}/${pool.target}`], ["busy", pool.busy], ["deaths", pool.deaths]];
  const body = [
    make("div", { class: "title" }, make("h3", {}, name),
      make("span", { class: pool.backoff ? "bad" : pool.ready < pool.target ? "slow" : "good" },
        pool.backoff ? "back-off" : `${pool.ready} of ${pool.target} ready`)),
    make("div", { class: "meter", role: "img", "aria-label": `${pool.busy} of ${workers.length} workers busy` },
      ...workers.map((w) => make("i", { class: w.state, title: `${name}/${w.slot} ${w.state}` }))),
    numbers(facts),
  ];
  if (pool.queue) body.push(queueNumbers(pool.queue));
  if (workers.length) body.push(workerTable(name, workers));
  for (const death of [...pool.last_deaths].reverse().slice(0, 3)) {
    body.push(make("div", { class: "dim" }, make("span", { class: "bad" }, "✕ "),
      `${when(death.at)} ${name}/${death.slot}: ${death.reason}, after ${count(death.rounds, "round")}`));
  }
  return make("div", { class: "card" }, ...body);
}

function numbers(pairs) {
  return make("div", { class: "numbers" },
    ...pairs.map(([word, number]) => make("span", {}, make("b", {}, String(number)), ` ${word}`)));
}

function queueNumbers(queue) {
  const pairs = ["waiting", "taken", "done", "dead"].map((state) => [state, queue[state] ?? "?"]);
  if (queue.oldest) pairs.push(["oldest waits", span(queue.oldest)]);
  if (queue.lease_left != null) pairs.push(["lease left", span(queue.lease_left)]);
  return numbers(pairs);
}

function workerTable(name, workers) {
  const heads = ["slot", "state", "for", "pid", "gen", "rounds", "errors", "age", "memory"];
  const rows = workers.slice(0, 100).map((w) => {
    const long = w.busy_for !== null && w.busy_for > 60;
    const tone = { ready: "good", busy: "busy" }[w.state] || "slow";
    return make("tr", {}, ...[w.slot, make("span", { class: tone }, w.state),
      make("span", { class: long ? "slow" : "" }, span(w.busy_for)), w.pid ?? "", w.generation, w.rounds, w.errors, span(w.age), size(w.rss),
    ].map((cell, i) => make("td", { class: i === 3 || i === 4 ? "less" : null }, cell instanceof Node ? cell : String(cell))));
  });
  const key = `workers ${name}`;
  const table = make("div", { class: "wide" }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((h, i) => make("th", { class: i === 3 || i === 4 ? "less" : null }, h)))),
    make("tbody", {}, ...rows)));
  if (workers.length <= 8) return table;
  return make("details", { "data-key": key }, make("summary", {}, count(workers.length, "worker")), table);
}

// Jobs

function showJobs(pools) {
  show("jobs", pools, () => {
    const rows = Object.entries(pools).flatMap(([pool, jobs]) => jobs.map((job) => jobRow(pool, job)));
    if (!rows.length) return [make("p", { class: "dim" }, "No jobs are waiting, in hand or dead.")];
    return [make("div", { class: "wide card" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["pool", "job", "state", "attempts", "age", "payload and evidence"].map((h) => make("th", {}, h)))),
      make("tbody", {}, ...rows)))];
  });
}

function jobRow(pool, job) {
  const tone = { dead: "bad", taken: "busy" }[job.state] || "dim";
  const evidence = job.evidence;
  const payload = job.payload;
  const words = evidence
    ? make("details", { "data-key": `job ${pool} ${job.id}` },
        make("summary", {}, `${payload}: ${evidence.reason ?? ""}`), make("pre", {}, evidenceText(evidence)))
    : payload;
  const share = job.progress ? job.progress.fraction : null;
  const progress = job.progress ? `${share === null ? "" : ` ${Math.round(share * 100)} %`} ${job.progress.text}` : "";
  return make("tr", {}, make("td", {}, pool), make("td", {}, String(job.id)), make("td", { class: tone }, job.state + progress),
    make("td", {}, String(job.attempts ?? "")), make("td", {}, ago(job.submitted)), make("td", { class: "words" }, words));
}

const ago = (at) => (at ? span(Date.now() / 1000 - at) : "");

function evidenceText(evidence) {
  return Object.entries(evidence).filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([key, value]) => (String(value).includes("\n") ? `${key}:\n${value}` : `${key}: ${value}`)).join("\n");
}

// What happened

function said(event) {
  const worker = `${event.pool}/${event.slot} (pid ${event.pid})`;
  switch (event.what) {
    case "start": return ["good", `started, version ${event.version} (pid ${event.pid})`];
    case "stopping": return ["dim", "stopping"];
    case "stop": return [event.code ? "bad" : "dim", event.reason ? `stopped: ${event.reason}` : "stopped"];
    case "death": return ["bad", `${worker} died: ${event.reason}, after ${count(event.rounds, "round")}`];
    case "killed": return ["slow", `${worker} had to be killed`];
    case "reload": return event.result === "ok" ? ["good", `reloaded: generation ${event.generation}`]
      : ["slow", `reload ${event.result}: ${event.reason}`];
    case "scale": return ["busy", `${event.pool}: scaled from ${event.before} to ${event.workers} workers`];
    case "trouble": return event.reason ? ["bad", `queue ${event.pool}: ${event.reason}`] : ["good", `queue ${event.pool}: works again`];
    default: return ["dim", event.what];
  }
}

function showEvents() {
  const shown = events.filter((e) => e.what !== "queue").slice(-MOST_SHOWN).reverse();
  show("events", shown, () => {
    if (!shown.length) return [make("p", { class: "dim" }, "Nothing in the last day.")];
    return [make("div", { class: "card" }, ...shown.map((event) => {
      const [tone, words] = said(event);
      const line = event.stack
        ? make("details", { "data-key": event.at }, make("summary", { class: tone }, words), make("pre", {}, event.stack))
        : make("span", { class: tone }, words);
      return make("div", { class: "event" }, make("time", { datetime: event.at }, when(event.at)), line);
    }))];
  });
}

// The timeline

function showTimeline() {
  const width = Math.max(place("timeline").clientWidth - 12, 280);
  const left = width < 600 ? 70 : 110, lane = 72, area = 42, top = 8;
  const now = Date.now(), begin = now - hours * 3600e3;
  const pools = [...new Set([...Object.keys(known), ...events.filter((e) => e.pool).map((e) => e.pool)])].sort();
  const names = pools.length ? pools : [""];
  const bottom = top + lane * names.length;
  const x = (at) => left + Math.max(0, (at - begin) / (now - begin)) * (width - left - 8);
  const inside = events.filter((e) => e.ms >= begin);
  const parts = [];
  const tick = { 1: 600e3, 6: 3600e3, 24: 10800e3 }[hours] * (width < 600 ? 2 : 1);
  for (let at = Math.ceil(begin / tick) * tick; at <= now; at += tick) {
    parts.push(make("svg:path", { class: "grid", d: `M${x(at)} ${top}V${bottom}` }));
    parts.push(make("svg:text", { x: x(at), y: bottom + 14, "text-anchor": "middle" },
      new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })));
  }
  parts.push(...downs(x, begin, now, top, bottom));
  names.forEach((name, i) => parts.push(...drawLane(name, inside, x, top + i * lane, left, area, width, begin)));
  for (const event of inside.filter((e) => ["start", "stop", "reload"].includes(e.what))) {
    parts.push(make("svg:path", { class: event.what === "reload" ? event.result : event.what, "stroke-width": 2, d: `M${x(event.ms)} ${top}V${bottom}` },
      make("svg:title", {}, `${when(event.at)} ${said(event)[1]}`)));
  }
  place("timeline").replaceChildren(make("svg:svg", { viewBox: `0 0 ${width} ${bottom + 20}`, height: bottom + 20, role: "img", "aria-label": "Timeline" }, ...parts));
}

function downs(x, begin, now, top, bottom) {
  const found = [];
  let last = null;
  for (const event of events) {
    if (event.what === "start" && last && event.ms > begin) {
      found.push(make("svg:rect", { class: "down", x: x(last.ms), y: top, width: Math.max(x(event.ms) - x(last.ms), 0), height: bottom - top },
        make("svg:title", {}, "no daemon")));
    }
    last = event;
  }
  return found;
}

function drawLane(name, inside, x, top, left, area, width, begin) {
  const base = top + area + 8;
  const parts = [
    make("svg:path", { class: "grid", d: `M${left} ${base}H${width - 8}` }),
    make("svg:text", { class: "name", x: 2, y: base - 2 }, name.length > 14 ? `${name.slice(0, 13)}…` : name),
  ];
  const samples = events.filter((e) => e.what === "queue" && e.pool === name);
  if (samples.length) {
    const depths = samples.map((s) => (s.waiting || 0) + (s.taken || 0));
    const most = Math.max(1, ...depths.filter((_, i) => samples[i].ms >= begin));
    let path = `M${x(samples[0].ms)} ${base}`;
    samples.forEach((s, i) => { path += `H${x(s.ms)}V${base - area * Math.min(depths[i] / most, 1)}`; });
    parts.push(make("svg:path", { class: "depth", d: `${path}H${width - 8}V${base}Z` }));
    parts.push(make("svg:text", { x: left - 4, y: base - area + 8, "text-anchor": "end" }, count(most, "job")));
  }
  for (const event of inside.filter((e) => e.pool === name && ["death", "killed", "scale"].includes(e.what)).slice(-500)) {
    parts.push(make("svg:circle", { class: event.what, cx: x(event.ms), cy: base + 9, r: 4 },
      make("svg:title", {}, `${when(event.at)} ${said(event)[1]}`)));
  }
  return parts;
}

// The rhythm

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
  return answer.json();
}

async function look() {
  const link = place("link");
  try {
    const after = events.length ? events[events.length - 1].at : new Date(Date.now() - 86400e3).toISOString();
    const [status, history, jobs] = await Promise.all([
      ask("status.json"),
      ask(`history.json?after=${encodeURIComponent(after)}`).catch(() => ({ events: [] })),
      ask("jobs.json").catch(() => null),
    ]);
    for (const event of history.events) event.ms = Date.parse(event.at);
    const first = events.length === 0;
    events = events.concat(history.events).slice(-MOST_EVENTS);
    if (first && events.length) choose([1, 6, 24].find((h) => events[0].ms > Date.now() - h * 3600e3) || 24);
    known = status.pools;
    showStatus(status);
    if (jobs) showJobs(jobs);
    showEvents();
    showTimeline();
    if (lost) link.title = `it was lost for ${span((Date.now() - lost) / 1000)}`;
    lost = 0;
    seen = Date.now();
    link.textContent = "live";
    link.className = "pill good";
  } catch (error) {
    lost = lost || seen;
    link.textContent = `connection lost ${span((Date.now() - lost) / 1000)} ago; trying again`;
    link.title = error.message;
    link.className = "pill bad";
  }
  document.body.classList.toggle("stale", lost !== 0);
  if (!document.hidden) setTimeout(look, EVERY_MS);
  else document.addEventListener("visibilitychange", look, { once: true });
}

function choose(length) {
  hours = length;
  for (const each of place("range").children) each.setAttribute("aria-pressed", Number(each.dataset.hours) === length);
  showTimeline();
}

for (const button of place("range").children) button.addEventListener("click", () => choose(Number(button.dataset.hours)));
addEventListener("resize", showTimeline);
look();
