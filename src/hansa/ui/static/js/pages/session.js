// One session: figures, curves, what it waits for, rounds, clients, what was rejected, events, settings.
import { address, call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { useNow, useResource } from "../data.js";
import { NORM, bytes, count, metric, number, own, plural, span, title } from "../format.js";
import { html, useCallback, useEffect, useMemo, useState } from "../html.js";
import { Act } from "../parts/acts.js";
import { Chart, Histogram, SERIES } from "../parts/chart.js";
import { useCurves } from "../parts/curves.js";
import { EventLines } from "../parts/events.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Notice, Tabs, Title, useTab } from "../parts/page.js";
import { SaveDrawing } from "../parts/picture.js";
import { useTheme } from "../parts/shell.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Pill, Status } from "../parts/status.js";
import { Choose, everything, List, Rows, SaveList, Search } from "../parts/table.js";
import { Counts, Tree } from "../parts/tree.js";
import { useWorking } from "../parts/working.js";
import { to } from "../router.js";

const BACK = 5; // rounds over which a figure's change is told
const RECENT = 10; // rounds whose length tells how long the rest will take
const PINS = 6;
const DRAWN = 12; // metrics that are drawn, and so many more each time that somebody asks
const ON_SERVER = "simulation on the server"; // the engine of those that the server ran itself
const SECONDS = new Set(["deadline", "lease"]); // settings in seconds

export function Session({ route }) {
  const { project } = useApp();
  const id = route.parts[3];
  const mine = ({ event }) => event?.session === id && /^session\.|^round\.committed/.test(event.kind);
  const session = useResource(path`/projects/${project}/sessions/${id}`, { on: mine });
  return html`<${Loaded} resource=${session} level=${1} skeleton=${html`<${Skeleton} />`}>${(one) => html`<${Shown} session=${one} reload=${session.reload} />`}<//>`;
}

const Skeleton = () => html`<div class="stack"><div class="title"><${Bar} width=${220} /></div>
  <${Figures} items=${["Round", "", " ", "  "].map((label) => ({ label: label || "—", value: html`<${Bar} width=${60} />`, sub: html`<${Bar} width=${90} />` }))} />
  <div class="grid-2"><div class="card" style=${{ height: "330px" }}></div><div class="card" style=${{ height: "330px" }}></div></div></div>`;

function Shown({ session, reload }) {
  const { project, can } = useApp();
  const base = path`/projects/${project}/sessions/${session.id}`;
  const found = useCurves(project, session.id);
  const rounded = session.round > 0 && !session.spec.parties.length; // a program has no rounds
  const behind = rounded && !found.error && !found.rounds?.number.length; // they are on their way
  const { curves, bands, rounds } = behind ? { curves: null, bands: null, rounds: null } : found;
  const running = session.state === "running";
  const simulated = session.engine !== null;
  const runs = can("run") && !simulated;
  const ended = ["finished", "failed", "stopped"].includes(session.state);
  const model = session.model && !(simulated && running) && html`<a class="button" href=${address(path`/projects/${project}/models/${session.model}/file`)} download><${Icon} name="download" />Model</a>`;
  const post = (what) => async () => { await call(`${base}/${what}`, { method: "POST" }); reload(); };
  const tabs = [
    { id: "rounds", label: "Rounds", count: count(session.round) },
    { id: "clients", label: "Clients" },
    ...(simulated ? [] : [{ id: "network", label: "Network" }]),
    { id: "rejected", label: "Rejected and failed" },
    { id: "events", label: "Events" },
    { id: "settings", label: "Settings" },
  ];
  const tab = useTab(tabs);
  const [pins, pin] = useState([]);
  const toggle = useCallback((client) => pin((now) => (now.includes(client) ? now.filter((one) => one !== client) : [...now, client].slice(-PINS))), []);
  const table = useMemo(() => tab === "rounds" && html`<${Rounds} name=${session.name} rounds=${rounds} curves=${curves} behind=${behind} />`, [tab, session.name, rounds, curves, behind]);
  return html`<div class="stack">
    <${Title} title=${session.name} state=${html`<${Pill} state=${session.state} />`} actions=${html`
        ${can("download") && model}
        ${runs && html`<a class="button" href=${`${to("p", project, "sessions", "new")}?like=${session.id}`}><${Icon} name="copy" />Again</a>`}
        ${runs && session.state === "created" && html`<${Act} className="primary" icon="player-play" act=${post("start")} done="The session is started">Start<//>`}
        ${runs && !session.engine && (session.state === "failed" || session.state === "stopped") && html`<${Act} className="primary" icon="player-play" act=${post("resume")} done="The session goes on">Resume<//>`}
        ${runs && running && html`<${Act} className="danger" icon="player-stop" done="The session is stopped" act=${post("stop")}
          confirm=${{ title: `Stop ${session.name}?`, text: session.engine ? "What is committed stays. A simulation begins anew when it is started again." : "What is committed stays, and the session can be resumed later.", act: "Stop" }}>Stop session<//>`}
        ${can("delete") && !running && html`<${Remove} session=${session} />`}`}>
      ${session.engine && (session.engine === ON_SERVER ? "simulated on the server · " : `simulated, ${session.engine} · `)}${session.spec.parties.length ? "program" : session.spec.algorithm}${session.spec.aggregator !== "mean" && ` · ${session.spec.aggregator}`}
      ${session.seed_model && html` · from <a href=${to("p", project, "models", session.seed_model)}>${session.seed_model.slice(0, 10)}</a>`}
      ${" "}· ${session.started_at ? html`started <${Ago} at=${session.started_at} />` : html`created <${Ago} at=${session.created_at} />`}
    <//>
    <${KeyFigures} session=${session} curves=${curves} rounds=${rounds} />
    ${session.state === "failed" && html`<${Notice} kind="bad"><b>It failed.</b> <span class="wrap">${session.cause.split("\n")[0]}</span>${session.cause.includes("\n") && html`<details><summary>All of it</summary><pre class="scroll" tabindex="0">${session.cause}</pre></details>`}<//>`}
    ${running && !simulated && html`<${Waiting} base=${base} id=${session.id} />`}
    ${session.state === "stopped" && html`<${Notice} kind="warn">${session.cause || "It was stopped"}.${!simulated && " What is committed stays; it can be resumed."}<//>`}
    <${Charts} session=${session} curves=${curves} bands=${bands} pins=${pins} unpin=${toggle} />
    <${Tabs} items=${tabs} label="Details of the session" />
    ${table}
    ${tab === "clients" && html`<${Participants} session=${session} pins=${pins} toggle=${toggle} />`}
    ${tab === "network" && html`<${Places} session=${session} />`}
    ${tab === "rejected" && html`<${Rejected} session=${session} />`}
    ${tab === "events" && html`<${Card} title="Events" note="of this session, the newest first"><${EventLines} session=${session.id} most=${200} /><//>`}
    ${tab === "settings" && html`<${Settings} session=${session} ended=${ended} />`}
  </div>`;
}

function Remove({ session }) {
  const { project } = useApp();
  return html`<${Act} className="danger quiet" icon="trash" done="The session is deleted"
    confirm=${{ title: `Delete ${session.name}?`, text: "Its rounds, metrics and events go, and the models that nothing else needs. This cannot be undone.", act: "Delete", word: session.name }}
    act=${async () => { await call(path`/projects/${project}/sessions/${session.id}`, { method: "DELETE" }); history.back(); }}>Delete<//>`;
}

/** The curve of a metric that tells most: central before merged, evaluated before trained. */
export function ranked(curves) {
  const rank = (one) => (one.kind === "evaluate" ? 0 : 2) + (one.client === "central" ? 0 : 1);
  const order = (one) => (one.name === "accuracy" ? 0 : one.name === "loss" ? 1 : 2);
  const best = new Map();
  for (const one of [...curves].sort((a, b) => rank(a) - rank(b))) if (!best.has(one.name)) best.set(one.name, one);
  return [...best.values()].sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name));
}

/** Whether more of a metric is worse, as far as its name tells. */
const isCost = (name) => /loss|error|mse|rmse|mae|perplexity|time|epsilon/.test(name);

function change(curve) {
  const last = curve.values.length - 1;
  if (last < BACK) return curve.kind === "train" ? "in training" : curve.client === "central" ? "central evaluation" : "mean over clients";
  const by = curve.values[last] - curve.values[last - BACK];
  if (!by) return `unchanged in ${BACK} rounds`;
  const good = by > 0 !== isCost(curve.name);
  const text = metric(curve.name, Math.abs(by)).replace(" %", " pt");
  return html`<span class=${good ? "up" : "down"}>${by > 0 ? "▲" : "▼"} ${text}</span> in ${BACK} rounds`;
}

/** Whom a round has lost, in words. */
function lost(rounds, k) {
  const told = ["rejected", "failed", "missing"].filter((what) => rounds[what][k]).map((what) => `${count(rounds[what][k])} ${what}`);
  return told.join(", ") || "all that were invited";
}

function KeyFigures({ session, curves, rounds }) {
  const now = useNow();
  const total = session.spec.rounds;
  const k = rounds ? rounds.number.length - 1 : -1;
  const lengths = rounds ? rounds.closed_at.map((closed, i) => closed - (i ? rounds.closed_at[i - 1] : rounds.opened_at[i])).slice(-RECENT) : [];
  const pace = lengths.length ? lengths.sort((a, b) => a - b)[lengths.length >> 1] : null;  // the middle one: one round that waited says nothing of the others
  const left = pace !== null && session.state === "running" ? `≈ ${span(pace * (total - session.round))} left` : session.ended_at && session.started_at ? `${span(session.ended_at - session.started_at)} in all` : "";
  const shown = ranked(curves ?? []).slice(0, 2);
  const said = session.state === "running" && k >= 0 ? `last ${span(Math.max(0, now - rounds.closed_at[k]))} ago` : "";
  return html`<${Figures} items=${[
    { label: "Round", value: count(session.round), unit: `/ ${count(total)}`, progress: total ? session.round / total : 0 },
    ...shown.map((curve) => ({ label: title(curve.name), value: metric(curve.name, curve.values.findLast((v) => v !== null)), sub: change(curve) })),
    { label: "Clients in last round", value: k >= 0 ? count(rounds.accepted[k]) : "—", unit: "accepted", sub: k >= 0 ? lost(rounds, k) : "no round yet" },
    { label: "Time per round", value: span(pace), sub: left || said },
    { label: "Examples per round", value: k >= 0 ? count(rounds.weight[k]) : "—", sub: said || "summed in the last round" },
  ]} />`;
}

function Charts({ session, curves, bands, pins, unpin }) {
  const { project } = useApp();
  const theme = useTheme();
  const pinned = usePinned(project, session, pins);
  const [most, draw] = useState(DRAWN);
  const cards = useMemo(() => {
    const made = new Map();
    for (const one of curves ?? []) {
      const key = `${one.kind}/${one.name}`;
      made.set(key, [...(made.get(key) ?? []), one]);
    }
    for (const one of bands ?? []) if (!made.has(`${one.kind}/${one.name}`)) made.set(`${one.kind}/${one.name}`, []);
    const order = (/** @type {[string, any]} */ [key]) => (key.startsWith("evaluate") ? 0 : 10) + (/accuracy$/.test(key) ? 0 : /loss$/.test(key) ? 1 : 2);
    return [...made].sort((a, b) => order(a) - order(b) || a[0].localeCompare(b[0])).map(([key, found]) => {
      const [kind, name] = [key.slice(0, key.indexOf("/")), key.slice(key.indexOf("/") + 1)];
      const colour = name === "loss" || isCost(name) ? "orange" : "blue";
      const band = bands?.find((one) => one.kind === kind && one.name === name);
      const series = found.map((one, k) => ({ ...one, id: one.client || "merged", label: one.client === "central" ? "global model, central" : kind === "train" ? "mean over clients" : "global model, mean over clients", colour: k ? "green" : colour }));
      const lines = pinned.map((one, k) => ({ id: one.client, label: one.client, colour: SERIES[(k + 3) % SERIES.length], thin: true, onRemove: () => unpin(one.client), ...(one.curves.get(key) ?? { rounds: [], values: [] }) }));
      if (!series.length && band) series.push({ id: "middle", label: "median of clients", colour, rounds: band.rounds, values: band.middle });
      return { key, name, kind, series: [...series, ...lines.filter((one) => one.rounds.length)], band };
    });
  }, [curves, bands, pinned]);
  const charts = useMemo(() => cards.slice(0, most).map(({ key, name, kind, series, band }) => html`<${Chart} key=${key} title=${title(name)} name=${name} series=${series} band=${band} file=${`${session.name}-${kind}-${name}`} theme=${theme}
    note=${`${kind === "train" ? "in training" : "evaluated"}${band ? " · band: clients p10–p90" : ""}`} />`), [cards, most, session.name, theme]);
  if (!curves) return html`<div class="grid-2"><div class="card" style=${{ height: "330px" }}></div><div class="card" style=${{ height: "330px" }}></div></div>`;
  if (!cards.length) return html`<div class="grid-2"><${Chart} title="Metrics" name="" series=${[]} empty="The first round has not been evaluated yet; what the app reports will be drawn here" theme=${theme} /></div>`;
  const left = cards.length - most;
  return html`<div class="grid-2">${charts}</div>
    ${left > 0 && html`<button class="button" onClick=${() => draw(most + DRAWN)}>Draw ${count(Math.min(DRAWN, left))} more of ${plural(left, "metric")}</button>`}`;
}

/** The curves of clients that are pinned: [{client, curves: "kind/name" → {rounds, values}}] */
function usePinned(project, session, pins) {
  const [found, set] = useState([]);
  useEffect(() => {
    let gone = false;
    Promise.all(pins.map(async (client) => {
      const wanted = { session: session.id, client, limit: 1000 };
      const [taken, judged] = await Promise.all([call(path`/projects/${project}/contributions` + query({ ...wanted, sort: "round" })), call(path`/projects/${project}/metrics` + query({ ...wanted, sort: "round" }))]);
      const curves = new Map();
      const add = (key, round, value) => {
        const curve = curves.get(key) ?? { rounds: [], values: [] };
        curve.rounds.push(round);
        curve.values.push(value);
        curves.set(key, curve);
      };
      for (const row of taken.items) {
        for (const [name, value] of Object.entries(row.metrics)) if (name !== NORM) add(`train/${name}`, row.round, value);
        if (row.norm !== null) add(`train/${NORM}`, row.round, row.norm);
      }
      for (const row of judged.items) add(`${row.kind}/${row.name}`, row.round, row.value);
      return { client, curves };
    })).then((made) => !gone && set((before) => (made.length || before.length ? made : before)), () => {}); // nothing is drawn anew for nobody
    return () => { gone = true; };
  }, [pins.join("\n"), session.round]);
  return found;
}

const OF_BYTES = new Set(["download", "upload", "queue", "model"]); // what user code does is in its own units
const far = ({ activity, done, total }) => (OF_BYTES.has(activity) ? `${bytes(done)} of ${bytes(total)}` : `${number(done)} of ${number(total)}`);

function Waiting({ base, id }) {
  const why = useResource(`${base}/why`, { every: 2000, on: ({ event, live }) => (event ?? live)?.session === id });
  if (!why.data) return null;
  const { sentence, phase } = why.data;
  const late = (phase?.outstanding ?? []).filter((one) => !one.connected || (one.silent ?? 0) > 10);
  return html`<${Notice} kind=${late.length ? "warn" : "info"}>
    <b>Waiting:</b> ${sentence.split(";")[0].split(": waits for")[0]}
    ${phase && html`<details><summary>${phase.outstanding.length ? `${plural(phase.outstanding.length, "client is", "clients are")} still to answer` : phase.withdrawn.length ? `${phase.withdrawn.join(", ")} lost the lease and may come back` : "nobody is to answer"}${phase.deadline !== null ? `; the deadline is in ${span(phase.deadline - phase.now)}` : ""}</summary>
      ${phase.outstanding.length > 0 && html`<${Rows} saved label="Clients that the round waits for" rows=${phase.outstanding} identify=${(one) => one.name} size=${10} columns=${[
        { id: "name", label: "Client", sort: "name", show: (one) => html`<span class="name">${one.name}</span>` },
        { id: "activity", label: "Doing", show: (one) => `${one.activity}${one.total ? ` ${far(one)}` : ""}` },
        { id: "connected", label: "Status", show: (one) => html`<${Status} state=${one.connected ? "connected" : "offline"} />` },
        { id: "silent", label: "Last heard", n: true, sort: "silent", show: (one) => `${span(one.silent)} ago` },
        { id: "lease", label: "Loses its place in", n: true, sort: "lease_ends", show: (one) => span(one.lease_ends - phase.now) },
      ]} />`}</details>`}
  <//>`;
}

function Rounds({ name, rounds, curves, behind }) {
  const { project } = useApp();
  const rows = useMemo(() => rounds?.number.map((_, k) => k) ?? [], [rounds]); // a row is a place in the columns that came
  const cell = (what) => (k) => rounds[what][k];
  const took = (k) => rounds.closed_at[k] - rounds.opened_at[k];
  const at = (curve) => (k) => {
    const round = rounds.number[k];
    const i = curve.rounds[k] === round ? k : curve.rounds.indexOf(round);
    return i < 0 ? null : curve.values[i];
  };
  const shown = ranked(curves ?? []).slice(0, 4);
  const whole = (id, label) => ({ id, label, n: true, sort: id, value: cell(id), show: (k) => count(rounds[id][k]) });
  const columns = [
    whole("number", "Round"),
    ...shown.map((curve) => ({ id: curve.name, label: title(curve.name), n: true, sort: `m-${curve.name}`, value: at(curve), show: (k) => metric(curve.name, at(curve)(k)) })),
    whole("accepted", "Accepted"), whole("rejected", "Rejected"), whole("failed", "Failed"), whole("missing", "Missing"), whole("weight", "Examples"),
    { id: "seconds", label: "Took", n: true, sort: "seconds", value: took, show: (k) => span(took(k)) },
    { id: "model", label: "Model", show: (k) => html`<a class="mono" href=${to("p", project, "models", rounds.model[k])}>${rounds.model[k].slice(0, 8)}</a>` },
    { id: "at", label: "Closed", n: true, sort: "at", value: cell("closed_at"), show: (k) => html`<${Ago} at=${rounds.closed_at[k]} />` },
  ];
  const heads = [["round", cell("number")], ...shown.map((curve) => [curve.name, at(curve)]), ...["accepted", "rejected", "failed", "missing", "weight"].map((what) => [what, cell(what)]), ["seconds", took], ["model", cell("model")]];
  return html`<${Card} title="Rounds" note="the newest first" right=${html`<${SaveList} name=${`${name}-rounds`} fetch=${async () => rows} columns=${heads} />`}>
    <${Rows} saved columns=${columns} rows=${rows} identify=${cell("number")} sort="-number" size=${25} label="Rounds" empty=${behind
      ? html`<div class="body" aria-busy="true"><${Bar} width=${320} /></div>`
      : html`<${Empty} icon="hourglass" title="No round is committed yet">The first appears here as soon as it closes.<//>`} />
  <//>`;
}

function Participants({ session, pins, toggle }) {
  const { project } = useApp();
  const [round, choose] = useState("");
  const [name, search] = useState("");
  const base = path`/projects/${project}/contributions`;
  const at = round || session.round;
  const mine = ({ event }) => !round && event?.session === session.id && event.kind === "round.committed";
  const filter = { session: session.id, round: at, search: name || null };
  const all = useResource(session.round ? `${base}${query({ session: session.id, round: at, limit: 1000 })}` : null, { on: mine });
  const sizes = (all.data?.items ?? []).filter((one) => one.outcome === "accepted").map((one) => one.num_examples);
  const norms = (all.data?.items ?? []).map((one) => one.norm).filter((value) => value !== null);
  const metrics = [...new Set((all.data?.items ?? []).flatMap((one) => Object.keys(one.metrics)))].slice(0, 5);
  if (!session.round) return html`<${Card} title="Clients"><${Empty} icon="hourglass" title="No round is committed yet">What became of each client appears after the first round.<//><//>`;
  const columns = [
    { id: "pin", label: "", name: "Pin", show: (row) => html`<button class="button small quiet icon-only" aria-pressed=${pins.includes(row.client)} aria-label=${`${pins.includes(row.client) ? "Unpin" : "Pin"} ${row.client}`} title="Draw its curves" onClick=${() => toggle(row.client)}><${Icon} name=${pins.includes(row.client) ? "pinned" : "pin"} /></button>` },
    { id: "client", label: "Client", sort: "client", show: (row) => html`<a class="name" href=${to("p", project, "clients", row.client)}>${row.client}</a>` },
    { id: "outcome", label: "Outcome", sort: "outcome", show: (row) => html`<${Status} state=${row.outcome} />` },
    { id: "num_examples", label: "Examples", n: true, sort: "num_examples", show: (row) => count(row.num_examples) },
    ...metrics.map((key) => ({ id: key, label: title(key), n: true, show: (row) => metric(key, own(row.metrics, key)) })),
    { id: "norm", label: "Update norm", n: true, sort: "norm", show: (row) => number(row.norm) },
    { id: "reason", label: "Reason", clip: true, show: (row) => row.reason || "—" },
  ];
  const rounds = [["", `Newest (${count(session.round)})`], ...Array.from({ length: Math.min(200, session.round) }, (_, k) => [String(session.round - k), `Round ${session.round - k}`])];
  return html`<div class="stack"><${Card} title="Clients" note=${`in round ${count(Number(at))}; pin some to draw them above`} right=${html`
      <${Search} label="Part of a name" value=${name} onChange=${search} />
      <${Choose} label="Round" value=${round} options=${rounds} onChange=${choose} />
      ${all.data && html`<${SaveList} name=${`${session.name}-round-${at}-clients`} fetch=${() => everything(base, { session: session.id, round: at })} columns=${[["client", (r) => r.client], ["outcome", (r) => r.outcome], ["examples", (r) => r.num_examples], ...metrics.map((key) => [key, (r) => own(r.metrics, key)]), ["norm", (r) => r.norm], ["reason", (r) => r.reason]]} />`}`}>
      <${List} saved path=${base} filter=${filter} sort="client" columns=${columns} on=${mine} label="Clients in the round" empty=${html`<${Empty} icon="search" title="No client matches" actions=${html`<button class="button" onClick=${() => { search(""); choose(""); }}>Clear the filter</button>`} />`} />
    <//>
    <div class="grid-2">
      <${Histogram} title="Data sizes" note=${`examples per accepted update, round ${count(Number(at))}`} values=${sizes} format=${(v) => count(Math.round(v))} file=${`${session.name}-data-sizes`} />
      ${norms.length > 0 && html`<${Histogram} title="Update norms" note=${`L2, as the servers measured, round ${count(Number(at))}`} values=${norms} format=${number} file=${`${session.name}-update-norms`} />`}
      ${metrics.slice(0, norms.length ? 0 : 1).map((key) => html`<${Histogram} key=${key} title=${`${title(key)} of clients`} note=${`in training, round ${count(Number(at))}`} values=${all.data.items.map((one) => own(one.metrics, key))} format=${(v) => metric(key, v)} file=${`${session.name}-${key}`} />`)}
    </div>
  </div>`;
}

function Places({ session }) {
  const { project } = useApp();
  const found = useResource(path`/projects/${project}/network`, { on: ({ event }) => event && /^(client|combiner|node)\./.test(event.kind) });
  const clients = useResource(path`/projects/${project}/clients?limit=1000&sort=name`, { on: ({ event }) => event && /^(client|node)\./.test(event.kind) });
  const working = useWorking(session.id, session.state === "running");
  const dots = useMemo(() => {
    if (!clients.data || clients.data.total > clients.data.items.length) return undefined;
    const made = new Map();
    for (const one of clients.data.items.filter(({ connected }) => connected)) made.set(one.combiner, [...(made.get(one.combiner) ?? []), working.get(one.name) ?? "idle"]);
    return made;
  }, [clients.data, working]);
  const states = dots ? [...dots.values()].flat() : [];
  const tally = (state) => states.filter((one) => one === state).length;
  return html`<${Card} title="Network" note="what each client does now" right=${html`<${SaveDrawing} title="Network" />`}>
    <${Loaded} resource=${found} skeleton=${html`<div class="body"><${Bar} width=${300} /></div>`}>${(network) => html`<div class="body split"><${Tree} servers=${network.servers} dots=${dots} />
      <${Counts} counts=${dots ? [["training", tally("training")], ["evaluating", tally("evaluating")], ["accepted", tally("accepted")], ["idle", tally("idle")], ["failed", tally("failed") + tally("rejected")], ["offline", network.clients - network.connected]] : [["connected", network.connected], ["offline", network.clients - network.connected]]} /></div>`}<//>
  <//>`;
}

function Rejected({ session }) {
  const { project } = useApp();
  const mine = ({ event }) => event?.session === session.id && event.kind === "round.committed";
  return html`<${Card} title="Rejected and failed" note="with reasons, the newest first">
    <${List} path=${path`/projects/${project}/contributions`} filter=${{ session: session.id, outcome: ["rejected", "failed", "missing"] }} sort="-round" on=${mine} label="Rejected and failed updates" columns=${[
      { id: "round", label: "Round", n: true, sort: "round", show: (row) => count(row.round) },
      { id: "client", label: "Client", sort: "client", show: (row) => html`<a class="name" href=${to("p", project, "clients", row.client)}>${row.client}</a>` },
      { id: "outcome", label: "Outcome", sort: "outcome", show: (row) => html`<${Status} state=${row.outcome} />` },
      { id: "num_examples", label: "Examples", n: true, show: (row) => (row.num_examples ? count(row.num_examples) : "—") },
      { id: "reason", label: "Reason", clip: true, show: (row) => row.reason || "—" },
    ]} empty=${html`<${Empty} icon="check" title="Nothing was rejected, and nobody failed" />`} />
  <//>`;
}

function Settings({ session, ended }) {
  const { project, can } = useApp();
  const model = useResource(session.model ? path`/projects/${project}/models/${session.model}` : null);
  const { spec } = session;
  const show = (name, value) => {
    if (value === null || value === "") return "—";
    if (typeof value === "object") return Object.keys(value).length ? html`<code>${JSON.stringify(value)}</code>` : "none";
    if (typeof value === "boolean") return value ? "yes" : "no";
    return typeof value === "number" ? (SECONDS.has(name) ? span(value) : Number.isInteger(value) && name !== "seed" ? count(value) : String(value)) : value;
  };
  const plain = Object.entries(spec).filter(([, value]) => typeof value !== "object" || Object.keys(value ?? {}).length === 0 || Array.isArray(value));
  const nested = Object.entries(spec).filter(([name, value]) => !plain.some(([other]) => other === name) && value);
  return html`<div class="grid-2">
    <${Card} title="Run"><dl class="defs body">${plain.map(([name, value]) => html`<dt key=${name}>${title(name)}</dt><dd>${show(name, value)}</dd>`)}</dl><//>
    ${nested.map(([name, value]) => html`<${Card} key=${name} title=${title(name)}><dl class="defs body">${Object.entries(value).map(([key, one]) => html`<dt key=${key}>${title(key)}</dt><dd>${show(key, one)}</dd>`)}</dl><//>`)}
    <${Card} title="Record"><dl class="defs body">
      <dt>Id</dt><dd class="mono">${session.id}</dd><dt>Package</dt><dd class="mono">${session.package ?? "clients bring their own"}</dd>
      <dt>Seed model</dt><dd class="mono">${session.seed_model ?? "—"}</dd><dt>Newest model</dt><dd class="mono">${session.model ?? "—"}</dd>
      <dt>Size of a model</dt><dd>${bytes(model.data?.size)}</dd><dt>Keeps</dt><dd>${session.keep ?? "the server's default"}</dd>
      ${can("verify") && ended && session.engine === null && html`<dt>Signed record</dt><dd><a class="linked" href=${address(path`/projects/${project}/sessions/${session.id}/bundle`)} download>download to verify offline</a></dd>`}
    </dl><//>
  </div>`;
}
